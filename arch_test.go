package silica

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "silica.dev/silica/"

// mayImport lists, for every package of the house, which others of ours it may
// import. A folder stands for everything below it. ARCHITECTURE.md shows the
// same table; change both in one commit.
var mayImport = map[string][]string{
	"sandbox":                      {},
	"api":                          {},
	"client":                       {"api"},
	"bench":                        {"api", "client"},
	"e2e":                          {"internal/contracttest"},
	"internal/contracttest":        {},
	"internal/telemetry":           {"sandbox"},
	"internal/backup":              {"sandbox", "internal/blob", "internal/store"},
	"internal/storage":             {"sandbox", "internal/blob"},
	"internal/portable":            {"sandbox", "internal/blob"},
	"templates":                    {},
	"docs":                         {},
	"internal/blob":                {"sandbox"},
	"internal/guest":               {"sandbox", "internal/guest"},
	"internal/event":               {"sandbox"},
	"internal/store":               {"sandbox", "internal/event"},
	"internal/runtime":             {"sandbox", "internal/runtime"},
	"internal/network":             {"sandbox"},
	"internal/image":               {"sandbox", "internal/blob"},
	"internal/supervisor":          {"sandbox", "internal/event", "internal/runtime", "internal/guest"},
	"internal/dockerfile":          {"sandbox"},
	"internal/builder":             {"sandbox", "internal/event", "internal/image", "internal/blob", "internal/runtime", "internal/guest"},
	"internal/agent":               {"sandbox", "internal/guest", "internal/agent"},
	"internal/server":              {"api", "sandbox", "internal/event", "internal/guest", "internal/server"},
	"internal/server/reference":    {"docs"},
	"internal/runtime/runtimetest": {"sandbox", "internal/runtime", "internal/guest"},
	"internal/runtime/gvisor":      {"sandbox", "internal/runtime", "internal/guest", "internal/blob", "internal/network", "internal/runtime/gvisor"},
}

// TestImports holds the import rules: data flows one way, and only cmd wires.
func TestImports(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		rule, ok := ruleFor(path)
		if !ok {
			return nil
		}
		pkg, err := build.ImportDir(path, 0)
		if _, none := err.(*build.NoGoError); none {
			return nil
		}
		if err != nil {
			return err
		}
		for _, imp := range pkg.Imports {
			ours, ok := strings.CutPrefix(imp, module)
			if ok && !covers(rule, ours) {
				t.Errorf("%s must not import %s: see mayImport in arch_test.go and ARCHITECTURE.md", path, ours)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryPackageHasRule finds packages nobody placed in the house.
func TestEveryPackageHasRule(t *testing.T) {
	for _, root := range []string{"internal", "sandbox", "api", "client", "bench", "templates", "docs"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || d.Name() == "testdata" {
				return nil
			}
			if pkg, err := build.ImportDir(path, 0); err == nil && pkg.Doc == "" {
				t.Errorf("%s has no package comment", path)
			} else if _, ok := ruleFor(path); err == nil && !ok {
				t.Errorf("%s has no import rule", path)
			}
			return nil
		})
	}
}

// ruleFor returns the rule of the deepest folder that covers path.
func ruleFor(path string) ([]string, bool) {
	for p := path; p != "." && p != "/"; p = filepath.Dir(p) {
		if r, ok := mayImport[p]; ok {
			return r, true
		}
	}
	return nil, false
}

func covers(rule []string, pkg string) bool {
	return slices.ContainsFunc(rule, func(r string) bool { return pkg == r || strings.HasPrefix(pkg, r+"/") })
}
