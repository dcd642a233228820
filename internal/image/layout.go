package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"silica.dev/silica/sandbox"
)

// Prefixes of base images that are on this machine.
const (
	ociArchive = "oci-archive:"
	ociLayout  = "oci-layout:"
)

func hostPath(from string) bool {
	return strings.HasPrefix(from, ociArchive) || strings.HasPrefix(from, ociLayout)
}

// Layout reads OCI images from files of this machine: a folder in the OCI layout,
// or a tar archive of one.
type Layout struct {
	Config Config
	// Folders are those that images may lie in, for every tenant to use. None:
	// nobody can name a path of this machine.
	Folders []string
}

// Handles implements [Source].
func (l *Layout) Handles(from string) bool { return hostPath(from) }

// Resolve implements [Source].
func (l *Layout) Resolve(ctx context.Context, from string) (string, error) {
	file, err := l.allowed(from)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(from, ociLayout) {
		d, _, err := chosen(file)
		return d.Digest.String(), err
	}
	// An archive is found changed by its size and time; its image is named by its
	// digest once it was read.
	st, err := os.Stat(file)
	if err != nil {
		return "", notThere(from, err)
	}
	return fmt.Sprintf("archive:%d-%d", st.Size(), st.ModTime().UnixNano()), nil
}

// Fetch implements [Source].
func (l *Layout) Fetch(ctx context.Context, spec Spec, work string, report func(Progress)) (*Base, error) {
	dir, err := l.allowed(spec.From)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(spec.From, ociArchive) {
		report(Progress{Message: "reading the archive"})
		archive := dir
		dir = filepath.Join(work, "layout")
		if err := unpackLayout(ctx, archive, dir); err != nil {
			return nil, fmt.Errorf("read %s: %w", spec.From, err)
		}
	}
	d, img, err := chosen(dir)
	if err != nil {
		return nil, err
	}
	base, err := layers{img: img, config: l.Config}.flatten(ctx, work, report)
	if err != nil {
		return nil, err
	}
	base.Digest = d.Digest.String()
	return base, nil
}

// allowed tells where from is, if it is below one of the operator's folders.
func (l *Layout) allowed(from string) (string, error) {
	_, file, _ := strings.Cut(from, ":")
	refused := sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "images of this machine can be used from the folders the operator names by --build-image-folders").
		With("field", "from")
	if !filepath.IsAbs(file) {
		return "", sandbox.Field("from", "must name an absolute path")
	}
	file = filepath.Clean(file)
	for _, f := range l.Folders {
		f = filepath.Clean(f)
		if !strings.HasPrefix(file, strings.TrimSuffix(f, "/")+"/") {
			continue
		}
		// Links in the operator's folders lead where the operator allows, too.
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			return "", notThere(from, err)
		}
		for _, g := range l.Folders {
			if g, err := filepath.EvalSymlinks(g); err == nil && strings.HasPrefix(real, strings.TrimSuffix(g, "/")+"/") {
				return real, nil
			}
		}
	}
	return "", refused
}

func notThere(from string, err error) error {
	return sandbox.E(sandbox.Invalid, sandbox.CodeBaseNotFound, "there is no image at "+from).With("field", "from").Because(err)
}

// chosen is the image in a layout for this machine, and what names it.
func chosen(dir string) (v1.Descriptor, v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return v1.Descriptor{}, nil, sandbox.E(sandbox.Invalid, sandbox.CodeBaseNotFound, "there is no image in the OCI layout").With("field", "from").Because(err)
	}
	d, img, err := forThisMachine(index)
	if known := (*sandbox.Error)(nil); err != nil && !errors.As(err, &known) {
		err = errors.Join(hostile("index.json", "can't be read"), err)
	}
	return d, img, err
}

// forThisMachine is the first image of an index for this machine, and what names
// it.
func forThisMachine(index v1.ImageIndex) (v1.Descriptor, v1.Image, error) {
	d, img, err := pick(index, 0)
	if err == nil && img == nil {
		err = unsupported("it is not made for " + platform().String())
	}
	return d, img, err
}

// pick looks for that image through indexes of indexes; nil when there is none.
func pick(index v1.ImageIndex, depth int) (v1.Descriptor, v1.Image, error) {
	if depth > 3 {
		return v1.Descriptor{}, nil, hostile("index.json", "is too deep")
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	for _, d := range manifest.Manifests {
		if d.Platform != nil && (d.Platform.OS != platform().OS || d.Platform.Architecture != platform().Architecture) {
			continue
		}
		switch {
		case d.MediaType.IsIndex():
			below, err := index.ImageIndex(d.Digest)
			if err != nil {
				return d, nil, err
			}
			if _, img, err := pick(below, depth+1); img != nil || err != nil {
				return d, img, err
			}
		case d.MediaType.IsImage():
			img, err := index.Image(d.Digest)
			return d, img, err
		}
	}
	return v1.Descriptor{}, nil, nil
}

// layoutName are the files of a layout.
var layoutName = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// unpackLayout unpacks those files of an archive that a layout has, and nothing else.
func unpackLayout(ctx context.Context, archive, dir string) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700); err != nil {
		return err
	}
	plain, err := decompressed(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	left := int64(maxBytes)
	files := tar.NewReader(plain)
	for count := 0; ; count++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !layoutName.MatchString(name) {
			continue
		}
		if left -= h.Size; left < 0 || count > 64*maxLayers {
			return sandbox.E(sandbox.TooLarge, sandbox.CodeImageTooLarge, "the archive is too large")
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, files)
		if err = errors.Join(err, f.Close()); err != nil {
			return damaged(err)
		}
	}
}
