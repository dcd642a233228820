package storage

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

type rows []sandbox.Holder

func (r rows) Holders(context.Context) ([]sandbox.Holder, error) { return r, nil }

// "garbage is collected; nothing referenced ever is": nor what is in use, nor what
// was put a moment ago, be it there already.
func TestOnlyGarbageIsCollected(t *testing.T) {
	ctx := t.Context()
	root := t.TempDir()
	blobs, err := blob.NewLocal(root)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	put := func(content string) sandbox.Ref {
		t.Helper()
		dir, err := blobs.TempDir(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		ref, err := blobs.Put(ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	old := func(ref sandbox.Ref) {
		t.Helper()
		at := time.Now().Add(-2 * Grace)
		if err := os.Chtimes(filepath.Join(root, "sha256-"+string(ref)[len("sha256:"):]), at, at); err != nil {
			t.Fatal(err)
		}
	}
	held, garbage, open, again, new := put("held"), put("garbage"), put("open"), put("again"), put("new")
	for _, ref := range []sandbox.Ref{held, garbage, open, again} {
		old(ref)
	}
	_, release, err := blobs.Open(ctx, open)
	if err != nil {
		t.Fatal(err)
	}
	put("again")

	l := Ledger{Rows: rows{{Kind: sandbox.HeldFiles, ID: "sbx_1", Ref: held}}, Blobs: blobs}
	list, err := l.Artifacts(ctx)
	if err != nil || len(list) != 5 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, a := range list {
		if a.Size <= 0 || (a.Ref == held) != (len(a.Holders) == 1) {
			t.Errorf("%+v", a)
		}
	}
	removed, err := l.Collect(ctx)
	if err != nil || len(removed) != 1 || removed[0].Ref != garbage {
		t.Errorf("removed %v, %v; want %s", removed, err, garbage)
	}
	release()
	if removed, err = l.Collect(ctx); err != nil || len(removed) != 1 || removed[0].Ref != open {
		t.Errorf("removed %v, %v; want %s, which is no longer open", removed, err, open)
	}
	left, err := blobs.List(ctx)
	want := []sandbox.Ref{held, again, new}
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left %v, %v; want %v", left, err, want)
	}
}
