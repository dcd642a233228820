package store

import (
	"context"

	"silica.dev/silica/sandbox"
)

// holding lists all rows that keep artifacts: kind, id, tenant and ref of each. With
// moments it is the only such list, with one line a column: who adds a column with
// a ref adds a line, or what it names is garbage. Its parameters are holdingArgs.
const holding = `select 'image' as kind, t.slug as id, t.tenant as tenant, r.image as ref from templates t
		join revisions r on r.node = t.node and r.template = t.id and r.revision = t.revision where t.deleted_at = 0 and r.image <> ''
	union all select 'image', slug, tenant, captured from templates where captured <> '' and deleted_at = 0
	union all select 'seed', template, '', ref from seeds where ref <> ''
	union all select 'base', id, tenant, base from sandboxes where base <> '' and (files <> '' or memory_ref <> '' or freed = $1 or state = $2)
	union all select 'base', id, tenant, base from snapshots where base <> ''
	union all ` + moments

// moments are those of what was kept of a sandbox, each with an index.
const moments = `select 'files' as kind, id, tenant, files as ref from sandboxes where files <> ''
	union all select 'memory', id, tenant, memory_ref from sandboxes where memory_ref <> ''
	union all select 'snapshot', id, tenant, memory from snapshots where memory <> ''
	union all select 'snapshot', id, tenant, files from snapshots where files <> ''`

const (
	heldRefs   = `select distinct ref from (` + holding + `) as held`
	keptRefs   = heldRefs + ` where kind not in ('image', 'seed')`
	momentRefs = `select count(*) from (` + moments + `) as held where ref = $1`
)

var holdingArgs = []any{false, string(sandbox.Paused)}

func scanRef(row scanner) (ref sandbox.Ref, err error) {
	err = row.Scan(&ref)
	return ref, err
}

// Holders lists every row that names an artifact. Those of other nodes name
// artifacts that are there.
func (s *Store) Holders(ctx context.Context) ([]sandbox.Holder, error) {
	return queryList(ctx, s, "list holders", func(row scanner) (h sandbox.Holder, err error) {
		err = row.Scan(&h.Kind, &h.ID, &h.Tenant, &h.Ref)
		return h, err
	}, `select distinct kind, id, tenant, ref from (`+holding+`) as held`, holdingArgs...)
}

// Kept lists the artifacts that sandboxes and snapshots need: what was kept of
// those, and the root file systems under them and under all sandboxes that live.
func (s *Store) Kept(ctx context.Context) ([]sandbox.Ref, error) {
	return queryList(ctx, s, "list kept artifacts", scanRef, keptRefs, holdingArgs...)
}

// Referenced tells whether a row names an artifact that was kept of a sandbox. One
// that no row names is named by none ever again: whoever takes over a reference
// reads it, in the same transaction, from a row that has it.
func (s *Store) Referenced(ctx context.Context, ref sandbox.Ref) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx, momentRefs, string(ref)).Scan(&n)
	return n > 0, wrap(err, "look for references")
}
