package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/spf13/cobra"

	"silica.dev/silica/client"
)

// runE is what cobra calls.
type runE func(*cobra.Command, []string) error

// talks connects for a command that does more than one call, or prints in its
// own way.
func talks(do func(ctx context.Context, c *client.Client, given []string) error) runE {
	return func(cmd *cobra.Command, given []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		defer c.Close()
		return do(cmd.Context(), c, given)
	}
}

// asks makes a call and prints its answer.
func asks[T any](t *terminal, call func(ctx context.Context, c *client.Client, given []string) (T, error), show func(w io.Writer, v T)) runE {
	return talks(func(ctx context.Context, c *client.Client, given []string) error {
		v, err := call(ctx, c, given)
		if err != nil {
			return err
		}
		return t.print(v, func(w io.Writer) { show(w, v) })
	})
}

// lists makes a call that answers with rows, and prints them as a table.
func lists[T any](t *terminal, header []string, call func(ctx context.Context, c *client.Client, given []string) ([]T, error), row func(T) []string) runE {
	return asks(t, func(ctx context.Context, c *client.Client, given []string) ([]T, error) {
		list, err := call(ctx, c, given)
		return nonNil(list), err
	}, func(w io.Writer, list []T) {
		rows := make([][]string, len(list))
		for i, v := range list {
			rows[i] = row(v)
		}
		table(w, header, rows)
	})
}

// first collects at most n of what seq yields; 0 is everything.
func first[T any](seq iter.Seq2[T, error], n int) ([]T, error) {
	var list []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		if list = append(list, v); len(list) == n {
			break
		}
	}
	return list, nil
}

// each does something with every id, going on after a failure. It prints the id
// of what was done, or as JSON all answers.
func each[T any](t *terminal, ids []string, do func(id string) (T, error)) error {
	answers := []T{}
	var errs []error
	for _, id := range ids {
		v, err := do(id)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
			continue
		}
		answers = append(answers, v)
		if !t.json {
			fmt.Fprintln(t.out, id)
		}
	}
	if t.json {
		if err := t.print(answers, nil); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// line prints one item of a stream: as JSON on a line of its own when asked to.
func (t *terminal) line(v any, text func(w io.Writer)) error {
	if !t.json {
		text(t.out)
		return nil
	}
	e := json.NewEncoder(t.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// ids prints only ids, for scripts.
func ids[T any](t *terminal, list []T, id func(T) string) error {
	for _, v := range list {
		if _, err := fmt.Fprintln(t.out, id(v)); err != nil {
			return err
		}
	}
	return nil
}
