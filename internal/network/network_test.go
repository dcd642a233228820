package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

func TestReach(t *testing.T) {
	w := newWorld(t, Config{
		// Allow names more than it can open: other sandboxes and loopback stay shut.
		Allow:     []netip.Prefix{netip.MustParsePrefix(privateAddr + "/32"), prefix, netip.MustParsePrefix("127.0.0.0/8")},
		Resolvers: []netip.Addr{netip.MustParseAddr(privateOther)},
	})
	a, b := w.sandbox(t, 1), w.sandbox(t, 2)
	for round := range 2 { // the second after the policy was replaced
		for _, c := range []struct {
			what string
			from *Namespace
			to   string
			port int
			peer string // "" for unreachable
		}{
			{"the host reaches a sandbox", nil, a.GuestAddr.Addr().String(), port, a.Gateway.String()},
			{"a public server, masqueraded", a, publicAddr, port, hostAddr},
			{"a private server that is allowed", a, privateAddr, port, hostAddr},
			{"another private server", a, privateOther, port, ""},
			{"a private resolver", a, privateOther, 53, hostAddr},
			{"metadata", a, metadataAddr, port, ""},
			{"another sandbox", a, b.GuestAddr.Addr().String(), port, ""},
			{"the other way round", b, a.GuestAddr.Addr().String(), port, ""},
			{"the gateway", a, a.Gateway.String(), port, ""},
			{"the other's gateway", a, b.Gateway.String(), port, ""},
			{"the host's public address", a, hostAddr, port, ""},
			{"outside to a sandbox", w.public, a.GuestAddr.Addr().String(), port, ""},
		} {
			peer, err := dial(t, c.from, c.to, c.port)
			if peer != c.peer || (err == nil) != (c.peer != "") {
				t.Errorf("round %d: %s (%s:%d): peer %q, %v; want %q", round, c.what, c.to, c.port, peer, err, c.peer)
			}
		}
		if err := w.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// The host's own address can be allowed; a second Setup changes the policy.
	w.cfg.Allow = []netip.Prefix{netip.MustParsePrefix(hostAddr + "/32")}
	if err := w.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if peer, err := dial(t, a, hostAddr, port); err != nil || peer != a.GuestAddr.Addr().String() {
		t.Errorf("the host's allowed address: %q, %v", peer, err)
	}
	if _, err := dial(t, a, privateAddr, port); err == nil {
		t.Error("a range that is no longer allowed still answers")
	}
}

// TestOtherUsersOfTheHost: an agent asks for no key, so only root may reach one;
// what answers a sandbox may run as anybody.
func TestOtherUsersOfTheHost(t *testing.T) {
	w := newWorld(t, Config{Allow: []netip.Prefix{netip.MustParsePrefix(hostAddr + "/32")}})
	a := w.sandbox(t, 1)
	as := func(uid int, f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				t.Errorf("become user %d: %v", uid, errno)
				return
			}
			f()
		}()
		<-done
	}
	for _, uid := range []int{0, 65534} {
		as(uid, func() {
			peer, err := dial(t, nil, a.GuestAddr.Addr().String(), port)
			if (err == nil) != (uid == 0) {
				t.Errorf("user %d to a sandbox: %q, %v", uid, peer, err)
			}
			for tries := 1; ; tries++ { // the first packet may come before the device is up
				_, err := dial(t, nil, publicAddr, port)
				if err == nil {
					break
				}
				if tries == 5 {
					t.Errorf("user %d to elsewhere: %v", uid, err)
					break
				}
			}
		})
	}
	as(65534, func() { w.serve(t, nil, port+1) })
	if peer, err := dial(t, a, hostAddr, port+1); err != nil || peer != a.GuestAddr.Addr().String() {
		t.Errorf("a sandbox to an allowed service of another user: %q, %v", peer, err)
	}
}

