package portable

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

// machine is a host with artifacts and one tenant.
type machine struct {
	Carrier
	blobs *blob.Local
	dir   string
	rows  *rows
}

// rows holds what was imported.
type rows struct {
	most int64 // bytes; 0: any
	kept []sandbox.Snapshot
}

func (r *rows) RoomToImport(_ context.Context, _ sandbox.TenantID, size int64) error {
	if r.most > 0 && size > r.most {
		return sandbox.E(sandbox.Exhausted, sandbox.CodeQuota, "used up")
	}
	return nil
}

func (r *rows) ImportSnapshot(_ context.Context, n sandbox.Snapshot) (sandbox.Snapshot, error) {
	r.kept = append(r.kept, n)
	return n, nil
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir(), rows: &rows{}}
	var err error
	if m.blobs, err = blob.NewLocal(m.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.blobs.Close() })
	m.Carrier = Carrier{
		Rows: m.rows, Blobs: m.blobs, Room: func(int64) error { return nil }, Version: "v",
		Max: sandbox.Resources{MilliCPU: 1000, Memory: 1 << 30, Disk: 1 << 30},
	}
	return m
}

func (m *machine) put(t *testing.T, content map[string][]byte) sandbox.Ref {
	t.Helper()
	dir, err := m.blobs.TempDir(t.Context())
	for name, data := range content {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	ref, err := m.blobs.Put(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// snapshot makes one whose root file system is sparse.
func (m *machine) snapshot(t *testing.T) sandbox.Snapshot {
	t.Helper()
	pages := make([]byte, 300<<10)
	_, _ = rand.Read(pages)
	return sandbox.Snapshot{
		ID: "snap_1", Tenant: "tnt_a", Sandbox: "sbx_1", Status: sandbox.SnapshotReady, Comment: "before", Key: "k",
		Spec:   sandbox.Spec{Template: "tpl", Revision: "r", Env: map[string]string{"A": "1"}, Resources: sandbox.Resources{MilliCPU: 1000, Memory: 1 << 29, Disk: 1 << 30}},
		Parent: sandbox.Parent{Project: "p", Timeout: time.Hour, Tags: []string{"x"}, Metadata: map[string]any{"n": json.Number("1.50")}},
		Base:   m.put(t, map[string][]byte{"root.erofs": append(make([]byte, 1<<20), "tail"...), "empty": nil}),
		Files:  m.put(t, map[string][]byte{"layer.tar": []byte("written")}),
		Memory: m.put(t, map[string][]byte{"pages.img": pages, "checkpoint.img": []byte("state")}),
	}
}

func (m *machine) export(t *testing.T, n sandbox.Snapshot) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := m.Export(t.Context(), n, func() io.Writer { return &out }); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// leftovers are what an import may not leave behind.
func (m *machine) leftovers(t *testing.T) (found []string) {
	t.Helper()
	refs, err := m.blobs.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		found = append(found, string(ref))
	}
	temps, err := filepath.Glob(filepath.Join(m.dir, "tmp", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(found, temps...)
}

// "Export and import of a snapshot as one file, for moving to another machine."
func TestASnapshotMovesToAnotherMachine(t *testing.T) {
	from, to := newMachine(t), newMachine(t)
	n := from.snapshot(t)
	file := from.export(t, n)
	for range 2 { // importing it again is another snapshot of the same artifacts
		got, err := to.Import(t.Context(), "tnt_b", bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		want := n
		want.ID, want.Tenant, want.Sandbox, want.Parent.Project = got.ID, "tnt_b", "", ""
		want.Size, want.CreatedAt, want.UpdatedAt, want.LastUsedAt = got.Size, got.CreatedAt, got.UpdatedAt, got.LastUsedAt
		if d := cmp.Diff(want, got); d != "" || got.ID == n.ID || got.Size != 1<<20+4+7+300<<10+5 {
			t.Errorf("imported %+v\n%s", got, d)
		}
		for _, ref := range []sandbox.Ref{got.Base, got.Files, got.Memory} {
			if err := to.blobs.Verify(t.Context(), ref); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
	used, err := to.blobs.Usage(t.Context())
	if err != nil || len(used) != 3 {
		t.Fatalf("Usage = %v, %v", used, err)
	}
	for _, u := range used {
		if u.Ref == n.Base && u.Size > 512<<10 {
			t.Errorf("the root file system takes %d bytes: its holes were filled", u.Size)
		}
	}
	if temps := to.leftovers(t); len(temps) != 3 {
		t.Errorf("beside the artifacts there are %v", temps)
	}
}

func TestExportOfWhatIsNotWhole(t *testing.T) {
	m := newMachine(t)
	n := m.snapshot(t)
	begin := func() io.Writer { t.Error("it has begun"); return io.Discard }
	creating := n
	creating.Status = sandbox.SnapshotCreating
	if err := m.Export(t.Context(), creating, begin); !sandbox.HasCode(err, sandbox.CodeSnapshotNotReady) {
		t.Errorf("of one that is being taken: %v", err)
	}
	damage := func(ref sandbox.Ref, name string) {
		path := filepath.Join(m.dir, strings.Replace(string(ref), ":", "-", 1), name)
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("WRITTEN"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	// Without its memory it boots with its files.
	damage(n.Memory, "checkpoint.img")
	to := newMachine(t)
	if got, err := to.Import(t.Context(), "t", bytes.NewReader(m.export(t, n))); err != nil || got.Memory != "" || got.Files != n.Files {
		t.Errorf("with damaged memory: %+v, %v", got, err)
	}
	damage(n.Files, "layer.tar")
	if err := m.Export(t.Context(), n, begin); !sandbox.HasCode(err, sandbox.CodeSnapshotUnusable) {
		t.Errorf("with damaged files: %v", err)
	}
}

// entry is one of a file that is made by hand.
type entry struct {
	name string
	data []byte
	kind byte
}

func pack(t *testing.T, entries []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.data)), Typeflag: e.kind, Format: tar.FormatPAX}
		if e.kind == tar.TypeSymlink {
			h.Linkname, h.Size, e.data = "/etc/passwd", 0, nil
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpack(t *testing.T, file []byte) (m Manifest, entries []entry) {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{h.Name, data, tar.TypeReg})
	}
	if err := json.Unmarshal(entries[0].data, &m); err != nil {
		t.Fatal(err)
	}
	return m, entries
}

// "hostile input: unknown entries, wrong sizes, missing parts, absolute names":
// refused, with nothing left behind.
func TestHostileFilesLeaveNothing(t *testing.T) {
	from := newMachine(t)
	file := from.export(t, from.snapshot(t))
	// How a good file is made bad: by its manifest, or by its entries.
	said := map[string]func(m *Manifest){
		"another format":    func(m *Manifest) { m.Format = 2 },
		"no parts":          func(m *Manifest) { m.Parts = nil },
		"no files":          func(m *Manifest) { m.Parts = m.Parts[:1] },
		"a part twice":      func(m *Manifest) { m.Parts = append(m.Parts, m.Parts[0]) },
		"an unknown part":   func(m *Manifest) { m.Parts[2].Kind = "secrets" },
		"an absolute name":  func(m *Manifest) { m.Parts[0].Files[0].Name = "/etc/passwd" },
		"a name above":      func(m *Manifest) { m.Parts[0].Files[0].Name = "../x" },
		"a hidden name":     func(m *Manifest) { m.Parts[0].Files[0].Name = ".manifest" },
		"a name twice":      func(m *Manifest) { m.Parts[0].Files[1] = m.Parts[0].Files[0] },
		"a wrong size":      func(m *Manifest) { m.Parts[0].Files[1].Size++ },
		"a negative size":   func(m *Manifest) { m.Parts[0].Files[1].Size = -1 },
		"a huge size":       func(m *Manifest) { m.Parts[0].Files[1].Size = 1 << 62 },
		"another digest":    func(m *Manifest) { m.Parts[1].Ref = m.Parts[0].Ref },
		"no digest":         func(m *Manifest) { m.Parts[1].Ref = "sha256:../../x" },
		"a huge sandbox":    func(m *Manifest) { m.Spec.Memory = 1 << 40 },
		"no size at all":    func(m *Manifest) { m.Spec.Memory = 0 },
		"a negative time":   func(m *Manifest) { m.Parent.Timeout = -1 },
		"a null character":  func(m *Manifest) { m.Parent.Tags = []string{"a\x00b"} },
		"a very long text":  func(m *Manifest) { m.Comment = strings.Repeat("x", maxText+1) },
		"too many files":    func(m *Manifest) { m.Parts[0].Files = make([]File, maxFiles+1) },
		"a large manifest":  func(m *Manifest) { m.Spec.Env["A"] = strings.Repeat("x", maxManifest) },
		"parts out of turn": func(m *Manifest) { m.Parts[0], m.Parts[1] = m.Parts[1], m.Parts[0] },
	}
	done := map[string]func(e []entry) []entry{
		"nothing at all":      func([]entry) []entry { return nil },
		"no manifest":         func(e []entry) []entry { return e[1:] },
		"a missing part":      func(e []entry) []entry { return e[:len(e)-1] },
		"an unknown entry":    func(e []entry) []entry { return append(e, entry{"more", []byte("x"), tar.TypeReg}) },
		"an entry twice":      func(e []entry) []entry { return append(e, e[len(e)-1]) },
		"a link":              func(e []entry) []entry { e[2].kind = tar.TypeSymlink; return e },
		"a folder":            func(e []entry) []entry { e[1].kind, e[1].data = tar.TypeDir, nil; return e },
		"changed content":     func(e []entry) []entry { e[len(e)-1].data[0] ^= 1; return e },
		"a longer file":       func(e []entry) []entry { e[2].data = append(e[2].data, 'x'); return e },
		"a shorter file":      func(e []entry) []entry { e[2].data = e[2].data[1:]; return e },
		"a broken manifest":   func(e []entry) []entry { e[0].data = []byte("{"); return e },
		"an absolute entry":   func(e []entry) []entry { e[1].name = "/" + e[1].name; return e },
		"an entry from above": func(e []entry) []entry { e[1].name = "base/../" + e[1].name; return e },
	}
	bad := map[string][]byte{
		"no archive":       []byte("hello"),
		"half of it":       file[:len(file)/2],
		"all but the end":  file[:len(file)-100],
		"a bomb of zeros":  pack(t, []entry{{manifestName, make([]byte, 64<<20), tar.TypeReg}}),
		"a flipped bit":    append(append(bytes.Clone(file[:len(file)/2]), file[len(file)/2]^1), file[len(file)/2+1:]...),
		"an empty request": nil,
	}
	for name, change := range said {
		m, entries := unpack(t, file)
		change(&m)
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		entries[0].data = raw
		bad["manifest with "+name] = pack(t, entries)
	}
	for name, change := range done {
		_, entries := unpack(t, file)
		bad[name] = pack(t, change(entries))
	}
	for name, file := range bad {
		to := newMachine(t)
		got, err := to.Import(t.Context(), "t", bytes.NewReader(file))
		if !sandbox.HasCode(err, sandbox.CodeInvalidSnapshot) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if left := to.leftovers(t); len(left) > 0 || len(to.rows.kept) > 0 {
			t.Errorf("%s leaves %v and %v", name, left, to.rows.kept)
		}
	}
}

// "counts against the tenant's quota; bound on size by quota and host room": before
// its parts are read.
func TestAnImportIsBounded(t *testing.T) {
	from, to := newMachine(t), newMachine(t)
	file := from.export(t, from.snapshot(t))
	to.rows.most = 1 << 20
	if _, err := to.Import(t.Context(), "t", bytes.NewReader(file)); !sandbox.HasCode(err, sandbox.CodeQuota) {
		t.Errorf("beyond the quota: %v", err)
	}
	to.rows.most = 0
	to.Room = func(size int64) error {
		if size != 1<<20+4+7+300<<10+5 {
			t.Errorf("room for %d bytes", size)
		}
		return sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "full")
	}
	if _, err := to.Import(t.Context(), "t", bytes.NewReader(file)); !sandbox.HasCode(err, sandbox.CodeHostFull) {
		t.Errorf("beyond the host's room: %v", err)
	}
	// Who stops sending is told so, and not that the file is bad.
	gone := sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "broke off")
	to.Room = func(int64) error { return nil }
	cut := io.MultiReader(bytes.NewReader(file[:len(file)/2]), failing{gone})
	if _, err := to.Import(t.Context(), "t", cut); !sandbox.HasCode(err, sandbox.CodeBadRequest) {
		t.Errorf("a body that breaks off: %v", err)
	}
	if left := to.leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
