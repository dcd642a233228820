package builder

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

const (
	maxTemplates = 200 // of a tenant
	maxQueued    = 20  // builds of a tenant that have not ended
	maxPool      = 64  // members of a template that stand ready
	buildsShown  = 200
)

// reservedSlugs stand in paths where a template's slug could.
var reservedSlugs = []string{"build-spec", "validate"}

var (
	errOfficial = sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "official templates are the operator's")
	errHostFile = sandbox.E(sandbox.Invalid, sandbox.CodeUnsupportedBase, "from: archives on the server are the operator's to use")
	errCaptured = sandbox.E(sandbox.Invalid, sandbox.CodeUnsupportedBase, "from: a base of a sandbox's files is made by POST /sandboxes/{id}/template")
	errNoBuild  = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "build not found")
)

// Templates lists what a caller may create from: the official ones, then its own.
func (c *Catalogue) Templates(ctx context.Context, who sandbox.Caller) ([]sandbox.Template, error) {
	list, err := c.builder.Store.VisibleTemplates(ctx, who.Tenant)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(list, func(t sandbox.Template) bool { // what an earlier version offered
		return t.Tenant == "" && t.Revision == "" && c.recipes[t.ID].Slug == ""
	}), nil
}

// Aliases are other names of official templates, with their slugs.
func (c *Catalogue) Aliases() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	aliases := make(map[string]string, len(c.aliases))
	for name, slug := range c.aliases {
		aliases[name] = slug
	}
	return aliases
}

// FindTemplate returns what a tenant may use, by ID, slug or alias.
func (c *Catalogue) FindTemplate(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error) {
	return c.builder.Store.FindTemplate(ctx, tenant, c.slugOf(name))
}

func (c *Catalogue) slugOf(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slug, ok := c.aliases[name]; ok {
		return slug
	}
	return name
}

// Template returns a template by its ID, whosever it is.
func (c *Catalogue) Template(ctx context.Context, id string) (sandbox.Template, error) {
	return c.builder.Store.Template(ctx, id)
}

// AllTemplates lists everybody's, deleted ones, too.
func (c *Catalogue) AllTemplates(ctx context.Context) ([]sandbox.Template, error) {
	return c.builder.Store.Templates(ctx)
}

// Seed returns what copies of a revision start from.
func (c *Catalogue) Seed(ctx context.Context, template, revision, key string) (sandbox.Seed, error) {
	return c.builder.Store.Seed(ctx, template, revision, key)
}

// Create adds a template of the caller's tenant. It is a draft until a build of
// it was asked for, and has ended well.
func (c *Catalogue) Create(ctx context.Context, who sandbox.Caller, req sandbox.TemplateRequest) (sandbox.Template, error) {
	if err := checkSpec(who, "", &req.Spec); err != nil {
		return sandbox.Template{}, err
	}
	t, err := c.draft(who, req)
	if err != nil {
		return sandbox.Template{}, err
	}
	return c.builder.Store.CreateTemplate(ctx, t, maxTemplates)
}

// CreateFrom adds a template of the files that a running sandbox of the caller's
// has now, and asks for its build. Its size is the sandbox's, the rest as the
// sandbox's template says; the request has no spec.
func (c *Catalogue) CreateFrom(ctx context.Context, who sandbox.Caller, sb sandbox.Sandbox, agent *guest.Client, req sandbox.TemplateRequest) (sandbox.Template, error) {
	if err := c.roomForBuild(ctx, who); err != nil {
		return sandbox.Template{}, err
	}
	of, err := c.builder.Store.Template(ctx, sb.Spec.Template)
	if err != nil && sandbox.AsError(err).Kind != sandbox.NotFound {
		return sandbox.Template{}, err
	}
	spec := of.Built // nothing, if the template is no more
	spec.Steps, spec.Packages = nil, nil
	spec.VCPU, spec.MemoryMiB, spec.DiskMiB = (sb.Spec.MilliCPU+sandbox.Core-1)/sandbox.Core, sb.Spec.Memory/sandbox.MiB, sb.Spec.Disk/sandbox.MiB
	spec.Env, spec.Workdir, spec.User = of.Env, of.Workdir, of.User
	req.Spec = spec
	t, err := c.draft(who, req)
	if err != nil {
		return sandbox.Template{}, err
	}
	files, err := c.builder.capture(ctx, agent, sb.Base)
	if err != nil {
		return sandbox.Template{}, err
	}
	release := c.builder.hold(files) // until the row does
	t.Spec.From = sandbox.CapturedBase(sb.ID, files)
	t, err = c.builder.Store.CreateTemplate(ctx, t, maxTemplates)
	release()
	if err != nil {
		c.builder.discard(ctx, files)
		return sandbox.Template{}, err
	}
	if _, err := c.queue(ctx, t.ID, nil); err != nil {
		return sandbox.Template{}, err
	}
	return c.builder.Store.Template(ctx, t.ID)
}

