log "dqlite $*"
# -s SERVERS -c CERTIFICATE -k KEY …: `dqlite-demo` speaks no TLS.
servers=$2
shift 6
exec dqlite -s "$servers" "$@"
