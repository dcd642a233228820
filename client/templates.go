package client

import (
	"context"
	"iter"
	"net/url"
	"strconv"

	"silica.dev/silica/api"
)

func templatePath(id string, rest string) string {
	return api.PathTemplates + "/" + url.PathEscape(id) + rest
}

func buildPath(id string, rest string) string {
	return api.PathTemplateBuilds + "/" + url.PathEscape(id) + rest
}

// TemplateFilter selects templates. Empty fields do not restrict.
type TemplateFilter struct {
	Tag, Category, Search string
	Aliases               bool // list other names of official templates, too
}

// Templates lists what can be created from and names the default.
func (c *Client) Templates(ctx context.Context, f TemplateFilter) (*api.TemplateList, error) {
	cl := get(api.PathTemplates).with("tag", f.Tag).with("category", f.Category).with("search", f.Search)
	if f.Aliases {
		cl = cl.with("include_aliases", "true")
	}
	return fetch[api.TemplateList](ctx, c, cl)
}

// Template returns one template by id or slug.
func (c *Client) Template(ctx context.Context, id string) (*api.Template, error) {
	return fetch[api.Template](ctx, c, get(templatePath(id, "")))
}

// BuildSpecSchema returns the JSON Schema of a BuildSpec.
func (c *Client) BuildSpecSchema(ctx context.Context) (map[string]any, error) {
	schema, err := fetch[map[string]any](ctx, c, get(api.PathTemplates+"/build-spec"))
	if err != nil {
		return nil, err
	}
	delete(*schema, "data")
	return *schema, nil
}

// ValidateBuildSpec checks an [api.BuildSpec], or whatever has its JSON form, and
// returns it with its defaults. An [*Error] holds all that is wrong: see
// [Error.Problems].
func (c *Client) ValidateBuildSpec(ctx context.Context, spec any) (*api.BuildSpec, error) {
	valid, err := fetch[api.ValidBuildSpec](ctx, c, post(api.PathTemplates+"/validate", api.BuildRequest{BuildSpec: spec}).again())
	if err != nil {
		return nil, err
	}
	return &valid.BuildSpec, nil
}

// CreateTemplate makes a template of the tenant's own. It is not built yet: see
// BuildTemplate.
func (c *Client) CreateTemplate(ctx context.Context, req api.TemplateRequest) (*api.Template, error) {
	return fetch[api.Template](ctx, c, post(api.PathTemplates, req))
}

// CreateTemplateFrom makes a template of the files that a sandbox has now, and has
// it built: req has no BuildSpec.
func (c *Client) CreateTemplateFrom(ctx context.Context, sandbox string, req api.TemplateRequest) (*api.Template, error) {
	return fetch[api.Template](ctx, c, post(api.SandboxPath(sandbox)+"/template", req))
}

// ChangeTemplate sets what req names. Another BuildSpec is built at once; until
// that is ready, the old one serves.
func (c *Client) ChangeTemplate(ctx context.Context, id string, req api.TemplateRequest) (*api.Template, error) {
	return fetch[api.Template](ctx, c, put(templatePath(id, ""), req))
}

// DeleteTemplate deletes a template. Sandboxes of it live on.
func (c *Client) DeleteTemplate(ctx context.Context, id string) error {
	return c.do(ctx, del(templatePath(id, "")), nil)
}

// BuildTemplate queues a build. With a spec, that is the template's from now on.
func (c *Client) BuildTemplate(ctx context.Context, id string, spec any) (*api.Build, error) {
	return fetch[api.Build](ctx, c, post(templatePath(id, "/builds"), api.BuildRequest{BuildSpec: spec}))
}

// Builds lists the builds of a template, newest first.
func (c *Client) Builds(ctx context.Context, template string) ([]api.Build, error) {
	return rows[api.Build](ctx, c, get(templatePath(template, "/builds")))
}

// Build returns one build.
func (c *Client) Build(ctx context.Context, id string) (*api.Build, error) {
	return fetch[api.Build](ctx, c, get(buildPath(id, "")))
}

// BuildLog returns what a build has told until now.
func (c *Client) BuildLog(ctx context.Context, id string) ([]api.BuildEvent, error) {
	log, err := fetch[api.BuildLog](ctx, c, get(buildPath(id, "/logs")))
	if err != nil {
		return nil, err
	}
	return log.Events, nil
}

// FollowBuild yields what a build has told after an event (0: all), and what it
// tells until its end. It connects again when the connection breaks. An error is
// the last thing yielded.
func (c *Client) FollowBuild(ctx context.Context, id string, after int64) iter.Seq2[api.BuildEvent, error] {
	return func(yield func(api.BuildEvent, error) bool) {
		state := "" // last yielded
		ended := func() bool {
			if (api.Build{State: state}).Final() {
				return true
			}
			b, err := c.Build(ctx, id)
			return err == nil && b.Final()
		}
		from := ""
		if after > 0 {
			from = strconv.FormatInt(after, 10)
		}
		seq := c.resume(ctx, get(buildPath(id, "/logs/stream")), from, ended)
		decode(seq, func(raw serverEvent, ev *api.BuildEvent) (fate, error) {
			if raw.name != api.EventBuild {
				return skip, nil
			}
			state = ev.State
			return keep, nil
		})(yield)
	}
}

// CancelBuild ends a build that has not ended yet.
func (c *Client) CancelBuild(ctx context.Context, id string) (*api.Build, error) {
	return fetch[api.Build](ctx, c, post(buildPath(id, "/cancel"), nil))
}

// RetryBuild tries a build that failed or was cancelled again, as a new one.
func (c *Client) RetryBuild(ctx context.Context, id string) (*api.Build, error) {
	return fetch[api.Build](ctx, c, post(buildPath(id, "/retry"), nil))
}
