package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network makes what every sandbox needs (namespace, veth pair, NAT rule) in a
// namespace that ends with the thread, so nothing is left to clean up.
func (m machine) network() Finding {
	const check = "network"
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies, and the namespace with it
		result <- tryNetwork()
	}()
	if err := <-result; err != nil {
		return Finding{check, Failure, err.Error(), "sandboxes have no network, and the server can't reach their agents",
			"run as root on a kernel with veth, nf_tables and nft_masq (Debian's has them); inside a container, add NET_ADMIN and SYS_ADMIN"}
	}
	return ok(check, "namespaces, veth pairs and nftables NAT work")
}

func tryNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	links, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer links.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "probe1"}
	if err := links.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "probe"})
	chain := nft.AddChain(&nftables.Chain{Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("add an nftables NAT rule: %w", err)
	}
	return nil
}

// forwarding looks for what keeps packets of sandboxes from leaving the host.
func (m machine) forwarding() Finding {
	const check = "forwarding"
	if foreign := dropsForwarded(m.NetworkName); foreign != "" {
		return Finding{check, Warning, "table " + foreign + " drops forwarded packets by default",
			"sandboxes can't reach the internet", "accept packets from " + m.NetworkPrefix.String() +
				" there; where Docker made it: iptables -I DOCKER-USER -s " + m.NetworkPrefix.String() + " -j ACCEPT (and the same with -d)"}
	}
	switch strings.TrimSpace(m.read("/proc/sys/net/ipv4/ip_forward")) {
	case "1":
		return ok(check, "net.ipv4.ip_forward is 1")
	case "0":
		if unix.Access(m.path("/proc/sys/net/ipv4/ip_forward"), unix.W_OK) == nil {
			return Finding{Check: check, Level: Info, Found: "net.ipv4.ip_forward is 0; \"silica serve\" sets it to 1"}
		}
	}
	return Finding{check, Failure, "net.ipv4.ip_forward is not 1 and can't be set", "sandboxes can't reach the internet", "sysctl -w net.ipv4.ip_forward=1"}
}

// dropsForwarded names a table of somebody else whose forward chain drops.
func dropsForwarded(own string) string {
	nft, err := nftables.New()
	if err != nil {
		return ""
	}
	chains, err := nft.ListChains()
	if err != nil {
		return ""
	}
	for _, c := range chains {
		forward := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		v4 := c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet
		if forward && drops && v4 && !strings.HasPrefix(c.Table.Name, own) {
			return c.Table.Name
		}
	}
	return ""
}

func (m machine) prefix() Finding {
	const check = "addresses"
	found := m.NetworkPrefix.String() + " is free for sandbox networks"
	interfaces, err := net.Interfaces()
	if err != nil {
		return Finding{Check: check, Level: Warning, Found: err.Error()}
	}
	for _, i := range interfaces {
		if strings.HasPrefix(i.Name, m.NetworkName) {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Overlaps(m.NetworkPrefix) {
				return Finding{check, Failure, fmt.Sprintf("%s has %s, inside %s", i.Name, p, m.NetworkPrefix),
					"the host or its neighbours can't be reached, or sandboxes can't", "choose another network with --network-prefix"}
			}
		}
	}
	return ok(check, found)
}

// resolver finds name servers that the default policy keeps sandboxes from.
func (m machine) resolver() Finding {
	const check = "resolver"
	servers := m.Nameservers
	if len(servers) == 0 {
		for line := range strings.Lines(m.read("/etc/resolv.conf")) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				if a, err := netip.ParseAddr(f[1]); err == nil {
					servers = append(servers, a)
				}
			}
		}
	}
	var blocked []string
	for _, s := range servers {
		if (s.IsPrivate() || s.IsLoopback() || s.IsLinkLocalUnicast()) && !m.allowed(s) {
			blocked = append(blocked, s.String())
		}
	}
	switch {
	case len(servers) == 0:
		return Finding{check, Warning, "no name server in /etc/resolv.conf", "sandboxes can't resolve names", "name some with --nameservers"}
	case len(blocked) == 0:
		return ok(check, "sandboxes may reach a public name server")
	case len(blocked) < len(servers):
		return Finding{check, Info, strings.Join(blocked, ", ") + " is private and not reachable from sandboxes; others are", "", ""}
	}
	return Finding{check, Warning, "every name server is in a private range: " + strings.Join(blocked, ", "),
		"sandboxes can't resolve names: private ranges are closed to them by default",
		"--nameservers with a public one, or --egress-allow " + blocked[0] + "/32 to open this one (not for a loopback address)"}
}

