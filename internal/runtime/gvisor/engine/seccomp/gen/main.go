// Command gen writes the compiled system call filters as JSON to the file it is
// told.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"silica.dev/silica/internal/runtime/gvisor/engine/seccomp/compile"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string) error {
	programs, err := compile.Programs()
	if err != nil {
		return err
	}
	data, err := json.Marshal(programs)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
