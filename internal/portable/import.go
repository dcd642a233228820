package portable

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

const (
	window   = 4 << 20 // bytes the decompression looks back
	maxFiles = 64      // of a part
	maxSize  = 1 << 46 // bytes of a file, far from overflow
	maxText  = 4 << 10 // bytes of a text of a row
)

var (
	errInvalid = sandbox.E(sandbox.Malformed, sandbox.CodeInvalidSnapshot, "the file is not a snapshot that this server can import")
	errAgain   = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "another snapshot with this content was deleted just now: try again")
	refForm    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

func invalid(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return sandbox.E(errInvalid.Kind, errInvalid.Code, errInvalid.Message+": "+err.Error())
}

// Import makes a snapshot of a tenant of the file that r reads. Every part is held
// against its digest before any is stored, so that of a file that is refused
// nothing is left.
func (c Carrier) Import(ctx context.Context, tenant sandbox.TenantID, r io.Reader) (_ sandbox.Snapshot, err error) {
	z, err := zstd.NewReader(cancellable{ctx, r}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window), zstd.WithDecoderMaxMemory(16*window))
	if err != nil {
		return sandbox.Snapshot{}, broken(ctx, err)
	}
	defer z.Close()
	in := &reader{ctx: ctx, tar: tar.NewReader(z)}
	m, err := in.manifest()
	if err == nil {
		err = c.allow(m)
	}
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	size := m.size()
	if err := c.Rows.RoomToImport(ctx, tenant, size); err != nil {
		return sandbox.Snapshot{}, err
	}
	if err := c.Room(size); err != nil {
		return sandbox.Snapshot{}, err
	}
	dirs := make([]string, len(m.Parts))
	defer func() {
		for _, dir := range dirs { // what was put is not there any more
			if dir != "" {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}
	}()
	for i, p := range m.Parts {
		if dirs[i], err = c.Blobs.TempDir(ctx); err != nil {
			return sandbox.Snapshot{}, err
		}
		if err := in.part(p, dirs[i]); err != nil {
			return sandbox.Snapshot{}, err
		}
	}
	if err := in.end(); err != nil {
		return sandbox.Snapshot{}, err
	}
	for i, p := range m.Parts { // all of them, before any has a name
		ref, err := c.Blobs.Seal(ctx, dirs[i])
		if err != nil {
			return sandbox.Snapshot{}, err
		}
		if ref != p.Ref {
			return sandbox.Snapshot{}, invalid("%s has another content than its digest says", p.Kind)
		}
	}
	return c.keep(ctx, tenant, m, dirs)
}

// keep stores the parts, then the row. What a crash leaves between is swept like
// everything that no row names.
func (c Carrier) keep(ctx context.Context, tenant sandbox.TenantID, m Manifest, dirs []string) (sandbox.Snapshot, error) {
	at := time.Now().UTC().Truncate(time.Microsecond)
	n := sandbox.Snapshot{
		ID: sandbox.NewName("snap_"), Tenant: tenant, Status: sandbox.SnapshotReady, Comment: m.Comment, Spec: m.Spec, Parent: m.Parent,
		Key: m.Key, Size: m.size(), CreatedAt: at, UpdatedAt: at, LastUsedAt: at,
	}
	for i, p := range m.Parts {
		if err := c.Blobs.Publish(ctx, dirs[i], p.Ref); err != nil {
			return n, err
		}
		// Another snapshot with the same content may be deleted before our row is there.
		_, release, err := c.Blobs.Open(ctx, p.Ref)
		if err != nil {
			return n, errAgain.Because(err)
		}
		defer release()
		switch p.Kind {
		case base:
			n.Base = p.Ref
		case files:
			n.Files = p.Ref
		case memory:
			n.Memory = p.Ref
		}
	}
	return c.Rows.ImportSnapshot(ctx, n)
}

// reader takes a file apart in the order of its manifest.
type reader struct {
	ctx context.Context
	tar *tar.Reader
}

// next finds the entry that must come.
func (in *reader) next(name string) (*tar.Header, error) {
	h, err := in.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, invalid("%s is missing", name)
	case err != nil:
		return nil, broken(in.ctx, err)
	case h.Name != name || h.Typeflag != tar.TypeReg:
		return nil, invalid("%q is where %s must be", h.Name, name)
	}
	return h, nil
}

func (in *reader) end() error {
	h, err := in.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return broken(in.ctx, err)
	}
	return invalid("%q is not in its manifest", h.Name)
}

