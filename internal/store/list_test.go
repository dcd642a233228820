package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

func names(l sandbox.Listing) string {
	var list []string
	for _, sb := range l.Sandboxes {
		list = append(list, sb.Name)
	}
	return strings.Join(list, " ")
}

func TestListFindsByLabels(t *testing.T) { onBoth(t, testListFindsByLabels) }

func testListFindsByLabels(t *testing.T, s *Store) {
	ctx := t.Context()
	a, b := tenant(t, s, "a"), tenant(t, s, "b")
	at := time.Now().UTC().Truncate(time.Microsecond)
	add := func(tn sandbox.TenantID, name string, metadata map[string]any, tags ...string) sandbox.Sandbox {
		sb := fresh(tn)
		sb.Name, sb.Metadata, sb.Tags = name, metadata, tags
		at = at.Add(time.Second)
		sb.CreatedAt = at
		got, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	long := strings.Repeat("x", 257)
	first := add(a, "one", map[string]any{"env": "prod", "n": json.Number("7"), `o"d'd.$[0]`: "x", "long": long, "on": true, "deep": map[string]any{"env": "prod"}}, "gpu", "eu")
	add(a, "two", map[string]any{"env": "dev", "n": "7"}, "eu")
	add(b, "other", map[string]any{"env": "prod"}, "eu")
	for _, tt := range []struct {
		f    sandbox.Filter
		want string
	}{
		{sandbox.Filter{Metadata: map[string]string{"env": "prod"}}, "one"},
		{sandbox.Filter{Metadata: map[string]string{"n": "7"}}, "two one"}, // as text, whatever it was
		{sandbox.Filter{Metadata: map[string]string{"n": "7", "env": "dev"}}, "two"},
		{sandbox.Filter{Metadata: map[string]string{"on": "true"}}, "one"},
		{sandbox.Filter{Metadata: map[string]string{`o"d'd.$[0]`: "x"}}, "one"},
		{sandbox.Filter{Metadata: map[string]string{"env": "%"}}, ""},
		{sandbox.Filter{Metadata: map[string]string{"long": long}}, ""},
		{sandbox.Filter{Tags: []string{"eu"}}, "two one"},
		{sandbox.Filter{Tags: []string{"eu", "gpu"}}, "one"},
		{sandbox.Filter{Name: "two"}, "two"},
		{sandbox.Filter{Template: "nope"}, ""},
		{sandbox.Filter{States: []sandbox.State{sandbox.Running, sandbox.Provisioning}}, "two one"},
	} {
		tt.f.Tenant = a
		if l, err := s.List(ctx, tt.f); err != nil || names(l) != tt.want || l.Total != len(l.Sandboxes) {
			t.Errorf("%+v: %q of %d, %v; want %q", tt.f, names(l), l.Total, err, tt.want)
		}
	}
	// What changes in the row changes what finds it.
	if _, err := s.Update(ctx, first.ID, sandbox.Provisioning, func(sb *sandbox.Sandbox) {
		sb.Metadata["env"] = "test"
		sb.Tags = []string{"new"}
	}); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]string{"prod": "", "test": "one"} {
		if l, err := s.List(ctx, sandbox.Filter{Tenant: a, Metadata: map[string]string{"env": f}}); err != nil || names(l) != want {
			t.Errorf("after a change, env=%s: %q, %v; want %q", f, names(l), err, want)
		}
	}
	if l, err := s.List(ctx, sandbox.Filter{Tenant: a, Tags: []string{"gpu"}}); err != nil || l.Total != 0 {
		t.Errorf("by a tag it has no more: %q, %v", names(l), err)
	}
	// They go with their sandbox.
	if _, err := s.Move(ctx, first.ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkFreed(ctx, first.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(ctx, time.Now().Add(1000*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := s.read.QueryRow(`select count(*) from labels where sandbox = $1`, string(first.ID)).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d labels are left of a pruned sandbox, %v", left, err)
	}
}

// Pages cover everything once, in a stable order, with a true total, even while
// new ones come in front, and even when all were made in the same microsecond.
func TestPagesCoverEverythingOnce(t *testing.T) { onBoth(t, testPagesCoverEverythingOnce) }

func testPagesCoverEverythingOnce(t *testing.T, s *Store) {
	ctx := t.Context()
	a := tenant(t, s, "a")
	at := time.Now().UTC().Truncate(time.Microsecond)
	add := func(i int) {
		sb := fresh(a)
		sb.Name, sb.CreatedAt = fmt.Sprint(i), at.Add(time.Duration(i/4)*time.Second)
		if _, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		add(i)
	}
	seen := map[string]int{}
	f := sandbox.Filter{Tenant: a, Limit: 3}
	for page := range 5 {
		l, err := s.List(ctx, f)
		if err != nil || l.Total != 10+page {
			t.Fatalf("page %d: total %d, %v; want %d", page, l.Total, err, 10+page)
		}
		for _, sb := range l.Sandboxes {
			seen[sb.Name]++
		}
		if l.More != (page < 3) {
			t.Errorf("page %d: more = %v", page, l.More)
		}
		if !l.More {
			break
		}
		last := l.Sandboxes[len(l.Sandboxes)-1]
		f.After = sandbox.Position{CreatedAt: last.CreatedAt, ID: last.ID}
		add(100 + page)
	}
	for i := range 10 {
		if seen[fmt.Sprint(i)] != 1 {
			t.Errorf("%d was seen %d times", i, seen[fmt.Sprint(i)])
		}
	}
	all, err := s.List(ctx, sandbox.Filter{Tenant: a})
	if err != nil {
		t.Fatal(err)
	}
	var byOffset []sandbox.ID
	for offset := 0; offset < all.Total+5; offset += 5 {
		l, err := s.List(ctx, sandbox.Filter{Tenant: a, Limit: 5, Offset: offset})
		if err != nil || l.Total != all.Total {
			t.Errorf("offset %d: total %d, %v; want %d", offset, l.Total, err, all.Total)
		}
		for _, sb := range l.Sandboxes {
			byOffset = append(byOffset, sb.ID)
		}
	}
	if !slices.EqualFunc(byOffset, all.Sandboxes, func(id sandbox.ID, sb sandbox.Sandbox) bool { return id == sb.ID }) {
		t.Errorf("by offset: %v", byOffset)
	}
}
