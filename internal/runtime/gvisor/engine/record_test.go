package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// TestRecord: a shorter record after a longer one leaves nothing of that.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	long := record{Slot: 3, Engine: "e", Phase: running, ID: sandbox.NewID(), Started: time.Now().UTC().Round(0), Exit: &runtime.Exit{Reason: "because"}}
	short := record{Slot: 3, Engine: "e", Phase: dying}
	for _, want := range []record{long, short, long} {
		if err := want.save(dir); err != nil {
			t.Fatal(err)
		}
		got, err := loadRecord(dir)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("saved and loaded record differ:\n%s", d)
		}
	}
}
