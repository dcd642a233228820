package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// sentriesOf lists the sentries that run a sandbox, by the engine's own records.
func (s *Server) sentriesOf(id string) (pids []int) {
	_ = filepath.WalkDir(filepath.Join(s.data, "engine"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "slot.json" {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		var slot struct {
			ID, Phase string
			Pid       int
		}
		if json.Unmarshal(raw, &slot) == nil && slot.ID == id && slot.Phase == "running" && unix.Kill(slot.Pid, 0) == nil {
			pids = append(pids, slot.Pid)
		}
		return nil
	})
	return pids
}

// savedOf lists the artifacts that hold memory, or the files alone, of a sandbox.
func (s *Server) savedOf(id, file string) (dirs []string) {
	notes, _ := filepath.Glob(filepath.Join(s.data, "blobs", "sha256-*", "silica.json"))
	for _, note := range notes {
		var of struct{ Sandbox string }
		raw, err := os.ReadFile(note)
		if err != nil || json.Unmarshal(raw, &of) != nil || of.Sandbox != id {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(note), file)); err == nil {
			dirs = append(dirs, filepath.Dir(note))
		}
	}
	return dirs
}

// What only an artifact of memory, and only one of files, has.
const (
	memoryFile = "checkpoint.img"
	layerFile  = "fscheckpoint.json"
)

// ticker counts in its memory, and writes its pid and the count where it can be read.
const ticker = `nohup python3 -c '
import os, time
i = 0
while True:
    i += 1
    open("/root/n.new", "w").write("%d %d\n" % (os.getpid(), i))
    os.replace("/root/n.new", "/root/n")
    time.sleep(0.05)' >/dev/null 2>&1 & while [ ! -s /root/n ]; do sleep 0.02; done`

// ticks reads pid and count of a ticker.
func (c *Client) ticks(t *testing.T, id string) (pid, n int) {
	t.Helper()
	text := c.sh(t, id, "cat /root/n")
	if _, err := fmt.Sscan(text, &pid, &n); err != nil {
		t.Fatalf("the ticker of %s wrote %q", id, text)
	}
	return pid, n
}

// ticking waits until the same ticker is beyond a count.
func (c *Client) ticking(t *testing.T, id string, pid, beyond int) {
	t.Helper()
	now, n := 0, 0
	if !soon(30*time.Second, func() bool { now, n = c.ticks(t, id); return now != pid || n > beyond }) || now != pid {
		t.Fatalf("the ticker of %s is process %d at %d, want process %d beyond %d", id, now, n, pid, beyond)
	}
}

func (c *Client) pause(t *testing.T, id string) answer {
	t.Helper()
	a := c.do(t, "POST", "sandboxes/"+id+"/pause", obj{}).want(t, 200, "")
	if a.str("state") != "paused" || a.at("memory") != true {
		t.Fatalf("pause: %s", a)
	}
	return a
}

// sane looks at what goes wrong in other systems after a restore.
func (c *Client) sane(t *testing.T, when, id, slug string, is *island, random map[string]bool) {
	t.Helper()
	early := time.Now()
	text := c.sh(t, id, "date +%s.%N")
	late := time.Now()
	var at float64
	_, _ = fmt.Sscan(text, &at)
	if inside := time.UnixMicro(int64(at * 1e6)); inside.Before(early.Add(-50*time.Millisecond)) || inside.After(late.Add(50*time.Millisecond)) {
		t.Errorf("%s: it is %v inside, and between %v and %v here", when, inside, early, late)
	}
	if got := c.sh(t, id, "hostname"); got != slug {
		t.Errorf("%s: its host name is %q, want %q", when, got, slug)
	}
	bytes := c.sh(t, id, "head -c 16 /dev/urandom | od -An -tx1")
	if random[bytes] {
		t.Errorf("%s: the same random bytes again", when)
	}
	random[bytes] = true
	if got := c.sh(t, id, "cat /etc/resolv.conf"); !strings.Contains(got, "nameserver "+is.server) {
		t.Errorf("%s: resolv.conf is %q", when, got)
	}
	if got, ok := c.reach(t, id, is.url); !ok || got != "island" {
		t.Errorf("%s: the network: got %q, %v", when, got, ok)
	}
}

