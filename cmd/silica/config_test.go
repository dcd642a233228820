package main

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load reads a configuration as "silica serve" does.
func load(t *testing.T, args []string, env map[string]string, file string) (Config, error) {
	t.Helper()
	var c Config
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.bind(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	s, err := parseSettings("silica.yaml", []byte(file))
	if err != nil {
		return c, err
	}
	return c, c.fill(f, func(k string) string { return env[k] }, s)
}

func TestConfigPrecedence(t *testing.T) {
	const file = "listen: 127.0.0.1:3\nwarm_pool: 3\nrate_limit: 0\nbuild:\n  apt_mirror: file\negress_allow: [10.1.0.0/16, 10.2.0.0/16]\n"
	c, err := load(t, []string{"--listen=127.0.0.1:1"}, map[string]string{
		"SILICA_LISTEN": "127.0.0.1:2", "SILICA_WARM_POOL": "2", "SILICA_CREATE_WAIT": "5s", "SILICA_ALLOW_ALWAYS_ON": "false", "SILICA_BOOTSTRAP_KEY": "msk_0123456789abcdef",
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"flag before environment", c.Listen, "127.0.0.1:1"},
		{"environment before file", c.WarmPool, 2},
		{"file before default, also when it is zero", c.RateLimit, 0},
		{"nested file key", c.Build.AptMirror, "file"},
		{"list in the file", c.EgressAllow, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")}},
		{"duration", c.CreateWait, 5 * time.Second},
		{"default", c.MaxSandboxes, 10},
		{"a switch that is off", c.AllowAlwaysOn, false},
		{"key from the environment", c.BootstrapKey, "msk_0123456789abcdef"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
}

func TestConfigErrorsNameTheSetting(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		file string
		want string
	}{
		{args: []string{"--listen=nowhere"}, want: `listen: "nowhere" is not host:port`},
		{env: map[string]string{"SILICA_WARM_POOL": "many"}, want: `SILICA_WARM_POOL="many"`},
		{env: map[string]string{"SILICA_EGRESS_ALLOW": "10.0.0.1"}, want: "SILICA_EGRESS_ALLOW"},
		{env: map[string]string{"SILICA_BOOTSTRAP_KEY": "secret"}, want: "must begin with msk_"},
		{file: "warmpool: 3", want: "silica.yaml: warmpool: no such setting"},
		{file: "max_timeout: soon", want: "silica.yaml: max_timeout"},
		{file: "listen: [", want: "silica.yaml"},
		{args: []string{"--database=mysql://x"}, want: "postgres://"},
		{args: []string{"--network-name=Has-Capitals"}, want: "network-name"},
		{args: []string{"--max-sandboxes=0"}, want: "max-sandboxes"},
		{args: []string{"--public-url=here"}, want: "public-url"},
	} {
		_, err := load(t, c.args, c.env, c.file)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v %q: got %v, want something with %q", c.args, c.env, c.file, err, c.want)
		}
	}
}
