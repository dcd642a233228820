#!/bin/sh
# Prints the engine's version: gVisor's revision and a hash of our own sources
# in it. Snapshots are restored only by the version that took them, so it must
# change when either does, and not with anything else. Argument: the go command.
set -eu
cd "$(dirname "$0")/.."
go=${1:-go}
gvisor=$("$go" list -m -f '{{.Version}}' gvisor.dev/gvisor | sed 's/^v0\.0\.0-//; s/-\(........\).*/-\1/')
files=$(CGO_ENABLED=0 "$go" list -deps -f '{{if .Module}}{{if eq .Module.Path "silica.dev/silica"}}{{$d := .Dir -}}
{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .SFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}{{end}}' ./cmd/silica-engine | sort -u)
# shellcheck disable=SC2086 # one path a word; the module has no spaces in names
hash=$(cat $files | sha256sum | cut -c 1-12)
echo "$gvisor-$hash"
