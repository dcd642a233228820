# Read by the other scripts: where the server of "make run" is.
# shellcheck shell=sh
data=${SILICA_DATA:-/var/lib/silica}
listen=${SILICA_LISTEN:-127.0.0.1:8080}
pidfile=$data/silica.pid
log=$data/silica.log
SILICA_DATA=$data
SILICA_LISTEN=$listen
# A server that listens everywhere is reached here.
SILICA_URL=${SILICA_URL:-http://$(echo "$listen" | sed 's/^0\.0\.0\.0:/127.0.0.1:/; s/^\[::\]:/127.0.0.1:/; s/^:/127.0.0.1:/')}
export SILICA_DATA SILICA_LISTEN SILICA_URL

# server_pid prints the process of the server, or fails. The pid file alone
# proves nothing: numbers are used again.
server_pid() {
	[ -r "$pidfile" ] || return 1
	pid=$(cat "$pidfile")
	case $(readlink "/proc/$pid/exe" 2>/dev/null) in
	*/silica | */silica\ \(deleted\)) echo "$pid" ;;
	*) return 1 ;;
	esac
}

# stop_server ends it and waits, at most half a minute.
stop_server() {
	pid=$(server_pid) || return 0
	kill "$pid"
	tries=0
	while server_pid >/dev/null; do
		tries=$((tries + 1))
		if [ $tries -gt 150 ]; then
			echo "the server (process $pid) does not end; see $log" >&2
			return 1
		fi
		sleep 0.2
	done
	rm -f "$pidfile"
}
