package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// "large folders (10,000 entries in under 200 ms)", names of any bytes, what is no
// plain file, and trees that go out and come back, in a real sandbox.
func TestFileOperations(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	base := "computers/" + id + "/files"

	c.sh(t, id, `mkdir -p /workspace/many && cd /workspace/many && seq -f 'entry-with-a-name-%05g.txt' 1 10000 | xargs touch`)
	var took []time.Duration
	for range 7 {
		start := time.Now()
		a := c.do(t, "GET", base+"?path=/workspace/many", nil).want(t, 200, "")
		took = append(took, time.Since(start))
		if list, _ := a.at("entries").([]any); len(list) != 10_000 {
			t.Fatalf("%d entries", len(list))
		}
	}
	slices.Sort(took)
	t.Logf("a listing of 10,000 entries: p50 %s, from %s to %s", took[3], took[0], took[6])

	// Contract §5: "flat node {path, type ("dir" or "file"), name, size?, children[]}".
	c.sh(t, id, `mkdir -p /workspace/t/sub && cd /workspace/t && echo hello needle >sub/f && chmod 640 sub/f && ln -s sub/f link && ln -s loop loop && mkfifo p && touch "$(printf 'bad\377')" && truncate -s 10G hole`)
	tree := c.do(t, "GET", base+"/tree?path=/workspace/t", nil).want(t, 200, "")
	if kids, _ := tree.at("children").([]any); tree.str("type") != "dir" || len(kids) != 6 {
		t.Errorf("tree: %s", tree)
	}
	c.do(t, "GET", base+"/download?path=/workspace/t/p", nil).want(t, 409, "NOT_A_REGULAR_FILE")
	c.do(t, "POST", base+"/rename", obj{"from": "/workspace/t/bad\uefff", "to": "/workspace/t/good"}).want(t, 200, "")
	c.do(t, "DELETE", base, obj{"path": "/workspace/t/hole"}).want(t, 200, "")
	if got := c.do(t, "GET", base+"/download?path=/proc/self/status", nil).want(t, 200, ""); !strings.Contains(string(got.Body), "Name:") {
		t.Errorf("/proc: %q", got.Body)
	}

	// Out as an archive, back in elsewhere, and a copy: all alike.
	tar := c.do(t, "GET", base+"/archive?path=/workspace/t", nil).want(t, 200, "")
	in := c.do(t, "PUT", base+"/archive?path=/workspace/back", bytes.NewReader(tar.Body), header{"Content-Type", "application/gzip"}).want(t, 200, "")
	if in.num("files") != 2 {
		t.Errorf("unpacked: %s", in)
	}
	c.do(t, "POST", base+"/copy", obj{"from": "/workspace/t", "to": "/workspace/copy", "recursive": true}).want(t, 200, "")
	if got := c.sh(t, id, `cd /workspace; for d in back copy; do diff -r --no-dereference -x p t $d && stat -c %a $d/sub/f; readlink $d/loop; done`); got != "640\nloop\n640\nloop\n" && got != "640\nloop\n640\nloop" {
		t.Errorf("compared inside: %q", got)
	}

	found := c.do(t, "POST", base+"/search", obj{"path": "/workspace", "query": "needle"}).want(t, 200, "")
	if m, _ := found.at("matches").([]any); len(m) != 3 || found.at("timed_out") != false {
		t.Errorf("search: %s", found)
	}
	glob := c.do(t, "GET", base+"/glob?pattern=**/f", nil).want(t, 200, "")
	if l, _ := glob.at("entries").([]any); len(l) != 3 {
		t.Errorf("glob: %s", glob)
	}

	// A link needs no key, and works for as long as it says.
	link := c.do(t, "POST", base+"/export", obj{"path": "/workspace/t/sub/f"}).want(t, 200, "")
	nobody := shared.as("")
	to := strings.TrimPrefix(link.str("url"), shared.url)
	if got := nobody.do(t, "GET", to, nil).want(t, 200, ""); string(got.Body) != "hello needle\n" {
		t.Errorf("by link: %s", got)
	}
	nobody.do(t, "GET", to+"x", nil).want(t, 403, "FORBIDDEN")

	// written and failed on a full disk.
	c.exec(t, id, `head -c 20M /dev/zero >/workspace/room; dd if=/dev/zero of=/workspace/fill bs=1M 2>/dev/null; rm /workspace/room`, obj{"timeout": 120}).want(t, 200, "")
	files := []obj{}
	for i := range 4 {
		files = append(files, obj{"path": fmt.Sprintf("/workspace/w%d", i), "content_base64": strings.Repeat("QUJD", 4<<20)})
	}
	many := c.do(t, "POST", base+"/write-many", obj{"files": files[:]}).want(t, 200, "")
	written, _ := many.at("written").([]any)
	failed, _ := many.at("failed").([]any)
	if len(written)+len(failed) != 4 || len(failed) == 0 {
		t.Errorf("on a full disk: %d written, %d failed: %s", len(written), len(failed), many)
	}
}

// Contract §8.4: rename pairs, and the end of a folder that disappears.
func TestFileWatch(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	c.sh(t, id, "mkdir -p /workspace/w/sub && echo x >/workspace/w/sub/a")
	s := c.open(t, "GET", "sandboxes/"+id+"/files/watch?path=/workspace/w", nil)
	c.sh(t, id, "mv /workspace/w/sub/a /workspace/w/b")
	ev := s.until(t, 10*time.Second, "the rename", func(f frame) bool { return f.Event == "change" }).JSON()
	if ev["type"] != "renamed" || ev["event"] != "renamed" || ev["path"] != "/workspace/w/b" || ev["old_path"] != "/workspace/w/sub/a" {
		t.Errorf("rename: %v", ev)
	}
	c.sh(t, id, "rm -r /workspace/w")
	if ev := s.until(t, 10*time.Second, "the end", func(f frame) bool { return f.Event == "closing" }).JSON(); ev["reconnect"] != false {
		t.Errorf("the end: %v", ev)
	}
	s.ends(t, 10*time.Second)
}
