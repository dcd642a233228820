package image

import (
	"fmt"
	"slices"
	"strings"

	"silica.dev/silica/sandbox"
)

// checkFamily refuses what is not Debian or made from it: what is put into
// images, and what is told about them, holds for these.
func checkFamily(t *tree) error {
	release, ok := t.read("etc/os-release")
	if !ok {
		release, ok = t.read("usr/lib/os-release")
	}
	if !ok {
		return unsupported("it has no /etc/os-release")
	}
	ids := []string{}
	for line := range strings.Lines(release) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "ID" || key == "ID_LIKE" {
			ids = append(ids, strings.Fields(strings.Trim(value, `"'`))...)
		}
	}
	if !slices.Contains(ids, "debian") && !slices.Contains(ids, "ubuntu") {
		return unsupported(fmt.Sprintf("/etc/os-release says %q", strings.Join(ids, " ")))
	}
	if sh := t.find("bin/sh", true); sh == nil {
		return unsupported("it has no /bin/sh")
	}
	return nil
}

func unsupported(why string) *sandbox.Error {
	return sandbox.E(sandbox.Invalid, sandbox.CodeUnsupportedBase, "only base images of the Debian and Ubuntu family can be used: "+why).
		With("field", "from").With("reason", why)
}

// others are names of images of other families, as the last part of a
// repository's name or as a part of a tag.
var others = []string{"alpine", "busybox", "scratch", "distroless", "fedora", "centos", "rockylinux", "almalinux", "archlinux",
	"amazonlinux", "opensuse", "ubi8", "ubi9", "nix", "wolfi-base", "windowsservercore", "nanoserver"}

// Refused tells by the name alone that a base image is of another family, before
// anything is fetched: [sandbox.CodeUnsupportedBase], or nil.
func Refused(from string) error {
	if strings.HasPrefix(from, "template:") || hostPath(from) {
		return nil
	}
	name, _, _ := strings.Cut(from, "@")
	repository, tag := name, ""
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		repository, tag = name[:i], name[i+1:]
	}
	parts := strings.Split(repository, "/")
	for _, o := range others {
		inTag := slices.ContainsFunc(strings.Split(tag, "-"), func(w string) bool {
			return strings.TrimRight(w, "0123456789.") == o
		})
		if parts[len(parts)-1] == o || inTag || o == "distroless" && slices.Contains(parts, o) {
			return unsupported(fmt.Sprintf("%q names one of another family", o))
		}
	}
	return nil
}
