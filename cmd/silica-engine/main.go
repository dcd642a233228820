// Command silica-engine is gVisor's boot process and the process that starts
// them and answers for them to the daemon.
//
// The library starts this program again under other names for each sandbox;
// these come first in main, before anything that costs time.
package main

import (
	"fmt"
	"os"

	"gvisor.dev/gvisor/runsc/cli/maincli"

	"silica.dev/silica/internal/runtime/gvisor/cgroup"
	"silica.dev/silica/internal/runtime/gvisor/engine/cpuid"
	"silica.dev/silica/internal/runtime/gvisor/engine/idle"
	"silica.dev/silica/internal/runtime/gvisor/engine/seccomp"
)

// version may be set by -X at build time; the default is the program's digest.
var version string

func main() {
	if len(os.Args) < 2 || os.Args[1] != "serve" || os.Args[0] == "runsc-sandbox" || os.Args[0] == "runsc-gofer" {
		fail(sandboxMain())
		return
	}
	fail(serve(os.Args[2:]))
}

// sandboxMain is one of gVisor's own processes: the sentry, or a helper of it.
func sandboxMain() error {
	args, err := cgroup.Enter(os.Args)
	if err != nil {
		return err
	}
	os.Args = args
	if seccomp.ForBoot(args) {
		if err := cpuid.Untrap(); err != nil {
			return err
		}
		idle.Quiet()
		if err := seccomp.Inject(); err != nil {
			return err
		}
	}
	maincli.Main()
	return nil
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "silica-engine:", err)
		os.Exit(1)
	}
}
