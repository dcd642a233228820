package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a network and mount namespace of their own: it is
// the host they set up, and nothing of theirs is left on the real one.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv("NETWORK_TEST_WORLD") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "NETWORK_TEST_WORLD=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	hostAddr     = "192.88.99.1" // public ranges that the policy leaves open
	publicAddr   = "192.88.99.2"
	metadataAddr = "169.254.169.254"
	privateAddr  = "10.99.0.2"
	privateOther = "10.99.0.3"
	port         = 8000
)

var prefix = netip.MustParsePrefix("10.84.0.0/24")

// world is a host with a public neighbour that also answers for other addresses.
type world struct {
	*Network
	public *Namespace
}

func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	if os.Getenv("NETWORK_TEST_WORLD") == "" {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	cfg.Prefix, cfg.NamePrefix, cfg.StateDir = prefix, "silt", t.TempDir()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Network: n, public: &Namespace{Name: "public", Path: filepath.Join(cfg.StateDir, "public")}}
	t.Cleanup(func() {
		slots, err := n.List()
		if err != nil {
			t.Error(err)
		}
		for _, slot := range slots {
			if err := n.Destroy(context.Background(), slot); err != nil {
				t.Error(err)
			}
		}
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
		if link, err := n.host.LinkByName("pub0"); err == nil {
			_ = n.host.LinkDel(link)
		}
		if err := removeNamespace(w.public.Path); err != nil {
			t.Error(err)
		}
		_ = n.Close()
	})
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.buildPublic(t)
	return w
}

func (w *world) buildPublic(t testing.TB) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo, err := w.host.LinkByName("lo")
	check(err)
	check(w.host.LinkSetUp(lo))
	check(makeNamespace(w.public.Path))
	file, err := os.Open(w.public.Path)
	check(err)
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pub0"
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = GuestDevice, netlink.NsFd(file.Fd())
	check(w.host.LinkAdd(veth))
	link, err := w.host.LinkByName("pub0")
	check(err)
	check(w.host.LinkSetUp(link))
	check(w.host.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(hostAddr + "/24"))}))
	check(w.public.inside(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName(GuestDevice)
		check(err)
		check(h.LinkSetUp(eth0))
		for _, a := range []string{publicAddr + "/24", metadataAddr + "/32", privateAddr + "/32", privateOther + "/32"} {
			check(h.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(a))}))
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(hostAddr),
			Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))})
	}))
	for _, a := range []string{metadataAddr, privateAddr, privateOther} {
		check(w.host.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(publicAddr),
			Dst: ipNet(netip.MustParsePrefix(a + "/32"))}))
	}
	w.serve(t, w.public, port)
	w.serve(t, w.public, 53)
	w.serve(t, nil, port)
}

// sandbox makes a slot's namespace with the kernel's own stack in it, which
// stands in for a sentry.
func (w *world) sandbox(t *testing.T, slot int) *Namespace {
	t.Helper()
	ns, err := w.Create(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.AssignAddress(); err != nil {
		t.Fatal(err)
	}
	w.serve(t, ns, port)
	return ns
}

// in runs f in a namespace, or on the host for nil.
func in(ns *Namespace, f func() error) error {
	if ns == nil {
		return f()
	}
	return ns.within(f)
}

// serve answers each TCP connection with the address it came from.
func (w *world) serve(t testing.TB, ns *Namespace, port int) {
	t.Helper()
	var l net.Listener
	err := in(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "listener")
		defer f.Close()
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 64); err != nil {
			return err
		}
		l, err = net.FileListener(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			peer, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = c.Write([]byte(peer))
			_ = c.(*net.TCPConn).CloseWrite()
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// dial connects from a namespace and returns what the server saw as the peer. A
// dropped packet shows as a time-out after 400 ms.
func dial(t *testing.T, ns *Namespace, addr string, port int) (string, error) {
	t.Helper()
	var peer string
	err := in(ns, func() error {
		fd, err := connect(addr, port)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		buf := make([]byte, 64)
		got, err := unix.Read(fd, buf)
		peer = string(buf[:max(got, 0)])
		return err
	})
	return peer, err
}

func connect(addr string, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	wait := unix.NsecToTimeval(int64(400 * time.Millisecond))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(addr).As4()})
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// udp opens a bound datagram socket in a namespace, reads time out after a second.
func udp(t *testing.T, ns *Namespace, port int) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	err := in(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "udp")
		defer f.Close()
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			return err
		}
		conn, err = net.FilePacketConn(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	return conn.(*net.UDPConn)
}

func links(t *testing.T, n *Network) (names []string) {
	t.Helper()
	all, err := n.host.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Name, n.cfg.NamePrefix+"-") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}
