package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// makeNamespace makes a network namespace and binds it to path, which keeps it
// alive. An existing path is an error.
func makeNamespace(path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	_ = file.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, removeNamespace(path))
		}
	}()
	return elsewhere(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		// The devices to come inherit it: no IPv6 inside.
		for _, scope := range []string{"all", "default"} {
			err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("disable IPv6: %w", err)
			}
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind namespace: %w", err)
		}
		return nil
	})
}

// removeNamespace lets a namespace go; the kernel frees it when nobody is in it.
func removeNamespace(path string) error {
	// EINVAL: bound to nothing, a crash left the bare file.
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

// elsewhere runs f on a thread that may leave its network namespace, and brings it
// home. A thread that can't go home is given up with its goroutine.
func elsewhere(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// within runs f on a thread that is in the namespace.
func (ns *Namespace) within(f func() error) error {
	file, err := os.Open(ns.Path)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer file.Close()
	return elsewhere(func() error {
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// inside runs f with the kernel's interface of the namespace.
func (ns *Namespace) inside(f func(*netlink.Handle) error) error {
	return ns.within(func() error {
		h, err := handleInside()
		if err != nil {
			return fmt.Errorf("open netlink inside: %w", err)
		}
		defer h.Close()
		return f(h)
	})
}

// packetBuffer is the size in bytes of a packet socket's queues.
const packetBuffer = 4 << 20

// PacketSocket opens what a sentry sends and receives frames through. The
// caller closes it as soon as the sentry has it: a second open one on the same device takes
// half of the next sentry's connections.
func (ns *Namespace) PacketSocket() (*os.File, error) {
	fd := -1
	err := ns.within(func() (err error) {
		// Protocol 0 receives nothing until the bind below.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket in %s: %w", ns.Name, err)
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // in network byte order
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, packetBuffer),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ns.IfIndex}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set up packet socket in %s: %w", ns.Name, err)
	}
	return os.NewFile(uintptr(fd), "packet:"+ns.Name), nil
}

// AssignAddress gives eth0 its address, default route and neighbour, and brings lo
// up, for a start that takes them from the device (and off it). May be repeated.
func (ns *Namespace) AssignAddress() error {
	err := ns.inside(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(lo); err != nil {
			return err
		}
		eth0, err := h.LinkByName(GuestDevice)
		if err != nil {
			return err
		}
		if err := h.AddrReplace(eth0, &netlink.Addr{IPNet: ipNet(ns.GuestAddr)}); err != nil {
			return err
		}
		gateway := ns.Gateway.AsSlice()
		err = h.NeighSet(&netlink.Neigh{LinkIndex: ns.IfIndex, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
			IP: gateway, HardwareAddr: ns.GatewayMAC})
		if err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{LinkIndex: ns.IfIndex, Gw: gateway,
			Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))})
	})
	if err != nil {
		return fmt.Errorf("assign address in %s: %w", ns.Name, err)
	}
	return nil
}
