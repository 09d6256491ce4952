log "snapctl $*"
if [ -e "$here/on-$1-$2" ]; then
    mv "$here/on-$1-$2" "$here/on"
    . "$here/on"
fi
if [ -e "$here/fail-$1-$2" ]; then
    echo 'error: cannot perform the requested operation on the service' >&2
    exit 1
fi
if [ -e "$here/fatal-$1-$2" ]; then
    kill -KILL "$PPID"
    exit 1
fi
if [ -e "$here/hold-$1-$2" ]; then
    env > "$here/held"
    while [ -e "$here/hold-$1-$2" ]; do sleep 0.02; done
fi
if [ -e "$here/term-$1-$2" ]; then
    rm "$here/term-$1-$2"
    kill -TERM "$PPID"
fi
if [ -d "$here/services" ]; then
    case "$1" in
    stop) echo stopped ;;
    *) {files} ;;
    esac > "$here/services/$2"
fi
case "$1 $2" in
'services '*)
    if [ -e "$here/states-$2" ]; then
        head -n 1 "$here/states-$2" > "$here/state-$2"
        [ "$(wc -l < "$here/states-$2")" = 1 ] || sed -i 1d "$here/states-$2"
        [ "$(cat "$here/state-$2")" != fails ] || exit 1
    fi
    if [ -e "$here/state-$2" ]; then
        echo 'Service  Startup  Current  Notes'
        echo "$2  enabled  $(cat "$here/state-$2")  -"
    fi
    exit 0
    ;;
'start microk8s.daemon-k8s-dqlite' | 'restart microk8s.daemon-k8s-dqlite') ;;
*) exit 0 ;;
esac
cd "$data/var/kubernetes/backend" 2>/dev/null || exit 0
# One after the other, also where the caller of the first one has died.
exec 9> "$here/datastore.lock"
flock 9
value() { sed -n "s/^$1: *//p" "$2"; }
if [ -e init.yaml ] && [ ! -e cluster.yaml ]; then
    own=$(value Address init.yaml) id=100
    rm -f "$here/removed"
    : > cluster.yaml
    # Addresses keep the quotes that they have: those of IPv6 need them.
    for address in $(sed -n 's/^ *- *//p' init.yaml); do
        printf -- '- Address: %s\n  ID: %s\n  Role: 0\n' "$address" "$id" >> cluster.yaml
        id=$((id + 1))
    done
    printf -- '- Address: %s\n  ID: 999\n  Role: 0\n' "$own" >> cluster.yaml
    printf 'Address: %s\nID: 999\nRole: 0\n' "$own" > info.yaml
elif [ -e update.yaml ]; then
    own=$(value Address update.yaml) id=$(value ID info.yaml)
    printf -- '- Address: %s\n  ID: %s\n  Role: 0\n' "$own" "$id" > cluster.yaml
    printf 'Address: %s\nID: %s\nRole: 0\n' "$own" "$id" > info.yaml
    mv update.yaml update.yaml.applied
fi
