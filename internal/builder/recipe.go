package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"

	"go.yaml.in/yaml/v3"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/sandbox"
)

// Recipe is an entry of the official catalogue. Its file has these fields, and
// those of the BuildSpec beside them.
type Recipe struct {
	Slug        string   `yaml:"slug"`
	Name        string   `yaml:"name"`
	Description string   `yaml:"description"`
	Category    string   `yaml:"category"`
	Tags        []string `yaml:"tags"`
	Aliases     []string `yaml:"aliases"` // other names that a create may use

	Spec sandbox.BuildSpec `yaml:"-"`
}

// recipeFields are the members of a recipe's file that are not the BuildSpec's.
var recipeFields = []string{"slug", "name", "description", "category", "tags", "aliases"}

// largest bounds what the catalogue itself may ask for.
var largest = sandbox.Resources{MilliCPU: 64 * sandbox.Core, Memory: 1 << 40, Disk: 1 << 44}

var slugForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// aliasForm also takes the dots of versions.
var aliasForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// ParseRecipe reads a recipe's YAML. Unknown fields are errors: a recipe that
// asks for what we don't do must not seem to work.
func ParseRecipe(text []byte) (Recipe, error) {
	var r Recipe
	var members map[string]any
	for _, into := range []any{&r, &members} {
		if err := yaml.Unmarshal(text, into); err != nil {
			return Recipe{}, sandbox.E(sandbox.Malformed, sandbox.CodeInvalidTemplate, "the recipe can't be read: "+err.Error())
		}
	}
	for _, name := range recipeFields {
		delete(members, name)
	}
	raw, err := json.Marshal(members)
	if err != nil {
		return Recipe{}, sandbox.E(sandbox.Malformed, sandbox.CodeInvalidTemplate, "the recipe can't be read: "+err.Error())
	}
	if !slugForm.MatchString(r.Slug) {
		return Recipe{}, errSlug
	}
	for _, a := range r.Aliases {
		if !aliasForm.MatchString(a) {
			return Recipe{}, sandbox.Field("aliases", fmt.Sprintf("%q can't be a name", a))
		}
	}
	r.Spec, err = sandbox.ParseBuildSpec(raw, largest)
	return r, err
}

var errSlug = sandbox.Field("slug", "must be 1 to 63 lower-case letters, digits and dashes, and begin and end with a letter or digit")

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

// template is what the catalogue says of r's row.
func (r Recipe) template() sandbox.Template {
	t := sandbox.Template{ID: r.Slug, Slug: r.Slug, Name: r.Name, Description: r.Description, Category: r.Category, Tags: r.Tags, Spec: r.Spec}
	if t.Name == "" {
		t.Name = r.Slug
	}
	return t
}

// revision names what a spec gives on this installation: all that decides it,
// and the image itself, because the same packages are others tomorrow and a
// snapshot serves exactly one image.
func revision(spec sandbox.BuildSpec, setting string, img sandbox.Ref) string {
	text, err := json.Marshal(struct {
		Spec    sandbox.BuildSpec
		Setting string
		Format  int
		Image   sandbox.Ref
	}{spec, setting, image.FormatVersion, img})
	if err != nil {
		panic(err) // strings and numbers always have a JSON form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}
