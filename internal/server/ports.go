package server

import (
	"bufio"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// maxPortTable is how much of the guest's table of sockets is read, in bytes.
const maxPortTable = 1 << 20

// ports lists what listens in a sandbox. None is exposed: that is for later.
func (s *Server) ports(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ctx, agent, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	found := map[int64]api.Port{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := agent.ReadFile(ctx, table, 0)
		if e := (*sandbox.Error)(nil); errors.As(err, &e) && e.Kind == sandbox.NotFound {
			continue // no such protocol in there
		}
		if err != nil {
			return err
		}
		for _, p := range listening(io.LimitReader(f, maxPortTable)) {
			if _, twice := found[p.Port]; !twice && p.Port != int64(guest.Port) {
				found[p.Port] = p
			}
		}
		_ = f.Close()
	}
	list := []api.Port{}
	for _, p := range found {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b api.Port) int { return int(a.Port - b.Port) })
	writeJSON(w, http.StatusOK, struct {
		Data []api.Port `json:"data"`
	}{list})
	return nil
}

// listening reads the lines of a table of sockets that are in the state LISTEN.
func listening(table io.Reader) (ports []api.Port) {
	const local, state, listen = 1, 3, "0A"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		cells := strings.Fields(lines.Text())
		if len(cells) <= state || cells[state] != listen {
			continue
		}
		address, number, ok := strings.Cut(cells[local], ":")
		port, err := strconv.ParseUint(number, 16, 16)
		if !ok || err != nil || port == 0 {
			continue
		}
		ports = append(ports, api.Port{Port: int64(port), Protocol: "tcp", Address: hexAddress(address)})
	}
	return ports
}

// hexAddress reads an address as the kernel writes it there: words of four bytes,
// each backwards. "" for what is none.
func hexAddress(s string) string {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw)%4 != 0 {
		return ""
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return ""
	}
	return a.String()
}
