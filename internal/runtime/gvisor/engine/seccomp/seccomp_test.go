package seccomp

import (
	"encoding/json"
	"reflect"
	"testing"

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"

	"silica.dev/silica/internal/runtime/gvisor/engine/seccomp/compile"
)

// TestEmbeddedIsFresh compares what is embedded with what the module builds now.
func TestEmbeddedIsFresh(t *testing.T) {
	fresh, err := compile.Programs()
	if err != nil {
		t.Fatal(err)
	}
	var programs []precompiledseccomp.Program
	if err := json.Unmarshal(embedded, &programs); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(programs, fresh) {
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