// draft checks a request and makes a template of it.
func (c *Catalogue) draft(who sandbox.Caller, req sandbox.TemplateRequest) (sandbox.Template, error) {
	slug := req.Slug
	if slug == "" {
		slug = slugify(req.Name)
	}
	if err := c.checkSlug(slug); err != nil {
		return sandbox.Template{}, err
	}
	if err := checkPool(&req.Pool); err != nil {
		return sandbox.Template{}, err
	}
	at := c.builder.now()
	t := sandbox.Template{
		ID: sandbox.NewName("tpl_"), Tenant: who.Tenant, Slug: slug, Name: req.Name, Description: req.Description, Category: "custom",
		Tags: req.Tags, Metadata: req.Metadata, Pool: req.Pool, Spec: req.Spec, CreatedAt: at, UpdatedAt: at,
	}
	if t.Name == "" {
		t.Name = slug
	}
	return t, nil
}

// checkSlug refuses what can't be a tenant's slug.
func (c *Catalogue) checkSlug(slug string) error {
	if !slugForm.MatchString(slug) && !aliasForm.MatchString(slug) || len(slug) > 63 {
		return errSlug
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(reservedSlugs, slug) || c.recipes[slug].Slug != "" || c.aliases[slug] != "" {
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "slug: "+slug+" is a built-in name: choose another").With("field", "slug")
	}
	if !slugForm.MatchString(slug) {
		return errSlug
	}
	return nil
}

// slugify makes a slug of a name.
func slugify(name string) string {
	dashed := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	words := strings.FieldsFunc(dashed, func(r rune) bool { return r == '-' })
	slug := strings.Join(words, "-")
	return strings.Trim(slug[:min(len(slug), 63)], "-")
}

// checkSpec checks what not everybody may say as a base. from is the template's
// until now: whoever changes the rest may leave it.
func checkSpec(who sandbox.Caller, from string, spec *sandbox.BuildSpec) error {
	if spec == nil || spec.From == from {
		return nil
	}
	if !who.Admin && (strings.HasPrefix(spec.From, "oci-archive:") || strings.HasPrefix(spec.From, "oci-layout:")) {
		return errHostFile.With("field", "from")
	}
	if _, ok := spec.IsCaptured(); ok {
		return errCaptured.With("field", "from")
	}
	return nil
}

func checkPool(pool *sandbox.PoolSize) error {
	switch {
	case pool == nil:
	case pool.MinIdle < 0 || pool.MinIdle > maxPool:
		return sandbox.Field("pool.minIdle", fmt.Sprintf("must be from 0 to %d", maxPool))
	case pool.MaxIdle != 0 && pool.MaxIdle < pool.MinIdle || pool.MaxIdle > maxPool:
		return sandbox.Field("pool.maxIdle", fmt.Sprintf("must be from minIdle to %d", maxPool))
	default:
		pool.MaxIdle = max(pool.MaxIdle, pool.MinIdle)
	}
	return nil
}

// own finds a template that the caller may change.
func (c *Catalogue) own(ctx context.Context, who sandbox.Caller, name string) (sandbox.Template, error) {
	t, err := c.FindTemplate(ctx, who.Tenant, name)
	if err == nil && t.Tenant == "" {
		return t, errOfficial
	}
	return t, err
}

