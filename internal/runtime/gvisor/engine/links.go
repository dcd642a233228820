package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"

	"silica.dev/silica/internal/network"
)

// maxSegment is the largest packet that the host's device takes in one piece.
const maxSegment = 65536

// newNamespace makes a slot's namespace anew, whatever was left of an old one.
func (e *Engine) newNamespace(ctx context.Context, slot int) (*network.Namespace, error) {
	ns, err := e.cfg.Network.Create(ctx, slot)
	if errors.Is(err, fs.ErrExist) {
		if err := e.cfg.Network.Destroy(ctx, slot); err != nil {
			return nil, fmt.Errorf("network of slot %d: %w", slot, err)
		}
		ns, err = e.cfg.Network.Create(ctx, slot)
	}
	if err != nil {
		return nil, fmt.Errorf("network of slot %d: %w", slot, err)
	}
	return ns, nil
}

// links describes a sandbox's devices to gVisor and opens its packet socket. Left
// to itself the library would open one that it never closes, and take the
// addresses off the device.
func links(ns *network.Namespace) (*boot.CreateLinksAndRoutesArgs, error) {
	packets, err := ns.PacketSocket()
	if err != nil {
		return nil, err
	}
	guest, gateway := net.IP(ns.GuestAddr.Addr().AsSlice()), net.IP(ns.Gateway.AsSlice())
	mask := net.CIDRMask(ns.GuestAddr.Bits(), 32)
	return &boot.CreateLinksAndRoutesArgs{
		FilePayload:   urpc.FilePayload{Files: []*os.File{packets}},
		LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink},
		FDBasedLinks: []boot.FDBasedLink{{
			Name:              network.GuestDevice,
			InterfaceIndex:    ns.IfIndex,
			MTU:               ns.MTU,
			Addresses:         []boot.IPWithPrefix{{Address: guest, PrefixLen: ns.GuestAddr.Bits()}},
			Routes:            []boot.Route{{Destination: net.IPNet{IP: guest.Mask(mask), Mask: mask}}},
			GSOMaxSize:        maxSegment,
			RXChecksumOffload: true,
			LinkAddress:       ns.GuestMAC,
			QDisc:             config.QDiscFIFO,
			NumChannels:       1,
			Neighbors:         []boot.Neighbor{{IP: gateway, HardwareAddr: ns.GatewayMAC}},
		}},
		Defaultv4Gateway: boot.DefaultRoute{Name: network.GuestDevice, Route: boot.Route{
			Destination: net.IPNet{IP: net.IPv4zero, Mask: net.IPMask(net.IPv4zero)}, Gateway: gateway,
		}},
	}, nil
}
