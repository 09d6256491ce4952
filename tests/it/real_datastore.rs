//! Control plane nodes that leave, and that are removed, with a real dqlite beside each.

use crate::dev_cluster::{in_network_of_its_own, is_dqlite_installed};
use crate::lab::skip;

/// Three agents with a datastore each, joined; then each line says what the datastore and
/// `microk8s nodes` list.
const SCRIPT: &str = r#"
set -eu
ip link set lo up
here=$(mktemp -d)
start() {
    "$program" agent --node-dir "$here/n$1" --node-name "n$1" --bind "127.0.0.$1:25000" \
        --datastore-demo 2>> "$here/log$1" &
    eval "agent$1=$!"
}
# The shell of the datastore may wait for ever for a member that has just come up.
dqlite() { timeout 30 dqlite "$@" || timeout 30 dqlite "$@"; }
ready() { until [ -S "$here/n$1/common/run/cluster-agent.sock" ]; do sleep 0.05; done; }
on() { MICROK8S_NODE_DIR="$here/n$1" "$program" "$2" ${3+"$3"} ${4+"$4"}; }
join() {
    connection=$(on 1 add-node --format short | sed 's/^microk8s join //')
    on "$1" join "$connection" > "$here/said" 2>&1 || { cat "$here/said"; tail -n 20 "$here/log$1"; }
}
voters() {
    for try in $(seq 600); do
        [ "$(dqlite -s 127.0.0.1:19001 k8s .cluster | grep -c '|voter$')" = "$1" ] && return
        sleep 0.1
    done
    echo "there are not $1 voters"
}
lists() {
    members=$(dqlite -s "$1" k8s .cluster | cut -d '|' -f 2 | sort)
    nodes=$(on 1 nodes | sed 1d | awk '{ print $1 }')
    echo "members:" $members "nodes:" $nodes
}
program=$0
agent1= agent2= agent3=
trap 'kill $agent1 $agent2 $agent3; wait; rm -rf "$here"' EXIT
for n in 1 2 3; do start $n; done
for n in 1 2 3; do ready $n; done
join 2
join 3
lists 127.0.0.1:19001
voters 3
on 3 leave && code=0 || code=$?
echo "leave: exit $code"
lists 127.0.0.1:19001
echo "alone: $(dqlite -s 127.0.0.3:19001 k8s .cluster | cut -d '|' -f 2)"
join 3
lists 127.0.0.1:19001
voters 3
children=$(ps -o pid= --ppid "$agent3")
kill -9 "$agent3" $children
wait "$agent3" || true
agent3=
on 1 remove-node n3 > "$here/said" 2>&1 && code=0 || code=$?
echo "remove: exit $code"
on 1 remove-node n3 --force && code=0 || code=$?
echo "force: exit $code"
lists 127.0.0.1:19001
voters 2
on 2 leave && code=0 || code=$?
echo "leave of one of two: exit $code"
lists 127.0.0.1:19001
"#;

#[test]
fn control_planes_leave_come_back_and_are_removed_in_a_real_dqlite() {
    if !is_dqlite_installed() {
        return skip("Debian's package go-dqlite is not installed");
    }
    let Some(mut script) = in_network_of_its_own(SCRIPT, &[]) else {
        return;
    };
    let output = script.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let three = "members: 127.0.0.1:19001 127.0.0.2:19001 127.0.0.3:19001 nodes: n1 n2 n3\n";
    let two = "members: 127.0.0.1:19001 127.0.0.2:19001 nodes: n1 n2\n";
    let left = "Generating new cluster certificates.\nWaiting for node to start.  \n";
    assert_eq!(
        text(&output.stdout),
        format!(
            "{three}{left}leave: exit 0\n{two}alone: 127.0.0.3:19001\n{three}\
             remove: exit 1\nforce: exit 0\n{two}\
             {left}leave of one of two: exit 0\nmembers: 127.0.0.1:19001 nodes: n1\n"
        ),
        "{}",
        text(&output.stderr)
    );
}
