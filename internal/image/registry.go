package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"silica.dev/silica/sandbox"
)

// resolveTimeout bounds asking a registry what a name stands for.
const resolveTimeout = 30 * time.Second

// Registry reads base images from OCI registries.
type Registry struct {
	// Config's mirrors for apt, npm and pip get into images.
	Config Config
	// Auth is the path of a file in the form of Docker's config.json, whose "auths"
	// are used. Programs it names are not run. Empty: no logins.
	Auth string
	// Mirrors are asked before a registry: pairs of its host and the mirror's URL.
	Mirrors []Mirror
	// Allow are networks that registries may be in although no sandbox may reach
	// them: tenants choose the names of base images. Mirrors, proxies and hosts
	// named in Auth may be anywhere.
	Allow []netip.Prefix
}

// Mirror is asked for images of a registry before the registry itself.
type Mirror struct {
	Host string   // "docker.io"
	URL  *url.URL // http:// for one without TLS; a path is put before names
}

// ParseMirror reads "docker.io=https://mirror.example/docker".
func ParseMirror(text string) (Mirror, error) {
	host, at, ok := strings.Cut(text, "=")
	u, err := url.Parse(at)
	if !ok || host == "" || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Mirror{}, fmt.Errorf("%q is not host=http(s)://mirror", text)
	}
	if u.User != nil {
		return Mirror{}, fmt.Errorf("the mirror of %s must not hold a password: use the file of logins", host)
	}
	return Mirror{host, u}, nil
}

// String is the form ParseMirror reads.
func (m Mirror) String() string {
	if m.URL == nil {
		return ""
	}
	return m.Host + "=" + m.URL.String()
}

// Handles implements [Source]: whatever no other source claims. "debian:bookworm"
// is made by [Debian]; "docker.io/library/debian:bookworm" is the registry's.
func (r *Registry) Handles(from string) bool {
	if debianFrom.MatchString(from) || hostPath(from) || strings.HasPrefix(from, "template:") {
		return false
	}
	_, err := name.ParseReference(from)
	return err == nil
}

// Resolve implements [Source].
func (r *Registry) Resolve(ctx context.Context, from string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var digest v1.Hash
	_, err := r.places(ctx, from, func(ref name.Reference, options []remote.Option) error {
		d, err := remote.Head(ref, options...)
		if err != nil { // not every registry answers to HEAD
			full, ferr := remote.Get(ref, options...)
			if ferr != nil {
				return ferr
			}
			d = &full.Descriptor
		}
		digest = d.Digest
		return nil
	})
	return digest.String(), err
}

// Fetch implements [Source].
func (r *Registry) Fetch(ctx context.Context, spec Spec, work string, report func(Progress)) (*Base, error) {
	report(Progress{Message: "asking the registry for " + spec.From})
	var desc *remote.Descriptor
	ref, err := r.places(ctx, spec.From, func(ref name.Reference, options []remote.Option) (err error) {
		desc, err = remote.Get(ref, options...)
		return err
	})
	if err != nil {
		return nil, err
	}
	img, err := imageOf(desc)
	if err != nil {
		return nil, r.classify(ref, err)
	}
	base, err := layers{img: img, config: r.Config}.flatten(ctx, work, report)
	if err != nil {
		return nil, r.classify(ref, err)
	}
	base.Digest = desc.Digest.String()
	return base, nil
}

// platform is what images are wanted for.
func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// imageOf is what a name stands for on this machine.
func imageOf(desc *remote.Descriptor) (v1.Image, error) {
	if !desc.MediaType.IsIndex() {
		return desc.Image()
	}
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	_, img, err := forThisMachine(index)
	return img, err
}

// places calls try for each place from may be had at, until one works: mirrors,
// then the registry. It tells which.
func (r *Registry) places(ctx context.Context, from string, try func(name.Reference, []remote.Option) error) (name.Reference, error) {
	if err := Refused(from); err != nil {
		return nil, err
	}
	origin, err := name.ParseReference(from)
	if err != nil {
		return nil, sandbox.Field("from", "is no name of an image").Because(err)
	}
	logins, err := readLogins(r.Auth)
	if err != nil {
		return nil, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(logins), remote.WithTransport(r.transport(logins)),
		remote.WithUserAgent("silica"), remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 3})}
	refs, err := r.mirrored(origin)
	if err != nil {
		return nil, err
	}
	var worst error
	for _, ref := range append(refs, origin) {
		err := try(ref, options)
		if err == nil {
			return ref, nil
		}
		if ctx.Err() != nil && context.Cause(ctx) == context.Canceled {
			return nil, context.Canceled
		}
		// That a place can't be reached tells less than what another said.
		if err = r.classify(ref, err); worst == nil || sandbox.HasCode(worst, sandbox.CodeRegistryDown) {
			worst = err
		}
	}
	return nil, worst
}

