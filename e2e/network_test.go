package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// island is a network of the test's own: a namespace with a web server in it,
// reached from this host through one pair of devices.
type island struct {
	host, server string // addresses of the two ends
	url          string
	seen         chan string // whom the server answered
}

// newIsland makes one, with addresses that nothing else here routes.
func newIsland(t *testing.T, name, host, server string) *island {
	t.Helper()
	is := &island{host: host, server: server, seen: make(chan string, 64)}
	ns, listener, err := inNewNamespace(func(self netns.NsHandle) (net.Listener, error) {
		peer, err := netlink.LinkByName("eth0")
		if err != nil {
			return nil, err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return nil, err
		}
		addr, err := netlink.ParseAddr(server + "/30")
		if err != nil {
			return nil, err
		}
		for _, step := range []error{netlink.LinkSetUp(lo), netlink.AddrAdd(peer, addr), netlink.LinkSetUp(peer),
			netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Gw: net.ParseIP(host)})} {
			if step != nil {
				return nil, step
			}
		}
		return net.Listen("tcp", net.JoinHostPort(server, "80"))
	}, func(self netns.NsHandle) error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(self)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(host + "/30")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(veth, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	t.Cleanup(func() {
		listener.Close()
		ns.Close()
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	is.url = "http://" + server + "/"
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			is.seen <- host
			_, _ = io.WriteString(w, "island")
		}))
	}()
	return is
}

// inNewNamespace makes a network namespace, runs outside in the old one, then
// inside in the new one. A socket stays where it was made, so the listener can
// be served from anywhere.
func inNewNamespace(inside func(netns.NsHandle) (net.Listener, error), outside func(netns.NsHandle) error) (netns.NsHandle, net.Listener, error) {
	type result struct {
		ns  netns.NsHandle
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		r := result{ns: -1}
		defer func() { done <- r }()
		home, err := netns.Get()
		if err != nil {
			r.err = err
			return
		}
		defer home.Close()
		if r.ns, r.err = netns.New(); r.err != nil {
			return
		}
		if r.err = netns.Set(home); r.err != nil {
			return
		}
		if r.err = outside(r.ns); r.err != nil {
			return
		}
		if r.err = netns.Set(r.ns); r.err != nil {
			return
		}
		r.l, r.err = inside(r.ns)
	}()
	r := <-done
	return r.ns, r.l, r.err
}

// reach tries an HTTP request from inside a sandbox.
func (c *Client) reach(t *testing.T, id, url string) (string, bool) {
	t.Helper()
	a := c.exec(t, id, "curl -s --noproxy '*' --connect-timeout 2 --max-time 4 "+url).want(t, 200, "")
	return a.str("stdout"), a.num("exit_code") == 0
}

// reachAny tries many at once and returns a line for each that answered.
func (c *Client) reachAny(t *testing.T, id string, urls []string) string {
	t.Helper()
	var script strings.Builder
	for _, url := range urls {
		fmt.Fprintf(&script, "(curl -s -o /dev/null --noproxy '*' --connect-timeout 3 --max-time 4 '%[1]s' && echo '%[1]s') &\n", url)
	}
	script.WriteString("wait")
	return c.exec(t, id, script.String()).want(t, 200, "").str("stdout")
}

