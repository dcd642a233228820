#!/bin/sh
# Prints, one a line and sorted, what sandboxes hold on this machine: to be
# compared before and after. Arguments: name prefixes to leave out, of a server
# that is meant to run meanwhile.
set -eu
{
	ip netns list 2>/dev/null | sed 's/ .*//; s/^/netns /'
	# A pair's other end is named after @; only devices count that are not built in.
	ip -o link show type veth 2>/dev/null | sed 's/^[0-9]*: \([^:@]*\).*/veth \1/'
	nft list tables 2>/dev/null | sed 's/^table/nft/'
	find /sys/fs/cgroup -mindepth 2 -type d 2>/dev/null | sed 's/^/cgroup /'
	sed 's/^[^ ]* \([^ ]*\) \([^ ]*\).*/mount \1 \2/' /proc/mounts
	# The programs of sandboxes, and servers left behind by tests.
	for exe in /proc/[0-9]*/exe; do
		target=$(readlink "$exe" 2>/dev/null) || continue
		case $target in
		*silica-engine* | *silica-agent* | */silica | */silica\ * | */e2e.test*) 
			pid=${exe#/proc/}
			echo "process ${pid%/exe} $target"
			;;
		esac
	done
} | sort -u | { if [ $# -gt 0 ]; then pattern=$(printf '%s|' "$@"); grep -vE "(${pattern%|})" || true; else cat; fi; }
