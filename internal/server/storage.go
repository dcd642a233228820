package server

import (
	"context"
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// Storage is what is on this server's disk.
type Storage interface {
	// Artifacts lists it, the largest first, with all who hold it.
	Artifacts(ctx context.Context) ([]sandbox.Artifact, error)
	// Collect removes what nobody holds and returns it.
	Collect(ctx context.Context) ([]sandbox.Artifact, error)
}

func (s *Server) storageRoutes() []route {
	return []route{
		{"GET", v1 + api.PathStorage, admin, counted, s.listStorage},
		{"POST", v1 + api.PathStorage + "/gc", admin, counted, s.collectGarbage},
	}
}

func wireArtifact(a sandbox.Artifact) api.StoredArtifact {
	wire := api.StoredArtifact{ID: string(a.Ref), SizeBytes: a.Size, PutAt: a.PutAt.UTC(), Holders: []api.Holder{}}
	for _, h := range a.Holders {
		wire.Holders = append(wire.Holders, api.Holder{Kind: string(h.Kind), ID: h.ID, TenantID: orNull(string(h.Tenant))})
	}
	return wire
}

func (s *Server) listStorage(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	all, err := s.deps.Storage.Artifacts(r.Context())
	if err != nil {
		return err
	}
	return writeList(w, r, all, wireArtifact)
}

func (s *Server) collectGarbage(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	removed, err := s.deps.Storage.Collect(context.WithoutCancel(r.Context()))
	if err != nil {
		return err
	}
	a := api.Collected{Removed: len(removed)}
	for _, gone := range removed {
		a.FreedBytes += gone.Size
	}
	writeOne(w, http.StatusOK, a)
	return nil
}
