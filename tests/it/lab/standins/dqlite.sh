log "dqlite $*"
for command do :; done
if [ -e "$here/dqlite-fails" ]; then
    echo 'Error: no available dqlite leader server found' >&2
    exit 1
fi
case "$command" in
'.remove '*)
    if [ -e "$here/dqlite-remove-fails" ]; then
        echo 'Error: remove failed' >&2
        exit 1
    fi
    echo "${command#.remove }" >> "$here/removed"
    exit 0
    ;;
esac
if [ -e "$here/dqlite.json" ]; then
    cat "$here/dqlite.json"
    exit 0
fi
touch "$here/removed"
awk -v removed="$(tr '\n' ' ' < "$here/removed")" '
    BEGIN { printf "[" }
    { gsub(/[\047"]/, "") }
    /Address:/ { address = $NF }
    /ID:/ { id = $NF }
    /Role:/ && !index(" " removed, " " address " ") { printf "%s{\"ID\":%s,\"Address\":\"%s\",\"Role\":%s}", sep, id, address, $NF; sep = "," }
    END { print "]" }
' "$data/var/kubernetes/backend/cluster.yaml"
