package builder

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"regexp"
	"strings"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/image"
	"silica.dev/silica/sandbox"
)

// Making is what images are made with from a spec with steps.
type Making struct {
	// Env tells package managers of mirrors and proxies in the sandboxes that
	// steps run in. It does not stay.
	Env         map[string]string
	StepTimeout time.Duration // of one step; 0: defaultStepTimeout
	// Cache is the file that lists what steps left to begin from; empty: it is
	// forgotten with the process. CacheBytes bounds how much that is.
	Cache      string
	CacheBytes int64
}

const (
	templateBase = "template:"
	// maxBaseAge is how long a base without a digest of its own serves: its
	// packages get security updates.
	maxBaseAge = 7 * 24 * time.Hour
)

// made is a root file system made from a spec, and what the steps left for run time.
type made struct {
	Image   sandbox.Ref
	Base    string            // digest of the base image, pinned in the build record
	Env     map[string]string // base image's and steps' env, then spec.Env, which wins
	Workdir string            // spec.Workdir, else what steps or base set, else /workspace
	User    string
}

var errNoCapture = sandbox.E(sandbox.Conflict, sandbox.CodeBaseNotFound, "from: what was captured of the sandbox is not here any more")

// makeImage makes spec's root file system. What was made before of the same base
// and the same first steps is not made again. report gets the steps' events, from one
// goroutine at a time.
func (b *Builder) makeImage(ctx context.Context, spec sandbox.BuildSpec, report func(sandbox.BuildEvent)) (made, error) {
	base, release, err := b.base(ctx, spec, report)
	if err != nil {
		return made{}, err
	}
	defer release()
	todo := planSteps(spec, base, b.Setting)
	m := made{Image: base.Ref, Base: cmp.Or(base.Digest, string(base.Ref)), Env: maps.Clone(todo.env), User: cmp.Or(spec.User, base.User),
		Workdir: cmp.Or(spec.Workdir, todo.workdir, base.Workdir, "/workspace")}
	maps.Copy(m.Env, spec.Env)
	if len(todo.steps) == 0 {
		return m, nil
	}
	if m.Image, err = b.runSteps(ctx, base, todo.steps, report); err != nil {
		return made{}, err
	}
	return m, nil
}

// base returns a spec's base image as a root file system. It stays until
// release is called.
func (b *Builder) base(ctx context.Context, spec sandbox.BuildSpec, report func(sandbox.BuildEvent)) (_ kept, release func(), err error) {
	if slug, ok := strings.CutPrefix(spec.From, templateBase); ok {
		return b.templateBase(ctx, slug)
	}
	if ref, ok := spec.IsCaptured(); ok {
		_, release, err := b.Blobs.Open(ctx, ref)
		if err != nil {
			return kept{}, nil, errNoCapture.Because(err)
		}
		return kept{Ref: ref, Digest: string(ref)}, release, nil
	}
	if err := image.Refused(spec.From); err != nil {
		return kept{}, nil, err
	}
	digest, err := b.Images.Resolve(ctx, spec.From)
	if err != nil {
		return kept{}, nil, err
	}
	packages := spec.Packages
	if !packagesInBase(spec) {
		packages = nil
	}
	key := keyOf("base", image.FormatVersion, b.Setting, spec.From, digest, packages)
	if have, release, ok := b.cache().open(ctx, key); ok && (digest != "" || b.now().Sub(have.Made) < maxBaseAge) {
		return have, release, nil
	} else if ok {
		release()
	}
	began := b.now()
	report(sandbox.BuildEvent{Event: "step_started", Text: "base image " + spec.From})
	img, err := b.Images.Build(ctx, image.Spec{From: spec.From, Packages: packages}, func(p image.Progress) {
		report(sandbox.BuildEvent{Event: progress, Text: p.String()})
	})
	if err != nil {
		return kept{}, nil, err
	}
	report(sandbox.BuildEvent{Event: "step_finished", Text: "base image " + spec.From, Took: b.now().Sub(began)})
	k := kept{Key: key, Ref: img.Ref, Digest: cmp.Or(img.Digest, string(img.Ref)), Env: img.Env, Workdir: img.Workdir, User: img.User}
	return b.cache().add(ctx, k)
}

// packagesInBase tells whether a base image is made together with its packages.
func packagesInBase(spec sandbox.BuildSpec) bool { return bootstrap.MatchString(spec.From) }

var bootstrap = regexp.MustCompile(`^debian:[a-z]+$`)

// templateBase is the image of another template, found by its ID.
func (b *Builder) templateBase(ctx context.Context, id string) (kept, func(), error) {
	t, err := b.Store.Template(ctx, id)
	if err != nil {
		return kept{}, nil, err
	}
	_, release, err := b.Blobs.Open(ctx, t.Image)
	if err != nil {
		return kept{}, nil, fmt.Errorf("base template %s: %w", id, err)
	}
	return kept{Ref: t.Image, Digest: string(t.Image), Env: t.Env, Workdir: t.Workdir, User: t.User}, release, nil
}

// step is one that is run, or makes a folder.
type step struct {
	number  int // from 1 in the spec; 0: the spec's packages
	run     string
	workdir string // made if it is not there
	env     map[string]string
	key     string // of what is there after it
}

func (s step) String() string {
	if s.number == 0 {
		return "packages"
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(s.run), "\n")
	switch {
	case s.run == "":
		return "workdir " + s.workdir
	case rest != "":
		return "run " + first + " …"
	}
	return "run " + first
}

// plan is what a spec's steps come to.
type plan struct {
	steps   []step            // those that change files
	env     map[string]string // of base and steps
	workdir string            // the steps' last; empty: none set one
}

// planSteps names what is there after each step by everything that decides it.
func planSteps(spec sandbox.BuildSpec, base kept, setting string) plan {
	p := plan{env: map[string]string{}}
	maps.Copy(p.env, base.Env)
	key := keyOf("image", image.FormatVersion, setting, base.Ref, int64(buildDisk))
	add := func(s step) {
		s.env = maps.Clone(p.env)
		key = keyOf(key, s.run, s.workdir, s.env)
		s.key = key
		p.steps = append(p.steps, s)
	}
	if len(spec.Packages) > 0 && !packagesInBase(spec) {
		add(step{workdir: "/", run: "apt-get update && apt-get install -y --no-install-recommends -- " +
			strings.Join(spec.Packages, " ") + " && apt-get clean"})
	}
	at := cmp.Or(base.Workdir, "/")
	for i, s := range spec.Steps {
		maps.Copy(p.env, s.Env)
		if s.Workdir != "" {
			at = path.Join(at, s.Workdir)
			if path.IsAbs(s.Workdir) {
				at = path.Clean(s.Workdir)
			}
			p.workdir = at
		}
		if s.Run != "" || s.Workdir != "" {
			add(step{number: i + 1, run: s.Run, workdir: at})
		}
	}
	return p
}

// capture makes an image of a sandbox's files as they are, without what belongs
// to one run. base is the image it was started from.
func (b *Builder) capture(ctx context.Context, client *guest.Client, base sandbox.Ref) (sandbox.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, captureTimeout)
	defer cancel()
	files, err := client.Capture(ctx, image.Epoch)
	if err != nil {
		return "", err
	}
	defer files.Close()
	img, err := b.Images.Rebuild(ctx, base, files, func(image.Progress) {})
	return img.Ref, err
}
