#!/bin/sh
# The README's first command: from a checkout to Python in a sandbox. Can be
# repeated; a server that runs already is used, and restarted when it is of an
# older build.
set -eu
cd "$(dirname "$0")/.."
. scripts/server.sh
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

if [ "$(uname -s)" != Linux ]; then
	echo "Silica runs on Linux; this is $(uname -s). A Debian virtual machine will do." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "Silica makes network namespaces and cgroups, so this needs root: sudo make run" >&2
	exit 1
fi
scripts/check-go.sh "${GO:-go}"
scripts/install.sh run

step "Building (a few minutes the first time)"
make --no-print-directory build
silica=$PWD/bin/silica

if pid=$(server_pid); then
	case $(readlink "/proc/$pid/exe") in
	*\(deleted\))
		step "Restarting the server, which is of an older build"
		stop_server
		;;
	esac
fi

if pid=$(server_pid); then
	step "A server is running already (process $pid)"
else
	step "Looking at this machine"
	if ! findings=$("$silica" doctor); then
		echo "$findings"
		echo "Something Silica can't do without is missing: see FAIL above." >&2
		exit 1
	fi
	echo "$findings" | grep -A 2 '^WARN' || echo "Nothing is missing."

	step "Starting the server"
	mkdir -p -m 700 "$data"
	touch "$log"
	from=$(($(wc -l <"$log") + 1))
	setsid nohup "$silica" serve >>"$log" 2>&1 </dev/null &
	pid=$!
	echo "$pid" >"$pidfile"
	# What the server logs is the progress: the first start makes the default template.
	tail -n "+$from" -f --pid="$pid" "$log" &
	tailer=$!
	trap 'kill $tailer 2>/dev/null || true' EXIT
	until "$silica" wait --timeout 2s 2>/dev/null; do
		if ! server_pid >/dev/null; then
			sleep 0.5 # let tail show the last words
			echo "The server ended; its log is $log" >&2
			rm -f "$pidfile"
			exit 1
		fi
	done
	kill $tailer 2>/dev/null || true
	wait $tailer 2>/dev/null || true
	trap - EXIT
fi
"$silica" wait --timeout 15m

step "Running Python in a sandbox"
id=$("$silica" sandbox create -q --timeout 10m)
"$silica" sandbox get "$id" | grep -E '^(id|state|template|boot) '
echo
"$silica" sandbox exec "$id" -- python3 -c 'import platform
print("Hello from Python", platform.python_version(), "on", platform.uname().release)
print("6 * 7 =", 6 * 7)'

keyfile=$data/admin.key
step "How to go on"
cat <<TEXT
The server is at $SILICA_URL, its admin key in $keyfile, its log in $log.
The sandbox $id lives for ten minutes.

  bin/silica sandbox exec $id 'uname -a; df -h /'
  bin/silica sandbox create
  bin/silica --help

  export SILICA_API_KEY=\$(cat $keyfile)
  curl -s $SILICA_URL/api/v1/sandboxes/$id/exec \\
       -H "Authorization: Bearer \$SILICA_API_KEY" -H 'Content-Type: application/json' \\
       -d '{"command": "python3 -c \"print(6*7)\""}'

  make test     run every test
  make stop     stop the server; sandboxes go on
TEXT
