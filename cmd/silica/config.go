package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/sandbox"
)

// Config is what an operator can set for "silica serve". A value comes from the
// flag, else from the environment (--warm-pool is SILICA_WARM_POOL), else from
// the file (warm_pool), else it is the default.
type Config struct {
	Listen        string // host:port of the API
	Data          string // folder of everything that must survive a restart
	Database      string // empty: SQLite in Data; else a postgres:// URL
	Domain        string // previews are {port}-{slug}.sandbox.{Domain}
	PublicURL     string // where clients reach the API; empty: derived from Listen
	Advertise     string // where other servers on the database reach this one; empty: derived from Listen
	MetricsListen string // host:port of /metrics without a key; empty: none
	RateLimit     int    // requests a minute and workspace; 0: no limit
	MaxSandboxes  int    // concurrent ones a tenant
	WarmPool      int    // restored members of the default template kept ready
	EmptySlots    int    // created sentries that hold nothing yet, kept ready
	MaxTimeout    time.Duration
	AllowAlwaysOn bool          // sandboxes without a hard limit of running time
	CreateWait    time.Duration // how long a create waits for "running" before it answers
	EgressAllow   []netip.Prefix
	Nameservers   []netip.Addr // empty: the host's own resolvers
	NetworkPrefix netip.Prefix // addresses for the host's end of sandbox networks
	KeepAudit     time.Duration
	PriceCPU      float64 // credits an hour of one core; 0: nothing is charged
	PriceMemory   float64 // credits an hour of one GiB of memory
	NetworkName   string  // prefix of interfaces, namespaces and tables: one a daemon
	LogLevel      slog.Level
	LogFormat     string // "text" or "json"
	OTLPEndpoint  string // URL of a collector for traces; empty: OTEL_EXPORTER_OTLP_ENDPOINT's, or none
	Build         BuildConfig

	// BootstrapKey becomes the first admin key. It comes from the environment
	// only: flags are visible to every user of the machine.
	BootstrapKey string
}

// BuildConfig is what template builds are told about the outside. An empty
// field means the host's own setting.
type BuildConfig struct {
	AptMirror   string
	NpmRegistry string
	PipIndexURL string
	GoProxy     string
	HTTPProxy   string
	HTTPSProxy  string
	NoProxy     string

	RegistryAuth    string         // path of a file in the form of Docker's config.json
	RegistryMirrors []image.Mirror // asked before registries
	ImageFolders    []imageFolder  // oci-archive: and oci-layout: may name paths below these
	CAFile          string         // PEM; empty: what the host's administrator added; "none"
	Cache           int64          // GiB of what steps left
	StepTimeout     time.Duration
}

// imageFolder is the path of a folder.
type imageFolder string

func (f imageFolder) String() string { return string(f) }

func parseFolder(s string) (imageFolder, error) {
	if !filepath.IsAbs(s) {
		return "", fmt.Errorf("%q is not an absolute path", s)
	}
	return imageFolder(s), nil
}

const (
	minNetworkName = 1
	maxNetworkName = 6 // interface names have 15 characters, most of them the sandbox's
)

