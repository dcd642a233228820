package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/builder"
	"silica.dev/silica/internal/image"
	"silica.dev/silica/sandbox"
)

// addedCertificates is where a host's administrator puts certificates of his own.
const addedCertificates = "/usr/local/share/ca-certificates/*.crt"

// outside is what builds are told of the world: what the operator set, else what
// the host itself uses.
func outside(c Config) (image.Config, error) {
	certificates, err := certificates(c.Build.CAFile)
	if err != nil {
		return image.Config{}, err
	}
	o := image.Config{
		AptMirror: c.Build.AptMirror, NpmRegistry: c.Build.NpmRegistry, PipIndexURL: c.Build.PipIndexURL, Certificates: certificates,
		HTTPProxy: c.Build.HTTPProxy, HTTPSProxy: c.Build.HTTPSProxy, NoProxy: c.Build.NoProxy,
	}
	o.FromHost(os.DirFS("/"), os.Getenv)
	return o, o.Validate()
}

// certificates reads the PEM that images trust in addition to their own.
func certificates(file string) ([]byte, error) {
	switch file {
	case "none":
		return nil, nil
	case "":
		var all []byte
		names, _ := filepath.Glob(addedCertificates) // sorted
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("certificates for images: %w", err)
			}
			all = append(append(all, bytes.TrimSpace(text)...), '\n')
		}
		return all, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("build-ca-file: %w", err)
	}
	if !bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, fmt.Errorf("build-ca-file: %s holds no certificate in PEM", file)
	}
	return text, nil
}

// newImages knows every kind of base image.
func newImages(c Config, o image.Config, blobs blob.Store, agent []byte) *image.Builder {
	folders := make([]string, len(c.Build.ImageFolders))
	for i, f := range c.Build.ImageFolders {
		folders[i] = string(f)
	}
	return &image.Builder{Blobs: blobs, Agent: agent, Sources: []image.Source{
		&image.Debian{Config: o, Host: "/"},
		&image.Layout{Config: o, Folders: folders},
		&image.Registry{Config: o, Auth: c.Build.RegistryAuth, Mirrors: c.Build.RegistryMirrors, Allow: c.EgressAllow},
	}}
}

// newMaking is what builds by steps need.
func newMaking(c Config, o image.Config) builder.Making {
	env := o.StepEnv()
	if c.Build.GoProxy != "" {
		maps.Copy(env, map[string]string{"GOPROXY": c.Build.GoProxy})
	}
	return builder.Making{
		Env: env, StepTimeout: c.Build.StepTimeout,
		Cache: filepath.Join(c.Data, "build-cache.json"), CacheBytes: c.Build.Cache * 1024 * sandbox.MiB,
	}
}
