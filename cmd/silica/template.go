package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newTemplate(t *terminal) *cobra.Command {
	g := group("template", "Describe an environment once, and start it in milliseconds",
		newTemplateInit(t), newTemplateValidate(t), newTemplateBuild(t), newTemplateFrom(t), newTemplateLs(t), newTemplateGet(t),
		newTemplateLogs(t), newTemplateCancel(t), newTemplateRetry(t),
		newRm(t, "rm TEMPLATE...", "Delete templates; sandboxes of them live on", (*client.Client).DeleteTemplate))
	g.Aliases = []string{"tpl"}
	return g
}

// recipe is a template's file: what it is called, and beside that the fields of
// its BuildSpec.
type recipe struct {
	request api.TemplateRequest
	spec    map[string]any
}

// readRecipe reads a template's file. Names and values of the BuildSpec are the
// server's to check.
func readRecipe(path string) (recipe, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return recipe{}, err
	}
	if isDockerfile(path, raw) {
		return readDockerfile(path, raw)
	}
	r := recipe{spec: map[string]any{}}
	if err := yaml.Unmarshal(raw, &r.spec); err != nil {
		return r, fmt.Errorf("%s is no YAML or JSON: %w", path, err)
	}
	var about struct {
		Slug, Name, Description, Category string
		Tags                              []string
		Aliases                           []string
		Metadata                          map[string]any
		Pool                              *struct {
			MinIdle int `yaml:"minIdle"`
			MaxIdle int `yaml:"maxIdle"`
		}
	}
	if err := yaml.Unmarshal(raw, &about); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range []string{"slug", "name", "description", "category", "tags", "aliases", "metadata", "pool"} {
		delete(r.spec, name)
	}
	if nested, ok := r.spec["build_spec"].(map[string]any); ok && len(r.spec) == 1 {
		r.spec = nested
	}
	if about.Name == "" && about.Slug == "" {
		about.Slug = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	r.request = api.TemplateRequest{Name: about.Name, Slug: about.Slug, Tags: about.Tags, Metadata: about.Metadata, BuildSpec: r.spec}
	if about.Description != "" {
		r.request.Description = &about.Description
	}
	if about.Pool != nil {
		r.request.Pool = &api.Pool{MinIdle: about.Pool.MinIdle, MaxIdle: about.Pool.MaxIdle}
	}
	return r, nil
}

// slugOf makes a template's slug of its file's name, or of its folder's when the
// file's says nothing.
func slugOf(path, nothing string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if name == nothing {
		if dir, err := filepath.Abs(filepath.Dir(path)); err == nil {
			name = filepath.Base(dir)
		}
	}
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name)), "-")
}

// firstTemplate is what "template init" writes.
const firstTemplate = `# A template of Silica: docs/templates.md says what each field does.
slug: %s
name: %s
description: ""
tags: []

from: debian:bookworm
packages: [python3]          # of the base image's distribution
# steps:
#   - run: pip install --break-system-packages flask
#   - env: {APP_ENV: production}
workdir: /workspace

# startCmd: python3 -m http.server 8000
# readyCmd: curl -fsS http://127.0.0.1:8000
# previewPort: 8000

vcpu: 1
memoryMib: 1024
diskMib: 3072
`

func newTemplateInit(*terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a template's file to begin with (default template.yaml)",
		Args:  args(0, 1),
		RunE: func(_ *cobra.Command, given []string) error {
			path := "template.yaml"
			if len(given) > 0 {
				path = given[0]
			}
			slug := slugOf(path, "template")
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(f, firstTemplate, slug, slug)
			return errors.Join(err, f.Close())
		},
	}
}

func newTemplateValidate(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a template's file, and show its BuildSpec with the defaults filled in",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.BuildSpec, error) {
			r, err := readRecipe(given[0])
			if err != nil {
				return nil, err
			}
			spec, err := c.ValidateBuildSpec(ctx, r.spec)
			return spec, problems(err)
		}, func(w io.Writer, spec *api.BuildSpec) {
			fmt.Fprintf(w, "valid: %s, %d vCPU, %d MiB memory, %d MiB disk, %d steps\n", spec.From, spec.VCPU, spec.MemoryMiB, spec.DiskMiB, len(spec.Steps))
		}),
	}
}

// problems shows all that is wrong with a BuildSpec, a line each.
func problems(err error) error {
	var refused *client.Error
	if !errors.As(err, &refused) || len(refused.Problems()) < 2 {
		return err
	}
	lines := []string{}
	for _, p := range refused.Problems() {
		lines = append(lines, "  "+p.Field+": "+p.Message+" ("+p.Code+")")
	}
	return fmt.Errorf("%w\nall that is wrong:\n%s", err, strings.Join(lines, "\n"))
}