// "Pause and resume: memory to disk, host memory freed, everything back; wake on exec;
// two resumes at once (one restore, both answered)"; "after every restore: clock right
// within 50 ms, timers sane, new randomness, working network and DNS, agent identity".
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	is := newIsland(t, "s"+shared.name, "25.255.251.1", "25.255.251.2")
	s := ownServer(t, options{flags: []string{"--nameservers=" + is.server, "--rate-limit=0"}})
	c := s.tenant(t)
	a := c.created(t, obj{"persistent": true, "timeout_sec": 900})
	id, slug := a.str("id"), a.str("slug")
	c.sh(t, id, ticker)
	c.upload(t, id, "/root/f", []byte("dear")).want(t, 200, "")
	random := map[string]bool{}
	wake := map[int]func(){
		1: func() { // use
			if got := c.sh(t, id, "cat /root/f"); got != "dear" {
				t.Errorf("the file holds %q", got)
			}
		},
		2: func() { // two at once
			log := c.open(t, "GET", "sandboxes/"+id+"/events", nil, header{"Last-Event-ID", "0"}, header{"Accept", "text/event-stream"})
			log.until(t, 10*time.Second, "the second pause", seen(state("paused"), 2))
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() {
					if a, err := c.try(t.Context(), "POST", "sandboxes/"+id+"/resume", obj{}); err != nil || a.Status != 200 || a.str("state") != "running" && a.str("state") != "provisioning" {
						t.Errorf("resume: %s %v", a, err)
					}
				})
			}
			both.Wait()
			log.until(t, 10*time.Second, "it runs", state("running"))
			c.upload(t, id, "/root/g", []byte("x")).want(t, 200, "")
			c.pause(t, id)
			if f := log.until(t, 10*time.Second, "another change", func(f frame) bool { return f.Event == "state_changed" }); f.JSON()["state"] != "paused" {
				t.Errorf("two resumes were more than one: then came %v", f.JSON())
			}
			c.do(t, "GET", "sandboxes/"+id+"/files/root%2Fg", nil).want(t, 200, "") // use, too
		},
		3: func() { // by another daemon
			if err := s.kill(); err != nil {
				t.Fatal(err)
			}
			s.restart(t)
			c.do(t, "POST", "sandboxes/"+id+"/resume", obj{}).want(t, 200, "")
		},
	}
	for round := 1; round <= 10; round++ {
		pid, n := c.ticks(t, id)
		sentries := s.sentriesOf(id)
		if len(sentries) != 1 {
			t.Fatalf("it has the sentries %v", sentries)
		}
		c.pause(t, id)
		eventually(t, 5*time.Second, "nothing of what is paused is on the host", func() bool {
			return len(s.sentriesOf(id)) == 0 && (unix.Kill(sentries[0], 0) != nil || zombie(sentries[0]))
		})
		c.pause(t, id) // again: a success
		if wake[round] != nil {
			wake[round]()
		}
		c.ticking(t, id, pid, n)
		if a := c.do(t, "GET", "sandboxes/"+id, nil); a.str("boot_path") != "snapshot" {
			t.Errorf("round %d: %s", round, a)
		}
		if round <= 3 || round == 10 {
			c.sane(t, fmt.Sprint("resume ", round), id, slug, is, random)
		}
	}
	if n := len(s.savedOf(id, memoryFile)); n != 0 {
		t.Errorf("%d memory images are kept of a sandbox that runs", n)
	}

	// One that is not persistent is not woken by use.
	brief := c.create(t, obj{"timeout_sec": 900})
	c.pause(t, brief)
	c.exec(t, brief, "true").want(t, 409, "SANDBOX_NOT_RUNNING")
	c.do(t, "POST", "sandboxes/"+brief+"/resume", obj{}).want(t, 200, "")
	c.sh(t, brief, "true")
}

