package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// "Export and import of a snapshot as one file, for moving to another machine": what
// ran goes on there, as often as one likes.
func TestSnapshotMovesToAnotherServer(t *testing.T) {
	from, to := ownServer(t, options{}), ownServer(t, options{})
	c := from.tenant(t)
	id := c.create(t, obj{"env": obj{"DEAR": "yes"}})
	c.sh(t, id, "echo kept > /root/kept; dd if=/dev/urandom of=/dev/shm/memory bs=1M count=4 2>/dev/null; sha256sum < /dev/shm/memory > /root/sum")
	c.sh(t, id, "nohup sh -c 'while sleep 0.1; do date +%s.%N > /tmp/beat; done' >/dev/null 2>&1 & echo $! > /root/pid")
	snap := c.do(t, "POST", "sandboxes/"+id+"/snapshots", obj{"comment": "to go"}).want(t, 201, "").str("id")
	file := filepath.Join(t.TempDir(), "to-go.silica")
	if out, err := from.lab.silica(from, c.key, "snapshot", "export", snap, file).CombinedOutput(); err != nil {
		t.Fatalf("export: %v\n%s", err, out)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the file: %v, %v", st, err)
	}

	there := to.tenant(t)
	out, err := to.lab.silica(to, bootstrapKey, "snapshot", "import", "-q", "--tenant="+there.tenant, file).CombinedOutput()
	if err != nil {
		t.Fatalf("import: %v\n%s", err, out)
	}
	imported := strings.TrimSpace(string(out))
	for range 2 {
		a := there.do(t, "POST", "snapshots/"+imported+"/fork", obj{}).want(t, 201, "")
		copied := a.str("id")
		there.state(t, copied, "running")
		if a = there.do(t, "GET", "sandboxes/"+copied, nil); a.str("boot_path") != "snapshot" {
			t.Errorf("it did not go on from its memory: %s", a)
		}
		if got := there.sh(t, copied, "cat /root/kept; echo $DEAR; sha256sum < /dev/shm/memory | diff - /root/sum && kill -0 $(cat /root/pid) && echo goes on"); got != "kept\nyes\ngoes on" {
			t.Errorf("the copy has %q", got)
		}
	}
	there.do(t, "POST", "snapshots/"+imported+"/restore", nil).want(t, 409, "CONFLICT")

	// Half a file, and a file that was changed.
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte(nil), raw...)
	changed[len(raw)*3/4] ^= 1
	before := to.artifacts(t)
	for name, content := range map[string][]byte{"half of it": raw[:len(raw)/2], "changed": changed} {
		bad := filepath.Join(t.TempDir(), "bad.silica")
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := to.lab.silica(to, bootstrapKey, "snapshot", "import", bad).CombinedOutput(); err == nil || !strings.Contains(string(out), "INVALID_SNAPSHOT") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if after := to.artifacts(t); len(after) != len(before) {
		t.Errorf("what was refused left artifacts: %v, before %v", after, before)
	}
	if out, err := to.lab.silica(to, there.key, "snapshot", "import", file).CombinedOutput(); err == nil {
		t.Errorf("a tenant's key imports:\n%s", out)
	}
}

// artifacts lists the folders of all artifacts in the server's data folder, and of
// what is being written.
func (s *Server) artifacts(t *testing.T) []string {
	t.Helper()
	whole, err := filepath.Glob(filepath.Join(s.data, "blobs", "sha256-*"))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := filepath.Glob(filepath.Join(s.data, "blobs", "tmp", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(whole, parts...)
}
