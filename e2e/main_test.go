package e2e

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
)

// maxParallel bounds how many tests run at once: they start real sandboxes, and
// some of them measure.
const maxParallel = 3

// shared is the server most tests use. Those that crash, fill or reconfigure a
// server start their own.
var shared *Server

func TestMain(m *testing.M) {
	flag.Parse()
	if n := flag.Lookup("test.parallel"); n != nil {
		if v, err := strconv.Atoi(n.Value.String()); err == nil && v > maxParallel {
			_ = n.Value.Set(strconv.Itoa(maxParallel))
		}
	}
	os.Exit(run(m))
}

// run is TestMain with deferred calls.
func run(m *testing.M) int {
	if f := flag.Lookup("test.list"); f != nil && f.Value.String() != "" {
		return m.Run()
	}
	if os.Geteuid() != 0 {
		return complain(fmt.Errorf("these tests start real sandboxes and need root"))
	}
	lab, err := openLab()
	if err != nil {
		return complain(err)
	}
	defer lab.close()
	theLab = lab
	shared, err = lab.start(options{flags: []string{"--rate-limit=0", "--max-sandboxes=20"}})
	if err != nil {
		return complain(err)
	}
	code := m.Run()
	if leaks := shared.close(); len(leaks) > 0 {
		code = 1
		fmt.Fprintln(os.Stderr, "FAIL: the shared server left behind:")
		for _, l := range leaks {
			fmt.Fprintln(os.Stderr, "   ", l)
		}
		fmt.Fprintln(os.Stderr, shared.log.tail(0, 40))
	}
	return code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}
