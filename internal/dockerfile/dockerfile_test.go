package dockerfile

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"silica.dev/silica/sandbox"
)

func TestDockerfile(t *testing.T) {
	spec, err := Read(strings.NewReader(`# syntax=docker/dockerfile:1
FROM node:22-bookworm AS app
ENV NODE_ENV=production GREETING="hello world"
ENV OLD the rest
# a comment
RUN corepack enable && \
    # one in between
    pnpm --version
WORKDIR /srv/app
WORKDIR web
RUN ["npm", "run", "it's"]
ENV PATH=/srv/bin:$PATH
EXPOSE 3000/tcp 9229
USER node
CMD ["node", "server.js"]
`), fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	want := sandbox.BuildSpec{From: "node:22-bookworm", VCPU: 2, MemoryMiB: 2048, DiskMiB: 8192, Workdir: "/srv/app/web", User: "node",
		StartCmd: "node server.js", PreviewPort: 3000, Env: map[string]string{}, ArtifactPaths: []string{}, Steps: []sandbox.Step{
			{Env: map[string]string{"NODE_ENV": "production", "GREETING": "hello world"}}, {Env: map[string]string{"OLD": "the rest"}},
			{Run: "corepack enable &&     pnpm --version"}, {Workdir: "/srv/app"}, {Workdir: "/srv/app/web"}, {Run: `npm run 'it'\''s'`},
			{Env: map[string]string{"PATH": "/srv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		}}
	if !reflect.DeepEqual(spec, want) {
		t.Errorf("got\n%+v\nwant\n%+v", spec, want)
	}
}

func TestWhatIsNotUnderstoodIsNamedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "line 1: has no FROM",
		"RUN true":                         "line 1: RUN comes before FROM",
		"FROM a\n\nADD x /":                "line 3: ADD is not understood",
		"FROM a\nENTRYPOINT x":             "line 2: ENTRYPOINT is not understood",
		"FROM a\nHEALTHCHECK CMD x":        "readyCmd",
		"FROM a\nFROM b":                   "line 2: a second FROM",
		"FROM --platform=x a":              "line 1: FROM does not know --platform=x",
		"FROM $X":                          "can't use variables",
		"FROM a\nRUN --mount=type=x y":     "line 2: RUN does not know --mount=type=x",
		"FROM a\nRUN <<EOF\necho\nEOF":     "line 2: here-documents",
		"FROM a\nUSER app\nRUN x":          "line 3: RUN after USER app",
		"FROM a\nENV A=\"b":                "a quote is not closed",
		"FROM a\nENV A":                    "has no value",
		"FROM a\nWORKDIR $NOPE":            "$NOPE is not set",
		"FROM a\nEXPOSE 53/udp":            "EXPOSE takes TCP ports",
		"FROM a\nEXPOSE many":              "EXPOSE takes TCP ports",
		"FROM a\nCOPY x":                   "line 2: COPY takes what",
		"FROM a\nCOPY missing /":           "COPY finds no file missing",
		"FROM a\nCOPY ../x /":              "leads out",
		"FROM a\nCOPY --from=b x /":        "COPY does not know --from=b",
		"FROM a\nCOPY big /":               "at most 64 KiB each",
		"FROM a\nCMD []":                   "CMD says nothing",
		"FROM a\nRUN":                      "RUN says nothing",
		"# escape=`\nFROM a":               "another escape character",
		"FROM a\nRUN x \\\n  && y\nWHAT x": "line 4: WHAT",
	} {
		_, err := Read(strings.NewReader(text), fstest.MapFS{"big": {Data: make([]byte, maxFile+1)}})
		if e := sandbox.AsError(err); err == nil || !strings.Contains(e.Message, want) || e.Code != sandbox.CodeInvalidTemplate {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// TestCopiedFilesAreWritten runs the steps of COPY.
func TestCopiedFilesAreWritten(t *testing.T) {
	files := fstest.MapFS{
		"package.json": {Data: []byte("{}\n"), Mode: 0o644}, "run it.sh": {Data: []byte("#!/bin/sh\n\x00"), Mode: 0o755},
		"src/a.js": {Data: []byte("a")}, "src/deep/b.js": {Data: nil}, "src/node_modules/x": {Data: []byte("x")},
	}
	dir := t.TempDir()
	text := fmt.Sprintf("FROM a\nWORKDIR %s\nCOPY package.json ./\nCOPY src out\nCOPY [\"run it.sh\", \"bin/go\"]\nCOPY src/*.js package.json all/\nCOPY . whole", dir)
	spec, err := Read(strings.NewReader(text), files)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range spec.Steps {
		if out, err := exec.Command("/bin/sh", "-c", s.Run).CombinedOutput(); s.Run != "" && err != nil {
			t.Fatalf("%s: %v: %s", s.Run, err, out)
		}
	}
	for name, want := range map[string]string{"package.json": "{}\n", "out/a.js": "a", "out/deep/b.js": "", "bin/go": "#!/bin/sh\n\x00",
		"all/a.js": "a", "all/package.json": "{}\n", "whole/src/deep/b.js": "", "whole/run it.sh": "#!/bin/sh\n\x00"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "bin/go")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("bin/go: got %v, %v, want it to be executable", st, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "out/node_modules")); err == nil {
		t.Error("node_modules came along")
	}
}

func FuzzDockerfile(f *testing.F) {
	f.Add("FROM a\nENV A=b C=\"d e\" \\\n F=g\nCOPY [\"x\",\"y\"]\nCMD [\"z\"]")
	f.Add("FROM a\nRUN <<X\n$ ${ ${A}")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = Read(strings.NewReader(text), fstest.MapFS{"x": {Data: []byte("x")}})
	})
}
