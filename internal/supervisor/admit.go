package supervisor

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// Smallest sizes in which an agent lives.
const (
	minMilliCPU = 100
	minMemory   = 64 * sandbox.MiB
	minDisk     = 16 * sandbox.MiB
)

// Bounds on what one row may hold.
const (
	maxName     = 255
	maxEnvBytes = 128 << 10 // what the kernel takes for a process
	maxTags     = 64
)

var (
	validEnvName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	validSlug    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// usual is the size of a template's sandboxes that ask for none.
func (c Config) usual(t sandbox.Template) sandbox.Resources {
	spec := t.Built
	if t.Revision == "" {
		spec = t.Spec
	}
	return resourcesOr(spec.Resources(), c.Default)
}

// admit checks a request against the operator's bounds and resolves its
// defaults, of which the template has some, into a row that is not written yet.
func (c Config) admit(caller sandbox.Caller, req sandbox.CreateRequest, t sandbox.Template) (sandbox.Sandbox, error) {
	at := now()
	sb := sandbox.Sandbox{
		ID: sandbox.NewID(), Slug: sandbox.NewSlug(), State: sandbox.Provisioning,
		Tenant: caller.Tenant, Owner: caller.User, External: req.External, Name: req.Name,
		Spec:    sandbox.Spec{Template: t.ID, Revision: t.Revision, Image: t.Slug, Resources: resourcesOr(req.Resources, c.usual(t)), Env: req.Env},
		Timeout: req.Timeout, Idle: req.Idle, Persist: req.Persist, AlwaysOn: req.AlwaysOn, AutoStart: req.AutoStart,
		Tags: req.Tags, Metadata: req.Metadata, CreatedAt: at, UpdatedAt: at,
	}
	if sb.Timeout == 0 {
		sb.Timeout = min(c.Timeout, c.MaxTimeout)
	}
	checks := []func() error{
		func() error {
			return between("cpu_count", sb.Spec.MilliCPU, minMilliCPU, c.Max.MilliCPU, sandbox.Core, "CPUs")
		},
		func() error {
			return between("memory_mb", sb.Spec.Memory, minMemory, c.Max.Memory, sandbox.MiB, "MiB")
		},
		func() error { return between("disk_mb", sb.Spec.Disk, minDisk, c.Max.Disk, sandbox.MiB, "MiB") },
		func() error {
			return between("timeout_sec", int64(sb.Timeout), int64(time.Second), int64(c.MaxTimeout), int64(time.Second), "seconds")
		},
		func() error { return checkEnv(sb.Spec.Env) },
		func() error { return checkPlace("workspace", req.Workspace) },
		func() error { return checkPlace("project", req.Project) },
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return sandbox.Sandbox{}, err
		}
	}
	switch {
	case sb.Idle < 0:
		return sandbox.Sandbox{}, sandbox.Field("idle_timeout_sec", "must not be negative")
	case sb.AlwaysOn && c.ForbidAlwaysOn:
		return sandbox.Sandbox{}, sandbox.Field("always_on", "this server does not allow it")
	case len(sb.Name) > maxName:
		return sandbox.Sandbox{}, sandbox.Field("name", fmt.Sprintf("must be at most %d bytes", maxName))
	case len(sb.Tags) > maxTags:
		return sandbox.Sandbox{}, sandbox.Field("tags", fmt.Sprintf("must be at most %d", maxTags))
	}
	return sb, nil
}

func between(field string, v, low, high, unit int64, unitName string) error {
	if v < low || v > high {
		return sandbox.Field(field, fmt.Sprintf("must be between %v and %v %s",
			float64(low)/float64(unit), float64(high)/float64(unit), unitName))
	}
	return nil
}

func checkEnv(env map[string]string) error {
	total := 0
	for k, v := range env {
		total += len(k) + len(v) + 2
		if !validEnvName.MatchString(k) {
			return sandbox.Field("env", fmt.Sprintf("%.64q is not a name for a variable", k))
		}
		if strings.ContainsRune(v, 0) {
			return sandbox.Field("env", fmt.Sprintf("the value of %.64q has a zero byte", k))
		}
	}
	if total > maxEnvBytes {
		return sandbox.Field("env", fmt.Sprintf("must be at most %d bytes together", maxEnvBytes))
	}
	return nil
}

func checkPlace(what string, p sandbox.Place) error {
	if p.Slug != "" && !validSlug.MatchString(p.Slug) {
		return sandbox.Field(what+"_slug", "must be 1 to 64 letters, digits, '.', '_' and '-', and begin with a letter or digit")
	}
	if len(p.Name) > maxName {
		return sandbox.Field(what+"_name", fmt.Sprintf("must be at most %d bytes", maxName))
	}
	return nil
}
