// Package compile builds the sentry's system call filters as the gVisor module
// would at every start, in a form that depends on nothing of this process.
package compile

import (
	"fmt"
	"os"
	"strings"

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

// selfPID is the library's name for the lower half of the process's own number,
// which is filled in when a filter is loaded.
const selfPID = "self_pid_low32bits"

// Programs returns the filters for the way the engine runs sentries: one of the
// library's 42.
func Programs() ([]precompiledseccomp.Program, error) {
	all, err := config.PrecompiledPrograms()
	if err != nil {
		return nil, fmt.Errorf("compile filters: %w", err)
	}
	var used []precompiledseccomp.Program
	for _, p := range all {
		if !strings.Contains(p.Name, `Platform="systrap"`) || !strings.Contains(p.Name, "NVProxy=false") || !strings.Contains(p.Name, "TPUProxy=false") {
			continue
		}
		if err := detach(&p, uint32(os.Getpid())); err != nil {
			return nil, fmt.Errorf("filter %s: %w", p.Name, err)
		}
		used = append(used, p)
	}
	if len(used) == 0 {
		return nil, fmt.Errorf("none of %d filters is the engine's", len(all))
	}
	return used, nil
}

// detach takes the compiling process out of a filter. One rule of the platform,
// rt_tgsigqueueinfo, compares with the number of the process that compiles: that
// place becomes one of the library's variable.
func detach(p *precompiledseccomp.Program, pid uint32) error {
	var at []int
	for i := 1; i < len(p.Bytecode32); i += 2 { // the operands
		if p.Bytecode32[i] == pid {
			at = append(at, i)
		}
	}
	if len(at) != 1 {
		return fmt.Errorf("the process number %d occurs %d times, not once: if that is chance, try again", pid, len(at))
	}
	if len(p.VarOffsets[selfPID]) != 0 {
		return fmt.Errorf("the library has learned to fill in %s itself", selfPID)
	}
	p.VarOffsets[selfPID] = at
	// Stand-ins are numbered in random order.
	for _, offsets := range p.VarOffsets {
		for _, i := range offsets {
			p.Bytecode32[i] = 0
		}
	}
	return nil
}
