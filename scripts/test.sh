#!/bin/sh
# The README's second command, and all that CI runs: formatting, vet, linters,
# every test with the race detector and with real sandboxes, and a look at
# what they left on the machine. The counts are the last lines.
set -u
cd "$(dirname "$0")/.."
go=${GO:-go}
begun=$(date +%s)
failed=
step() { printf '\n== %s (%ss)\n' "$1" $(($(date +%s) - begun)); }
fail() { echo "FAILED: $1" >&2; failed="$failed
  $1"; }

if [ "$(id -u)" != 0 ]; then
	echo "The tests start real sandboxes, which needs root: sudo make test" >&2
	exit 1
fi
scripts/check-go.sh "$go" || exit 1
step "Packages"
scripts/install.sh test || exit 1

step "Build"
make --no-print-directory build tools || exit 1
PATH=$PWD/bin/tools:$PATH
export PATH

step "gofmt"
unformatted=$(gofmt -l $("$go" list -f '{{.Dir}}' ./...))
[ -z "$unformatted" ] || { echo "$unformatted"; fail "gofmt: run make fmt"; }

step "vet"
"$go" vet ./... || fail "go vet"

step "staticcheck"
staticcheck ./... || fail "staticcheck"

# A finding made tomorrow must not break a commit of today, so it is shown and
# does not fail the run.
step "govulncheck"
timeout 120 govulncheck ./... >bin/govulncheck.txt 2>&1
case $? in
0) echo "no known vulnerability is reachable" ;;
3) cat bin/govulncheck.txt ;;
*) echo "vulnerability database not reachable, skipped: $(tail -n 1 bin/govulncheck.txt | cut -c 1-120)" ;;
esac

# What the server of "make run" holds changes while it runs, and is not ours.
. scripts/server.sh
unset SILICA_DATA SILICA_LISTEN SILICA_URL
if server_pid >/dev/null; then
	resources() { scripts/resources.sh '^(netns|veth|nft [a-z0-9]*) silica' '^cgroup .*/silica' "$data"; }
else
	resources() { scripts/resources.sh; }
fi
resources >bin/resources.before

step "Tests"
gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg \
	--jsonfile bin/tests.json --raw-command -- scripts/gotest.sh "$go" || fail "tests"

step "Leftovers"
# The kernel and mount tables take a moment after the last process.
tries=0
until resources >bin/resources.after; left=$(comm -13 bin/resources.before bin/resources.after); [ -z "$left" ] || [ $tries -ge 25 ]; do
	tries=$((tries + 1))
	sleep 0.2
done
if [ -n "$left" ]; then
	echo "$left"
	fail "the tests left something on the machine"
else
	echo "none"
fi

step "Result"
count() { grep -c "\"Action\":\"$1\".*\"Test\":" bin/tests.json; }
# Tests of rows run on both databases, as subtests of their names.
on() { grep "\"Action\":\"$1\".*\"Test\":" bin/tests.json | grep -cE "\"Test\":\"[^\"]*/$2[\"/]"; }
for db in sqlite postgres; do
	[ "$(on pass $db)" -gt 0 ] || fail "no test passed on $db"
	databases="${databases:-}$db: $(on pass $db) passed, $(on fail $db) failed, $(on skip $db) skipped
"
done
[ -z "$failed" ] || echo "FAILED:$failed"
printf '%s' "$databases"
echo "$(count pass) passed, $(count fail) failed, $(count skip) skipped"
[ -z "$failed" ]
