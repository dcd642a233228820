package store

import (
	"cmp"
	"time"

	"github.com/google/uuid"

	"silica.dev/silica/sandbox"
)

// defaultSlug names the workspace, and the project in each workspace, of
// sandboxes that name none.
const defaultSlug = "default"

// place finds or makes the workspace and the project in it, and returns their
// UUIDs. A project given by ID brings its workspace along.
func (t *tx) place(tenant sandbox.TenantID, w, p sandbox.Place, now time.Time) (workspace, project string, err error) {
	if p.ID != "" {
		err := t.row(`select workspace from projects where id = $1 and tenant = $2`, p.ID, string(tenant)).Scan(&workspace)
		if none(err) {
			return "", "", sandbox.Field("project_id", "no such project")
		}
		if err != nil {
			return "", "", err
		}
		if w == (sandbox.Place{}) {
			return workspace, p.ID, nil
		}
	}
	in := workspace
	if workspace, err = t.workspace(tenant, w, now); err != nil {
		return "", "", err
	}
	if p.ID != "" {
		if in != workspace {
			return "", "", sandbox.Field("project_id", "the project is in another workspace")
		}
		return workspace, p.ID, nil
	}
	project, err = t.project(tenant, workspace, p, now)
	return workspace, project, err
}

func (t *tx) workspace(tenant sandbox.TenantID, w sandbox.Place, now time.Time) (id string, err error) {
	if w.ID != "" {
		var slug string
		err := t.row(`select id, slug from workspaces where id = $1 and tenant = $2`, w.ID, string(tenant)).Scan(&id, &slug)
		switch {
		case none(err):
			return "", noSuchWorkspace
		case err == nil && w.Slug != "" && w.Slug != slug:
			return "", sandbox.Field("workspace_slug", "is not the slug of workspace_id")
		}
		return id, err
	}
	slug := cmp.Or(w.Slug, defaultSlug)
	err = t.row(`select id from workspaces where tenant = $1 and slug = $2`, string(tenant), slug).Scan(&id)
	if !none(err) {
		return id, err
	}
	id = uuid.NewString()
	_, err = t.exec(`insert into workspaces (id, tenant, slug, name, created_at) values ($1, $2, $3, $4, $5)`,
		id, string(tenant), slug, cmp.Or(w.Name, slug), micros(now))
	return id, err
}

func (t *tx) project(tenant sandbox.TenantID, workspace string, p sandbox.Place, now time.Time) (id string, err error) {
	slug := cmp.Or(p.Slug, defaultSlug)
	err = t.row(`select id from projects where workspace = $1 and slug = $2`, workspace, slug).Scan(&id)
	if !none(err) {
		return id, err
	}
	id = uuid.NewString()
	_, err = t.exec(`insert into projects (id, tenant, workspace, slug, name, created_at) values ($1, $2, $3, $4, $5, $6)`,
		id, string(tenant), workspace, slug, cmp.Or(p.Name, slug), micros(now))
	return id, err
}