// bind makes one flag for each setting, with the default as its value.
func (c *Config) bind(f *pflag.FlagSet) {
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "address of the API")
	f.StringVar(&c.Data, "data", defaultData, "folder for everything that must survive a restart")
	f.StringVar(&c.Database, "database", "", "postgres:// URL (default SQLite in the data folder)")
	f.StringVar(&c.Domain, "domain", "localhost", "previews are {port}-{slug}.sandbox.DOMAIN")
	f.StringVar(&c.PublicURL, "public-url", "", "where clients reach the API (default from --listen)")
	f.StringVar(&c.Advertise, "advertise-url", "", "`url` where other servers on the same database reach this one (default from --listen)")
	f.StringVar(&c.MetricsListen, "metrics-listen", "", "address of /metrics without a key (default none)")
	f.IntVar(&c.RateLimit, "rate-limit", 300, "requests a minute and workspace, 0 for no limit")
	f.IntVar(&c.MaxSandboxes, "max-sandboxes", 10, "concurrent sandboxes a tenant")
	f.IntVar(&c.WarmPool, "warm-pool", 4, "restored sandboxes of the default template kept ready (about 20 MiB each)")
	f.IntVar(&c.EmptySlots, "empty-slots", 4, "empty sentries kept ready for a restore (about 12 MiB each)")
	f.DurationVar(&c.MaxTimeout, "max-timeout", 24*time.Hour, "longest timeout_sec a sandbox may ask for")
	f.BoolVar(&c.AllowAlwaysOn, "allow-always-on", true, "allow sandboxes that --max-timeout does not end")
	f.DurationVar(&c.CreateWait, "create-wait", 2*time.Second, "how long a create waits for \"running\" before it answers")
	f.Var(&listValue[netip.Prefix]{&c.EgressAllow, netip.ParsePrefix}, "egress-allow", "comma-separated CIDRs sandboxes may reach beyond the default policy")
	f.Var(&listValue[netip.Addr]{&c.Nameservers, netip.ParseAddr}, "nameservers", "comma-separated DNS servers for sandboxes (default the host's)")
	c.NetworkPrefix = netip.MustParsePrefix("10.231.0.0/16")
	f.TextVar(&c.NetworkPrefix, "network-prefix", c.NetworkPrefix, "`cidr` of addresses for sandbox networks on this machine")
	f.DurationVar(&c.KeepAudit, "keep-audit", 90*24*time.Hour, "how long the audit log is kept")
	f.Float64Var(&c.PriceCPU, "price-cpu-hour", 0, "credits (cents) for one core and hour; with 0 for both prices nothing is charged")
	f.Float64Var(&c.PriceMemory, "price-memory-gb-hour", 0, "credits (cents) for one GiB of memory and hour")
	f.StringVar(&c.NetworkName, "network-name", "silica", "prefix of this server's interfaces, namespaces and tables")
	f.TextVar(&c.LogLevel, "log-level", slog.LevelInfo, "`level`: debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&c.OTLPEndpoint, "otlp-endpoint", "", "URL of an OpenTelemetry collector for traces (default OTEL_EXPORTER_OTLP_ENDPOINT, else none)")
	f.StringVar(&c.Build.AptMirror, "build-apt-mirror", "", "Debian mirror for template builds (default the host's)")
	f.StringVar(&c.Build.NpmRegistry, "build-npm-registry", "", "npm registry for template builds (default the host's)")
	f.StringVar(&c.Build.PipIndexURL, "build-pip-index-url", "", "Python package index for template builds (default the host's)")
	f.StringVar(&c.Build.GoProxy, "build-go-proxy", "", "Go module proxy for template builds (default the host's)")
	f.StringVar(&c.Build.HTTPProxy, "build-http-proxy", "", "HTTP proxy for template builds")
	f.StringVar(&c.Build.HTTPSProxy, "build-https-proxy", "", "HTTPS proxy for template builds")
	f.StringVar(&c.Build.NoProxy, "build-no-proxy", "", "hosts template builds reach without the proxy")
	f.StringVar(&c.Build.RegistryAuth, "build-registry-auth", "", "`file` of registry logins in the form of Docker's config.json")
	f.Var(&listValue[image.Mirror]{&c.Build.RegistryMirrors, image.ParseMirror}, "build-registry-mirrors", "comma-separated HOST=URL of mirrors asked before image registries")
	f.Var(&listValue[imageFolder]{&c.Build.ImageFolders, parseFolder}, "build-image-folders", "comma-separated folders whose OCI archives and layouts every tenant may use")
	f.StringVar(&c.Build.CAFile, "build-ca-file", "", "PEM `file` of certificates that images trust, too (default what the host's administrator added; \"none\")")
	f.Int64Var(&c.Build.Cache, "build-cache", 20, "GiB of base images and steps' results kept for later builds")
	f.DurationVar(&c.Build.StepTimeout, "build-step-timeout", 45*time.Minute, "how long one step of a build may take")
}

// fill sets every flag of f that was not given from getenv, else from file,
// and checks the result.
func (c *Config) fill(f *pflag.FlagSet, getenv func(string) string, file settings) error {
	var errs []error
	f.VisitAll(func(fl *pflag.Flag) {
		key := strings.ReplaceAll(fl.Name, "-", "_")
		env := "SILICA_" + strings.ToUpper(key)
		switch value, inFile := file.values[key]; {
		case fl.Changed || fl.Name == "config" || fl.Name == "help":
		case getenv(env) != "":
			if err := fl.Value.Set(getenv(env)); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", env, getenv(env), plainly(err)))
			}
		case inFile:
			if err := fl.Value.Set(value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %q: %w", file.path, key, value, plainly(err)))
			}
		}
	})
	for key := range file.values {
		if f.Lookup(strings.ReplaceAll(key, "_", "-")) == nil {
			errs = append(errs, fmt.Errorf("%s: %s: no such setting; \"silica serve --help\" lists them with - for _", file.path, key))
		}
	}
	c.BootstrapKey = getenv("SILICA_BOOTSTRAP_KEY")
	return errors.Join(append(errs, c.check())...)
}