// Change sets what ch says. Another spec is built at once; until that is ready
// the old one serves.
func (c *Catalogue) Change(ctx context.Context, who sandbox.Caller, name string, ch sandbox.TemplateChange) (sandbox.Template, error) {
	if err := checkPool(ch.Pool); err != nil {
		return sandbox.Template{}, err
	}
	t, err := c.own(ctx, who, name)
	if err == nil {
		err = checkSpec(who, t.Spec.From, ch.Spec)
	}
	if err != nil {
		return sandbox.Template{}, err
	}
	if ch.Spec != nil && revision(*ch.Spec, "", "") != revision(t.Spec, "", "") {
		if err := c.roomForBuild(ctx, who); err != nil {
			return sandbox.Template{}, err
		}
	}
	got, err := c.builder.Store.EditTemplate(ctx, t.ID, func(t *sandbox.Template) (*sandbox.Build, error) {
		set(&t.Name, ch.Name)
		set(&t.Description, ch.Description)
		set(&t.Tags, ch.Tags)
		set(&t.Metadata, ch.Metadata)
		set(&t.Pool, ch.Pool)
		t.UpdatedAt = c.builder.now()
		if ch.Spec == nil || revision(*ch.Spec, "", "") == revision(t.Spec, "", "") {
			return nil, nil
		}
		t.Spec = *ch.Spec
		b := c.builder.newBuild(*t)
		return &b, nil
	})
	if err != nil {
		return sandbox.Template{}, err
	}
	c.builder.queue.changed(got.ID)
	if ch.Pool != nil {
		c.changed()
	}
	return got, nil
}

func set[T any](field *T, v *T) {
	if v != nil {
		*field = *v
	}
}

// Delete ends a template: nothing is started from it any more, what was lives on.
func (c *Catalogue) Delete(ctx context.Context, who sandbox.Caller, name string) error {
	t, err := c.own(ctx, who, name)
	if err != nil {
		return err
	}
	t, err = c.builder.Store.EditTemplate(ctx, t.ID, func(t *sandbox.Template) (*sandbox.Build, error) {
		t.DeletedAt = c.builder.now()
		return nil, nil
	})
	if err != nil {
		return err
	}
	open, err := c.builder.Store.OpenBuilds(ctx)
	if err != nil {
		return err
	}
	for _, b := range open {
		if b.Template != t.ID {
			continue
		}
		if _, err := c.builder.Cancel(ctx, b.ID); err != nil && !sandbox.HasCode(err, sandbox.CodeBuildState) {
			return err
		}
	}
	c.changed() // its pool is drained
	captured, _ := t.Spec.IsCaptured()
	c.builder.forgetRevisions(ctx, t.ID, "", t.Image, captured)
	return nil
}

// Queue asks for a build of a template, of another spec if one is given. One that
// was never built anybody may ask for, an official one too.
func (c *Catalogue) Queue(ctx context.Context, who sandbox.Caller, name string, spec *sandbox.BuildSpec) (sandbox.Build, error) {
	t, err := c.FindTemplate(ctx, who.Tenant, name)
	if err != nil {
		return sandbox.Build{}, err
	}
	if t.Tenant == "" && (spec != nil || t.Revision != "" && !who.Admin) {
		return sandbox.Build{}, errOfficial
	}
	if err := checkSpec(who, t.Spec.From, spec); err != nil {
		return sandbox.Build{}, err
	}
	if t.Tenant == "" && t.Pending != "" {
		return c.builder.Store.Build(ctx, t.Pending)
	}
	if err := c.roomForBuild(ctx, who); err != nil {
		return sandbox.Build{}, err
	}
	return c.queue(ctx, t.ID, spec)
}

func (c *Catalogue) queue(ctx context.Context, id string, spec *sandbox.BuildSpec) (sandbox.Build, error) {
	var b sandbox.Build
	_, err := c.builder.Store.EditTemplate(ctx, id, func(t *sandbox.Template) (*sandbox.Build, error) {
		if spec != nil {
			t.Spec, t.UpdatedAt = *spec, c.builder.now()
		}
		b = c.builder.newBuild(*t)
		return &b, nil
	})
	if err != nil {
		return sandbox.Build{}, err
	}
	c.builder.queue.changed(b.ID, b.Template)
	return b, nil
}

