package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/sandbox"
)

// Recipe is what a template is made of, in the words of the public BuildSpec
// (from … diskMib) and ours: slug, name, description and packages.
type Recipe struct {
	Slug        string            `yaml:"slug"`
	Name        string            `yaml:"name"`
	Description string            `yaml:"description"`
	From        string            `yaml:"from"`
	Packages    []string          `yaml:"packages"`
	Env         map[string]string `yaml:"env"`
	Workdir     string            `yaml:"workdir"` // empty: /root
	VCPU        int64             `yaml:"vcpu"`
	MemoryMiB   int64             `yaml:"memoryMib"`
	DiskMiB     int64             `yaml:"diskMib"`
}

var slugForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ParseRecipe reads a recipe's YAML. Unknown fields are errors: a recipe that
// asks for what we don't do must not seem to work.
func ParseRecipe(text []byte) (Recipe, error) {
	var r Recipe
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&r); err != nil {
		return Recipe{}, sandbox.E(sandbox.Malformed, sandbox.CodeInvalidTemplate, "the recipe can't be read: "+err.Error())
	}
	return r, r.validate()
}

// LoadCatalogue reads every recipe in files, "<slug>.yaml" each.
func LoadCatalogue(files fs.FS) ([]Recipe, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("load catalogue: %w", err)
	}
	var all []Recipe
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("load catalogue: %w", err)
		}
		r, err := ParseRecipe(text)
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", name, err)
		}
		if r.Slug+".yaml" != name {
			return nil, fmt.Errorf("load %s: its slug is %q", name, r.Slug)
		}
		all = append(all, r)
	}
	return all, nil
}

func (r Recipe) validate() error {
	switch {
	case !slugForm.MatchString(r.Slug):
		return sandbox.Field("slug", "must be lower-case letters, digits and dashes")
	case r.From == "":
		return sandbox.Field("from", "is missing")
	case r.Workdir != "" && (!path.IsAbs(r.Workdir) || path.Clean(r.Workdir) != r.Workdir):
		return sandbox.Field("workdir", "must be an absolute path")
	case r.VCPU < 1:
		return sandbox.Field("vcpu", "must be at least 1")
	case r.MemoryMiB < 128:
		return sandbox.Field("memoryMib", "must be at least 128")
	case r.DiskMiB < 64:
		return sandbox.Field("diskMib", "must be at least 64")
	}
	for name := range r.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return sandbox.Field("env", fmt.Sprintf("%q can't be a variable's name", name))
		}
	}
	return nil
}

// Resources is the size a sandbox of this template has by default.
func (r Recipe) Resources() sandbox.Resources {
	return sandbox.Resources{MilliCPU: r.VCPU * sandbox.Core, Memory: r.MemoryMiB * sandbox.MiB, Disk: r.DiskMiB * sandbox.MiB}
}

// revision names what the recipe gives on this installation: everything that
// decides the image's content, and the image itself, because the same packages
// are others tomorrow and a snapshot serves exactly one image.
func (r Recipe) revision(setting string, img sandbox.Ref) string {
	text, err := json.Marshal(struct {
		From     string
		Packages []string
		Setting  string
		Format   int
		Image    sandbox.Ref
	}{r.From, r.Packages, setting, image.FormatVersion, img})
	if err != nil {
		panic(err) // strings and numbers always have a JSON form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// template is the row for r.
func (r Recipe) template(setting string, img sandbox.Ref) sandbox.Template {
	t := sandbox.Template{Slug: r.Slug, Name: r.Name, Description: r.Description,
		Revision: r.revision(setting, img), Image: img, Workdir: r.Workdir, Env: r.Env}
	if t.Workdir == "" {
		t.Workdir = "/root"
	}
	return t
}
