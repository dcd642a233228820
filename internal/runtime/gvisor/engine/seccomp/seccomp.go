// Package seccomp hands the sentry its system call filter ready made, so that it
// need not compile it at every start, which is a third of a restore.
//
// The library keeps such programs for builds by another build system and offers
// no way in. See the test for what holds the embedded program true.
package seccomp

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	_ "unsafe" // for linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
)

//go:generate go run ./gen programs.json

//go:embed programs.json
var embedded []byte

// precompiledPrograms is the library's table. If it is renamed there, linking
// fails.
//
//go:linkname precompiledPrograms gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var precompiledPrograms map[string]precompiledseccomp.Program

// Inject puts the embedded programs into the library's table. Call it in main of
// a boot process, before the library's own main.
func Inject() error {
	var programs []precompiledseccomp.Program
	if err := json.Unmarshal(embedded, &programs); err != nil {
		return fmt.Errorf("read embedded filters: %w", err)
	}
	filter.ListPrecompiled() // makes the table, once; from here on it stays
	for _, p := range programs {
		precompiledPrograms[p.Name] = p
	}
	return nil
}

// ForBoot tells whether args start a sentry.
func ForBoot(args []string) bool { return slices.Contains(args, "boot") }
