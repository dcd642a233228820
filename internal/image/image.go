// Package image makes read-only root file systems from base images, so that
// nobody else need know where files come from or how they are packed.
//
// An image is an artifact with one file, [File]: an EROFS file system that
// holds the base image's files, the guest agent at [AgentPath] and everything a
// sandbox mounts over. Equal input gives equal bytes.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

const (
	// File is the name of the file system within the artifact.
	File = "root.erofs"
	// AgentPath is where the agent's executable is, seen from inside.
	AgentPath = "/.silica/agent"
	// FormatVersion rises when the same input gives another image than before.
	FormatVersion = 2
)

// Spec says what to make an image of.
type Spec struct {
	From     string   // base image: "debian:bookworm"
	Packages []string // the base image's own packages to add
}

// Image is a finished one.
type Image struct {
	Ref  sandbox.Ref
	Size int64 // of the file system, in bytes
	// What the base image says of itself: its digest, if it has one, and where
	// and as whom its programs run.
	Digest  string
	Env     map[string]string
	Workdir string
	User    string
}

// Base is what a source found: files, and what the base image says of itself.
type Base struct {
	Digest  string
	Env     map[string]string
	Workdir string
	User    string
	files   *tree
}

// Progress is how far a build has come. Done and Total count what Message
// names; Total is 0 while unknown.
type Progress struct {
	Message     string // "installing packages"
	Done, Total int64
}

// Source makes root file systems of one kind of base images.
type Source interface {
	// Handles tells whether from names a base image of this kind.
	Handles(from string) bool
	// Resolve tells the digest from stands for now; empty: there are none of
	// this kind.
	Resolve(ctx context.Context, from string) (digest string, err error)
	// Fetch reads a base image. work is an empty folder on the blob store's
	// file system for what it needs meanwhile. When it returns, for whatever
	// reason, nothing it started runs and nothing is mounted below work.
	Fetch(ctx context.Context, spec Spec, work string, report func(Progress)) (*Base, error)
}

// Builder makes images.
type Builder struct {
	Blobs   blob.Store
	Sources []Source
	Agent   []byte // static executable
}

// Resolve tells the digest a base image's name stands for now; empty: it has none.
func (b *Builder) Resolve(ctx context.Context, from string) (string, error) {
	source, err := b.source(from)
	if err != nil {
		return "", err
	}
	digest, err := source.Resolve(ctx, from)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", from, err)
	}
	return digest, nil
}

// Build makes an image and stores it. report is called from one goroutine at a
// time, and never after Build has returned.
func (b *Builder) Build(ctx context.Context, spec Spec, report func(Progress)) (_ Image, err error) {
	source, err := b.source(spec.From)
	if err != nil {
		return Image{}, err
	}
	var base *Base
	img, err := b.store(ctx, report, func(work string) (*tree, error) {
		base, err = source.Fetch(ctx, spec, work, report)
		if err != nil {
			return nil, fmt.Errorf("fetch %s: %w", spec.From, err)
		}
		if err := checkFamily(base.files); err != nil {
			return base.files, fmt.Errorf("base image %s: %w", spec.From, err)
		}
		return base.files, nil
	})
	if err != nil {
		return Image{}, err
	}
	img.Digest, img.Env, img.Workdir, img.User = base.Digest, base.Env, base.Workdir, base.User
	return img, nil
}

// Rebuild makes an image of a sandbox's files: an archive that says by hard links
// to themselves what is still as in the image base. See the agent's Capture.
func (b *Builder) Rebuild(ctx context.Context, base sandbox.Ref, changes io.Reader, report func(Progress)) (Image, error) {
	dir, release, err := b.Blobs.Open(ctx, base)
	if err != nil {
		return Image{}, fmt.Errorf("capture: %w", err)
	}
	defer release()
	f, err := os.Open(filepath.Join(dir, File))
	if err != nil {
		return Image{}, fmt.Errorf("capture: %w", err)
	}
	defer f.Close()
	return b.store(ctx, report, func(work string) (*tree, error) {
		old, err := readTree(f)
		if err != nil {
			return nil, fmt.Errorf("capture: %w", err)
		}
		bodies, err := newSpool(work)
		if err != nil {
			return nil, fmt.Errorf("capture: %w", err)
		}
		t := newTree()
		t.close = bodies.close
		if err := (unpacking{to: t, spool: bodies, base: old}).unpack(ctx, changes); err != nil {
			return t, fmt.Errorf("capture: %w", err)
		}
		return t, nil
	})
}

// store makes an image of what fill returns, which may be a tree and an error.
func (b *Builder) store(ctx context.Context, report func(Progress), fill func(work string) (*tree, error)) (_ Image, err error) {
	work, err := b.Blobs.TempDir(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	artifact, err := b.Blobs.TempDir(ctx)
	if err != nil {
		return Image{}, errors.Join(fmt.Errorf("build image: %w", err), os.RemoveAll(work))
	}
	defer func() {
		err = errors.Join(diskFull(err, filepath.Dir(work)), os.RemoveAll(work), os.RemoveAll(artifact))
	}()
	files, err := fill(work)
	if files != nil && files.close != nil {
		closed := sync.OnceValue(files.close)
		files.close = closed
		defer func() { err = errors.Join(err, closed()) }()
	}
	if err != nil {
		return Image{}, err
	}
	report(Progress{Message: "finishing the file system"})
	if err := finish(files, b.Agent); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	file := filepath.Join(artifact, File)
	if err := pack(ctx, files, file, report); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	st, err := os.Stat(file)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	// Before the image is made durable: that would write these files to disk, too.
	report(Progress{Message: "removing what the image was made from"})
	if files.close != nil {
		if err := files.close(); err != nil {
			return Image{}, fmt.Errorf("build image: %w", err)
		}
	}
	if err := os.RemoveAll(work); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	report(Progress{Message: "storing the image"})
	ref, err := b.Blobs.Put(ctx, artifact)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	return Image{Ref: ref, Size: st.Size()}, nil
}

func (b *Builder) source(from string) (Source, error) {
	for _, s := range b.Sources {
		if s.Handles(from) {
			return s, nil
		}
	}
	return nil, sandbox.Field("from", fmt.Sprintf("no source of base images knows %q", from))
}

// fullBelow is how little free space tells that a child failed for want of it:
// programs say so in words only, and have removed their last file by then.
const fullBelow = 64 * sandbox.MiB

// diskFull classifies an unclassified failure on a full disk as such.
func diskFull(err error, dir string) error {
	if err == nil {
		return nil
	}
	var st unix.Statfs_t
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if unix.Statfs(dir, &st) == nil && int64(st.Bavail)*st.Bsize < fullBelow {
		full = true
	}
	if full && !sandbox.HasCode(err, sandbox.CodeHostFull) {
		return sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "the host's disk is full").Because(err)
	}
	return err
}

// Epoch is the time every file of an image was changed, as far as anybody
// inside can see: one file's time more than others' would make each build of
// the same packages another image, and EROFS inodes without own times are half
// as large.
var Epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// String is "installing packages 143/312".
func (p Progress) String() string {
	if p.Total == 0 {
		return p.Message
	}
	return fmt.Sprintf("%s %d/%d", p.Message, p.Done, p.Total)
}
