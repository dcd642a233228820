package store

import (
	"context"

	"silica.dev/silica/sandbox"
)

// holding are the rows that keep artifacts: kind, id, tenant and ref of each. Who
// adds a column with a ref adds a line here, or what it names is garbage.
const holding = `select 'image', t.slug, t.tenant, r.image from templates t
		join revisions r on r.node = t.node and r.template = t.id and r.revision = t.revision where t.deleted_at = 0 and r.image <> ''
	union select 'seed', template, '', ref from seeds where ref <> ''
	union select 'base', id, tenant, base from sandboxes where base <> '' and (files <> '' or memory_ref <> '' or freed = $1 or state = $2)
	union select 'files', id, tenant, files from sandboxes where files <> ''
	union select 'memory', id, tenant, memory_ref from sandboxes where memory_ref <> ''
	union select 'base', id, tenant, base from snapshots where base <> ''
	union select 'snapshot', id, tenant, memory from snapshots where memory <> ''
	union select 'snapshot', id, tenant, files from snapshots where files <> ''`

// Holders lists every row that names an artifact. Those of other nodes name
// artifacts that are there.
func (s *Store) Holders(ctx context.Context) ([]sandbox.Holder, error) {
	return queryList(ctx, s, "list holders", func(row scanner) (h sandbox.Holder, err error) {
		err = row.Scan(&h.Kind, &h.ID, &h.Tenant, &h.Ref)
		return h, err
	}, holding, false, string(sandbox.Paused))
}
