package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// columns are those of a sandbox, in the order of values and scan.
var columns = []string{
	"id", "tenant", "owner", "workspace", "project", "ext_workspace", "ext_user", "ext_project",
	"name", "slug", "template", "revision", "image", "milli_cpu", "memory", "disk", "env",
	"state", "ready", "reason", "boot_path", "boot", "timeout", "idle", "persist", "always_on", "auto_start",
	"tags", "metadata", "freed", "created_at", "updated_at", "started_at", "ready_at", "destroyed_at",
	"base", "files", "ran", "stopped_at", "extended_at", "node", "memory_ref", "saved",
}

var (
	selectSandbox = "select " + strings.Join(columns, ", ") + " from sandboxes "
	// selectListed leaves environments out: nobody lists them, and a thousand at
	// 128 KiB each would be one request's.
	selectListed  = strings.Replace(selectSandbox, ", env,", ", 'null',", 1)
	insertSandbox = "insert into sandboxes (" + strings.Join(columns, ", ") + ") values (" + numbered(len(columns)) + ")"
	// updateSandbox writes every column of the sandbox $1 that is in a state
	// given as the parameter after the columns.
	updateSandbox = "update sandboxes set " + assignments() + fmt.Sprintf(" where id = $1 and state = $%d", len(columns)+1)
)

func numbered(n int) string {
	ps := make([]string, n)
	for i := range ps {
		ps[i] = fmt.Sprintf("$%d", i+1)
	}
	return strings.Join(ps, ", ")
}

func assignments() string {
	var as []string
	for i, c := range columns[1:] {
		as = append(as, fmt.Sprintf("%s = $%d", c, i+2))
	}
	return strings.Join(as, ", ")
}

func values(sb sandbox.Sandbox) ([]any, error) {
	env, err := json.Marshal(sb.Spec.Env)
	if err != nil {
		return nil, fmt.Errorf("env: %w", err)
	}
	tags, err := json.Marshal(sb.Tags)
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	metadata, err := json.Marshal(sb.Metadata)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return []any{
		string(sb.ID), string(sb.Tenant), sb.Owner, sb.Workspace, sb.Project,
		sb.External.Workspace, sb.External.User, sb.External.Project,
		sb.Name, sb.Slug, sb.Spec.Template, sb.Spec.Revision, sb.Spec.Image,
		sb.Spec.MilliCPU, sb.Spec.Memory, sb.Spec.Disk, string(env),
		string(sb.State), sb.Ready, sb.Reason, string(sb.BootPath), sb.Boot.Microseconds(),
		sb.Timeout.Microseconds(), sb.Idle.Microseconds(), sb.Persist, sb.AlwaysOn, sb.AutoStart,
		string(tags), string(metadata), sb.Freed,
		micros(sb.CreatedAt), micros(sb.UpdatedAt), micros(sb.StartedAt), micros(sb.ReadyAt), micros(sb.DestroyedAt),
		string(sb.Base), string(sb.Files), sb.Ran.Microseconds(), micros(sb.StoppedAt), micros(sb.ExtendedAt), sb.Node,
		string(sb.Memory), sb.Saved,
	}, nil
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }

// rowReader reads rows of columns. It keeps what they are read into: a list of a
// thousand sandboxes would make 35,000 places for them otherwise.
type rowReader struct {
	sb                                                                   sandbox.Sandbox
	id, tenant, state, bootPath                                          string
	env, tags, metadata, base, files, memory                             string
	boot, timeout, idle, created, updated, started, readyAt, destroyedAt int64
	ran, stopped, extended                                               int64
	into                                                                 []any
}

func newRowReader() *rowReader {
	r := &rowReader{}
	sb := &r.sb
	r.into = []any{
		&r.id, &r.tenant, &sb.Owner, &sb.Workspace, &sb.Project,
		&sb.External.Workspace, &sb.External.User, &sb.External.Project,
		&sb.Name, &sb.Slug, &sb.Spec.Template, &sb.Spec.Revision, &sb.Spec.Image,
		&sb.Spec.MilliCPU, &sb.Spec.Memory, &sb.Spec.Disk, &r.env,
		&r.state, &sb.Ready, &sb.Reason, &r.bootPath, &r.boot,
		&r.timeout, &r.idle, &sb.Persist, &sb.AlwaysOn, &sb.AutoStart,
		&r.tags, &r.metadata, &sb.Freed,
		&r.created, &r.updated, &r.started, &r.readyAt, &r.destroyedAt,
		&r.base, &r.files, &r.ran, &r.stopped, &r.extended, &sb.Node,
		&r.memory, &sb.Saved,
	}
	return r
}

func scan(row scanner) (sandbox.Sandbox, error) { return newRowReader().scan(row) }

func (r *rowReader) scan(row scanner) (sandbox.Sandbox, error) {
	if err := row.Scan(r.into...); err != nil {
		return sandbox.Sandbox{}, err
	}
	sb := r.sb // its maps and lists are made below, for this row alone
	sb.ID, sb.Tenant = sandbox.ID(r.id), sandbox.TenantID(r.tenant)
	sb.State, sb.BootPath = sandbox.State(r.state), sandbox.BootPath(r.bootPath)
	sb.Base, sb.Files, sb.Memory = sandbox.Ref(r.base), sandbox.Ref(r.files), sandbox.Ref(r.memory)
	for _, j := range []struct {
		text string
		into any
	}{{r.env, &sb.Spec.Env}, {r.tags, &sb.Tags}, {r.metadata, &sb.Metadata}} {
		if j.text == "null" {
			continue
		}
		// Numbers stay as they were written: a user's 1e999 is no float64, and
		// a row that can't be read would keep the daemon from starting.
		d := json.NewDecoder(strings.NewReader(j.text))
		d.UseNumber()
		if err := d.Decode(j.into); err != nil {
			// Not wrapped: an end of file in here is no lost connection.
			return sandbox.Sandbox{}, fmt.Errorf("row of %s: %v", sb.ID, err)
		}
	}
	sb.Boot, sb.Timeout, sb.Idle, sb.Ran = duration(r.boot), duration(r.timeout), duration(r.idle), duration(r.ran)
	sb.CreatedAt, sb.UpdatedAt = fromMicros(r.created), fromMicros(r.updated)
	sb.StartedAt, sb.ReadyAt, sb.DestroyedAt = fromMicros(r.started), fromMicros(r.readyAt), fromMicros(r.destroyedAt)
	sb.StoppedAt, sb.ExtendedAt = fromMicros(r.stopped), fromMicros(r.extended)
	return sb, nil
}

func duration(micros int64) time.Duration { return time.Duration(micros) * time.Microsecond }
