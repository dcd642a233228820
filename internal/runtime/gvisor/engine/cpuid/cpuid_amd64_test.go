package cpuid

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUntrap asks for the trap after Untrap, in a process of its own and from
// another thread: it is refused, and so it is to a program that is started then.
func TestUntrap(t *testing.T) {
	const step = "SILICA_TEST_STEP"
	again := func(next string) {
		c := exec.Command("/proc/self/exe", "-test.run=^TestUntrap$", "-test.v")
		c.Env = append(os.Environ(), step+"="+next)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("step %q: %v\n%s", next, err, out)
		}
	}
	switch os.Getenv(step) {
	case "":
		again("untrap")
	case "untrap":
		if err := Untrap(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); refused(t) }()
		<-done
		if err := Untrap(); err != nil {
			t.Errorf("a second time: %v", err)
		}
		again("inherited")
	case "inherited":
		refused(t)
	}
}

func refused(t *testing.T) {
	if _, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archSetCPUID, 0, 0); errno != unix.ENODEV {
		t.Errorf("asking for the trap: %v", errno)
	}
}
