package runtimetest

import (
	"testing"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

func TestFakeKeepsTheContract(t *testing.T) {
	Run(t, func(t *testing.T) Fixture {
		f := NewFake()
		t.Cleanup(func() {
			for _, o := range f.Overlaps() {
				t.Error(o)
			}
		})
		return Fixture{
			Driver:    f,
			Image:     Image("base"),
			Resources: sandbox.Resources{MilliCPU: sandbox.Core, Memory: 512 * sandbox.MiB, Disk: 1024 * sandbox.MiB},
			Reopen:    func() runtime.Driver { return f.Reopen() },
			Kill:      func(id sandbox.ID) error { return f.Kill(id, runtime.Exit{Reason: "killed"}) },
			Damage:    f.Damage,
		}
	})
}

func TestShell(t *testing.T) {
	cases := []struct {
		script, want string
		code         int
	}{
		{"echo hi", "hi\n", 0},
		{"echo 'a  b' \"c d\"", "a  b c d\n", 0},
		{"false && echo no; echo yes", "yes\n", 0},
		{"false || echo yes", "yes\n", 0},
		{"echo x > f; echo y >> f; cat f", "x\ny\n", 0},
		{"cd /tmp && pwd", "/tmp\n", 0},
		{"exit 7; echo no", "", 7},
		{"nothing", "", 127},
		{"A=1; echo $A$?", "10\n", 0},
	}
	f := NewFake()
	h := newHarness(t, Fixture{Driver: f, Image: Image("base")})
	id := h.start("")
	h.init(id)
	for _, c := range cases {
		got, code, err := exec(h.ctx, h.agent(id), "sh", "-c", c.script)
		if got != c.want || code != c.code || err != nil {
			t.Errorf("%q = %q, exit %d, error %v; want %q, exit %d", c.script, got, code, err, c.want, c.code)
		}
	}
}