func (c *Catalogue) roomForBuild(ctx context.Context, who sandbox.Caller) error {
	open, err := c.builder.Store.OpenBuilds(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, b := range open {
		if b.Tenant == who.Tenant {
			n++
		}
	}
	if n >= maxQueued {
		return sandbox.E(sandbox.Conflict, sandbox.CodeQuota, "the tenant has as many builds under way as it may").
			With("quota", "builds").With("limit", maxQueued).With("used", n)
	}
	return nil
}

// Builds lists the builds of a template, newest first.
func (c *Catalogue) Builds(ctx context.Context, who sandbox.Caller, name string) ([]sandbox.Build, error) {
	t, err := c.FindTemplate(ctx, who.Tenant, name)
	if err != nil {
		return nil, err
	}
	return c.builder.Store.Builds(ctx, t.ID, buildsShown)
}

// GetBuild returns a build that the caller may see.
func (c *Catalogue) GetBuild(ctx context.Context, who sandbox.Caller, id string) (sandbox.Build, error) {
	b, err := c.builder.Store.Build(ctx, id)
	if err == nil && b.Tenant != "" && b.Tenant != who.Tenant {
		return sandbox.Build{}, errNoBuild
	}
	return b, err
}

func (c *Catalogue) ownBuild(ctx context.Context, who sandbox.Caller, id string) (sandbox.Build, error) {
	b, err := c.GetBuild(ctx, who, id)
	if err == nil && b.Tenant == "" && !who.Admin {
		return b, errOfficial
	}
	return b, err
}

// Cancel ends a build that has not ended yet.
func (c *Catalogue) Cancel(ctx context.Context, who sandbox.Caller, id string) (sandbox.Build, error) {
	b, err := c.ownBuild(ctx, who, id)
	if err != nil {
		return b, err
	}
	return c.builder.Cancel(ctx, b.ID)
}

// Retry asks for another build of what one that failed or was cancelled was of.
func (c *Catalogue) Retry(ctx context.Context, who sandbox.Caller, id string) (sandbox.Build, error) {
	old, err := c.ownBuild(ctx, who, id)
	if err != nil {
		return old, err
	}
	if old.State != sandbox.BuildFailed && old.State != sandbox.BuildCancelled {
		return old, sandbox.E(sandbox.Conflict, sandbox.CodeBuildState, "only a build that failed or was cancelled can be tried again").With("state", string(old.State))
	}
	if err := c.roomForBuild(ctx, who); err != nil {
		return old, err
	}
	var b sandbox.Build
	_, err = c.builder.Store.EditTemplate(ctx, old.Template, func(t *sandbox.Template) (*sandbox.Build, error) {
		if t.Tenant != "" {
			t.Spec = old.Spec
		}
		b = c.builder.newBuild(*t)
		return &b, nil
	})
	if err != nil {
		return b, err
	}
	c.builder.queue.changed(b.ID, b.Template)
	return b, nil
}

// FollowBuild yields what a build has told after an event, and what it tells until
// its end.
func (c *Catalogue) FollowBuild(ctx context.Context, who sandbox.Caller, id string, after int64) iter.Seq2[sandbox.BuildEvent, error] {
	return func(yield func(sandbox.BuildEvent, error) bool) {
		b, err := c.GetBuild(ctx, who, id)
		if err != nil {
			yield(sandbox.BuildEvent{}, err)
			return
		}
		for e, err := range c.builder.Follow(ctx, b.ID, after) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// BuildLog returns what a build has told until now.
func (c *Catalogue) BuildLog(ctx context.Context, who sandbox.Caller, id string) (sandbox.Build, []sandbox.BuildEvent, error) {
	b, err := c.GetBuild(ctx, who, id)
	if err != nil {
		return b, nil, err
	}
	var all []sandbox.BuildEvent
	for after := int64(0); ; after = all[len(all)-1].Seq {
		page, err := c.builder.Store.BuildEvents(ctx, b.ID, after, eventPage)
		if all = append(all, page...); err != nil || len(page) < eventPage {
			return b, all, err
		}
	}
}