// TestLoopback: packets to 127.0.0.1 that a hostile sandbox puts on the wire.
func TestLoopbackAndSpoofing(t *testing.T) {
	w := newWorld(t, Config{})
	a, b := w.sandbox(t, 1), w.sandbox(t, 2)
	victim, public := udp(t, nil, 9000), udp(t, w.public, 9000)
	sniff := udp(t, b, 9000)
	for _, c := range []struct {
		from, to string
	}{
		{b.GuestAddr.Addr().String(), publicAddr}, // another sandbox's address
		{a.Gateway.String(), publicAddr},
		{hostAddr, publicAddr},
		{"8.8.8.8", publicAddr},
		{"127.0.0.1", hostAddr},
		{a.GuestAddr.Addr().String(), "127.0.0.1"},
		{a.Gateway.String(), b.GuestAddr.Addr().String()},
		{a.GuestAddr.Addr().String(), "255.255.255.255"},
		{"0.0.0.0", "255.255.255.255"},
	} {
		inject(t, a, c.from, c.to, 9000, "forged "+c.from)
	}
	// What arrives after the forged ones proves that they would have.
	inject(t, a, a.GuestAddr.Addr().String(), publicAddr, 9000, "true")
	if text := read(t, public); text != "true" {
		t.Errorf("public server got %q first, want the true one", text)
	}
	for who, conn := range map[string]*net.UDPConn{"host": victim, "other sandbox": sniff} {
		port := 9000
		to := map[string]string{"host": "127.0.0.1", "other sandbox": b.GuestAddr.Addr().String()}[who]
		c := udp(t, nil, 0)
		if _, err := c.WriteTo([]byte("true"), &net.UDPAddr{IP: net.ParseIP(to), Port: port}); err != nil {
			t.Fatal(err)
		}
		if text := read(t, conn); text != "true" {
			t.Errorf("%s got %q first, want the true one", who, text)
		}
	}
}

func read(t *testing.T, c *net.UDPConn) string {
	t.Helper()
	buf := make([]byte, 128)
	n, _, err := c.ReadFrom(buf)
	if err != nil {
		t.Error(err)
	}
	return string(buf[:n])
}

// inject sends one UDP packet with any source, through the packet socket as a
// sentry would.
func inject(t *testing.T, ns *Namespace, from, to string, port int, text string) {
	t.Helper()
	file, err := ns.PacketSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	src, dst := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	udp := []byte{0x30, 0x39, byte(port >> 8), byte(port), 0, byte(8 + len(text)), 0, 0} // no checksum
	udp = append(udp, text...)
	ip := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, 17, 0, 0}
	ip = append(append(ip, src[:]...), dst[:]...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = ^(sum&0xffff + sum>>16)
	ip[10], ip[11] = byte(sum>>8), byte(sum)
	frame := make([]byte, 10) // virtio header: nothing offloaded
	frame = append(append(frame, ns.GatewayMAC...), ns.GuestMAC...)
	frame = append(append(append(frame, 8, 0), ip...), udp...)
	if _, err := unix.Write(int(file.Fd()), frame); err != nil {
		t.Fatalf("send %s to %s: %v", from, to, err)
	}
}

// TestRecycle: late answers to the last sandbox don't reach the next one.
func TestRecycle(t *testing.T) {
	w := newWorld(t, Config{})
	a := w.sandbox(t, 1)
	server, guest := udp(t, w.public, 9000), udp(t, a, 9000)
	hello := func() net.Addr {
		t.Helper()
		if _, err := guest.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(publicAddr), Port: 9000}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		_, peer, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return peer
	}
	answer := func(to net.Addr, text string) {
		t.Helper()
		if _, err := server.WriteTo([]byte(text), to); err != nil {
			t.Fatal(err)
		}
	}
	peer := hello()
	answer(peer, "in time")
	if text := read(t, guest); text != "in time" {
		t.Fatalf("guest got %q", text)
	}
	if err := w.Recycle(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	answer(peer, "too late")
	answer(hello(), "new")
	if text := read(t, guest); text != "new" {
		t.Errorf("guest got %q, want only what answers its own", text)
	}
}

