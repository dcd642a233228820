package store

import (
	"context"
	"encoding/json"
	"fmt"

	"silica.dev/silica/sandbox"
)

// Templates and seeds are rows of this node: what they refer to is in its
// data folder.

// SaveTemplate makes t the current revision of its slug.
func (s *Store) SaveTemplate(ctx context.Context, t sandbox.Template) error {
	env, err := json.Marshal(t.Env)
	if err != nil {
		return fmt.Errorf("template env: %w", err)
	}
	return s.do(ctx, "save template", func(x *tx) error {
		_, err := x.exec(`insert into templates (slug, name, description, revision, image, workdir, env, created_at, node)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			on conflict (node, slug) do update set name = excluded.name, description = excluded.description,
				revision = excluded.revision, image = excluded.image, workdir = excluded.workdir,
				env = excluded.env, created_at = excluded.created_at`,
			t.Slug, t.Name, t.Description, t.Revision, string(t.Image), t.Workdir, string(env), micros(t.CreatedAt), s.cfg.Node)
		return err
	})
}

const selectTemplate = `select slug, name, description, revision, image, workdir, env, created_at from templates `

func scanTemplate(row scanner) (t sandbox.Template, err error) {
	var env string
	var created int64
	if err := row.Scan(&t.Slug, &t.Name, &t.Description, &t.Revision, &t.Image, &t.Workdir, &env, &created); err != nil {
		return sandbox.Template{}, err
	}
	t.CreatedAt = fromMicros(created)
	return t, json.Unmarshal([]byte(env), &t.Env)
}

// Template returns the current revision of a template. [sandbox.NotFound] when
// none was ever built.
func (s *Store) Template(ctx context.Context, slug string) (sandbox.Template, error) {
	t, err := scanTemplate(s.read.QueryRowContext(ctx, selectTemplate+`where node = $1 and slug = $2`, s.cfg.Node, slug))
	if none(err) {
		return sandbox.Template{}, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "template not found")
	}
	return t, wrap(err, "read template")
}

// Templates returns the current revision of every template, by slug.
func (s *Store) Templates(ctx context.Context) ([]sandbox.Template, error) {
	rows, err := s.read.QueryContext(ctx, selectTemplate+`where node = $1 order by slug`, s.cfg.Node)
	if err != nil {
		return nil, wrap(err, "list templates")
	}
	defer rows.Close()
	var list []sandbox.Template
	for rows.Next() {
		t, err := scanTemplate(rows)
		if err != nil {
			return nil, wrap(err, "list templates")
		}
		list = append(list, t)
	}
	return list, wrap(rows.Err(), "list templates")
}

// SaveSeed stores where the seed for a template revision and key is,
// replacing another one.
func (s *Store) SaveSeed(ctx context.Context, n sandbox.Seed) error {
	return s.do(ctx, "save seed", func(t *tx) error {
		_, err := t.exec(`insert into seeds (template, revision, name, ref, created_at, node) values ($1, $2, $3, $4, $5, $6)
			on conflict (node, template, revision, name) do update set ref = excluded.ref, created_at = excluded.created_at`,
			n.Template, n.Revision, n.Key, string(n.Ref), micros(n.CreatedAt), s.cfg.Node)
		return err
	})
}

const selectSeed = `select template, revision, name, ref, created_at from seeds `

func scanSeed(row scanner) (n sandbox.Seed, err error) {
	var created int64
	err = row.Scan(&n.Template, &n.Revision, &n.Key, &n.Ref, &created)
	n.CreatedAt = fromMicros(created)
	return n, err
}

// Seed returns the seed that serves a template revision and key.
// [sandbox.NotFound] when there is none.
func (s *Store) Seed(ctx context.Context, slug, revision, key string) (sandbox.Seed, error) {
	n, err := scanSeed(s.read.QueryRowContext(ctx, selectSeed+`where node = $1 and template = $2 and revision = $3 and name = $4`,
		s.cfg.Node, slug, revision, key))
	if none(err) {
		return sandbox.Seed{}, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "seed not found")
	}
	return n, wrap(err, "read seed")
}

// Seeds returns all seeds, newest first.
func (s *Store) Seeds(ctx context.Context) ([]sandbox.Seed, error) {
	rows, err := s.read.QueryContext(ctx, selectSeed+`where node = $1 order by created_at desc`, s.cfg.Node)
	if err != nil {
		return nil, wrap(err, "list seeds")
	}
	defer rows.Close()
	var list []sandbox.Seed
	for rows.Next() {
		n, err := scanSeed(rows)
		if err != nil {
			return nil, wrap(err, "list seeds")
		}
		list = append(list, n)
	}
	return list, wrap(rows.Err(), "list seeds")
}

// DeleteSeed forgets a seed; an unknown one is a success.
func (s *Store) DeleteSeed(ctx context.Context, ref sandbox.Ref) error {
	return s.do(ctx, "delete seed", func(t *tx) error {
		_, err := t.exec(`delete from seeds where node = $1 and ref = $2`, s.cfg.Node, string(ref))
		return err
	})
}
