log "ctr $*"
if [ -e "$here/ctr-fails" ]; then
    head -c 1000 >/dev/null
    echo 'ctr: unrecognized image format' >&2
    exit 1
fi
echo "$$" > "$here/ctr.pid"
sha256sum | cut -d ' ' -f 1 > "$here/ctr.sha256.part"
mv "$here/ctr.sha256.part" "$here/ctr.sha256"
