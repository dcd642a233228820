package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"silica.dev/silica/internal/store"
	"silica.dev/silica/internal/store/pgtest"
)

// postgres runs a PostgreSQL for one test and returns it with the URL of an empty
// database.
func postgres(t *testing.T) (*pgtest.Server, string) {
	t.Helper()
	pg, err := pgtest.Start(t.Context())
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	url, err := pg.Database(t.Context(), "silica", "")
	if err != nil {
		t.Fatal(err)
	}
	return pg, url
}

// moveTemplate makes a copied data folder a node of its own, and has the rows of
// its template in the server's database: building another would take minutes.
func (s *Server) moveTemplate() error {
	ctx := context.Background()
	idFile, node := filepath.Join(s.data, "node.id"), "node_"+s.name
	old, _ := os.ReadFile(idFile)
	was := strings.TrimSpace(string(old))
	if was == "" {
		was = node
	}
	if err := os.WriteFile(idFile, []byte(node+"\n"), 0o600); err != nil {
		return err
	}
	from, err := store.Open(ctx, store.Config{Path: filepath.Join(s.data, "silica.db"), Node: was})
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := store.Open(ctx, store.Config{URL: s.database, Node: node})
	if err != nil {
		return err
	}
	defer to.Close()
	templates, err := from.Templates(ctx)
	for _, t := range templates {
		err = errors.Join(err, to.SaveTemplate(ctx, t))
	}
	snapshots, err1 := from.Seeds(ctx)
	for _, n := range snapshots {
		err1 = errors.Join(err1, to.SaveSeed(ctx, n))
	}
	return errors.Join(err, err1)
}
