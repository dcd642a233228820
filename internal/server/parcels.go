package server

import (
	"context"
	"io"
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// Parcels carries snapshots to other machines, each as one file.
type Parcels interface {
	// Export writes one to what begin returns, once only the way there can fail.
	Export(ctx context.Context, snap sandbox.Snapshot, begin func() io.Writer) error
	// Import makes one of what r reads, for a tenant.
	Import(ctx context.Context, tenant sandbox.TenantID, r io.Reader) (sandbox.Snapshot, error)
}

// parcelRoutes hand out what a fork could read as well, and so needs as much; and
// they take in what a kernel will restore from, which only operators may vouch for.
func (s *Server) parcelRoutes() []route {
	return []route{
		{"GET", snapshot + "/export", sandboxesWrite, counted, s.exportSnapshot},
		{"POST", v1 + api.PathSnapshotImport, admin, counted, s.importSnapshot},
	}
}

func (s *Server) exportSnapshot(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	snap, err := s.visible(r.Context(), c, param(r, "sid"))
	if err != nil {
		return err
	}
	return s.deps.Parcels.Export(r.Context(), snap, func() io.Writer {
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Disposition", attachment(snap.ID+".silica"))
		w.WriteHeader(http.StatusOK)
		return w
	})
}

func (s *Server) importSnapshot(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	tenant, err := tenantInQuery(r, c)
	if err != nil {
		return err
	}
	snap, err := s.deps.Parcels.Import(r.Context(), tenant, rawUpload{r.Body})
	if err != nil {
		return err
	}
	w.Header().Set("Location", api.Base+api.SnapshotPath(snap.ID))
	writeOne(w, http.StatusCreated, wireSnapshot(snap))
	return nil
}