// broken classifies what reading failed with: whose body broke off is told so.
func broken(ctx context.Context, err error) error {
	var known *sandbox.Error
	switch {
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return errInvalid.Because(err)
}

func (in *reader) manifest() (m Manifest, err error) {
	h, err := in.next(manifestName)
	if err != nil {
		return m, err
	}
	if h.Size > maxManifest {
		return m, invalid("%s is larger than %d bytes", manifestName, maxManifest)
	}
	raw, err := io.ReadAll(in.tar)
	if err != nil {
		return m, broken(in.ctx, err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // as of a row
	if err := d.Decode(&m); err != nil {
		return m, errInvalid.Because(err)
	}
	var all any
	if err := json.Unmarshal(raw, &all); err != nil || zeroed(all) {
		return m, invalid("%s holds what no row can", manifestName)
	}
	return m, nil
}

// zeroed tells whether a null character is anywhere: no text of a database has one.
func zeroed(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.ContainsRune(v, 0)
	case []any:
		for _, e := range v {
			if zeroed(e) {
				return true
			}
		}
	case map[string]any:
		for k, e := range v {
			if zeroed(k) || zeroed(e) {
				return true
			}
		}
	}
	return false
}

// part writes the files of a part to an empty folder.
func (in *reader) part(p Part, dir string) error {
	for _, f := range p.Files {
		h, err := in.next(p.Kind + "/" + f.Name)
		if err != nil {
			return err
		}
		if h.Size != f.Size {
			return invalid("%s has %d bytes, and %d in its manifest", h.Name, h.Size, f.Size)
		}
		if err := in.file(filepath.Join(dir, f.Name)); err != nil {
			return err
		}
	}
	return nil
}

// file writes a new file. Blocks of zeros become holes, as they were.
func (in *reader) file(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return blob.Full(err)
	}
	defer f.Close()
	var size int64
	buf := make([]byte, len(zeros))
	for {
		n, err := io.ReadFull(in.tar, buf)
		if err != nil && !errors.Is(err, io.EOF) && (n == 0 || !errors.Is(err, io.ErrUnexpectedEOF)) {
			return broken(in.ctx, err)
		}
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], size); err != nil {
				return blob.Full(err)
			}
		}
		size += int64(n)
		if err != nil {
			return blob.Full(f.Truncate(size)) // cut off, it has another digest
		}
	}
}

var zeros [64 << 10]byte

// allow refuses a manifest that says what no export says.
func (c Carrier) allow(m Manifest) error {
	if m.Format != format {
		return invalid("it has format %d, and this server reads %d; it was written by silica %q", m.Format, format, m.Version)
	}
	seen := map[string]bool{}
	for _, p := range m.Parts {
		if p.Kind != base && p.Kind != files && p.Kind != memory || seen[p.Kind] {
			return invalid("part %q", p.Kind)
		}
		seen[p.Kind] = true
		if err := p.allow(); err != nil {
			return err
		}
	}
	res, most := m.Spec.Resources, c.Max
	switch {
	case !seen[base] || !seen[files]:
		return invalid("it has no root file system, or no files")
	case res.MilliCPU <= 0 || res.Memory <= 0 || res.Disk <= 0 || res.MilliCPU > most.MilliCPU || res.Memory > most.Memory || res.Disk > most.Disk:
		return invalid("its sandbox is of a size that none may have here")
	case m.Parent.Timeout < 0 || m.Parent.Idle < 0:
		return invalid("its time limits are negative")
	}
	x := m.Parent.External
	for _, text := range append([]string{m.Comment, m.Key, m.Spec.Template, m.Spec.Revision, m.Spec.Image, x.Workspace, x.User, x.Project}, m.Parent.Tags...) {
		if len(text) > maxText {
			return invalid("one of its texts is longer than %d bytes", maxText)
		}
	}
	return nil
}

func (p Part) allow() error {
	if !refForm.MatchString(string(p.Ref)) || len(p.Files) == 0 || len(p.Files) > maxFiles {
		return invalid("part %s", p.Kind)
	}
	seen := map[string]bool{}
	for _, f := range p.Files {
		if !nameable(f.Name) || seen[f.Name] || f.Size < 0 || f.Size > maxSize {
			return invalid("file %q of %s", f.Name, p.Kind)
		}
		seen[f.Name] = true
	}
	return nil
}

// nameable tells whether a part may have a file of this name.
func nameable(name string) bool {
	return name != "" && len(name) <= 255 && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\n\x00")
}

// size is how many bytes the parts have.
func (m Manifest) size() (n int64) {
	for _, p := range m.Parts {
		for _, f := range p.Files {
			n += f.Size
		}
	}
	return n
}
