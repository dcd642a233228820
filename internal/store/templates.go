package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"silica.dev/silica/sandbox"
)

// Templates, revisions and seeds are rows of this node: what they refer to is in
// its data folder.

var (
	noTemplate    = sandbox.E(sandbox.NotFound, sandbox.CodeNoSuchTemplate, "template not found")
	templateTaken = sandbox.E(sandbox.Invalid, sandbox.CodeTaken, "slug: has already been taken").
			With(sandbox.DetailProblems, map[string][]string{"slug": {"has already been taken"}})
)

var selectTemplate = `select t.id, t.tenant, t.slug, t.name, t.description, t.category, t.tags, t.metadata, t.pool_min, t.pool_max, t.spec,
	t.revision, t.last_build, t.created_at, t.updated_at, t.deleted_at,
	coalesce(r.image, ''), coalesce(r.workdir, ''), coalesce(r.run_as, ''), coalesce(r.env, 'null'), coalesce(r.spec, '{}'), coalesce(b.state, '')
	from templates t
	left join revisions r on r.node = t.node and r.template = t.id and r.revision = t.revision
	left join builds b on b.id = t.last_build `

func scanTemplate(row scanner) (t sandbox.Template, err error) {
	var tags, metadata, spec, env, built string
	var created, updated, deleted int64
	var last sandbox.BuildState
	if err := row.Scan(&t.ID, &t.Tenant, &t.Slug, &t.Name, &t.Description, &t.Category, &tags, &metadata, &t.Pool.MinIdle, &t.Pool.MaxIdle, &spec,
		&t.Revision, &t.LastBuild, &created, &updated, &deleted,
		&t.Image, &t.Workdir, &t.User, &env, &built, &last); err != nil {
		return sandbox.Template{}, err
	}
	t.CreatedAt, t.UpdatedAt, t.DeletedAt = fromMicros(created), fromMicros(updated), fromMicros(deleted)
	if last != "" && !last.Final() {
		t.Pending = t.LastBuild
	}
	t.Status = statusOf(t.Revision, last)
	for _, x := range []struct {
		text string
		into any
	}{{tags, &t.Tags}, {metadata, &t.Metadata}, {spec, &t.Spec}, {env, &t.Env}, {built, &t.Built}} {
		if err := json.Unmarshal([]byte(x.text), x.into); err != nil {
			return sandbox.Template{}, fmt.Errorf("template %s: %w", t.ID, err)
		}
	}
	return t, nil
}

// statusOf tells how far a template is whose last build is in that state.
func statusOf(revision string, last sandbox.BuildState) sandbox.TemplateStatus {
	switch {
	case revision != "":
		return sandbox.TemplateReady
	case last == "":
		return sandbox.TemplateDraft
	case last.Final():
		return sandbox.TemplateBroken
	}
	return sandbox.TemplateBuilding
}

// saveTemplate writes what a template's owner sets of it, and which revision
// serves. An official one is known by its slug.
func (t *tx) saveTemplate(x sandbox.Template) error {
	texts, err := jsonTexts(x.Tags, x.Metadata, x.Spec)
	if err != nil {
		return fmt.Errorf("template %s: %w", x.ID, err)
	}
	captured, _ := x.Spec.IsCaptured()
	_, err = t.exec(`insert into templates (node, id, tenant, slug, name, description, category, tags, metadata, pool_min, pool_max, spec,
			revision, last_build, created_at, updated_at, deleted_at, captured)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
		on conflict (node, id) do update set name = excluded.name, description = excluded.description, category = excluded.category,
			tags = excluded.tags, metadata = excluded.metadata, pool_min = excluded.pool_min, pool_max = excluded.pool_max,
			spec = excluded.spec, revision = excluded.revision, last_build = excluded.last_build, created_at = excluded.created_at,
			updated_at = excluded.updated_at, deleted_at = excluded.deleted_at, captured = excluded.captured`,
		t.node, x.ID, string(x.Tenant), x.Slug, x.Name, x.Description, x.Category, texts[0], texts[1], x.Pool.MinIdle, x.Pool.MaxIdle, texts[2],
		x.Revision, x.LastBuild, micros(x.CreatedAt), micros(x.UpdatedAt), micros(x.DeletedAt), string(captured))
	if unique(err) {
		return templateTaken.Because(err)
	}
	return err
}

// saveRevision keeps what a template's fields say of the revision that serves.
func (t *tx) saveRevision(x sandbox.Template, base string, at time.Time) error {
	texts, err := jsonTexts(x.Env, x.Built)
	if err != nil {
		return fmt.Errorf("revision of template %s: %w", x.ID, err)
	}
	_, err = t.exec(`insert into revisions (node, template, revision, image, base, workdir, run_as, env, spec, created_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		on conflict (node, template, revision) do update set image = excluded.image, base = excluded.base, workdir = excluded.workdir,
			run_as = excluded.run_as, env = excluded.env, spec = excluded.spec`,
		t.node, x.ID, x.Revision, string(x.Image), base, x.Workdir, x.User, texts[0], texts[1], micros(at))
	return err
}

func jsonTexts(values ...any) ([]string, error) {
	texts := make([]string, len(values))
	for i, v := range values {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		texts[i] = string(raw)
	}
	return texts, nil
}

// SaveTemplate makes the row of t, and of its revision if it has one, say what t
// says.
func (s *Store) SaveTemplate(ctx context.Context, t sandbox.Template) error {
	if t.ID == "" {
		t.ID = t.Slug
	}
	return s.do(ctx, "save template", func(x *tx) error {
		if err := x.saveTemplate(t); err != nil || t.Revision == "" {
			return err
		}
		return x.saveRevision(t, "", t.CreatedAt)
	})
}

