package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"silica.dev/silica/sandbox"
)

// Config is what builds are told about the outside. Empty fields mean the
// host's own settings. Nothing of it that could be a secret gets into an image.
type Config struct {
	// AptMirror is the URL of a Debian mirror. Security updates go on coming
	// from where the host gets them.
	AptMirror string
	// AptSources is the path of a file in the form of sources.list(5), used
	// as it is instead of both the host's and AptMirror.
	AptSources string
	// NpmRegistry and PipIndexURL, when set, are where npm and pip inside a
	// sandbox look by default.
	NpmRegistry, PipIndexURL string
	// Certificates, in PEM, are trusted by images in addition to the base image's
	// own: those of a proxy that looks into TLS, or of a mirror.
	Certificates []byte
	// Proxies for the build alone.
	HTTPProxy, HTTPSProxy, NoProxy string
}

// Validate checks the URLs.
func (c Config) Validate() error {
	for name, value := range map[string]string{"build-apt-mirror": c.AptMirror, "build-npm-registry": c.NpmRegistry,
		"build-pip-index-url": c.PipIndexURL, "build-http-proxy": c.HTTPProxy, "build-https-proxy": c.HTTPSProxy} {
		if value == "" {
			continue
		}
		u, err := url.Parse(value)
		if err != nil || u.Scheme == "" || strings.ContainsAny(value, " \t\r\n") {
			return sandbox.Field(name, "must be a URL")
		}
		if u.User != nil && (name == "build-npm-registry" || name == "build-pip-index-url") {
			return sandbox.Field(name, "must not hold a password: every sandbox can read it")
		}
	}
	return nil
}

// Debian makes root file systems from Debian's packages with mmdebstrap, so
// that a machine that reaches only a Debian mirror has base images.
type Debian struct {
	Config Config
	// Host is the root of the host's file system, "/" but for tests.
	Host string
}

var debianFrom = regexp.MustCompile(`^debian:([a-z]+)$`)

// packageName is Debian policy's, so that nothing else reaches apt.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`)

// Handles implements [Source]: "debian:" and a suite.
func (d *Debian) Handles(from string) bool { return debianFrom.MatchString(from) }

// Resolve implements [Source]. Packages have no digest of all that would be
// installed: what was made once is the base until it is made anew.
func (d *Debian) Resolve(context.Context, string) (string, error) { return "", nil }

// Fetch implements [Source].
func (d *Debian) Fetch(ctx context.Context, spec Spec, work string, report func(Progress)) (*Base, error) {
	root := filepath.Join(work, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	if err := d.check(spec); err != nil {
		return nil, err
	}
	sources, err := d.sources(debianFrom.FindStringSubmatch(spec.From)[1])
	if err != nil {
		return nil, err
	}
	if err := d.bootstrap(ctx, spec, sources, root, report); err != nil {
		return nil, err
	}
	files, err := readFolder(root)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.settle(files, sources), d.Config.trust(files)); err != nil {
		return nil, errors.Join(err, files.close())
	}
	return &Base{files: files}, nil
}

func (d *Debian) check(spec Spec) error {
	if err := d.Config.Validate(); err != nil {
		return err
	}
	if err := haveTool("mmdebstrap", "mmdebstrap"); err != nil {
		return err
	}
	for _, p := range spec.Packages {
		if !packageName.MatchString(p) {
			return sandbox.Field("packages", fmt.Sprintf("%q is no package name", p))
		}
	}
	return nil
}

func (d *Debian) bootstrap(ctx context.Context, spec Spec, sources []aptSource, root string, report func(Progress)) error {
	suite := debianFrom.FindStringSubmatch(spec.From)[1]
	file := filepath.Join(filepath.Dir(root), "build.sources")
	if err := os.WriteFile(file, []byte(renderSources(sources)), 0o600); err != nil {
		return err
	}
	defer os.Remove(file)

	args := []string{"--verbose", "--mode=root", "--format=directory", "--variant=essential",
		"--include=" + strings.Join(append([]string{"apt", "ca-certificates"}, spec.Packages...), ",")}
	for _, o := range dpkgOptions {
		args = append(args, "--dpkgopt="+o)
	}
	for _, o := range append(d.hostAptOptions(ctx), imageAptOptions...) {
		args = append(args, "--aptopt="+o)
	}
	progress := aptProgress{report: report}
	// DPKG and apt settings of whoever started the daemon stay outside.
	err := run(ctx, d.environment(), progress.line, "mmdebstrap", append(args, suite, root, file)...)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable,
			"the base image could not be made from Debian's packages: see the log; "+
				"SILICA_BUILD_APT_MIRROR names another mirror").Because(err)
	}
	return nil
}

