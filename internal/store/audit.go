package store

import (
	"context"
	"fmt"
	"strings"

	"silica.dev/silica/sandbox"
)

// AddAudit keeps who did what, and returns when that is durable.
func (s *Store) AddAudit(ctx context.Context, a sandbox.Audit) error {
	return s.do(ctx, "audit", func(t *tx) error {
		_, err := t.exec(`insert into audit (id, tenant, workspace, api_key, user_id, method, route, resource, status, code, address, user_agent, request, at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
			a.ID, string(a.Tenant), a.Workspace, a.Key, a.User, a.Method, a.Route, a.Resource, a.Status, a.Code, a.Address, a.UserAgent, a.Request, micros(a.At))
		return err
	})
}

// Audits returns entries, newest first.
func (s *Store) Audits(ctx context.Context, f sandbox.AuditFilter) ([]sandbox.Audit, error) {
	w := where{}
	w.equal("tenant", string(f.Tenant))
	for _, c := range []struct{ column, value string }{
		{"workspace", f.Workspace}, {"api_key", f.Key}, {"user_id", f.User}, {"method", f.Method}, {"route", f.Route},
		{"resource", f.Resource}, {"request", f.Request},
	} {
		if c.value != "" {
			w.equal(c.column, c.value)
		}
	}
	if !f.Window.From.IsZero() {
		w.add("at >= $%d", micros(f.Window.From))
	}
	if !f.Window.To.IsZero() {
		w.add("at < $%d", micros(f.Window.To))
	}
	if f.Before != "" {
		w.add("id < $%d", f.Before)
	}
	if f.Limit <= 0 || f.Limit > maxList {
		f.Limit = maxList
	}
	return queryList(ctx, s, "audit", scanAudit, `select id, tenant, workspace, api_key, user_id, method, route, resource, status, code, address, user_agent, request, at
		from audit `+w.text()+` order by id desc limit `+fmt.Sprint(f.Limit), w.args...)
}

func scanAudit(row scanner) (a sandbox.Audit, err error) {
	var at int64
	err = row.Scan(&a.ID, &a.Tenant, &a.Workspace, &a.Key, &a.User, &a.Method, &a.Route, &a.Resource, &a.Status, &a.Code, &a.Address, &a.UserAgent, &a.Request, &at)
	a.At = fromMicros(at)
	return a, err
}

// where collects conditions and their parameters.
type where struct {
	conditions []string
	args       []any
}

// add adds a condition with one parameter, whose number stands for %d.
func (w *where) add(condition string, arg any) {
	w.args = append(w.args, arg)
	w.conditions = append(w.conditions, fmt.Sprintf(condition, len(w.args)))
}

func (w *where) equal(column string, value any) { w.add(column+" = $%d", value) }

func (w *where) text() string { return "where " + strings.Join(w.conditions, " and ") }
