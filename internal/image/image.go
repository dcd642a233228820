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
	"os"
	"path/filepath"
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
	FormatVersion = 1
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
	// Fetch fills the empty folder root, which is on the blob store's file
	// system. When it returns, for whatever reason, nothing it started runs
	// and nothing is mounted below root.
	Fetch(ctx context.Context, spec Spec, root string, report func(Progress)) error
}

// Builder makes images.
type Builder struct {
	Blobs   blob.Store
	Sources []Source
	Agent   []byte // static executable
}

// Build makes an image and stores it. report is called from one goroutine at a
// time, and never after Build has returned.
func (b *Builder) Build(ctx context.Context, spec Spec, report func(Progress)) (_ Image, err error) {
	source, err := b.source(spec.From)
	if err != nil {
		return Image{}, err
	}
	// Before minutes are spent on what comes first.
	if err := haveTool("mkfs.erofs", "erofs-utils"); err != nil {
		return Image{}, err
	}
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

	root := filepath.Join(work, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	if err := source.Fetch(ctx, spec, root, report); err != nil {
		return Image{}, fmt.Errorf("fetch %s: %w", spec.From, err)
	}
	report(Progress{Message: "finishing the file system"})
	if err := finish(root, b.Agent); err != nil {
		return Image{}, fmt.Errorf("finish %s: %w", spec.From, err)
	}
	file := filepath.Join(artifact, File)
	if err := pack(ctx, root, file, report); err != nil {
		return Image{}, fmt.Errorf("pack %s: %w", spec.From, err)
	}
	st, err := os.Stat(file)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	// Before the image is made durable: that would write these files to disk, too.
	report(Progress{Message: "removing what the image was made from"})
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

// epoch is the time every file of an image was changed, as far as anybody
// inside can see: one file's time more than others' would make each build of
// the same packages another image, and EROFS inodes without own times are half
// as large.
var epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
