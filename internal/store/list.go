package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"silica.dev/silica/sandbox"
)

// maxList bounds a list that asks for no bound.
const maxList = 1000

// kept is the condition of the index in whose order lists are read. It must stand
// in the query as it stands there. Without it, a tenant's list would cost what
// the tenant has ever destroyed.
const kept = "state <> 'destroyed'"

// conditions collects what a query asks of its rows, and its parameters.
type conditions struct {
	where []string
	args  []any
}

// arg adds a parameter and returns how SQL calls it.
func (c *conditions) arg(v any) string {
	c.args = append(c.args, v)
	return fmt.Sprintf("$%d", len(c.args))
}

// need adds a condition; %s stands for each parameter.
func (c *conditions) need(cond string, values ...any) {
	names := make([]any, len(values))
	for i, v := range values {
		names[i] = c.arg(v)
	}
	c.where = append(c.where, fmt.Sprintf(cond, names...))
}

func (c *conditions) String() string { return strings.Join(c.where, " and ") }

func selection(f sandbox.Filter) *conditions {
	c := &conditions{}
	c.need("tenant = %s", string(f.Tenant))
	for _, x := range []struct{ column, value string }{
		{"workspace", f.Workspace}, {"project", f.Project}, {"name", f.Name},
		{"ext_workspace", f.External.Workspace}, {"ext_user", f.External.User}, {"ext_project", f.External.Project},
	} {
		if x.value != "" {
			c.need(x.column+" = %s", x.value)
		}
	}
	if f.Template != "" { // by id, or by the slug that callers see
		c.need("(template = %s or image = %s)", f.Template, f.Template)
	}
	if !slices.Contains(f.States, sandbox.Destroyed) {
		c.where = append(c.where, kept)
	}
	if len(f.States) > 0 {
		var in []string
		for _, s := range f.States {
			in = append(in, c.arg(string(s)))
		}
		c.where = append(c.where, "state in ("+strings.Join(in, ", ")+")")
	}
	for _, k := range slices.Sorted(maps.Keys(f.Metadata)) {
		c.labelled(f.Tenant, "metadata."+k, f.Metadata[k])
	}
	for _, tag := range f.Tags {
		c.labelled(f.Tenant, "tag", tag)
	}
	return c
}

func (c *conditions) labelled(tenant sandbox.TenantID, name, value string) {
	c.need("id in (select sandbox from labels where tenant = %s and name = %s and value = %s)", string(tenant), name, value)
}

// List returns a page of a tenant's sandboxes that f selects, newest first,
// without their environments.
func (s *Store) List(ctx context.Context, f sandbox.Filter) (sandbox.Listing, error) {
	if f.Tenant == "" || slices.ContainsFunc(f.States, func(s sandbox.State) bool { return !s.Public() }) {
		return sandbox.Listing{}, nil
	}
	if f.Limit <= 0 || f.Limit > maxList {
		f.Limit = maxList
	}
	f.Offset = max(f.Offset, 0)
	c := selection(f)
	all, allArgs := c.String(), slices.Clone(c.args)
	if f.After.ID != "" {
		at := micros(f.After.CreatedAt)
		c.need("(created_at < %s or created_at = %s and id < %s)", at, at, string(f.After.ID))
	}
	// One more than asked for tells whether there is another page.
	query := selectListed + "where " + c.String() + " order by created_at desc, id desc limit " + c.arg(f.Limit+1) + " offset " + c.arg(f.Offset)
	rows, err := s.queryAll(ctx, query, c.args...)
	if err != nil {
		return sandbox.Listing{}, err
	}
	l := sandbox.Listing{Sandboxes: rows, Total: f.Offset + len(rows)}
	if len(rows) > f.Limit {
		l.Sandboxes, l.More = rows[:f.Limit], true
	}
	if l.More || f.After.ID != "" || len(rows) == 0 && f.Offset > 0 {
		err = s.read.QueryRowContext(ctx, "select count(*) from sandboxes where "+all, allArgs...).Scan(&l.Total)
	}
	return l, wrap(err, "count sandboxes")
}
