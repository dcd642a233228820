package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write what the test compares with")

// The unit keeps sandboxes alive over a restart, and systemd takes it.
func TestSystemdUnit(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/systemd/silica.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := string(raw)
	for _, line := range []string{"KillMode=process", "Delegate=yes", "ExecStart=/usr/local/bin/silica serve", "LimitNOFILE="} {
		if !strings.Contains(unit, "\n"+line) {
			t.Errorf("the unit lacks %s", line)
		}
	}
	// What gives the server a mount namespace hides the mounts of sandboxes
	// from the next start.
	if bad := regexp.MustCompile(`(?m)^(Protect(System|Home|Proc|Kernel\w+|ControlGroups)|Private\w+|ReadWritePaths|ReadOnlyPaths|InaccessiblePaths|TemporaryFileSystem|BindPaths|MountFlags|RootDirectory|DynamicUser)=`).FindString(unit); bad != "" {
		t.Errorf("the unit has %s", bad)
	}
	if _, err := parseFile(t, "../../deploy/systemd/silica.yaml"); err != nil {
		t.Errorf("silica.yaml: %v", err)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("there is no systemd-analyze here: the unit was not verified by it")
		return
	}
	// The program need not be installed here.
	file := filepath.Join(t.TempDir(), "silica.service")
	if err := os.WriteFile(file, []byte(strings.Replace(unit, "/usr/local/bin/silica", "/bin/true", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), "silica.service:") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// parseFile reads a configuration file as "silica serve" does.
func parseFile(t *testing.T, path string) (Config, error) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, nil, nil, string(raw))
}

// docs/configuration.md lists every setting with its three names and its true
// default. -update corrects those columns and keeps the meanings.
func TestConfigurationReference(t *testing.T) {
	const path = "../../docs/configuration.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	const head = "| Flag | Environment | File | Default | Meaning |\n|---|---|---|---|---|\n"
	before, rest, ok := strings.Cut(page, head)
	if !ok {
		t.Fatalf("%s has no table %q", path, head)
	}
	table, after, _ := strings.Cut(rest, "\n\n")
	meanings, defaults := map[string]string{}, map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) == 5 {
			name := strings.Trim(strings.TrimSpace(cells[0]), "`-")
			meanings[name], defaults[name] = strings.TrimSpace(cells[4]), strings.TrimSpace(cells[3])
		}
	}
	var c Config
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SortFlags = false
	c.bind(f)
	var want strings.Builder
	f.VisitAll(func(fl *pflag.Flag) {
		key := strings.ReplaceAll(fl.Name, "-", "_")
		meaning := meanings[fl.Name]
		if meaning == "" {
			meaning = strings.ReplaceAll(fl.Usage, "`", "")
		}
		standard := "`" + fl.DefValue + "`"
		switch v := strings.TrimSuffix(strings.TrimSuffix(fl.DefValue, "0s"), "0m"); {
		case fl.DefValue == "":
			// What nothing means is said in words.
			if standard = defaults[fl.Name]; standard == "" || strings.HasPrefix(standard, "`") {
				standard = "none"
			}
		case fl.Value.Type() == "duration" && v != "":
			standard = "`" + v + "`"
		}
		fmt.Fprintf(&want, "| `--%s` | `SILICA_%s` | `%s` | %s | %s |\n", fl.Name, strings.ToUpper(key), key, standard, meaning)
	})
	got := table + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(before+head+want.String()+"\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want.String() {
		t.Errorf("%s is not what the program takes: run go test ./cmd/silica -run ConfigurationReference -args -update, and write the meaning\ngot\n%s\nwant\n%s", path, got, want.String())
	}
}