func newTemplateBuild(t *terminal) *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use:   "build FILE|TEMPLATE",
		Short: "Build a template, and show what happens until it is ready",
		Long: `Build a template, and show what happens until it is ready.

A FILE makes the template, or changes the one of its slug; while the new revision
is built, the old one serves. It may be a Dockerfile, whose template is called like
its folder, or like what stands before ".Dockerfile". The slug or id of a TEMPLATE builds it once more.`,
		Example: `  silica template init app.yaml
  silica template build app.yaml
  silica sandbox create --template app`,
		Args: args(1, 1),
	}
	c.Flags().BoolVarP(&detach, "detach", "d", false, "print the build's id and don't wait")
	c.RunE = talks(func(ctx context.Context, c *client.Client, given []string) error {
		b, err := queueBuild(ctx, c, given[0])
		if err != nil {
			return problems(err)
		}
		if detach {
			return t.print(b, func(w io.Writer) { fmt.Fprintln(w, b.ID) })
		}
		return t.watchBuild(ctx, c, b.ID)
	})
	return c
}

func newTemplateFrom(t *terminal) *cobra.Command {
	var req api.TemplateRequest
	var detach bool
	c := &cobra.Command{
		Use:   "from-sandbox SANDBOX SLUG",
		Short: "Make a template of the files that a sandbox has now",
		Long: `Make a template of the files that a sandbox has now, and build it.

Sandboxes of it start with these files; start command, environment and size are the
sandbox's. What runs in the sandbox, and /tmp, does not go along; secrets in files do.`,
		Example: `  silica sandbox exec my-sandbox -- pip install numpy
  silica template from-sandbox my-sandbox with-numpy
  silica sandbox create --template with-numpy`,
		Args: args(2, 2),
	}
	c.Flags().StringVar(&req.Name, "name", "", "name shown in lists (the slug)")
	c.Flags().BoolVarP(&detach, "detach", "d", false, "print the build's id and don't wait")
	c.RunE = talks(func(ctx context.Context, c *client.Client, given []string) error {
		req.Slug = given[1]
		made, err := c.CreateTemplateFrom(ctx, given[0], req)
		if err != nil {
			return err
		}
		if detach {
			return t.print(made, func(w io.Writer) { fmt.Fprintln(w, deref(made.PendingRevision)) })
		}
		return t.watchBuild(ctx, c, deref(made.CurrentBuildID))
	})
	return c
}

// queueBuild has a file's template, or one that is there, built.
func queueBuild(ctx context.Context, c *client.Client, what string) (*api.Build, error) {
	if _, err := os.Stat(what); err != nil {
		if strings.ContainsAny(what, "./") { // no slug
			return nil, err
		}
		return c.BuildTemplate(ctx, what, nil)
	}
	r, err := readRecipe(what)
	if err != nil {
		return nil, err
	}
	spec, err := c.ValidateBuildSpec(ctx, r.spec)
	if err != nil {
		return nil, err
	}
	if r.request.Slug == "" { // it is made of the name
		made, err := c.CreateTemplate(ctx, r.request)
		if err != nil {
			return nil, err
		}
		return c.BuildTemplate(ctx, made.ID, nil)
	}
	old, err := c.Template(ctx, r.request.Slug)
	switch {
	case client.IsNotFound(err):
		if old, err = c.CreateTemplate(ctx, r.request); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case old.IsOfficial:
		return nil, fmt.Errorf("%s is an official template: choose another slug", old.Slug)
	default:
		about := r.request
		about.Slug, about.BuildSpec = "", nil
		if _, err := c.ChangeTemplate(ctx, old.ID, about); err != nil {
			return nil, err
		}
	}
	return c.BuildTemplate(ctx, old.ID, spec)
}

// watchBuild prints a build's log to its end, and fails as it does.
func (t *terminal) watchBuild(ctx context.Context, c *client.Client, id string) error {
	for e, err := range c.FollowBuild(ctx, id, 0) {
		if err != nil {
			return err
		}
		if err := t.line(e, func(w io.Writer) { printBuildEvent(w, e) }); err != nil {
			return err
		}
	}
	b, err := c.Build(ctx, id)
	if err != nil {
		return err
	}
	if b.State != "ready" {
		return fmt.Errorf("the build %s %s: %s", b.ID, b.State, deref(b.ErrorMessage))
	}
	return nil
}

