package runtimetest

import (
	"archive/tar"
	"maps"
	"net/http"
	"slices"
)

// capture answers with all files as a tar archive, whatever they were before.
func (a *Agent) capture(w http.ResponseWriter, _ *http.Request) {
	a.memory.mu.Lock()
	nodes := maps.Clone(a.memory.nodes)
	a.memory.mu.Unlock()
	out := tar.NewWriter(w)
	for _, p := range slices.Sorted(maps.Keys(nodes)) {
		n := nodes[p]
		h := &tar.Header{Name: "." + p, Typeflag: tar.TypeReg, Mode: int64(n.mode), Size: int64(len(n.data))}
		if n.dir {
			h.Typeflag = tar.TypeDir
		}
		if out.WriteHeader(h) != nil {
			return
		}
		if _, err := out.Write(n.data); err != nil {
			return
		}
	}
	_ = out.Close()
}