// sources tells where packages come from.
func (d *Debian) sources(suite string) ([]aptSource, error) {
	if d.Config.AptSources != "" {
		text, err := os.ReadFile(d.Config.AptSources)
		if err != nil {
			return nil, sandbox.Field("build-apt-sources", "can't be read").Because(err)
		}
		sources := parseSources(string(text))
		if len(sources) == 0 {
			return nil, sandbox.Field("build-apt-sources", "holds no source of packages")
		}
		return sources, nil
	}
	all, err := readHostSources(os.DirFS(filepath.Join(d.Host, "etc/apt")))
	if err != nil {
		return nil, err
	}
	release, _ := os.ReadFile(filepath.Join(d.Host, "etc/os-release")) // absent: not a Debian
	sources := chooseSources(all, suite, readRelease(string(release)))
	if d.Config.AptMirror != "" {
		return withMirror(sources, d.Config.AptMirror, suite), nil
	}
	if len(sources) == 0 {
		return nil, sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the host's apt sources have no Debian "+suite+
			": set SILICA_BUILD_APT_MIRROR to the URL of a Debian mirror")
	}
	return sources, nil
}

// dpkgOptions stay in the image: what users install gets the same treatment.
var dpkgOptions = []string{
	"force-unsafe-io", // a lost sandbox is not repaired, it is made again
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/lintian/*",
}

// imageAptOptions stay in the image.
var imageAptOptions = []string{`Acquire::Languages "none"`, `APT::Install-Recommends "false"`}

// hostAptOptions are the host's settings for fetching: proxies, time-outs,
// whether dates are checked. They are for the build alone.
func (d *Debian) hostAptOptions(ctx context.Context) []string {
	var options []string
	cmd := exec.CommandContext(ctx, "apt-config", "dump", "--no-empty", "--format", `%F "%v"%n`)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, _ := cmd.Output() // without apt-config there is nothing to hand on
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		for _, p := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"} {
			if strings.HasPrefix(line, p) && !strings.Contains(line, "Proxy-Auto-Detect") {
				options = append(options, line)
			}
		}
	}
	for key, value := range map[string]string{"http": d.Config.HTTPProxy, "https": d.Config.HTTPSProxy} {
		if value != "" {
			options = append(options, fmt.Sprintf("Acquire::%s::Proxy %q", key, value))
		}
	}
	for option, path := range map[string]string{"Dir::Etc::netrc": "/etc/apt/auth.conf", "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d"} {
		if _, err := os.Stat(path); err == nil {
			options = append(options, fmt.Sprintf("%s %q", option, path))
		}
	}
	return options
}

// environment is a child's: of the host's only what finds programs and the way
// out.
func (d *Debian) environment() []string {
	env := []string{"LC_ALL=C", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "PATH=" + os.Getenv("PATH"),
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", Epoch.Unix())}
	for name, own := range map[string]string{"http_proxy": d.Config.HTTPProxy, "https_proxy": d.Config.HTTPSProxy, "no_proxy": d.Config.NoProxy} {
		for _, v := range []string{own, os.Getenv(name), os.Getenv(strings.ToUpper(name))} {
			if v != "" {
				env = append(env, name+"="+v)
				break
			}
		}
	}
	return env
}

// settle replaces what the bootstrap configured for itself by what users need.
func (d *Debian) settle(t *tree, sources []aptSource) error {
	for _, pattern := range []string{"etc/apt/sources.list", "etc/apt/sources.list.d/*",
		"etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"} {
		for _, name := range t.matches(pattern) {
			t.remove(name)
		}
	}
	for i := range sources {
		sources[i] = sources[i].public()
		if err := d.copyKey(t, sources[i]); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/apt/sources.list.d/debian.sources": renderSources(sources),
		"etc/apt/apt.conf.d/99silica":           strings.Join(imageAptOptions, ";\n") + ";\n",
		"etc/dpkg/dpkg.cfg.d/99silica":          strings.Join(dpkgOptions, "\n") + "\n",
	}
	if d.Config.PipIndexURL != "" {
		files["etc/pip.conf"] = "[global]\nindex-url = " + d.Config.PipIndexURL + "\n"
	}
	if d.Config.NpmRegistry != "" {
		files["etc/npmrc"] = "registry=" + d.Config.NpmRegistry + "\n"
	}
	for name, content := range files {
		if err := t.write(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	// Nothing starts services in a sandbox: a package that tries would fail.
	return t.write("usr/sbin/policy-rc.d", []byte("#!/bin/sh\nexit 101\n"), 0o755)
}

// copyKey gives the image the key its packages are signed with, unless it has
// one at that place.
func (d *Debian) copyKey(t *tree, s aptSource) error {
	path, ok := s.keyFile()
	if !ok {
		return nil
	}
	name := strings.TrimPrefix(filepath.Clean(path), "/")
	if t.find(name, true) != nil {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return sandbox.Field("build-apt-sources", "the key "+path+" can't be read").Because(err)
	}
	defer f.Close()
	key, err := io.ReadAll(io.LimitReader(f, sandbox.MiB))
	if err != nil {
		return err
	}
	return t.write(name, key, 0o644)
}
