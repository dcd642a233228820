package seccomp

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gvisor.dev/gvisor/runsc/boot/filter"
)

// TestEmbeddedIsFresh compares what is embedded with what the module builds now,
// in a program of its own: the race detector adds to the filters.
func TestEmbeddedIsFresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "programs.json")
	c := exec.CommandContext(t.Context(), "go", "run", "-trimpath", "-buildvcs=false", "./gen", path)
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // as the engine is built
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go run ./gen: %v\n%s", err, out)
	}
	fresh, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(embedded, fresh) {
		t.Error("the embedded filters differ from a fresh build: run go generate")
	}
}

// TestInject finds the programs where a boot process looks for them.
func TestInject(t *testing.T) {
	if err := Inject(); err != nil {
		t.Fatal(err)
	}
	names := filter.ListPrecompiled()
	if len(names) == 0 {
		t.Fatal("the library lists no program")
	}
	for _, name := range names {
		if _, ok := filter.GetPrecompiled(name); !ok {
			t.Errorf("the library does not find %s", name)
		}
	}
}