// CreateTemplate adds a tenant's template. [sandbox.CodeTaken] says that it has
// another of that slug, [sandbox.CodeQuota] that it has as many as limit.
func (s *Store) CreateTemplate(ctx context.Context, t sandbox.Template, limit int) (sandbox.Template, error) {
	err := s.do(ctx, "create template", func(x *tx) error {
		var n int
		if err := x.row(`select count(*) from templates where tenant = $1 and deleted_at = 0`, string(t.Tenant)).Scan(&n); err != nil {
			return err
		}
		if n >= limit {
			return sandbox.E(sandbox.Conflict, sandbox.CodeQuota, "the tenant has as many templates as it may").
				With("quota", "templates").With("limit", limit).With("used", n)
		}
		return x.saveTemplate(t)
	})
	if err != nil {
		return sandbox.Template{}, err
	}
	return s.Template(ctx, t.ID)
}

// DefineTemplate makes the row of an official template say what the catalogue
// says; what was built of it stays.
func (s *Store) DefineTemplate(ctx context.Context, t sandbox.Template) (sandbox.Template, error) {
	err := s.do(ctx, "define template", func(x *tx) error {
		old, err := scanTemplate(x.row(selectTemplate+`where t.node = $1 and t.id = $2`, x.node, t.ID))
		if err != nil && !none(err) {
			return err
		}
		if err == nil {
			t.CreatedAt, t.Revision, t.LastBuild = old.CreatedAt, old.Revision, old.LastBuild
		}
		return x.saveTemplate(t)
	})
	if err != nil {
		return sandbox.Template{}, err
	}
	return s.Template(ctx, t.ID)
}

// EditTemplate changes a template in one transaction, with the build that it
// makes necessary: change returns nil for none. It may run twice; its error
// leaves everything as it was.
func (s *Store) EditTemplate(ctx context.Context, id string, change func(*sandbox.Template) (*sandbox.Build, error)) (sandbox.Template, error) {
	err := s.do(ctx, "edit template "+id, func(x *tx) error {
		t, err := scanTemplate(x.row(selectTemplate+`where t.node = $1 and t.id = $2`, x.node, id))
		if none(err) || err == nil && !t.DeletedAt.IsZero() {
			return noTemplate
		}
		if err != nil {
			return err
		}
		b, err := change(&t)
		if err != nil {
			return err
		}
		if b != nil {
			t.LastBuild = b.ID
			if err := x.insertBuild(*b); err != nil {
				return err
			}
		}
		return x.saveTemplate(t)
	})
	if err != nil {
		return sandbox.Template{}, err
	}
	return s.Template(ctx, id)
}

// Template returns a template by its ID, a deleted one, too: what was started
// from it may live on. [sandbox.NotFound] when there never was one.
func (s *Store) Template(ctx context.Context, id string) (sandbox.Template, error) {
	t, err := scanTemplate(s.read.QueryRowContext(ctx, selectTemplate+`where t.node = $1 and t.id = $2`, s.cfg.Node, id))
	if none(err) {
		return sandbox.Template{}, noTemplate
	}
	return t, wrap(err, "read template")
}

// FindTemplate returns an official template or one of the tenant's, by ID or
// slug. [sandbox.NotFound] for all others.
func (s *Store) FindTemplate(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error) {
	t, err := scanTemplate(s.read.QueryRowContext(ctx, selectTemplate+`where t.node = $1 and t.deleted_at = 0
		and (t.tenant = '' or t.tenant = $2) and (t.id = $3 or t.slug = $3) order by t.tenant limit 1`, s.cfg.Node, string(tenant), name))
	if none(err) {
		return sandbox.Template{}, noTemplate
	}
	return t, wrap(err, "find template")
}

// Templates returns all templates of this node, by ID; deleted ones, too.
func (s *Store) Templates(ctx context.Context) ([]sandbox.Template, error) {
	return s.templates(ctx, `where t.node = $1 order by t.id`, s.cfg.Node)
}

// VisibleTemplates returns the official templates of this node and all of the
// tenant's, in the order of their making.
func (s *Store) VisibleTemplates(ctx context.Context, tenant sandbox.TenantID) ([]sandbox.Template, error) {
	return s.templates(ctx, `where t.deleted_at = 0 and (t.tenant = '' and t.node = $1 or t.tenant = $2 and t.tenant <> '')
		order by t.tenant, t.created_at, t.id`, s.cfg.Node, string(tenant))
}

func (s *Store) templates(ctx context.Context, where string, args ...any) ([]sandbox.Template, error) {
	rows, err := s.read.QueryContext(ctx, selectTemplate+where, args...)
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

// saveSeed stores where a seed is, replacing another one.
func (t *tx) saveSeed(n sandbox.Seed) error {
	_, err := t.exec(`insert into seeds (template, revision, name, ref, created_at, node) values ($1, $2, $3, $4, $5, $6)
		on conflict (node, template, revision, name) do update set ref = excluded.ref, created_at = excluded.created_at`,
		n.Template, n.Revision, n.Key, string(n.Ref), micros(n.CreatedAt), t.node)
	return err
}

// SaveSeed stores where the seed for a template revision and key is,
// replacing another one.
func (s *Store) SaveSeed(ctx context.Context, n sandbox.Seed) error {
	return s.do(ctx, "save seed", func(t *tx) error { return t.saveSeed(n) })
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
func (s *Store) Seed(ctx context.Context, template, revision, key string) (sandbox.Seed, error) {
	n, err := scanSeed(s.read.QueryRowContext(ctx, selectSeed+`where node = $1 and template = $2 and revision = $3 and name = $4`,
		s.cfg.Node, template, revision, key))
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
