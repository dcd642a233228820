package store

import (
	"errors"
	"fmt"
	"testing"

	"silica.dev/silica/sandbox"
)

// Callers choose what lists ask for: that bounds no memory by itself.
func TestFewStatementsAreKept(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		tn := tenant(t, s, "a")
		for i := range 1 << 8 { // as many different questions
			pick := func(bit int) string { return "x"[:i>>bit&1] }
			f := sandbox.Filter{Tenant: tn, Workspace: pick(0), Project: pick(1), Name: pick(2), Template: pick(3),
				External: sandbox.External{Workspace: pick(4), User: pick(5), Project: pick(6)}}
			if pick(7) != "" {
				f.States = []sandbox.State{sandbox.Running}
			}
			if _, err := s.List(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(s.read.kept); n != mostStatements {
			t.Errorf("%d statements are kept, want %d", n, mostStatements)
		}
	})
}

// A kept statement takes part in the transaction that runs it.
func TestKeptStatementsAreTheTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		const set, get = `insert into meta (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value`, `select value from meta where name = 'x'`
		failed := errors.New("on purpose")
		for i := range 3 { // the first runs them as they are, the others as they are kept
			err := s.do(t.Context(), "test", func(t *tx) error {
				if _, err := t.exec(set, "x", "1"); err != nil {
					return err
				}
				var v string
				if err := t.row(get).Scan(&v); err != nil || v != "1" {
					return fmt.Errorf("it reads %q, %w", v, err)
				}
				return failed
			})
			if !errors.Is(err, failed) {
				t.Fatalf("round %d: %v", i, err)
			}
			if v, err := s.Meta(t.Context(), "x"); v != "" || err != nil {
				t.Fatalf("round %d: it was rolled back, and reads %q, %v", i, v, err)
			}
			if err := s.SetMeta(t.Context(), "y", fmt.Sprint(i)); err != nil { // a commit that succeeds prepares what was asked
				t.Fatal(err)
			}
			if v, err := s.Meta(t.Context(), "y"); v != fmt.Sprint(i) || err != nil {
				t.Fatalf("round %d: reads %q, %v", i, v, err)
			}
		}
	})
}
