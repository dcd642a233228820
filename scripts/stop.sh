#!/bin/sh
# Stops the server that "make run" started. Sandboxes go on without it.
set -eu
cd "$(dirname "$0")/.."
. scripts/server.sh
if ! server_pid >/dev/null; then
	echo "No server of \"make run\" is running (looked at $pidfile)."
	exit 0
fi
stop_server
echo "Stopped. Its sandboxes, if any, go on until their time is up and are taken over by the next start."
