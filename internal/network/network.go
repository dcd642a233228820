// Package network gives every sandbox a network namespace of its own and keeps
// its traffic away from the host and from other sandboxes, so that the engine
// only has to attach a sentry.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// Config says which addresses and names sandboxes of this host get. Two
// configs on one host must differ in Prefix and NamePrefix.
type Config struct {
	Prefix     netip.Prefix // IPv4; each slot takes a /30 of it. Default 10.83.0.0/16
	NamePrefix string       // of devices ("sil-12") and of the table. Default "sil"; at most 8 lower-case letters and digits
	StateDir   string       // holds the namespaces, by device name. Default /run/netns
	MTU        int          // of both ends. Default 1500
	// Allow opens ranges that sandboxes don't reach by default, the host's own
	// addresses in them included; never other sandboxes, never loopback.
	Allow []netip.Prefix
	// Resolvers are reachable on port 53 wherever they are, also on the host.
	Resolvers []netip.Addr
	// MaxConnections bounds the tracked connections of one sandbox. Default: a
	// share of what the host's kernel tracks at all, 256 to 4096.
	MaxConnections int
	Log            *slog.Logger // nil: none
}

var validName = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

func (c Config) withDefaults() (Config, error) {
	if !c.Prefix.IsValid() {
		c.Prefix = netip.MustParsePrefix("10.83.0.0/16")
	}
	if c.NamePrefix == "" {
		c.NamePrefix = "sil"
	}
	if c.StateDir == "" {
		c.StateDir = "/run/netns"
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Prefix = c.Prefix.Masked()
	if !c.Prefix.Addr().Is4() || c.Prefix.Bits() > 30 || c.Prefix.Bits() < 8 {
		return c, sandbox.Field("network.prefix", "must be an IPv4 range from /8 to /30")
	}
	if !validName.MatchString(c.NamePrefix) {
		return c, sandbox.Field("network.name_prefix", "must be 1 to 8 lower-case letters and digits")
	}
	for _, p := range c.Allow {
		if !p.Addr().Is4() {
			return c, sandbox.Field("egress.allow", "sandboxes have no IPv6: "+p.String())
		}
	}
	return c, nil
}

// Network makes and removes namespaces. It keeps nothing about them in memory:
// every method works after a restart. Methods for different slots may overlap.
type Network struct {
	cfg  Config
	host *netlink.Handle

	destroys, recycles batcher
}

// Address is where the host reaches the sandbox in a slot; the zero Addr for a
// slot outside the prefix.
func (n *Network) Address(slot int) netip.Addr {
	ns, err := n.describe(slot)
	if err != nil {
		return netip.Addr{}
	}
	return ns.GuestAddr.Addr()
}

// New checks cfg and opens the kernel's interface. It changes nothing on the
// host: [Network.Setup] does.
func New(cfg Config) (*Network, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Network{cfg: cfg, host: host}, nil
}

// Close frees what New opened. Namespaces and policy stay: sandboxes outlive us.
func (n *Network) Close() error {
	n.host.Close()
	return nil
}

// Slots is the number of namespaces the prefix has room for; slots count from 0.
func (n *Network) Slots() int { return 1 << (30 - n.cfg.Prefix.Bits()) }

// Namespace is one slot's namespace. In it, eth0 has no address until
// [Namespace.AssignAddress]: a sentry that is handed a [Namespace.PacketSocket]
// needs none.
type Namespace struct {
	Slot       int
	Name       string       // of the host's end of the pair
	Path       string       // of the namespace
	IfIndex    int          // of eth0 inside
	MTU        int          //
	GuestAddr  netip.Prefix // the sandbox's, a /30 with the gateway in it
	Gateway    netip.Addr   // the host's
	GuestMAC   net.HardwareAddr
	GatewayMAC net.HardwareAddr
}

// GuestDevice is the device's name inside every namespace.
const GuestDevice = "eth0"

// describe computes what follows from the slot's number alone.
func (n *Network) describe(slot int) (*Namespace, error) {
	if slot < 0 || slot >= n.Slots() {
		return nil, sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull,
			fmt.Sprintf("network slot %d is outside %s", slot, n.cfg.Prefix))
	}
	base := n.cfg.Prefix.Addr().As4()
	at := func(host int) [4]byte {
		v := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
		v += uint32(4*slot + host)
		return [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
	}
	gateway, guest := at(1), at(2)
	name := n.cfg.NamePrefix + "-" + strconv.Itoa(slot)
	return &Namespace{
		Slot: slot, Name: name, Path: filepath.Join(n.cfg.StateDir, name), MTU: n.cfg.MTU,
		GuestAddr: netip.PrefixFrom(netip.AddrFrom4(guest), 30), Gateway: netip.AddrFrom4(gateway),
		// Locally administered; the same for a slot for ever.
		GuestMAC:   append(net.HardwareAddr{0x02, 0x51}, guest[:]...),
		GatewayMAC: append(net.HardwareAddr{0x02, 0x51}, gateway[:]...),
	}, nil
}

// Create makes the namespace of a slot. One that exists, whole or in part, is an
// error that wraps [fs.ErrExist]; after any other error nothing is left.
func (n *Network) Create(ctx context.Context, slot int) (*Namespace, error) {
	ns, err := n.describe(slot)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := makeNamespace(ns.Path); err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", ns.Name, err)
	}
	if err := n.connect(ctx, ns); err != nil {
		return nil, errors.Join(fmt.Errorf("connect network namespace %s: %w", ns.Name, err), n.Destroy(context.WithoutCancel(ctx), slot))
	}
	return ns, nil
}

