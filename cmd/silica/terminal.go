package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
)

// terminal is where a command reads and writes. What a script wants goes to
// out; progress, hints and errors go to err, and the first two only to people.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	outTTY   bool
	errTTY   bool
	json     bool // --json
}

func newTerminal(in, out, errOut *os.File) *terminal {
	return &terminal{in: in, out: out, err: errOut, outTTY: isatty.IsTerminal(out.Fd()), errTTY: isatty.IsTerminal(errOut.Fd())}
}

// print writes v as JSON when asked to, else lets text write.
func (t *terminal) print(v any, text func(w io.Writer)) error {
	if !t.json {
		text(t.out)
		return nil
	}
	e := json.NewEncoder(t.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table writes rows in aligned columns. An empty cell shows as "-".
func table(w io.Writer, header []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	for _, row := range rows {
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
}

// hint tells a person how to go on. Scripts never see it.
func (t *terminal) hint(format string, args ...any) {
	if t.outTTY && t.errTTY && !t.json {
		fmt.Fprintf(t.err, format+"\n", args...)
	}
}

// progress shows on one line what goes on, to people, once it takes longer than
// a blink. The caller calls done, which removes the line.
func (t *terminal) progress(what func() string) (done func()) {
	if !t.errTTY {
		return func() {}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for start, shown := time.Now(), false; ; {
			select {
			case <-tick.C:
				fmt.Fprintf(t.err, "\r\x1b[K%s (%s)", what(), time.Since(start).Round(time.Second))
				shown = true
			case <-stop:
				if shown {
					fmt.Fprint(t.err, "\r\x1b[K")
				}
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(stop); wg.Wait() })
}

// confirm asks a person before something that can't be undone. A script has
// typed the command and meant it.
func (t *terminal) confirm(question string, yes bool) error {
	in, isFile := t.in.(*os.File)
	if yes || !isFile || !t.errTTY || !isatty.IsTerminal(in.Fd()) {
		return nil
	}
	fmt.Fprintf(t.err, "%s [y/N] ", question)
	var answer string
	_, _ = fmt.Fscanln(in, &answer)
	if a := strings.ToLower(answer); a == "y" || a == "yes" {
		return nil
	}
	return exitCode{exitFailure, "nothing was done"}
}

// report writes err for people (or as JSON) and returns the exit code.
func (t *terminal) report(err error) int {
	if err == nil {
		return 0
	}
	code, text, body := explain(err)
	if text == "" {
		return code
	}
	if t.json {
		e := json.NewEncoder(t.err)
		e.SetEscapeHTML(false)
		_ = e.Encode(map[string]any{"error": body})
		return code
	}
	fmt.Fprintln(t.err, "silica:", text)
	return code
}

// explain finds exit code and words for an error: what, why, what to do next.
func explain(err error) (code int, text string, body any) {
	var exit exitCode
	var usage usageError
	plain := func(code string) any { return map[string]string{"code": code, "message": err.Error()} }
	switch {
	case errors.As(err, &exit):
		return exit.code, exit.text, plain("FAILED")
	case errors.As(err, &usage):
		return exitUsage, usage.Error(), plain("USAGE")
	}
	if code, text, body, ok := explainServer(err); ok {
		return code, text, body
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted, "interrupted", plain("INTERRUPTED")
	}
	return exitFailure, err.Error(), plain("FAILED")
}
