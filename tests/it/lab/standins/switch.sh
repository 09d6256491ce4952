log "$(basename "$0" .wrapper) $*"
if [ -e "$here/fail-addon-$1" ]; then
    echo "Addon $1 was not found" >&2
    exit 1
fi
