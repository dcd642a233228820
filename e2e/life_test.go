package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// state waits until the sandbox is in one of the states, and returns how it is.
func (c *Client) state(t *testing.T, id string, states ...string) answer {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		a := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "")
		for _, s := range states {
			if a.str("state") == s {
				return a
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %s (%v), want one of %v", id, a.str("state"), a.at("state_reason"), states)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kept lists the artifacts of stopped sandboxes in the server's data folder.
func (s *Server) kept() []string {
	found, _ := filepath.Glob(filepath.Join(s.data, "blobs", "*", "fscheckpoint.json"))
	return found
}

// prepareFiles fills a sandbox with what is easily lost, and look says how it is.
const prepareFiles = `set -e
mkdir -p /root/a/b /srv/empty && cd /root/a
head -c 50000000 /dev/urandom > big && sha256sum big > sum
echo text > 'new
line' && ln -s b link && ln -s /nowhere dangling && ln big hard && mkfifo fifo
printf x > "$(printf 'bad\377name')"
truncate -s 3G sparse && printf end | dd of=sparse bs=1 seek=1000000000 conv=notrunc 2>/dev/null
chmod 4751 link/.. && touch owned && chown 1234:2345 owned && chmod 0600 owned
touch -d '2001-02-03 04:05:06' old
rm /etc/debian_version && rm -r /usr/share/zoneinfo 2>/dev/null || true
echo changed >> /etc/hosts.allow && echo more >> /etc/profile
echo deleted > gone && rm gone`

const lookAtFiles = `cd /root/a && sha256sum -c sum && cat 'new
line' && readlink link dangling && stat -c '%n %F %a %u:%g %s %h' big hard fifo owned sparse . /srv/empty bad* && stat -c %Y old
dd if=sparse bs=1 skip=1000000000 count=3 2>/dev/null; echo; du -k sparse | cut -f1
ls -A /root/a | wc -l; ls /etc/debian_version /usr/share/zoneinfo 2>&1; tail -1 /etc/profile`

// "persistent → paused with memory: false; start brings its files back by a cold boot"
func TestStopAndStartBringFilesBack(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	a := c.created(t, obj{"persistent": true, "name": "mine", "env": obj{"WHO": "me"}, "timeout_sec": 900})
	id, slug := a.str("id"), a.str("slug")
	c.sh(t, id, prepareFiles)
	want := c.sh(t, id, lookAtFiles)
	for round := range 3 {
		// A process that writes while it is stopped: what it wrote before is there.
		c.sh(t, id, fmt.Sprintf("nohup sh -c 'i=0; while :; do i=$((i+1)); echo $i >> /root/count%d; done' >/dev/null 2>&1 &", round))
		before := c.sh(t, id, fmt.Sprintf("while [ ! -s /root/count%d ]; do :; done; wc -l < /root/count%d", round, round))
		began := time.Now()
		a := c.do(t, "POST", "sandboxes/"+id+"/stop", obj{}).want(t, 200, "")
		stopped := time.Since(began)
		if a.str("state") != "paused" || a.at("memory") != false || a.str("state_reason") != "stopped" {
			t.Fatalf("stop: %s", a.Body)
		}
		c.do(t, "POST", "sandboxes/"+id+"/exec", obj{"command": "true"}).want(t, 409, "SANDBOX_NOT_RUNNING")
		c.do(t, "GET", "sandboxes/"+id+"/files/root/a/owned", nil).want(t, 409, "SANDBOX_NOT_RUNNING")
		if n := len(s.kept()); n != 1 {
			t.Errorf("%d artifacts are kept, want 1", n)
		}
		began = time.Now()
		a = c.do(t, "POST", "sandboxes/"+id+"/start", obj{}).want(t, 200, "")
		t.Logf("round %d: stop %v, start %v", round, stopped.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		if a.str("state") != "running" || a.str("boot_path") != "cold" || a.str("slug") != slug || a.str("name") != "mine" || a.at("memory") != nil {
			t.Fatalf("start: %s", a.Body)
		}
		if got := c.sh(t, id, lookAtFiles); got != want {
			t.Errorf("round %d: files differ:\n%s\nwant\n%s", round, got, want)
		}
		if got := c.sh(t, id, `echo "$WHO $(hostname)"`); got != "me "+slug {
			t.Errorf("identity: %q", got)
		}
		after := c.sh(t, id, fmt.Sprintf("wc -l < /root/count%d", round))
		if len(after) < len(before) || len(after) == len(before) && after < before {
			t.Errorf("%s lines were there before the stop, %s after the start", before, after)
		}
		c.sh(t, id, "rm /root/count*")
	}
	c.do(t, "POST", "sandboxes/"+id+"/stop", obj{}).want(t, 200, "")
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	for end := time.Now().Add(10 * time.Second); len(s.kept()) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("kept after the end: %v", s.kept())
		}
	}
}

// "kill -9 of the daemon at any moment of stop or start": the sandbox runs or is
// paused after that, and its files are there.
func TestKillWhileStoppingAndStarting(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, obj{"persistent": true, "timeout_sec": 900})
	var sum [sha256.Size]byte
	for round := range 8 {
		content := bytes.Repeat([]byte(fmt.Sprint("round ", round, "\n")), 2_000_000)
		sum = sha256.Sum256(content)
		c.upload(t, id, "/root/f", content).want(t, 200, "")
		verb := "stop"
		if round%2 == 1 {
			c.do(t, "POST", "sandboxes/"+id+"/stop", obj{}).want(t, 200, "")
			verb = "start"
		}
		var asked sync.WaitGroup
		asked.Go(func() { _, _ = c.try(t.Context(), "POST", "sandboxes/"+id+"/"+verb, obj{}) })
		time.Sleep(time.Duration(round/2) * 40 * time.Millisecond) // another moment each time
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		asked.Wait()
		s.restart(t)
		a := c.state(t, id, "running", "paused")
		t.Logf("killed in %s: %s", verb, a.str("state"))
		c.do(t, "POST", "sandboxes/"+id+"/start", obj{}).want(t, 200, "")
		c.state(t, id, "running")
		if got := c.sh(t, id, "sha256sum < /root/f"); !strings.HasPrefix(got, fmt.Sprintf("%x", sum)) {
			t.Fatalf("round %d: the file differs after a kill in %s: %s", round, verb, got)
		}
	}
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	s.kill()
	s.restart(t)
	if left := s.kept(); len(left) != 0 {
		t.Errorf("kept after the end: %v", left)
	}
}

