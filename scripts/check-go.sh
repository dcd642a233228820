#!/bin/sh
# Says clearly when Go is missing or too old for go.mod. Argument: the go command.
set -eu
cd "$(dirname "$0")/.."
go=${1:-go}
want=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' go.mod)
if ! command -v "$go" >/dev/null; then
	echo "Go is not installed (or not in PATH). Silica is built with Go $want or newer: https://go.dev/dl" >&2
	exit 1
fi
have=$("$go" env GOVERSION | sed 's/^go//')
oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)
if [ "$oldest" != "$want" ]; then
	# From 1.21 on Go fetches the version go.mod names by itself.
	oldest=$(printf '%s\n1.21\n' "$have" | sort -V | head -n 1)
	if [ "$oldest" != 1.21 ] || [ "$("$go" env GOTOOLCHAIN)" = local ]; then
		echo "Go $have is too old: Silica is built with Go $want or newer: https://go.dev/dl" >&2
		exit 1
	fi
fi