// mirrored lists the names an image has on mirrors.
func (r *Registry) mirrored(origin name.Reference) ([]name.Reference, error) {
	var refs []name.Reference
	for _, m := range r.Mirrors {
		if canonicalHost(m.Host) != canonicalHost(origin.Context().RegistryStr()) {
			continue
		}
		options := []name.Option{name.StrictValidation}
		if m.URL.Scheme == "http" {
			options = append(options, name.Insecure)
		}
		full := path.Join(m.URL.Host, m.URL.Path, origin.Context().RepositoryStr())
		separator := ":"
		if _, ok := origin.(name.Digest); ok {
			separator = "@"
		}
		ref, err := name.ParseReference(full+separator+origin.Identifier(), options...)
		if err != nil {
			return nil, sandbox.Field("build-registry-mirrors", "is not usable for "+origin.String()).Because(err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// canonicalHost is the one name of a registry that has several.
func canonicalHost(host string) string {
	switch host {
	case "docker.io", "registry-1.docker.io", "index.docker.io":
		return name.DefaultRegistry
	}
	return host
}

// closed are networks a tenant's choice of name must not lead to.
var closed = func() (all []netip.Prefix) {
	for _, p := range []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/127", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96"} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}()

// errClosed is why a connection was not made.
var errClosed = errors.New("the registry is in a network that tenants may not reach")

// transport connects to where tenants may, and to what the operator named.
func (r *Registry) transport(logins logins) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = resolveTimeout
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 2, time.Second
	t.Proxy = r.proxy
	trusted := r.trustedHosts(logins)
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := &net.Dialer{Timeout: 15 * time.Second}
		if !slices.Contains(trusted, addr) {
			d.Control = func(_, address string, _ syscall.RawConn) error { return r.mayReach(address) }
		}
		return d.DialContext(ctx, network, addr)
	}
	return t
}

func (r *Registry) mayReach(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	has := func(p netip.Prefix) bool { return p.Contains(to.Addr().Unmap()) }
	if slices.ContainsFunc(closed, has) && !slices.ContainsFunc(r.Allow, has) {
		return errClosed
	}
	return nil
}

// proxy is the operator's for builds, else the daemon's own.
func (r *Registry) proxy(req *http.Request) (*url.URL, error) {
	own := r.Config.HTTPProxy
	if req.URL.Scheme == "https" {
		own = r.Config.HTTPSProxy
	}
	if own == "" {
		return http.ProxyFromEnvironment(req)
	}
	for h := range strings.SplitSeq(r.Config.NoProxy, ",") {
		h = strings.TrimPrefix(strings.TrimSpace(h), ".")
		if h == "*" || h != "" && (req.URL.Hostname() == h || strings.HasSuffix(req.URL.Hostname(), "."+h)) {
			return nil, nil
		}
	}
	return url.Parse(own)
}

// trustedHosts are the addresses the operator named, with their ports.
func (r *Registry) trustedHosts(logins logins) []string {
	var hosts []string
	add := func(u *url.URL) {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		hosts = append(hosts, net.JoinHostPort(u.Hostname(), port))
	}
	for _, m := range r.Mirrors {
		add(m.URL)
	}
	for host := range logins {
		add(&url.URL{Scheme: "https", Host: host})
		add(&url.URL{Scheme: "http", Host: host})
	}
	for _, scheme := range []string{"http", "https"} {
		if p, err := r.proxy(&http.Request{URL: &url.URL{Scheme: scheme, Host: "registry.invalid"}}); err == nil && p != nil {
			add(p)
		}
	}
	return hosts
}

// classify says what an error of a registry asks of the user.
func (r *Registry) classify(ref name.Reference, err error) error {
	var mine *sandbox.Error
	if err == nil || errors.As(err, &mine) || errors.Is(err, context.Canceled) {
		return err
	}
	host := ref.Context().RegistryStr()
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch code := answer.StatusCode; {
		case code == http.StatusUnauthorized || code == http.StatusForbidden:
			return sandbox.E(sandbox.Invalid, sandbox.CodeRegistryLogin, fmt.Sprintf("%s asks for a login for %s, or there is no such image: "+
				"the operator gives logins by --build-registry-auth", host, ref.Context().RepositoryStr())).With("field", "from").Because(err)
		case code == http.StatusNotFound:
			return sandbox.E(sandbox.Invalid, sandbox.CodeBaseNotFound, fmt.Sprintf("%s has no image %s", host, ref.Name())).With("field", "from").Because(err)
		}
	}
	if errors.Is(err, errClosed) {
		return sandbox.E(sandbox.Invalid, sandbox.CodeRegistryDown, "the registry "+host+" is in a network that is not open to tenants").With("field", "from").Because(err)
	}
	return sandbox.E(sandbox.Unavailable, sandbox.CodeRegistryDown, "the registry "+host+" can't be reached, or breaks off: "+
		"the operator names mirrors by --build-registry-mirrors").Because(err)
}

// logins are credentials by registry.
type logins map[string]authn.AuthConfig

// Resolve implements [authn.Keychain].
func (l logins) Resolve(target authn.Resource) (authn.Authenticator, error) {
	if c, ok := l[canonicalHost(target.RegistryStr())]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}

var schemed = regexp.MustCompile(`^https?://`)

// readLogins reads Docker's form: {"auths": {"host": {"auth": "base64 of user:password"}}}.
func readLogins(file string) (logins, error) {
	l := logins{}
	if file == "" {
		return l, nil
	}
	unreadable := sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the file of registry logins can't be read: see the log")
	f, err := os.Open(file)
	if err != nil {
		return nil, unreadable.Because(err)
	}
	defer f.Close()
	var config struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
			RegistryToken string `json:"registrytoken"`
		} `json:"auths"`
	}
	if err := json.NewDecoder(io.LimitReader(f, sandbox.MiB)).Decode(&config); err != nil {
		return nil, unreadable.Because(err)
	}
	for host, a := range config.Auths {
		c := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Auth != "" {
			pair, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, unreadable.Because(fmt.Errorf("auth of %s: %w", host, err))
			}
			c.Username, c.Password, _ = strings.Cut(strings.TrimRight(string(pair), "\x00"), ":")
		}
		host, _, _ = strings.Cut(schemed.ReplaceAllString(host, ""), "/")
		l[canonicalHost(host)] = c
	}
	return l, nil
}