// "By default a sandbox may reach the internet (NAT), never the host's loopback,
// other sandboxes, link-local and metadata addresses or private ranges, unless
// the operator allows them."
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	// Public addresses that belong to nobody one could meet here.
	internet := newIsland(t, "i"+shared.name, "25.255.252.1", "25.255.252.2")
	private := newIsland(t, "p"+shared.name, "192.168.253.1", "192.168.253.2")
	s := ownServer(t, options{flags: []string{"--egress-allow=192.168.253.2/32"}})
	c, allowed := shared.tenant(t), s.tenant(t)
	a, b := c.create(t, nil), c.create(t, nil)
	open := allowed.create(t, nil)

	for _, from := range []struct {
		c  *Client
		id string
	}{{c, a}, {allowed, open}} {
		if got, ok := from.c.reach(t, from.id, internet.url); !ok || got != "island" {
			t.Errorf("the internet: got %q, %v", got, ok)
			continue
		}
		if who := <-internet.seen; who != internet.host {
			t.Errorf("the internet saw %s, want the host's address %s (NAT)", who, internet.host)
		}
	}
	if got, ok := allowed.reach(t, open, private.url); !ok || got != "island" {
		t.Errorf("a private address the operator allows: got %q, %v", got, ok)
	}
	if got, ok := c.reach(t, a, private.url); ok {
		t.Errorf("a private address: got %q", got)
	}

	// The other sandbox, of the same tenant even.
	c.sh(t, b, "nohup python3 -m http.server 8000 --bind 0.0.0.0 >/dev/null 2>&1 &")
	eventually(t, 10*time.Second, "the other sandbox serves", func() bool { _, ok := c.reach(t, b, "http://127.0.0.1:8000/"); return ok })
	var others []string
	for _, addr := range strings.Fields(c.sh(t, b, "hostname -I")) {
		others = append(others, "http://"+addr+":8000/", "http://"+addr+":49982/health")
	}
	if len(others) == 0 {
		t.Error("the other sandbox has no address")
	}
	if got := c.reachAny(t, b, others); len(strings.Fields(got)) != len(others) {
		t.Errorf("the other sandbox reaches itself at %q of %q only", got, others)
	}
	if got := c.reachAny(t, a, others); got != "" {
		t.Errorf("another sandbox answered at %s", got)
	}

	// The host: its own addresses, whichever name a program finds for them.
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(shared.url, "http://"))
	gateway := c.sh(t, a, `python3 - <<'E'
import socket, struct
for line in open("/proc/net/route").read().splitlines()[1:]:
    f = line.split()
    if f[1] == "00000000": print(socket.inet_ntoa(struct.pack("<I", int(f[2], 16)))); break
E`)
	hostSide, err := net.Listen("tcp", net.JoinHostPort(internet.host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer hostSide.Close()
	go func() {
		_ = http.Serve(hostSide, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "host") }))
	}()
	urls := []string{
		"http://" + hostSide.Addr().String() + "/",
		"http://127.0.0.1:" + port + "/healthz", "http://localhost:" + port + "/healthz", "http://[::1]:" + port + "/healthz",
		"http://169.254.169.254/latest/meta-data/", "http://169.254.169.253/", "http://100.100.100.200/", "http://[fd00:ec2::254]/",
		"http://10.0.0.1/", "http://172.16.0.1/", "http://0.0.0.0:" + port + "/healthz",
	}
	if gateway != "" {
		urls = append(urls, "http://"+gateway+":"+port+"/healthz", "http://"+gateway+":22/", "http://"+gateway+":49982/health")
		if l, err := net.Listen("tcp", net.JoinHostPort(gateway, "0")); err == nil {
			defer l.Close()
			go func() { _ = http.Serve(l, http.NotFoundHandler()) }()
			urls = append(urls, "http://"+l.Addr().String()+"/")
		}
	}
	for _, line := range strings.Split(c.reachAny(t, a, urls), "\n") {
		if line != "" {
			t.Errorf("reached: %s", line)
		}
	}
	// Not with addresses it gives itself either.
	c.exec(t, a, "ip addr add "+private.host+"/30 dev eth0; ip route add "+private.server+"/32 dev eth0", obj{"timeout": 5})
	if got, ok := c.reach(t, a, private.url); ok {
		t.Errorf("with an address of its own making: got %q", got)
	}
	select {
	case who := <-private.seen:
		if len(private.seen) > 0 {
			t.Errorf("the private server answered more than the one allowed: %s", who)
		}
	default:
		t.Error("the private server saw nobody, not even the allowed one")
	}
}

// "Never … private ranges, unless the operator allows them": a resolver in a private
// range can be asked where the operator names it, and only there.
func TestResolversCanBeAsked(t *testing.T) {
	t.Parallel()
	private := newIsland(t, "d"+shared.name, "192.168.252.1", "192.168.252.2")
	s := ownServer(t, options{flags: []string{"--nameservers=" + private.server, "--warm-pool=0", "--empty-slots=0"}})
	c := s.tenant(t)
	id := c.create(t, nil)
	if conf := c.sh(t, id, "cat /etc/resolv.conf"); !strings.Contains(conf, "nameserver "+private.server) {
		t.Errorf("resolv.conf is %q, want nameserver %s", conf, private.server)
	}
	if !(traces{name: s.name}).resolvers(t)[netip.MustParseAddr(private.server)] {
		t.Errorf("the policy lets no sandbox ask %s, which the operator named", private.server)
	}
	if got := c.sh(t, id, "getent hosts localhost"); !strings.Contains(got, "localhost") {
		t.Errorf("localhost: got %q", got)
	}
	for addr := range (traces{name: shared.name}).resolvers(t) {
		t.Errorf("a server that was told of no resolver lets its sandboxes ask %s", addr)
	}
}

// resolvers reads the addresses that the server's rules let sandboxes ask for
// names wherever they are.
func (tr traces) resolvers(t *testing.T) map[netip.Addr]bool {
	t.Helper()
	found := map[netip.Addr]bool{}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tr.tables() {
		set, err := c.GetSetByName(table, "resolvers")
		if err != nil {
			t.Fatal(err)
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			if addr, ok := netip.AddrFromSlice(e.Key); ok {
				found[addr] = true
			}
		}
	}
	return found
}
