package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Deleting a device makes the kernel wait for all its CPUs (30 ms), forgetting
// connections makes it walk their whole table (10 ms), and neither costs
// more for many. So calls that come while one runs are done together.

// Destroy removes a slot's namespace, device and tracked connections. An unknown
// or half-made one is a success. A sentry still attached is cut off. Once begun
// it is finished, whatever ctx says.
func (n *Network) Destroy(ctx context.Context, slot int) error {
	ns, err := n.describe(slot)
	if err != nil {
		return err
	}
	return n.destroys.do(ns, n.destroyAll)
}

// Recycle makes a namespace fit for its next sandbox: the connections of the last
// one are forgotten, so that late answers don't reach the new one. The last sentry
// must be dead, and must have been attached by PacketSocket.
func (n *Network) Recycle(ctx context.Context, slot int) error {
	ns, err := n.describe(slot)
	if err != nil {
		return err
	}
	return n.recycles.do(ns, n.forget)
}

func (n *Network) destroyAll(all []*Namespace) error {
	errs := []error{n.deleteDevices(all)}
	for _, ns := range all {
		errs = append(errs, removeNamespace(ns.Path))
	}
	// The devices are gone: no flow can come back to life behind this.
	return errors.Join(append(errs, n.forget(all))...)
}

// deleteDevices moves devices to a group and deletes the group.
func (n *Network) deleteDevices(all []*Namespace) error {
	var found []netlink.Link
	for _, ns := range all {
		link, err := n.host.LinkByName(ns.Name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find device %s: %w", ns.Name, err)
		}
		found = append(found, link)
	}
	if len(found) > 1 {
		h := fnv.New32a()
		_, _ = h.Write([]byte(n.table())) // nobody else's number
		group := h.Sum32() | 1
		for _, link := range found {
			if err := n.host.LinkSetGroup(link, int(group)); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("group device: %w", err)
			}
		}
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err == nil {
			return nil
		}
	}
	var errs []error
	for _, link := range found {
		if err := n.host.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete device %s: %w", link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// forget drops the kernel's connection entries from and to sandboxes.
func (n *Network) forget(all []*Namespace) error {
	flows := flowsOf{}
	for _, ns := range all {
		flows[ns.GuestAddr.Addr()] = true
	}
	_, err := n.host.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flows)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// flowsOf matches the flows of some addresses, started by either side.
type flowsOf map[netip.Addr]bool

func (of flowsOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, ip := range [][]byte{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP} {
		if addr, ok := netip.AddrFromSlice(ip); ok && of[addr.Unmap()] {
			return true
		}
	}
	return false
}

// batcher does the calls of many at once: whoever comes while a round runs goes
// with the next one and gets its result.
type batcher struct {
	running sync.Mutex // held for a round

	mu   sync.Mutex
	next *round
}

type round struct {
	all  []*Namespace
	once sync.Once
	err  error
}

func (b *batcher) do(ns *Namespace, all func([]*Namespace) error) error {
	b.mu.Lock()
	if b.next == nil {
		b.next = &round{}
	}
	r := b.next
	r.all = append(r.all, ns)
	b.mu.Unlock()

	b.running.Lock()
	defer b.running.Unlock()
	r.once.Do(func() {
		b.mu.Lock()
		b.next = nil // who comes now waits for the round after
		b.mu.Unlock()
		r.err = all(r.all)
	})
	return r.err
}