func printBuildEvent(w io.Writer, e api.BuildEvent) {
	switch e.Event {
	case "step_output":
		for line := range strings.Lines(e.Text) {
			fmt.Fprintln(w, "    "+strings.TrimRight(line, "\r\n"))
		}
		return
	case "progress":
		fmt.Fprintln(w, "  "+e.Text)
		return
	}
	text := e.Event
	if e.Step > 0 {
		text = fmt.Sprintf("  step %d %s", e.Step, strings.TrimPrefix(e.Event, "step_"))
	}
	if e.Text != "" {
		text += ": " + e.Text
	}
	if e.DurationMS != nil {
		text += fmt.Sprintf(" (%.1f s)", float64(*e.DurationMS)/1000)
	}
	fmt.Fprintln(w, text)
}

func newTemplateLs(t *terminal) *cobra.Command {
	var f client.TemplateFilter
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the templates that can be created from",
		Args:  args(0, 0),
		RunE: lists(t, []string{"SLUG", "STATUS", "SIZE", "TAGS", "DESCRIPTION"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.Template, error) {
				l, err := c.Templates(ctx, f)
				if err != nil {
					return nil, err
				}
				return l.Data, nil
			},
			func(x api.Template) []string {
				size := fmt.Sprintf("%d vCPU, %d MiB", x.VCPUs, x.MemoryMB)
				return []string{x.Slug, x.Status, size, strings.Join(x.Tags, ","), x.Description}
			}),
	}
	c.Flags().StringVar(&f.Tag, "tag", "", "only those with this tag")
	c.Flags().StringVar(&f.Search, "search", "", "only those whose name, description or tags hold this")
	c.Flags().BoolVar(&f.Aliases, "aliases", false, "other names of official templates, too")
	return c
}

func newTemplateGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get TEMPLATE",
		Short: "Show one template (by slug or id)",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Template, error) {
			return c.Template(ctx, given[0])
		}, func(w io.Writer, x *api.Template) {
			fields(w, [][2]string{
				{"id", x.ID}, {"slug", x.Slug}, {"name", x.Name}, {"description", x.Description}, {"status", x.Status},
				{"from", x.BuildSpec.From}, {"size", fmt.Sprintf("%d vCPU, %d MiB memory, %d MiB disk", x.VCPUs, x.MemoryMB, x.DiskMB)},
				{"workdir", x.Workdir}, {"start", deref(x.StartCommand)}, {"revision", deref(x.Revision)},
				{"pending build", deref(x.PendingRevision)}, {"last build", deref(x.CurrentBuildID)}, {"created", when(&x.CreatedAt)},
			})
		}),
	}
}

// buildOf finds a build by its id, or the newest of a template.
func buildOf(ctx context.Context, c *client.Client, name string) (string, error) {
	if strings.HasPrefix(name, "bld_") {
		return name, nil
	}
	list, err := c.Builds(ctx, name)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", fmt.Errorf("template %s was never built", name)
	}
	newest := slices.MaxFunc(list, func(a, b api.Build) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return newest.ID, nil
}

func newTemplateLogs(t *terminal) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs TEMPLATE|BUILD",
		Short: "Print the log of a build, or of a template's newest one",
		Args:  args(1, 1),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build has ended, and fail if it does")
	c.RunE = talks(func(ctx context.Context, c *client.Client, given []string) error {
		id, err := buildOf(ctx, c, given[0])
		if err != nil {
			return err
		}
		if follow {
			return t.watchBuild(ctx, c, id)
		}
		events, err := c.BuildLog(ctx, id)
		if err != nil {
			return err
		}
		return t.print(events, func(w io.Writer) {
			for _, e := range events {
				printBuildEvent(w, e)
			}
		})
	})
	return c
}

func newTemplateCancel(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel TEMPLATE|BUILD",
		Short: "Cancel a build, or a template's newest one",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Build, error) {
			id, err := buildOf(ctx, c, given[0])
			if err != nil {
				return nil, err
			}
			return c.CancelBuild(ctx, id)
		}, func(w io.Writer, b *api.Build) { fmt.Fprintln(w, b.ID+"  "+b.State) }),
	}
}

func newTemplateRetry(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "retry TEMPLATE|BUILD",
		Short: "Try a build that failed or was cancelled again, and show what happens",
		Args:  args(1, 1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			id, err := buildOf(ctx, c, given[0])
			if err != nil {
				return err
			}
			b, err := c.RetryBuild(ctx, id)
			if err != nil {
				return err
			}
			return t.watchBuild(ctx, c, b.ID)
		}),
	}
}