// Seed 004's keys act; "idle timeout really acts"; extend gives more time.
func TestPatchIdleAndExtendAct(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"timeout_sec": 900})
	a := c.do(t, "PATCH", "sandboxes/"+id, obj{"name": "new-name", "tags": []string{"x"}, "metadata": obj{"k": "v"}}).want(t, 200, "")
	if a.str("name") != "new-name" || a.at("metadata.k") != "v" {
		t.Errorf("PATCH: %s", a.Body)
	}
	c.do(t, "GET", "sandboxes/new-name", nil).want(t, 200, "")
	c.do(t, "PATCH", "sandboxes/"+id, obj{"color": "red"}).want(t, 422, "VALIDATION_ERROR")
	c.do(t, "PATCH", "sandboxes/"+id, obj{"slug": "8080-x"}).want(t, 422, "VALIDATION_ERROR")

	// A command that lasts is use.
	c.do(t, "PATCH", "sandboxes/"+id, obj{"idle_timeout_sec": 1}).want(t, 200, "")
	c.sh(t, id, "sleep 2.5; echo still here")
	if a := c.state(t, id, "destroyed"); a.str("state_reason") != "idle" {
		t.Errorf("ended: %v", a.at("state_reason"))
	}

	keep := c.create(t, obj{"timeout_sec": 2, "metadata": obj{"miosa_persistent": true}})
	a = c.do(t, "POST", "sandboxes/"+keep+"/extend", obj{}).want(t, 200, "")
	if left := a.num("timeout_remaining_ms"); left > 2000 || left < 500 {
		t.Errorf("extend: %v ms left", left)
	}
	if a := c.state(t, keep, "paused"); a.str("state_reason") != "timeout" {
		t.Errorf("paused: %v", a.at("state_reason"))
	}
	c.do(t, "POST", "sandboxes/"+keep+"/start", obj{}).want(t, 200, "")
	c.do(t, "POST", "sandboxes/"+keep+"/extend", obj{"timeout_sec": 900}).want(t, 200, "")
	if got := c.sh(t, keep, "echo runs"); got != "runs" {
		t.Errorf("after a start: %q", got)
	}
}

// How long stop and start take, for a report: SILICA_MEASURE=1.
func TestMeasureStopAndStart(t *testing.T) {
	if os.Getenv("SILICA_MEASURE") == "" {
		t.Skip("SILICA_MEASURE is not set")
	}
	c := shared.tenant(t)
	id := c.create(t, obj{"persistent": true, "timeout_sec": 900})
	for _, mb := range []int{0, 64, 512} {
		c.sh(t, id, fmt.Sprintf("rm -f /root/f; head -c %d000000 /dev/urandom > /root/f; sync", mb))
		for range 3 {
			began := time.Now()
			c.do(t, "POST", "sandboxes/"+id+"/stop", obj{}).want(t, 200, "")
			stopped := time.Since(began)
			began = time.Now()
			a := c.do(t, "POST", "sandboxes/"+id+"/start", obj{}).want(t, 200, "")
			started := time.Since(began)
			began = time.Now()
			c.sh(t, id, "cat /root/f > /dev/null")
			t.Logf("%d MB: stop %v, start %v (boot_ms %v), reading it all %v", mb, stopped.Round(time.Millisecond), started.Round(time.Millisecond), a.at("boot_ms"), time.Since(began).Round(time.Millisecond))
		}
	}
}
