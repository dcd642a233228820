package store

import (
	"context"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"silica.dev/silica/internal/store/pgtest"
	"silica.dev/silica/sandbox"
)

// A data folder of before templates had owners: what was built then serves on.
func TestUpgradeKeepsTemplates(t *testing.T) {
	ctx := context.Background()
	_, empty := pgtest.New(t, "")
	for name, open := range map[string]struct {
		dialect
		cfg Config
	}{
		"sqlite":   {sqliteDialect{}, Config{Path: filepath.Join(t.TempDir(), "silica.db"), Node: "n"}},
		"postgres": {postgresDialect{"n"}, Config{URL: empty, Node: "n"}},
	} {
		t.Run(name, func(t *testing.T) {
			write, read, err := open.open(open.cfg)
			if err != nil {
				t.Fatal(err)
			}
			write.SetMaxOpenConns(1)
			dir, err := fs.Sub(migrations, "migrations")
			if err != nil {
				t.Fatal(err)
			}
			name, options, err := open.goose()
			if err != nil {
				t.Fatal(err)
			}
			p, err := goose.NewProvider(name, write, schema{dir, open.numberKey()}, options...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.UpTo(ctx, 7); err != nil {
				t.Fatal(err)
			}
			if _, err := write.Exec(`insert into templates (node, slug, name, description, revision, image, workdir, env, created_at)
				values ('n', 'miosa-sandbox', 'Sandbox', 'd', 'r1', 'sha256:i', '/root', '{"A":"b"}', 5)`); err != nil {
				t.Fatal(err)
			}
			read.Close()
			write.Close()
			s := openStore(t, open.cfg)
			got, err := s.FindTemplate(ctx, "tnt_a", "miosa-sandbox")
			if err != nil || got.ID != "miosa-sandbox" || got.Status != sandbox.TemplateReady || got.Revision != "r1" || got.Image != "sha256:i" ||
				got.Workdir != "/root" || got.Env["A"] != "b" || got.Name != "Sandbox" {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}
