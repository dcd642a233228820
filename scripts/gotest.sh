#!/bin/sh
# Writes the JSON of all tests. Packages that touch the host's network, cgroups
# and sentries come last and one after the other: what they measure and count
# would be disturbed by neighbours. Argument: the go command.
set -u
host='/(internal/network|internal/builder|internal/runtime/gvisor|e2e)(/|$)'
all=$("$1" list ./...)
code=0
# shellcheck disable=SC2046 # one package a word
"$1" test -json -race -timeout 10m $(echo "$all" | grep -vE "$host") || code=1
serial=$(echo "$all" | grep -E "$host")
# shellcheck disable=SC2086
[ -z "$serial" ] || "$1" test -json -race -p 1 -timeout 30m $serial || code=1
exit $code
