// Package embedded carries the executables Silica starts (the agent and the
// engine) inside the silica program, so that one file is all there is to install.
package embedded

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// Names of the executables, as "make build" packs them.
const (
	Agent  = "silica-agent"
	Engine = "silica-engine"
)

// ErrNotBuilt says that this silica was built without its other executables:
// by "go build" or "go test" instead of "make build".
var ErrNotBuilt = errors.New("not part of this build of silica: build it with \"make build\"")

//go:embed all:files
var built embed.FS

// Artifact is one executable carried inside this one.
type Artifact struct {
	Name    string `json:"name"`
	Version string `json:"version"` // as given to pack; of the engine: what its snapshots depend on
	Digest  string `json:"sha256"`  // of the uncompressed file, 64 hex digits
	Size    int64  `json:"size"`    // bytes, uncompressed

	files fs.FS
}

// Find returns the executable of that name, or ErrNotBuilt.
func Find(name string) (Artifact, error) {
	sub, err := fs.Sub(built, "files")
	if err != nil {
		return Artifact{}, err
	}
	return find(sub, name)
}

func find(files fs.FS, name string) (Artifact, error) {
	b, err := fs.ReadFile(files, name+".json")
	if errors.Is(err, fs.ErrNotExist) {
		return Artifact{}, fmt.Errorf("%s: %w", name, ErrNotBuilt)
	}
	if err != nil {
		return Artifact{}, err
	}
	a := Artifact{files: files}
	if err := json.Unmarshal(b, &a); err != nil {
		return Artifact{}, fmt.Errorf("%s.json: %w", name, err)
	}
	return a, nil
}

// Open returns the uncompressed bytes. Close frees the decoder.
func (a Artifact) Open() (io.ReadCloser, error) {
	f, err := a.files.Open(path.Clean(a.Name + ".zst"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, ErrNotBuilt)
	}
	// One goroutine, small window: the daemon does this once in its life.
	d, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// Extract makes dir/DIGEST/NAME, executable, and returns its path. It is
// cheap when the file is there already. Files of other digests are left alone:
// sandboxes that live and snapshots that rest may still need them.
func (a Artifact) Extract(dir string) (string, error) {
	target := filepath.Join(dir, a.Digest, a.Name)
	if st, err := os.Stat(target); err == nil && st.Mode().IsRegular() && st.Size() == a.Size {
		return target, nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	if err := a.write(target); err != nil {
		return "", fmt.Errorf("extract %s: %w", a.Name, err)
	}
	return target, nil
}

// write puts the whole, checked file at target, or nothing: two daemons that
// extract at once both succeed, and a crash leaves only a temporary file.
func (a Artifact) write(target string) (err error) {
	r, err := a.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	tmp, err := os.CreateTemp(filepath.Dir(target), ".extract-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(tmp, sum), r); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != a.Digest {
		return fmt.Errorf("digest is %s, want %s: this silica is damaged", got, a.Digest)
	}
	if err := tmp.Chmod(0o755); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), target)
}
