log "kubectl $*"
while [ -e "$here/kubectl-hangs" ]; do sleep 0.05; done
if [ -e "$here/kubectl-fails" ]; then
    echo 'The connection to the server 127.0.0.1:16443 was refused' >&2
    exit 1
fi
if [ -e "$here/kubectl-forbids-$1" ]; then
    printf 'Error from server (Forbidden): nodes "%s" is forbidden: User "admin" cannot do that\n' "${3:-}" >&2
    exit 1
fi
known() {
    if [ ! -e "$here/nodes/$1.json" ]; then
        printf 'Error from server (NotFound): nodes "%s" not found\n' "$1" >&2
        exit 1
    fi
}
list() {
    printf '{"kind":"List","items":['
    sep=
    for node in "$here"/nodes/*.json; do
        [ -e "$node" ] || break
        printf '%s' "$sep"
        cat "$node"
        sep=,
    done
    printf ']}\n'
}
case "$1 ${2:-} ${3:-}" in
'get no -o')
    list
    ;;
'get endpoints kubernetes') cat "$here/endpoints.json" ;;
'get nodes,services,endpoints '*)
    list
    ;;
'get no '*)
    known "$3"
    cat "$here/nodes/$3.json"
    ;;
'delete no '*)
    known "$3"
    grep -q finalizers "$here/nodes/$3.json" || rm "$here/nodes/$3.json"
    ;;
'get --raw=/readyz '*)
    for refusal in "$here"/refuse-apply-*; do
        [ ! -e "$refusal" ] || exit 1
    done
    ;;
apply*)
    for refusal in "$here"/refuse-apply-*; do
        [ -e "$refusal" ] || break
        rm "$refusal"
        echo "error: the server is not ready" >&2
        exit 1
    done
    ;;
esac
