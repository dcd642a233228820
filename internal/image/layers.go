package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

const (
	maxLayers = 256
	maxZstd   = 64 << 20 // memory one zstd window may take
)

// layers are an OCI image's.
type layers struct {
	img    v1.Image
	config Config
}

// flatten unpacks all layers, the lowest first, into one tree.
func (l layers) flatten(ctx context.Context, work string, report func(Progress)) (_ *Base, err error) {
	config, err := l.img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if want := platform(); config.OS != "" && (config.OS != want.OS || config.Architecture != want.Architecture) {
		return nil, unsupported(fmt.Sprintf("it is made for %s/%s, not for %s/%s", config.OS, config.Architecture, want.OS, want.Architecture))
	}
	all, err := l.img.Layers()
	if err != nil {
		return nil, err
	}
	if len(all) > maxLayers {
		return nil, sandbox.E(sandbox.TooLarge, sandbox.CodeImageTooLarge, fmt.Sprintf("the image has more than %d layers", maxLayers))
	}
	bodies, err := newSpool(work)
	if err != nil {
		return nil, err
	}
	t := newTree()
	t.close = bodies.close
	defer func() {
		if err != nil {
			err = errors.Join(err, bodies.close())
		}
	}()
	for i, layer := range all {
		report(Progress{Message: "fetching layers", Done: int64(i), Total: int64(len(all))})
		if err := unpackLayer(ctx, layer, unpacking{to: t, spool: bodies, layered: true}); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	if err := l.config.apply(t); err != nil {
		return nil, err
	}
	base := &Base{Env: map[string]string{}, Workdir: config.Config.WorkingDir, User: config.Config.User, files: t}
	for _, pair := range config.Config.Env {
		if key, value, ok := strings.Cut(pair, "="); ok && key != "" {
			base.Env[key] = value
		}
	}
	if base.Workdir != "" && !path.IsAbs(base.Workdir) {
		base.Workdir = path.Join("/", base.Workdir)
	}
	return base, nil
}

// unpackLayer unpacks one and proves its bytes to be those its digest names.
func unpackLayer(ctx context.Context, layer v1.Layer, to unpacking) error {
	want, err := layer.Digest()
	if err != nil {
		return err
	}
	raw, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer raw.Close()
	proof := &hashing{Reader: raw, sum: sha256.New()}
	plain, err := decompressed(proof)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := to.unpack(ctx, plain); err != nil {
		return errors.Join(err, proof.err)
	}
	// What comes after the archive's end is bounded by what a layer may be.
	if _, err := io.CopyN(io.Discard, proof, maxBytes); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if got := hex.EncodeToString(proof.sum.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return hostile(want.String(), "is the digest of another layer than the one that came")
	}
	return nil
}

// hashing sums what is read through it, and remembers why that ended early.
type hashing struct {
	io.Reader
	sum hash.Hash
	err error
}

func (h *hashing) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	h.sum.Write(b[:n])
	if err != nil && !errors.Is(err, io.EOF) {
		h.err = err
	}
	return n, err
}

// decompressed tells a layer's form by its first bytes.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, damaged(fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err))
		}
		return z, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxZstd), zstd.WithDecoderMaxWindow(maxZstd))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

var debianMirror = regexp.MustCompile(`https?://deb\.debian\.org/debian/?( |\n|$)`)

// apply puts the operator's mirrors and certificates where apt, npm and pip of a
// base image look for them.
func (c Config) apply(t *tree) error {
	if c.PipIndexURL != "" {
		if err := t.write("etc/pip.conf", []byte("[global]\nindex-url = "+c.PipIndexURL+"\n"), 0o644); err != nil {
			return err
		}
	}
	if c.NpmRegistry != "" {
		if err := t.write("etc/npmrc", []byte("registry="+c.NpmRegistry+"\n"), 0o644); err != nil {
			return err
		}
	}
	if err := c.trust(t); err != nil {
		return err
	}
	if c.AptMirror == "" {
		return nil
	}
	for _, pattern := range []string{"etc/apt/sources.list", "etc/apt/sources.list.d/*.list", "etc/apt/sources.list.d/*.sources"} {
		for _, file := range t.matches(pattern) {
			old, ok := t.read(file)
			if n := t.find(file, false); !ok || n == nil || !n.is(unix.S_IFREG) {
				continue
			}
			s := aptSource{URIs: []string{c.AptMirror}}.public()
			if changed := debianMirror.ReplaceAllString(old, strings.ReplaceAll(s.URIs[0], "$", "$$")+"$1"); changed != old {
				if err := t.write(file, []byte(changed), 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Where programs look for the certificates they trust, and where an
// administrator puts his own.
const (
	bundle    = "etc/ssl/certs/ca-certificates.crt"
	ownBundle = "usr/local/share/ca-certificates/silica.crt"
)

// trust makes images trust the operator's certificates, too.
func (c Config) trust(t *tree) error {
	if len(c.Certificates) == 0 {
		return nil
	}
	own := append(bytes.TrimSpace(c.Certificates), '\n')
	if err := t.write(ownBundle, own, 0o644); err != nil {
		return err
	}
	n := t.find(bundle, true)
	if n == nil || !n.is(unix.S_IFREG) {
		return t.write(bundle, own, 0o644)
	}
	var have []byte
	if n.body != nil {
		r, err := n.body.open()
		if err != nil {
			return err
		}
		defer r.Close()
		if have, err = io.ReadAll(io.LimitReader(r, 4*sandbox.MiB)); err != nil {
			return err
		}
	}
	if bytes.Contains(have, bytes.TrimSpace(own)) {
		return nil
	}
	all := append(append(bytes.TrimRight(have, "\n"), '\n'), own...)
	n.body, n.size = text(all), int64(len(all))
	return nil
}
