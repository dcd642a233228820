#!/bin/sh
# Installs the Debian packages that running (argument "run") or testing
# (argument "test") needs, unless they are there. Quiet when nothing is missing.
set -eu

case ${1:-run} in
run) packages="ca-certificates debian-archive-keyring erofs-utils iproute2 mmdebstrap nftables" ;;
# A compiler for the race detector; runc and busybox are what bench compares with.
test) packages="ca-certificates debian-archive-keyring erofs-utils iproute2 mmdebstrap nftables busybox-static gcc git libc6-dev postgresql procps runc" ;;
*) echo "usage: $0 run|test" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
	echo "This is not Debian or Ubuntu: install what these packages hold, then try again: $packages" >&2
	for tool in mmdebstrap mkfs.erofs nft ip; do
		command -v "$tool" >/dev/null || { echo "  missing: $tool" >&2; missing=1; }
	done
	exit "${missing:-0}"
fi

missing=
for p in $packages; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
	[ "$status" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "These Debian packages are missing, and installing them takes root:$missing" >&2
	echo "Run this as root, or first: sudo apt-get install$missing" >&2
	exit 1
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # one package a word
if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "apt-get could not install:$missing" >&2
	exit 1
fi
