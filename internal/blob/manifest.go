package blob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// manifestName is the file that describes the others. Artifacts' own names
// never start with a dot.
const manifestName = ".manifest"

// maxManifest bounds what is read of a manifest from disk, in bytes.
const maxManifest = 1 << 20

// file is one line of a manifest: "<sha256> <size> <name>\n".
type file struct {
	Name string
	Size int64
	Sum  [sha256.Size]byte
}

// encode renders the manifest. Equal content gives equal bytes.
func encode(files []file) []byte {
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&out, "%x %d %s\n", f.Sum, f.Size, f.Name)
	}
	return out.Bytes()
}

// refOf names the artifact a manifest describes.
func refOf(manifest []byte) sandbox.Ref {
	sum := sha256.Sum256(manifest)
	return sandbox.Ref("sha256:" + hex.EncodeToString(sum[:]))
}

// readManifest returns what dir should hold, or [ErrDamaged] when that does not
// belong to ref.
func readManifest(dir string, ref sandbox.Ref) ([]file, error) {
	f, err := os.Open(filepath.Join(dir, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no manifest", ErrDamaged, ref)
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest of %s: %w", ref, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, fmt.Errorf("read manifest of %s: %w", ref, err)
	}
	if refOf(text) != ref {
		return nil, fmt.Errorf("%w: the manifest of %s was changed", ErrDamaged, ref)
	}
	var files []file
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("%w: manifest line %q of %s", ErrDamaged, line, ref)
		}
		size, err := strconv.ParseInt(parts[1], 10, 64)
		sum, err2 := hex.DecodeString(parts[0])
		if err != nil || err2 != nil || len(sum) != sha256.Size || !validName(parts[2]) {
			return nil, fmt.Errorf("%w: manifest line %q of %s", ErrDamaged, line, ref)
		}
		files = append(files, file{Name: parts[2], Size: size, Sum: [sha256.Size]byte(sum)})
	}
	return files, nil
}

// validName tells whether an artifact may hold a file of this name.
func validName(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\n\x00")
}

// zeros stands for the holes of sparse files.
var zeros [256 << 10]byte

// hash reads f once from its beginning and returns its size and SHA-256. Holes
// are hashed as the zeros they read as, without reading them from disk.
func hash(ctx context.Context, f *os.File) (int64, [sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	st, err := f.Stat()
	if err != nil {
		return 0, sum, err
	}
	h, size, buf := sha256.New(), st.Size(), make([]byte, 1<<20)
	for off := int64(0); off < size; {
		data, end := extent(f, off, size)
		for ; off < data; off += min(data-off, int64(len(zeros))) {
			if err := ctx.Err(); err != nil {
				return 0, sum, context.Cause(ctx)
			}
			h.Write(zeros[:min(data-off, int64(len(zeros)))])
		}
		for off < end {
			if err := ctx.Err(); err != nil {
				return 0, sum, context.Cause(ctx)
			}
			n, err := f.ReadAt(buf[:min(end-off, int64(len(buf)))], off)
			h.Write(buf[:n])
			off += int64(n)
			if err != nil && !(errors.Is(err, io.EOF) && off == size) {
				return 0, sum, fmt.Errorf("read %s at %d: %w", f.Name(), off, err)
			}
		}
	}
	return size, [sha256.Size]byte(h.Sum(nil)), nil
}

// extent returns where the next data at or after off begins and ends. A file
// system that knows no holes is all data.
func extent(f *os.File, off, size int64) (data, end int64) {
	data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, syscall.ENXIO) {
		return size, size
	}
	if err != nil {
		return off, size
	}
	end, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return off, size
	}
	return min(data, size), min(end, size)
}
