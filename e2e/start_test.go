package e2e

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// restored are the boot paths that restore a snapshot.
var restored = []string{"snapshot", "pool"}

// "A fast create answers `running` already in the 201"; "`boot_path` says
// `snapshot`, `pool` or `cold`, `boot_ms` the measured time."
func TestCreateAnswersRunning(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	a := c.do(t, "POST", "sandboxes", obj{}).want(t, 201, "")
	if a.str("state") != "running" || a.at("ready") != true {
		t.Errorf("got state %v, ready %v, want running and ready", a.at("state"), a.at("ready"))
	}
	if !slices.Contains(restored, a.str("boot_path")) {
		t.Errorf("boot_path: got %v, want one of %v", a.at("boot_path"), restored)
	}
	ms := a.num("boot_ms")
	if ms < 0 || ms != float64(int64(ms)) {
		t.Errorf("boot_ms: got %v, want a whole number", a.at("boot_ms"))
	}
	t.Logf("boot_path %v, boot_ms %v", a.at("boot_path"), a.at("boot_ms"))
}

// "The proof that it is a restore: a process started once when the template was
// made, holding a random value in memory, is alive with the same value in every
// copy, while new random bytes differ between copies."
func TestCopiesShareTheTemplatesMemoryAndNothingElse(t *testing.T) {
	t.Parallel()
	// Without members ready, so that both really are restored on request.
	s := ownServer(t, options{flags: []string{"--warm-pool=0"}})
	c := s.tenant(t)
	// Another size than the default one, with the same disk, is the same snapshot.
	sizes := []obj{{}, {"memory_mb": 512}}
	seeds := map[string]bool{}
	fresh := map[string]bool{}
	for _, size := range sizes {
		a := c.created(t, size)
		if a.str("boot_path") != "snapshot" {
			t.Errorf("%v: boot_path %v, want snapshot", size, a.at("boot_path"))
		}
		id := a.str("id")
		var health obj
		if err := json.Unmarshal([]byte(c.sh(t, id, "curl -s http://127.0.0.1:49982/health")), &health); err != nil {
			t.Fatalf("health of the agent: %v", err)
		}
		seed, _ := health["seed"].(string)
		if seed == "" {
			t.Fatalf("the agent shows no seed: %v", health)
		}
		seeds[seed] = true
		for _, source := range []string{
			"head -c 16 /dev/urandom | od -An -tx1",
			"python3 -c 'import os; print(os.urandom(16).hex())'",
			"python3 -c 'import random; print(random.random())'",
			"python3 -c 'import uuid; print(uuid.uuid4())'",
		} {
			v := c.sh(t, id, source)
			if fresh[v] {
				t.Errorf("%s: %q twice", source, v)
			}
			fresh[v] = true
		}
	}
	if len(seeds) != 1 {
		t.Errorf("the process made with the template holds different values: %v", seeds)
	}
}

// "`/init` sets env, hostname, time and reseeds what a restored copy must not
// share."
func TestCopiesHaveTheirOwnIdentity(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	a := c.created(t, obj{"env": obj{"WHO": "first", "WITH": "a b\n'c'\"$d"}})
	b := c.created(t, obj{"env": obj{"WHO": "second"}})
	ids := []string{a.str("id"), b.str("id")}

	if got := c.exec(t, ids[0], `printf '%s|%s' "$WHO" "$WITH"`).str("stdout"); got != "first|a b\n'c'\"$d" {
		t.Errorf("environment of the first: got %q", got)
	}
	if got := c.sh(t, ids[1], `echo "$WHO|$WITH"`); got != "second|" {
		t.Errorf("environment of the second: got %q", got)
	}
	hosts := []string{c.sh(t, ids[0], "hostname"), c.sh(t, ids[1], "hostname")}
	if hosts[0] == hosts[1] || hosts[0] == "" {
		t.Errorf("host names: got %q, want two different ones", hosts)
	}
	for i, id := range ids {
		if got := c.sh(t, id, "cat /etc/hostname; getent ahostsv4 $(hostname) | head -1"); !strings.HasPrefix(got, hosts[i]) || !strings.Contains(got, "127.") {
			t.Errorf("%s: /etc/hostname and the name's address: got %q", hosts[i], got)
		}
		before := time.Now()
		inside, err := strconv.ParseFloat(c.sh(t, id, "date +%s.%N"), 64)
		if err != nil {
			t.Fatal(err)
		}
		got := time.Unix(0, int64(inside*1e9))
		if got.Before(before.Add(-time.Second)) || got.After(time.Now().Add(time.Second)) {
			t.Errorf("clock inside: got %s, want about %s", got, before)
		}
	}
}

// "an empty pool falls back to restore, a broken snapshot to a cold boot with a
// logged reason, and the snapshot is remade"
func TestBrokenSnapshotFallsBackToColdBoot(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--warm-pool=0", "--empty-slots=0"}})
	c := s.tenant(t)
	if got := c.created(t, obj{}).str("boot_path"); got != "snapshot" {
		t.Fatalf("before the damage: boot_path %q, want snapshot", got)
	}
	for _, f := range snapshotFiles(t, s.data) {
		damage(t, f)
	}
	offset := s.log.size()
	a := c.created(t, obj{})
	if a.str("boot_path") != "cold" {
		t.Fatalf("with a damaged snapshot: boot_path %q, want cold", a.str("boot_path"))
	}
	if got := c.sh(t, a.str("id"), "echo alive"); got != "alive" {
		t.Errorf("cold booted sandbox: got %q", got)
	}
	if !s.log.contains(offset, 5*time.Second, "snapshot", "cold") {
		t.Errorf("no line in the log says why it was cold; log:\n%s", s.log.tail(offset, 40))
	}
	eventually(t, 60*time.Second, "a sandbox starts from the remade snapshot", func() bool {
		a := c.created(t, obj{})
		c.do(t, "DELETE", "sandboxes/"+a.str("id"), nil).want(t, 200, "")
		return a.str("boot_path") == "snapshot"
	})
}

// snapshotFiles finds the memory of snapshots: every artifact with such a file
// is one.
func snapshotFiles(t *testing.T, data string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(data, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.Name() == "checkpoint.img" || d.Name() == "pages.img") {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no snapshot below %s: %v", data, err)
	}
	return files
}

// damage replaces a file by one of the same size with other bytes in it. Not in
// place: the template's own copy is the same inode.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 97 {
		b[i] ^= 0x5a
	}
	if err := os.WriteFile(path+".damaged", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".damaged", path); err != nil {
		t.Fatal(err)
	}
}

// "a second start is ready in under two seconds". The bound is wide because other
// tests run beside this one; the measured time is in the log.
func TestSecondStartIsFast(t *testing.T) {
	t.Parallel()
	t.Logf("alone: ready after %s", theLab.secondStart)
	s := ownServer(t, options{})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	t.Logf("beside others: ready after %s", s.readyAfter)
	// How fast is for the bench; making anything again takes minutes.
	if s.readyAfter > 45*time.Second {
		t.Errorf("second start took %s", s.readyAfter)
	}
}