func TestConnectionLimit(t *testing.T) {
	w := newWorld(t, Config{MaxConnections: 10})
	a, b := w.sandbox(t, 1), w.sandbox(t, 2)
	err := a.within(func() error {
		for i := range 11 {
			fd, err := connect(publicAddr, port)
			if (err == nil) != (i < 10) {
				t.Errorf("connection %d: %v", i+1, err)
			}
			if err == nil {
				defer unix.Close(fd)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, b, publicAddr, port); err != nil {
		t.Errorf("another sandbox suffers: %v", err)
	}
}

func TestConnectionsAreAShareOfTheHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "max")
	for _, c := range []struct {
		text  string
		want  int
		known bool
	}{
		{"", 256, false}, {"8192\n", 256, true}, {"65536\n", 512, true}, {"262144\n", 2048, true}, {"9999999\n", 4096, true},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, known := connections(file); got != c.want || known != c.known {
			t.Errorf("of %q: %d, %v; want %d, %v", c.text, got, known, c.want, c.known)
		}
	}
	if got, known := connections(file + ".missing"); got != 256 || known {
		t.Errorf("without the file: %d, %v", got, known)
	}
	w := newWorld(t, Config{})
	want, _ := connections(conntrackMax)
	rules, err := nft(t.Context(), "", "list", "chain", "inet", w.table(), "count")
	if err != nil || !strings.Contains(rules, fmt.Sprintf("ct count over %d ", want)) {
		t.Errorf("the policy does not say %d: %v\n%s", want, err, rules)
	}
}

func TestForeignFirewall(t *testing.T) {
	w := newWorld(t, Config{})
	t.Cleanup(func() { _, _ = nft(t.Context(), "", "delete", "table", "ip", "filter") })
	if _, err := nft(t.Context(), "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }\n", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	a := w.sandbox(t, 1)
	for range 2 {
		if err := w.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dial(t, a, publicAddr, port); err != nil {
		t.Errorf("a public server: %v", err)
	}
	if _, err := dial(t, a, metadataAddr, port); err == nil {
		t.Error("metadata answers")
	}
	text, err := nft(t.Context(), "", "list", "chain", "ip", "filter", "FORWARD")
	if err != nil || strings.Count(text, "accept") != 2 {
		t.Errorf("want two rules once:\n%s%v", text, err)
	}
	if err := w.closeForward(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, _ := nft(t.Context(), "", "list", "chain", "ip", "filter", "FORWARD"); strings.Contains(text, "accept") {
		t.Errorf("rules left:\n%s", text)
	}
}

func TestNamespace(t *testing.T) {
	w := newWorld(t, Config{})
	ns, err := w.Create(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if ns.Name != "silt-3" || ns.GuestAddr.String() != "10.84.0.14/30" || ns.Gateway.String() != "10.84.0.13" || ns.IfIndex == 0 {
		t.Errorf("namespace = %+v", ns)
	}
	if again, err := w.Open(3); err != nil || again.IfIndex != ns.IfIndex {
		t.Errorf("Open = %+v, %v; want the same", again, err)
	}
	if _, err := w.Open(4); sandbox.AsError(err).Kind != sandbox.NotFound {
		t.Errorf("Open of nothing: %v, want NotFound", err)
	}
	if _, err := w.Create(t.Context(), 3); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v, want ErrExist", err)
	}
	if _, err := w.Create(t.Context(), w.Slots()); sandbox.AsError(err).Kind != sandbox.Exhausted {
		t.Errorf("Create beyond the prefix: %v, want Exhausted", err)
	}
	err = ns.inside(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName(GuestDevice)
		if err != nil {
			return err
		}
		addrs, err := h.AddrList(eth0, netlink.FAMILY_ALL)
		if err != nil || len(addrs) > 0 || eth0.Attrs().HardwareAddr.String() != ns.GuestMAC.String() {
			t.Errorf("eth0 %v has %v, %v; want no address of any family", eth0.Attrs(), addrs, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	file, err := ns.PacketSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("packet socket is not close-on-exec: %v", err)
	}
	// A packet of the host's arrives with its header, without any ARP before.
	c := udp(t, nil, 0)
	if _, err := c.WriteTo([]byte("knock"), &net.UDPAddr{IP: ns.GuestAddr.Addr().AsSlice(), Port: 7}); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptTimeval(int(file.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	frame := make([]byte, 2000)
	got, err := unix.Read(int(file.Fd()), frame)
	if err != nil || got < 57 || string(frame[got-5:got]) != "knock" || net.HardwareAddr(frame[10:16]).String() != ns.GuestMAC.String() {
		t.Errorf("first frame = %x, %v", frame[:max(got, 0)], err)
	}
	in, out, err := w.Usage(3)
	if err != nil || in != 47 || out != 0 {
		t.Errorf("usage = %d in, %d out, %v; want one frame of 47 in", in, out, err)
	}
}

func TestLeftovers(t *testing.T) {
	w := newWorld(t, Config{})
	dir := w.cfg.StateDir
	if _, err := w.Create(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// Half made: a bare file, a namespace without device, a device without namespace.
	if err := os.WriteFile(filepath.Join(dir, "silt-2"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := makeNamespace(filepath.Join(dir, "silt-3")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if err := removeNamespace(filepath.Join(dir, "silt-4")); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "silt-5"
	if err := w.host.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"}); err != nil {
		t.Fatal(err)
	}
	// Not ours.
	for _, name := range []string{"silt-x", "silt-007", "silt-999", "siltx-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	slots, err := w.List()
	// 4's device goes with its namespace, when the kernel gets to it.
	if err != nil || !slices.Equal(slots, []int{1, 2, 3, 5}) && !slices.Equal(slots, []int{1, 2, 3, 4, 5}) {
		t.Errorf("list = %v, %v", slots, err)
	}
	for _, slot := range []int{1, 2, 3, 4, 5, 5, 6} {
		if err := w.Destroy(t.Context(), slot); err != nil {
			t.Errorf("destroy %d: %v", slot, err)
		}
	}
	if slots, err := w.List(); err != nil || len(slots) > 0 {
		t.Errorf("list after destroy = %v, %v", slots, err)
	}
}

func TestManyLeaveNothing(t *testing.T) {
	w := newWorld(t, Config{})
	fds := func() int { e, _ := os.ReadDir("/proc/self/fd"); return len(e) }
	before := fds()
	var group sync.WaitGroup
	started := time.Now()
	for worker := range 4 {
		group.Go(func() {
			for i := range 13 {
				slot := worker*13 + i
				if _, err := w.Create(t.Context(), slot); err != nil {
					t.Error(err)
				}
				if err := w.Destroy(t.Context(), slot); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	t.Logf("52 made and removed in %v", time.Since(started))
	if names := links(t, w.Network); len(names) > 0 {
		t.Errorf("devices left: %v", names)
	}
	if slots, err := w.List(); err != nil || len(slots) > 0 {
		t.Errorf("slots left: %v, %v", slots, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), "silt-") {
		t.Errorf("mounts left: %v\n%s", err, mounts)
	}
	if after := fds(); after > before {
		t.Errorf("descriptors grew from %d to %d", before, after)
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"IPv6":      {Prefix: netip.MustParsePrefix("fd00::/48")},
		"too small": {Prefix: netip.MustParsePrefix("10.0.0.0/31")},
		"name":      {NamePrefix: "sil-"},
		"long name": {NamePrefix: "verylongname"},
		"allow":     {Allow: []netip.Prefix{netip.MustParsePrefix("fd00::/48")}},
	} {
		if _, err := New(cfg); sandbox.AsError(err).Kind != sandbox.Invalid {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func TestNameservers(t *testing.T) {
	dir := t.TempDir()
	file := func(i int, text string) string {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stub := file(1, "# stub\nnameserver 127.0.0.53\nsearch x\n")
	real := file(2, "nameserver 192.168.1.1\nnameserver ::1\nnameserver 2001:db8::1\nnameserver 192.168.1.1\nnameserver 9.9.9.9 # x\nnameserver\n")
	one := []netip.Addr{netip.MustParseAddr("1.1.1.1")}
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"plain":    {[]string{real, stub}, "192.168.1.1, 9.9.9.9"},
		"resolved": {[]string{stub, real}, "192.168.1.1, 9.9.9.9"},
		"none":     {[]string{stub, dir + "/missing"}, "1.1.1.1"},
	} {
		if got := join(nameservers(c.files, one)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