// Open describes a namespace that exists; NotFound if it doesn't.
func (n *Network) Open(slot int) (*Namespace, error) {
	ns, err := n.describe(slot)
	if err != nil {
		return nil, err
	}
	err = ns.inside(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName(GuestDevice)
		if err == nil {
			ns.IfIndex = eth0.Attrs().Index
		}
		return err
	})
	if err != nil {
		return nil, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no network namespace "+ns.Name).Because(err)
	}
	return ns, nil
}

// connect makes the pair of devices and both ends' settings.
func (n *Network) connect(ctx context.Context, ns *Namespace) error {
	file, err := os.Open(ns.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = ns.Name, ns.MTU, ns.GatewayMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = GuestDevice, uint32(ns.MTU), ns.GuestMAC
	veth.PeerNamespace = netlink.NsFd(file.Fd())
	if err := n.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("add device: %w", err)
	}
	link, err := n.host.LinkByName(ns.Name)
	if err != nil {
		return fmt.Errorf("find device: %w", err)
	}
	if err := harden(ns.Name); err != nil {
		return err
	}
	index := link.Attrs().Index
	// With fixed neighbours nobody needs ARP, and without ARP a sandbox can't
	// fill the host's neighbour table or ask for the host's addresses.
	if err := n.host.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("switch ARP off: %w", err)
	}
	if err := n.host.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring device up: %w", err)
	}
	// A /32 and a host route: a source other than the guest's has no way back
	// through this device, which is what the spoofing rule checks.
	err = n.host.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ns.Gateway, 32))})
	if err != nil {
		return fmt.Errorf("add gateway address: %w", err)
	}
	err = n.host.RouteAdd(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK,
		Dst: ipNet(netip.PrefixFrom(ns.GuestAddr.Addr(), 32)), Src: ns.Gateway.AsSlice()})
	if err != nil {
		return fmt.Errorf("add route: %w", err)
	}
	err = n.host.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
		IP: ns.GuestAddr.Addr().AsSlice(), HardwareAddr: ns.GuestMAC})
	if err != nil {
		return fmt.Errorf("add neighbour: %w", err)
	}
	err = ns.inside(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName(GuestDevice)
		if err != nil {
			return fmt.Errorf("find device inside: %w", err)
		}
		ns.IfIndex = eth0.Attrs().Index
		if err := h.LinkSetUp(eth0); err != nil {
			return fmt.Errorf("bring device up inside: %w", err)
		}
		return carrier(ctx, h, GuestDevice)
	})
	if err != nil {
		return err
	}
	return carrier(ctx, n.host, ns.Name)
}

// carrier waits until a device takes packets. The kernel gets to that a moment
// after the other end came up, and drops what is sent before: a first
// connection would wait a second for its second try.
func carrier(ctx context.Context, h *netlink.Handle, device string) error {
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		link, err := h.LinkByName(device)
		if err != nil {
			return fmt.Errorf("find device: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// harden sets what netlink can't. Kernels without IPv6 lack the first file.
func harden(device string) error {
	for file, value := range map[string]string{
		"ipv6/conf/" + device + "/disable_ipv6":        "1",
		"ipv4/conf/" + device + "/rp_filter":           "1",
		"ipv4/conf/" + device + "/accept_redirects":    "0",
		"ipv4/conf/" + device + "/send_redirects":      "0",
		"ipv4/conf/" + device + "/route_localnet":      "0",
		"ipv4/conf/" + device + "/accept_local":        "0",
		"ipv4/conf/" + device + "/proxy_arp":           "0",
		"ipv4/conf/" + device + "/arp_ignore":          "1",
		"ipv4/conf/" + device + "/bc_forwarding":       "0",
		"ipv4/conf/" + device + "/accept_source_route": "0",
	} {
		err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set up device %s: %w", device, err)
		}
	}
	return nil
}

// List finds the slots that hold anything on the host, whole or in part, sorted.
func (n *Network) List() ([]int, error) {
	var names []string
	entries, err := os.ReadDir(n.cfg.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	links, err := n.host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	var slots []int
	for _, name := range names {
		number, ours := strings.CutPrefix(name, n.cfg.NamePrefix+"-")
		slot, err := strconv.Atoi(number)
		if ours && err == nil && slot >= 0 && slot < n.Slots() && strconv.Itoa(slot) == number {
			slots = append(slots, slot)
		}
	}
	slices.Sort(slots)
	return slices.Compact(slots), nil
}

// Usage counts the bytes a slot's sandbox received and sent, since its
// namespace was made, frame headers included.
func (n *Network) Usage(slot int) (in, out int64, err error) {
	ns, err := n.describe(slot)
	if err != nil {
		return 0, 0, err
	}
	link, err := n.host.LinkByName(ns.Name)
	if err != nil {
		return 0, 0, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no network device "+ns.Name).Because(err)
	}
	s := link.Attrs().Statistics // of the host's end: what it sends, the sandbox receives
	if s == nil {
		return 0, 0, nil
	}
	return int64(s.TxBytes), int64(s.RxBytes), nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// handleInside opens the kernel's interface in the calling thread's namespace.
func handleInside() (*netlink.Handle, error) {
	here, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer here.Close()
	return netlink.NewHandleAt(here, unix.NETLINK_ROUTE)
}
