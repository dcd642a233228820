package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"silica.dev/silica/sandbox"
)

// closed are the ranges no sandbox reaches unless allowed: everything that is
// not the public internet (RFC 6890 and multicast).
var closed = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
}

// rules is the whole policy. It names no sandbox, so that making one changes
// nothing here: devices are known by the prefix of their names, and what address
// a device may send from by the host's route back.
//
// The decision falls before routing and before any address translation of
// others (-150 is after connection tracking), so that a published port on the host
// is no way around it. The later chains look again at what a translation made of it.
//
// Agents ask nobody for a key. So of the host itself only root reaches a sandbox:
// other users of the machine are not its tenants. (What the kernel sends by itself
// has no user and passes.)
//
// "accept" ends only this table's chain; other tables may still drop.
var rules = template.Must(template.New("").Parse(`
table inet {{.Table}} {}
delete table inet {{.Table}}
table inet {{.Table}} {
	set closed { type ipv4_addr; flags interval; auto-merge; elements = { {{.Closed}} } }
	set allowed { type ipv4_addr; flags interval; auto-merge; {{with .Allowed}}elements = { {{.}} }{{end}} }
	set resolvers { type ipv4_addr; {{with .Resolvers}}elements = { {{.}} }{{end}} }
{{- if .Count}}
	set busy { type ipv4_addr; size 65535; flags dynamic; }
{{- end}}

	chain spoofed {
		type filter hook prerouting priority -310; policy accept;
		iifname != "{{.Devices}}" accept
		meta nfproto != ipv4 drop
		fib saddr . iif oif missing drop
	}

	chain new {
		type filter hook prerouting priority -149; policy accept;
		iifname != "{{.Devices}}" accept
		ct state established accept
		ct state related meta l4proto icmp accept
		ct state != new drop
		ip daddr { 127.0.0.0/8, {{.Prefix}} } drop
		ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 goto count
		ip daddr @allowed goto count
		fib daddr type != unicast drop
		ip daddr @closed drop
		goto count
	}

	chain count {
{{- if .Count}}
		add @busy { ip saddr ct count over {{.Max}} } drop
{{- end}}
		accept
	}

	chain input {
		type filter hook input priority -10; policy accept;
		iifname != "{{.Devices}}" accept
		ct state established accept
		ct state related meta l4proto icmp accept
		ct status dnat drop
		ip daddr { 127.0.0.0/8, {{.Prefix}} } drop
		ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept
		ip daddr @allowed accept
		drop
	}

	chain output {
		type filter hook output priority -10; policy accept;
		oifname != "{{.Devices}}" accept
		ct state established accept
		meta skuid != 0 drop
	}

	chain forward {
		type filter hook forward priority -10; policy accept;
		iifname "{{.Devices}}" oifname "{{.Devices}}" drop
		iifname "{{.Devices}}" jump leaving
		oifname "{{.Devices}}" jump entering
	}

	chain leaving {
		tcp flags syn tcp option maxseg size set rt mtu
		ct state established,related accept
		ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept
		ip daddr @allowed accept
		ip daddr @closed drop
	}

	chain entering {
		tcp flags syn tcp option maxseg size set rt mtu
		ct state established accept
		ct state related meta l4proto icmp accept
		drop
	}

	chain nat {
		type nat hook postrouting priority 100; policy accept;
		ip saddr {{.Prefix}} oifname != "{{.Devices}}" oifname != "lo" masquerade
	}
}
`))

func (n *Network) table() string   { return "silica_" + n.cfg.NamePrefix }
func (n *Network) devices() string { return n.cfg.NamePrefix + "-*" }

// Setup installs the policy and switches forwarding on. It replaces the
// policy in one step, so it may be repeated at any time, with other Allow too;
// connections that are open stay open. Unavailable if the host can't do it.
func (n *Network) Setup(ctx context.Context) error {
	// Policy first: no moment with forwarding and without it.
	_, known := connections(conntrackMax)
	err := n.install(ctx, true)
	if err == nil && n.cfg.MaxConnections == 0 && !known {
		err = n.install(ctx, true) // the table of connections came with the first rule for it
	}
	if err != nil {
		// Perhaps a kernel that can't count connections.
		counting := err
		if err = n.install(ctx, false); err == nil {
			n.cfg.Log.Warn("the kernel can't bound the connections of a sandbox: one can fill the host's table", "err", counting)
		}
	}
	if err != nil {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the host's packet filter refused the sandbox policy").Because(err)
	}
	const forward = "/proc/sys/net/ipv4/ip_forward"
	if now, err := os.ReadFile(forward); err != nil || strings.TrimSpace(string(now)) != "1" {
		if err := os.WriteFile(forward, []byte("1"), 0); err != nil {
			return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "can't switch IP forwarding on").Because(err)
		}
	}
	return n.openForward(ctx)
}

