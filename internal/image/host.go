package image

import (
	"io/fs"
	"net/url"
	"strings"
)

// FromHost fills what is not set with the settings of the host's own npm and pip,
// unless they hold a password: every sandbox can read them.
func (c *Config) FromHost(root fs.FS, getenv func(string) string) {
	if c.PipIndexURL == "" {
		c.PipIndexURL = public(getenv("PIP_INDEX_URL"))
	}
	for _, file := range []string{"root/.config/pip/pip.conf", "root/.pip/pip.conf", "etc/pip.conf"} {
		if c.PipIndexURL == "" {
			c.PipIndexURL = public(setting(root, file, "index-url"))
		}
	}
	if c.NpmRegistry == "" {
		c.NpmRegistry = public(getenv("NPM_CONFIG_REGISTRY"))
	}
	for _, file := range []string{"root/.npmrc", "etc/npmrc", "usr/etc/npmrc"} {
		if c.NpmRegistry == "" {
			c.NpmRegistry = public(setting(root, file, "registry"))
		}
	}
}

// setting reads "key = value" of an INI file.
func setting(root fs.FS, file, key string) string {
	content, err := fs.ReadFile(root, file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if k, v, ok := strings.Cut(line, "="); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// public is a URL that everybody may see, or nothing.
func public(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127.") {
		return ""
	}
	return text
}

// StepEnv is what tells programs in a build's steps of mirrors, proxies and
// certificates. It does not stay in the image.
func (c Config) StepEnv() map[string]string {
	env := map[string]string{}
	set := func(value string, names ...string) {
		if value != "" {
			for _, n := range names {
				env[n] = value
			}
		}
	}
	set(c.PipIndexURL, "PIP_INDEX_URL")
	set(c.NpmRegistry, "NPM_CONFIG_REGISTRY")
	// Steps are a tenant's: a proxy's password stays with the host's own fetching.
	set(public(c.HTTPProxy), "http_proxy", "HTTP_PROXY")
	set(public(c.HTTPSProxy), "https_proxy", "HTTPS_PROXY")
	set(c.NoProxy, "no_proxy", "NO_PROXY")
	if len(c.Certificates) > 0 {
		// Programs that bring certificates of their own, and look at no others.
		set("/"+bundle, "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
	}
	return env
}
