#!/bin/sh
# Measures servers of its own and writes docs/bench.md. Builds the runsc
# command of our go.mod to compare with.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
scripts/install.sh test
CGO_ENABLED=0 "$go" build -trimpath -ldflags '-s -w' -o bin/runsc ./bench/runsc
exec bin/silica bench --own --runsc "$PWD/bin/runsc" --out docs/bench.md "$@"