// conntrackMax holds how many connections the kernel tracks for all.
const conntrackMax = "/proc/sys/net/netfilter/nf_conntrack_max"

// Bounds of a sandbox's share of the connections that the kernel tracks.
const (
	shareOfConnections = 128
	leastConnections   = 256
	mostConnections    = 4096
)

// connections is a sandbox's share of what file says; the least there is, and
// false, if it says nothing.
func connections(file string) (share int, known bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return leastConnections, false
	}
	all, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return leastConnections, false
	}
	return max(leastConnections, min(mostConnections, all/shareOfConnections)), true
}

func (n *Network) install(ctx context.Context, count bool) error {
	most := n.cfg.MaxConnections
	if most == 0 {
		most, _ = connections(conntrackMax)
	}
	var text bytes.Buffer
	err := rules.Execute(&text, map[string]any{
		"Table": n.table(), "Devices": n.devices(), "Prefix": n.cfg.Prefix,
		"Closed": strings.Join(closed, ", "), "Allowed": join(n.cfg.Allow), "Resolvers": join(resolvers4(n.cfg.Resolvers)),
		"Count": count, "Max": most,
	})
	if err != nil {
		return err
	}
	_, err = nft(ctx, text.String(), "-f", "-")
	return err
}

// Teardown removes the policy, for tests and for who removes Silica. With it gone
// sandboxes are open to each other: destroy them first.
func (n *Network) Teardown(ctx context.Context) error {
	if err := n.closeForward(ctx); err != nil {
		return err
	}
	_, err := nft(ctx, fmt.Sprintf("table inet %[1]s {}\ndelete table inet %[1]s\n", n.table()), "-f", "-")
	return err
}

// foreign are chains that firewalls with iptables (Docker, ufw) drop forwarded
// packets in; a rule at the head of one lets ours through. The first that exists is used.
var foreign = []string{"DOCKER-USER", "FORWARD"}

// openForward puts accept rules into a foreign forward chain that would
// drop. The policy has dropped what it must by then. Hosts without such a chain need none;
// legacy iptables and firewalld must be told by hand: docs.
func (n *Network) openForward(ctx context.Context) error {
	policy, err := nft(ctx, "", "list", "chain", "ip", "filter", "FORWARD")
	if err != nil || !strings.Contains(policy, "policy drop") {
		return nil
	}
	for _, chain := range foreign {
		text, err := nft(ctx, "", "list", "chain", "ip", "filter", chain)
		if err != nil {
			continue
		}
		if strings.Contains(text, `iifname "`+n.devices()+`"`) {
			return nil
		}
		// In the form iptables itself would write, so that it can still list it.
		_, err = nft(ctx, fmt.Sprintf("insert rule ip filter %[1]s iifname \"%[2]s\" counter accept\n"+
			"insert rule ip filter %[1]s oifname \"%[2]s\" counter accept\n", chain, n.devices()), "-f", "-")
		if err != nil {
			return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the host's firewall drops forwarded packets").Because(err)
		}
		return nil
	}
	return nil
}

// closeForward takes the rules of openForward out again.
func (n *Network) closeForward(ctx context.Context) error {
	var errs []error
	for _, chain := range foreign {
		text, err := nft(ctx, "", "-a", "list", "chain", "ip", "filter", chain)
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			rule, handle, ok := strings.Cut(strings.TrimSpace(line), " # handle ")
			if ok && strings.Contains(rule, `ifname "`+n.devices()+`"`) {
				_, err := nft(ctx, "", "delete", "rule", "ip", "filter", chain, "handle", handle)
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// nft runs the packet filter's own tool: it checks and applies a text as a whole,
// and what it is given is what an operator sees when listing.
func nft(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nft", args...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

func join[T fmt.Stringer](items []T) string {
	var texts []string
	for _, i := range items {
		texts = append(texts, i.String())
	}
	return strings.Join(texts, ", ")
}

func resolvers4(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !a.Is4() || a.IsLoopback() })
}
