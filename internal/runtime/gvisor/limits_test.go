package gvisor_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// TestSizes: a sandbox sees and gets its own size, started cold and restored.
func TestSizes(t *testing.T) {
	h := newHost(t)
	cold := h.start("")
	restored := h.start(h.snapshot(cold))
	for name, id := range map[string]sandbox.ID{"cold": cold, "restored": restored} {
		t.Run(name, func(t *testing.T) {
			out, _ := h.sh(id, "awk '/MemTotal/{print $2}' /proc/meminfo; df -k --output=size / | tail -1; df -k --output=size /tmp | tail -1")
			want := []string{fmt.Sprint(small.Memory >> 10), fmt.Sprint(small.Disk >> 10), fmt.Sprint(small.Disk >> 10)}
			if got := strings.Fields(out); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("MemTotal, size of / and of /tmp in kB = %v, want %v", got, want)
			}
			out, code := h.sh(id, "dd if=/dev/zero of=/tmp/fill bs=1M 2>&1; stat -c %s /tmp/fill; rm /tmp/fill; echo room > /root/f && cat /root/f")
			if code != 0 || !strings.Contains(out, "No space left on device") || !strings.HasSuffix(out, "room\n") {
				t.Errorf("filling the disk: exit %d: %s", code, out)
			}
			var size int64
			lines := strings.Split(strings.TrimSpace(out), "\n")
			fmt.Sscan(lines[len(lines)-2], &size)
			// What the agent itself wrote counts too.
			if size > small.Disk || size < small.Disk-(1<<20) {
				t.Errorf("the disk took %d bytes, want about %d", size, small.Disk)
			}
		})
	}
}

// TestGreedyChild: who eats memory is ended, the sandbox goes on.
func TestGreedyChild(t *testing.T) {
	h := newHost(t)
	id := h.start(h.snapshot(h.start("")))
	seed := h.seed(id)
	_, code := h.sh(id, "exec python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'")
	if code == 0 {
		t.Error("the greedy program ended well")
	}
	if got := h.seed(id); got != seed {
		t.Errorf("the seed was %q and is %q", seed, got)
	}
	if out, code := h.sh(id, "echo alive"); out != "alive\n" || code != 0 {
		t.Errorf("afterwards echo printed %q, exit %d", out, code)
	}
}

// TestCPUQuota: three busy processes get one core's time.
func TestCPUQuota(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	before, err := h.driver.Usage(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := h.sh(id, `for i in 1 2 3; do timeout 2 sh -c 'while :; do :; done' & done; wait; echo done`)
	if out != "done\n" {
		t.Errorf("got %q", out)
	}
	after, err := h.driver.Usage(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if used := (after.CPU - before.CPU).Seconds(); used > 2.6 {
		t.Errorf("used %.2f s of CPU in two seconds with one core", used)
	}
}

// TestOutOfMemory: memory that belongs to no process can't be relieved; then the
// sandbox ends, alone, and says why.
func TestOutOfMemory(t *testing.T) {
	h := newHost(t)
	id, other := h.start(""), h.start("")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	agent := h.agent(id)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ { // until the sandbox is gone
			fill := fmt.Sprintf("dd if=/dev/zero of=/dev/fill%d bs=1M count=600", i)
			for _, err := range agent.Start(ctx, &guestpb.StartRequest{Args: []string{"sh", "-c", fill}}) {
				if err != nil {
					return
				}
			}
		}
	})
	if exit := h.wait(id); !exit.OutOfMemory || !strings.Contains(exit.Reason, "out of memory") {
		t.Errorf("Wait = %+v, want out of memory", exit)
	}
	if out, _ := h.sh(other, "echo alive"); out != "alive\n" {
		t.Errorf("its neighbour printed %q", out)
	}
}