func (m machine) allowed(a netip.Addr) bool {
	for _, p := range m.EgressAllow {
		if p.Contains(a) && !a.IsLoopback() {
			return true
		}
	}
	return false
}

// erofs makes a tiny image with the option the engine's reader needs.
func (m machine) erofs(ctx context.Context) Finding {
	const check = "mkfs.erofs"
	const effect = "root file systems of templates can't be made"
	tool, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		return Finding{check, Failure, "not installed", effect, "apt-get install erofs-utils"}
	}
	dir, err := os.MkdirTemp("", "silica-doctor-*")
	if err != nil {
		return Finding{check, Warning, err.Error(), "can't try mkfs.erofs", "free space in the temporary folder"}
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return Finding{check, Warning, err.Error(), "can't try mkfs.erofs", ""}
	}
	if out, err := exec.CommandContext(ctx, tool, "-E", "noinline_data", filepath.Join(dir, "image"), tree).CombinedOutput(); err != nil {
		return Finding{check, Failure, "refuses -E noinline_data: " + firstLine(string(out)), effect, "install erofs-utils 1.5 or newer"}
	}
	return ok(check, tool+" knows noinline_data")
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// existing returns the data folder, or what of its path is there already.
func (m machine) existing() string {
	p := filepath.Clean(m.Data)
	for p != "/" && p != "." {
		if _, err := os.Stat(p); err == nil {
			break
		}
		p = filepath.Dir(p)
	}
	return p
}

func (m machine) data() Finding {
	const check = "data folder"
	const effect = "the server can't start"
	dir := m.existing()
	f, err := os.CreateTemp(dir, ".silica-doctor-*")
	if err != nil {
		return Finding{check, Failure, err.Error(), effect, "make " + m.Data + " writable, or choose another folder with --data"}
	}
	f.Close()
	os.Remove(f.Name())
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Flags&unix.ST_NOEXEC != 0 {
		return Finding{check, Failure, dir + " is mounted noexec", "the engine, which is kept there, can't be run", "mount it with exec, or choose another folder with --data"}
	}
	return ok(check, m.Data+" is writable")
}

func (m machine) disk() Finding {
	const check = "disk"
	const need, comfortable = 3 << 30, 10 << 30 // first build: about 2 GB with its scratch
	var fs unix.Statfs_t
	if err := unix.Statfs(m.existing(), &fs); err != nil {
		return Finding{Check: check, Level: Warning, Found: err.Error()}
	}
	free := int64(fs.Bavail) * fs.Bsize
	found := fmt.Sprintf("%.1f GiB free for %s", float64(free)/(1<<30), m.Data)
	fix := "free some, or choose a folder on a larger disk with --data"
	switch {
	case free < need:
		return Finding{check, Failure, found, "the default template can't be built (about 3 GiB)", fix}
	case free < comfortable:
		return Finding{check, Warning, found, "files and snapshots of sandboxes may run out of space", fix}
	}
	return ok(check, found)
}

func (m machine) port(ctx context.Context) Finding {
	const check = "port"
	l, err := net.Listen("tcp", m.Listen)
	if err == nil {
		l.Close()
		return ok(check, m.Listen+" is free")
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return Finding{check, Failure, err.Error(), "the server can't listen", "choose an address of this machine with --listen"}
	}
	if isSilica(ctx, m.Listen) {
		return ok(check, "a Silica server answers on "+m.Listen)
	}
	return Finding{check, Failure, m.Listen + " is taken by another program", "the server can't listen",
		"end that program (ss -ltnp shows it), or choose another address with --listen"}
}

func isSilica(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/healthz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK && resp.Header.Get("X-Request-Id") != ""
}