// seen fits the nth frame that fits.
func seen(fits func(frame) bool, nth int) func(frame) bool {
	return func(f frame) bool {
		if fits(f) {
			nth--
		}
		return nth == 0
	}
}

// zombie tells whether a process has ended and only waits to be reaped.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(rest, "Z")
}

// "pause during exec": it ends for its caller with SANDBOX_NOT_RUNNING, and so does
// its process after the resume; what runs in the background goes on.
func TestPauseDuringExec(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"persistent": true, "timeout_sec": 900})
	c.sh(t, id, ticker)
	pid, n := c.ticks(t, id)
	var asked sync.WaitGroup
	asked.Go(func() {
		a, err := c.try(t.Context(), "POST", "sandboxes/"+id+"/exec", obj{"command": "touch /root/began; exec sleep 987"})
		if err != nil || a.Status != 409 || a.str("error.code") != "SANDBOX_NOT_RUNNING" {
			t.Errorf("the command under way: got %s %v", a, err)
		}
	})
	eventually(t, 10*time.Second, "the command runs", func() bool {
		return c.exec(t, id, "test -e /root/began").num("exit_code") == 0
	})
	c.pause(t, id)
	asked.Wait()
	c.ticking(t, id, pid, n)
	eventually(t, 10*time.Second, "the process of the request has ended", func() bool {
		return c.exec(t, id, "pgrep -f 'sleep 987'").num("exit_code") == 1
	})
}