func (c *Config) check() error {
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
	}
	for name, addr := range map[string]string{"listen": c.Listen, "metrics-listen": c.MetricsListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil && (addr != "" || name == "listen") {
			bad(name, "%q is not host:port", addr)
		}
	}
	if c.Data == "" {
		bad("data", "must name a folder")
	}
	if c.Database != "" && !strings.HasPrefix(c.Database, "postgres://") && !strings.HasPrefix(c.Database, "postgresql://") {
		bad("database", "must be empty (SQLite) or a postgres:// URL")
	}
	for name, text := range map[string]string{"public-url": c.PublicURL, "advertise-url": c.Advertise} {
		if u, err := url.Parse(text); text != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
			bad(name, "%q is not an http:// or https:// URL", text)
		}
	}
	for name, n := range map[string]int{"rate-limit": c.RateLimit, "warm-pool": c.WarmPool, "empty-slots": c.EmptySlots} {
		if n < 0 {
			bad(name, "%d is negative", n)
		}
	}
	if u, err := url.Parse(c.OTLPEndpoint); c.OTLPEndpoint != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		bad("otlp-endpoint", "%q is not an http:// or https:// URL", c.OTLPEndpoint)
	}
	if c.MaxSandboxes < 1 {
		bad("max-sandboxes", "%d is less than 1", c.MaxSandboxes)
	}
	if c.MaxTimeout < time.Second {
		bad("max-timeout", "%s is less than a second", c.MaxTimeout)
	}
	if c.Build.Cache < 1 {
		bad("build-cache", "%d is less than 1", c.Build.Cache)
	}
	if c.Build.StepTimeout < time.Second {
		bad("build-step-timeout", "%s is less than a second", c.Build.StepTimeout)
	}
	if c.KeepAudit < time.Minute {
		bad("keep-audit", "%s is less than a minute", c.KeepAudit)
	}
	for name, price := range map[string]float64{"price-cpu-hour": c.PriceCPU, "price-memory-gb-hour": c.PriceMemory} {
		if !(price >= 0 && price <= 1e6) {
			bad(name, "%v is not from 0 to 1000000", price)
		}
	}
	if c.CreateWait < 0 {
		bad("create-wait", "%s is negative", c.CreateWait)
	}
	if p := c.NetworkPrefix; !p.Addr().Is4() || p.Bits() > 24 {
		bad("network-prefix", "%s must be an IPv4 network of /24 or larger", p)
	}
	if n := len(c.NetworkName); n < minNetworkName || n > maxNetworkName || strings.Trim(c.NetworkName, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		bad("network-name", "%q must be %d to %d lower case letters and digits", c.NetworkName, minNetworkName, maxNetworkName)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		bad("log-format", "%q is neither text nor json", c.LogFormat)
	}
	if c.BootstrapKey != "" && (!strings.HasPrefix(c.BootstrapKey, "msk_") || len(c.BootstrapKey) <= len("msk_")) {
		bad("SILICA_BOOTSTRAP_KEY", "must begin with msk_ and go on")
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (c *Config) prices() sandbox.Prices {
	return sandbox.Prices{
		CoreHour: sandbox.Credits(math.Round(c.PriceCPU * float64(sandbox.Credit))),
		GiBHour:  sandbox.Credits(math.Round(c.PriceMemory * float64(sandbox.Credit))),
	}
}

// settings is a flattened configuration file: "build: {apt_mirror: x}" and
// "build_apt_mirror: x" are the same.
type settings struct {
	path   string
	values map[string]string
}

// configPlaces is where the file is looked for when nobody names one.
var configPlaces = []string{"silica.yaml", "/etc/silica/silica.yaml"}

// readSettings reads the named file, or the first of configPlaces that exists.
func readSettings(path string) (settings, error) {
	places := []string{path}
	if path == "" {
		places = configPlaces
	}
	for _, p := range places {
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) && path == "" {
			continue
		}
		if err != nil {
			return settings{}, fmt.Errorf("configuration file: %w", err)
		}
		return parseSettings(p, b)
	}
	return settings{}, nil
}

func parseSettings(path string, text []byte) (settings, error) {
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return settings{}, fmt.Errorf("%s: %w", path, err)
	}
	s := settings{path: path, values: map[string]string{}}
	s.flatten("", tree)
	return s, nil
}

func (s settings) flatten(prefix string, tree map[string]any) {
	for k, v := range tree {
		switch v := v.(type) {
		case map[string]any:
			s.flatten(prefix+k+"_", v)
		case []any:
			items := make([]string, len(v))
			for i, item := range v {
				items[i] = fmt.Sprint(item)
			}
			s.values[prefix+k] = strings.Join(items, ",")
		case nil:
			s.values[prefix+k] = ""
		default:
			s.values[prefix+k] = fmt.Sprint(v)
		}
	}
}

// listValue is a flag that holds comma-separated values of T.
type listValue[T fmt.Stringer] struct {
	to    *[]T
	parse func(string) (T, error)
}

func (l *listValue[T]) Set(s string) error {
	var list []T
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		v, err := l.parse(item)
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	*l.to = list
	return nil
}

func (l *listValue[T]) String() string {
	if l.to == nil {
		return ""
	}
	items := make([]string, len(*l.to))
	for i, v := range *l.to {
		items[i] = v.String()
	}
	return strings.Join(items, ",")
}

func (l *listValue[T]) Type() string { return "list" }
