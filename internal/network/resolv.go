package network

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// resolvConfs are read in this order; the second is what systemd-resolved asks
// when the first names only its own loopback address.
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Nameservers lists the host's resolvers that a sandbox can use: IPv4 and not
// loopback. Without any it returns fallback. Pass them as [Config.Resolvers] too.
func Nameservers(fallback ...netip.Addr) []netip.Addr {
	return nameservers(resolvConfs, fallback)
}

func nameservers(files []string, fallback []netip.Addr) []netip.Addr {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var found []netip.Addr
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "nameserver" {
				continue
			}
			addr, err := netip.ParseAddr(fields[1])
			if addr = addr.Unmap(); err == nil && addr.Is4() && !addr.IsLoopback() && !addr.IsUnspecified() && !slices.Contains(found, addr) {
				found = append(found, addr)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return fallback
}