// "memory image that no longer restores (`boot_path: cold`, an event says so)": a
// paused sandbox keeps its files whatever became of its memory.
func TestDamagedMemory(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, obj{"persistent": true, "timeout_sec": 900})
	for name, damage := range map[string]func(dir string){
		"cut off": func(dir string) {
			if err := os.Truncate(filepath.Join(dir, memoryFile), 1000); err != nil {
				t.Fatal(err)
			}
		},
		"changed": func(dir string) {
			if err := s.kill(); err != nil { // that daemon has seen every byte of it
				t.Fatal(err)
			}
			f, err := os.OpenFile(filepath.Join(dir, "pages.img"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("damage"), 100_000); err != nil {
				t.Fatal(err)
			}
			s.restart(t)
		},
		"gone": func(dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
	} {
		content := "dear " + name
		c.upload(t, id, "/root/f", []byte(content)).want(t, 200, "")
		c.sh(t, id, ticker)
		c.pause(t, id)
		saved := s.savedOf(id, memoryFile)
		if len(saved) != 1 {
			t.Fatalf("%s: memory is at %v", name, saved)
		}
		damage(saved[0])
		log := c.open(t, "GET", "sandboxes/"+id+"/events", nil, header{"Accept", "text/event-stream"})
		c.do(t, "POST", "sandboxes/"+id+"/resume", obj{}).want(t, 200, "")
		if a := c.state(t, id, "running"); a.str("boot_path") != "cold" {
			t.Errorf("%s: resumed: %s", name, a)
		}
		log.until(t, 10*time.Second, "MEMORY_LOST", code("MEMORY_LOST"))
		if got := c.sh(t, id, "cat /root/f"); got != content {
			t.Errorf("%s: the file holds %q", name, got)
		}
		if a := c.exec(t, id, "pgrep -f n.new"); a.num("exit_code") != 1 {
			t.Errorf("%s: a process is there after a cold boot: %s", name, a)
		}
	}
}

// "Snapshots of a running sandbox (memory and files): create with comment, list, get,
// delete, restore in place, and fork from it"; "processes, open files, timers go on in
// the copy; new identity".
func TestSnapshotRestoreAndFork(t *testing.T) {
	t.Parallel()
	c, stranger := shared.tenant(t), shared.tenant(t)
	a := c.created(t, obj{"timeout_sec": 900, "env": obj{"WHO": "me"}})
	id, slug := a.str("id"), a.str("slug")
	c.sh(t, id, ticker)
	c.upload(t, id, "/root/f", []byte("then\n")).want(t, 200, "")
	pid, n := c.ticks(t, id)

	snap := c.do(t, "POST", "sandboxes/"+id+"/snapshots", obj{"comment": "one"}).want(t, http.StatusCreated, "").str("id")
	ready := func(id string) {
		t.Helper()
		eventually(t, 30*time.Second, "the snapshot is ready", func() bool {
			return c.do(t, "GET", "snapshots/"+id, nil).want(t, 200, "").str("status") == "ready"
		})
	}
	ready(snap)
	_, later := c.ticks(t, id)
	if got := c.do(t, "GET", "sandboxes/"+id+"/snapshots", nil).list(); len(got) != 1 || got[0]["id"] != snap || got[0]["comment"] != "one" {
		t.Errorf("the list: %v", got)
	}
	c.upload(t, id, "/root/f", []byte("now")).want(t, 200, "")
	c.ticking(t, id, pid, later+40)
	if a := c.do(t, "POST", "sandboxes/"+id+"/restore/"+snap, obj{}).want(t, 200, ""); a.str("id") != id || a.str("slug") != slug || a.str("state") != "running" || a.str("boot_path") != "snapshot" {
		t.Errorf("restore: %s", a)
	}
	if got := c.sh(t, id, "cat /root/f; hostname; echo $WHO"); got != "then\n"+slug+"\nme" {
		t.Errorf("restored: %q", got)
	}
	if now, at := c.ticks(t, id); now != pid || at < n || at > later+40 {
		t.Errorf("restored, the ticker is process %d at %d: want process %d, from %d, before %d", now, at, pid, n, later+40)
	}

	// Copies of what runs.
	_, n = c.ticks(t, id)
	a = c.do(t, "POST", "sandboxes/"+id+"/fork", obj{"count": 4}).want(t, http.StatusCreated, "")
	copies := a.list()
	if len(copies) != 4 {
		t.Fatalf("fork: %s", a)
	}
	different := map[string]bool{slug: true, id: true, c.sh(t, id, "head -c 16 /dev/urandom | od -An -tx1"): true}
	for i, made := range copies {
		kid := fmt.Sprint(made["id"])
		c.state(t, kid, "running")
		for what, is := range map[string]string{"id": kid, "host name": c.sh(t, kid, "hostname"), "random bytes": c.sh(t, kid, "head -c 16 /dev/urandom | od -An -tx1")} {
			if different[is] {
				t.Errorf("copy %d has the %s of another: %q", i, what, is)
			}
			different[is] = true
		}
		c.ticking(t, kid, pid, n)
		if got := c.sh(t, kid, "cat /root/f; echo $WHO"); got != "then\nme" {
			t.Errorf("copy %d has %q", i, got)
		}
		c.upload(t, kid, "/root/f", fmt.Append(nil, "of copy ", i)).want(t, 200, "")
	}
	for i, made := range copies {
		if got, want := c.sh(t, fmt.Sprint(made["id"]), "cat /root/f"), fmt.Sprint("of copy ", i); got != want {
			t.Errorf("copy %d has %q, want %q", i, got, want)
		}
	}
	_, n = c.ticks(t, id)
	c.ticking(t, id, pid, n)
	if got := c.sh(t, id, "cat /root/f"); got != "then" {
		t.Errorf("the parent has %q", got)
	}

	// Deleted while it is being copied: what is being started goes on.
	second := c.do(t, "POST", "sandboxes/"+id+"/snapshots", nil).want(t, http.StatusCreated, "").str("id")
	ready(second)
	var asked sync.WaitGroup
	var forked answer
	asked.Go(func() { forked, _ = c.try(t.Context(), "POST", "snapshots/"+second+"/fork", obj{"count": 3}) })
	eventually(t, 10*time.Second, "it is being copied", func() bool {
		return len(c.do(t, "GET", "sandboxes?limit=100", nil).list()) >= 8 || forked.Status != 0
	})
	c.do(t, "DELETE", "snapshots/"+second, nil).want(t, 200, "")
	asked.Wait()
	for _, made := range forked.want(t, http.StatusCreated, "").list() {
		kid := fmt.Sprint(made["id"])
		c.state(t, kid, "running")
		if got := c.sh(t, kid, "cat /root/f"); got != "then" {
			t.Errorf("a copy of what was deleted has %q", got)
		}
	}
	c.do(t, "GET", "snapshots/"+second, nil).want(t, 404, "NOT_FOUND")
	eventually(t, 10*time.Second, "what only the deleted one had is deleted", func() bool {
		return len(shared.savedOf(id, memoryFile)) == 1 // the first one's
	})

	// Bad input.
	other := c.create(t, obj{"timeout_sec": 900})
	unknown := string(sandbox.NewID())
	for _, tt := range []struct {
		c      *Client
		path   string
		body   obj
		status int
		code   string
	}{
		{c, "sandboxes/" + unknown + "/fork", nil, 404, "NOT_FOUND"},
		{c, "sandboxes/" + unknown + "/pause", nil, 404, "NOT_FOUND"},
		{c, "sandboxes/" + unknown + "/snapshots", nil, 404, "NOT_FOUND"},
		{stranger, "sandboxes/" + id + "/fork", nil, 404, "NOT_FOUND"},
		{stranger, "sandboxes/" + id + "/restore/" + snap, nil, 404, "NOT_FOUND"},
		{stranger, "snapshots/" + snap + "/fork", nil, 404, "NOT_FOUND"},
		{stranger, "snapshots/" + snap + "/restore", nil, 404, "NOT_FOUND"},
		{c, "sandboxes/" + other + "/restore/" + snap, nil, 404, "NOT_FOUND"},
		{c, "sandboxes/" + other + "/fork", obj{"snapshot_id": snap}, 404, "NOT_FOUND"},
		{c, "sandboxes/" + id + "/restore/" + second, nil, 404, "NOT_FOUND"},
		{c, "snapshots/" + second + "/fork", nil, 404, "NOT_FOUND"},
		{c, "sandboxes/" + id + "/fork", obj{"count": 17}, 422, "VALIDATION_ERROR"},
		{c, "sandboxes/" + id + "/fork", obj{"count": 0}, 422, "VALIDATION_ERROR"},
		{c, "sandboxes/" + id + "/fork", obj{"count": 16}, 409, "SANDBOX_LIMIT_EXCEEDED"}, // more than the tenant may have: none
	} {
		if a := tt.c.do(t, "POST", tt.path, tt.body); a.Status != tt.status || tt.code != "" && a.str("error.code") != tt.code {
			t.Errorf("POST %s %v: got %s, want %d %s", tt.path, tt.body, a, tt.status, tt.code)
		}
	}

	// A snapshot outlives its sandbox.
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	for _, path := range []string{"/fork", "/pause", "/resume", "/snapshots", "/restore/" + snap} {
		if a := c.do(t, "POST", "sandboxes/"+id+path, obj{}); a.Status != 409 {
			t.Errorf("%s of a destroyed sandbox: got %s, want 409", path, a)
		}
	}
	kid := c.do(t, "POST", "snapshots/"+snap+"/fork", obj{}).want(t, http.StatusCreated, "").str("id")
	c.state(t, kid, "running")
	c.ticking(t, kid, pid, n-1000)
	c.do(t, "DELETE", "snapshots/"+snap, nil).want(t, 200, "")
	c.do(t, "DELETE", "snapshots/"+snap, nil).want(t, 404, "NOT_FOUND")
	eventually(t, 10*time.Second, "nothing is kept of it", func() bool {
		return len(shared.savedOf(id, memoryFile)) == 0 && len(shared.savedOf(id, layerFile)) == 0
	})
}
