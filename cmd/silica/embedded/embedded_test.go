package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
)

// packed makes a folder as pack does.
func packed(t *testing.T, name string, content []byte, digest string) fs.FS {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := json.Marshal(Artifact{Name: name, Version: "v1", Digest: digest, Size: int64(len(content))})
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		name + ".zst":  {Data: enc.EncodeAll(content, nil)},
		name + ".json": {Data: facts},
	}
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestExtract(t *testing.T) {
	content := bytes.Repeat([]byte("program "), 1<<16)
	a, err := find(packed(t, Agent, content, digestOf(content)), Agent)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, err := a.Extract(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("extracted %d bytes, %v; want the %d bytes packed", len(got), err, len(content))
	}
	before, _ := os.Stat(path)
	if before.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, want 0755", before.Mode())
	}
	if again, err := a.Extract(dir); err != nil || again != path {
		t.Fatalf("second extract: %q, %v", again, err)
	}
	if after, _ := os.Stat(path); !after.ModTime().Equal(before.ModTime()) {
		t.Error("the second extract wrote the file again")
	}
}

// A file cut short by a crash or a full disk is replaced, not run.
func TestExtractReplacesTruncated(t *testing.T) {
	content := []byte("the whole program")
	a, _ := find(packed(t, Agent, content, digestOf(content)), Agent)
	dir := t.TempDir()
	path, err := a.Extract(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Extract(dir); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, content) {
		t.Errorf("got %q, want the whole program", got)
	}
}

func TestExtractRefusesDamage(t *testing.T) {
	a, _ := find(packed(t, Agent, []byte("bad"), digestOf([]byte("good"))), Agent)
	dir := t.TempDir()
	if path, err := a.Extract(dir); err == nil {
		t.Fatalf("extracted %s although its digest is wrong", path)
	}
	left, _ := fs.Glob(os.DirFS(dir), "*/*")
	hidden, _ := fs.Glob(os.DirFS(dir), "*/.*")
	if len(left)+len(hidden) != 0 {
		t.Errorf("left behind: %v %v", left, hidden)
	}
}

func TestFindSaysHowToBuild(t *testing.T) {
	if _, err := find(fstest.MapFS{}, Engine); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("got %v, want ErrNotBuilt", err)
	}
}
