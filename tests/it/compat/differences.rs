//! Where this project differs from MicroK8s on purpose: the one table, for tests and for readers.
//!
//! `docs/compatibility.md` shows it; `exceptions` says how a row is used. A row without effects is
//! a difference that no recording shows, and the tests that it names hold it.

use super::exceptions::Effect::{
    Also, AnyCalls, AnyCallsOn, As, Blanked, Exit, Help, Instead, InsteadOfCall, InsteadOfCalls,
    JsonType, NoCalls, Only, Patch, Reason, Status, Stdout, Untouched, Without,
};
use super::exceptions::Mode::{
    AddNodeAlone, AddNodeThroughAgent, FreshNode, JoinInProcess, JoinRecordedAgent,
    JoinThroughAgent, LeaveInProcess, LeaveThroughAgent, RemoveInProcess, RemoveThroughAgent,
    Requests,
};
use super::exceptions::Side::{Every, N1, Own};
use super::exceptions::{Case, Difference, Effect, Mode};
use super::expectation;

const ADD_NODE: &[Mode] = &[AddNodeAlone, AddNodeThroughAgent];
const JOIN: &[Mode] = &[JoinInProcess, JoinThroughAgent, JoinRecordedAgent];
const LEAVE: &[Mode] = &[LeaveInProcess, LeaveThroughAgent];
const REMOVE: &[Mode] = &[RemoveInProcess, RemoveThroughAgent];
/// Every way of contacting our own agent.
const OUR_AGENT: &[Mode] = &[JoinInProcess, JoinThroughAgent, Requests];

const ERROR_LINE: Effect = Effect::Stderr(|| expectation::Stderr::ErrorLine);
const USAGE: Effect = Effect::Stderr(|| expectation::Stderr::Usage);
const LEFT: &str = "This node has left the cluster.\n";
const WARNING: Effect = Effect::Stderr(|| expectation::Stderr::Line("warning: "));
const NOTHING_HAPPENS: &[Effect] = &[Untouched(N1), NoCalls];

/// What removes n2 from Kubernetes with a datastore.
const DELETES_N2: &[&str] = &[
    "remove-node-by-ip",
    "remove-node-by-name",
    "remove-node-in-dqlite-force",
    "remove-node-in-dqlite-force-ip",
    "remove-node-no-callback-file",
    "remove-node-stopped-lock",
    "remove-node-token-auth",
];

/// The authorities of the front proxies that the cluster trusts.
const ASKS_FRONT_PROXIES: &str =
    "kubectl -n kube-system get configmap extension-apiserver-authentication -o json";

const REMOVES_N3: &str = "dqlite -s file://$SNAP_DATA/var/kubernetes/backend/cluster.yaml -c $SNAP_DATA/var/kubernetes/backend/cluster.crt -k $SNAP_DATA/var/kubernetes/backend/cluster.key -f json k8s .remove 10.99.0.13:19001";

const LISTS_MEMBERS: &str = "dqlite -s file://$SNAP_DATA/var/kubernetes/backend/cluster.yaml -c $SNAP_DATA/var/kubernetes/backend/cluster.crt -k $SNAP_DATA/var/kubernetes/backend/cluster.key -f json k8s .cluster";

/// Joins that end, at their first command, with a control plane node.
const CONTROL_PLANE: &[&str] = &[
    "join-controlplane-*",
    "join-guard-disable",
    "join-no-cni-yaml",
    "join-third-voter",
    "join-via-virtual-ip",
    "join-worker-after-controlplane",
];

/// Joins whose every command ends with a worker.
const EVERY_COMMAND_A_WORKER: &[&str] = &[
    "join-worker-control-plane-list",
    "join-worker-no-keys",
    "join-worker-ok",
    "join-cis-hardening",
    "join-fingerprint-full",
    "join-guard-worker",
    "join-guard-disable-worker",
    "join-hostname-preferred-resolves",
    "join-hostpath-warning",
    "join-no-fingerprint",
    "join-skip-verify-wrong",
    "join-stopped-lock",
    "join-ttl-two-nodes",
];

const ASKS_API_SERVERS: &[Effect] = &[InsteadOfCall(
    "kubectl get no -o json -l node.kubernetes.io/microk8s-controlplane=microk8s-controlplane",
    "kubectl get endpoints kubernetes -n default -o json",
)];

const OWN_CALLBACK_TOKEN: &[Effect] = &[
    Patch(
        Own,
        &["credentials/callback-token.txt"],
        r#"{"content": "<OWN_CALLBACK_TOKEN>"}"#,
    ),
    Also(
        Own,
        r#"{"path": "credentials/callback-token.sha256", "change": "added", "mode": "0600", "kind": "text", "content": "<CALLBACK_TOKEN_SHA256>\n"}"#,
    ),
];

/// Joins that end with a worker.
const WORKER: &[&str] = &[
    "join-worker-*",
    "join-cis-hardening",
    "join-fingerprint-full",
    "join-guard-worker",
    "join-guard-disable-worker",
    "join-hostname-preferred-resolves",
    "join-hostpath-warning",
    "join-no-fingerprint",
    "join-skip-verify-wrong",
    "join-stopped-lock",
    "join-one-time-token-twice",
    "join-ttl-two-nodes",
];

/// `server.crt` and `front-proxy-client.crt` of n2, as a fresh node has them but for who signed.
const SERVER_CERTIFICATES: &[Effect] = &[
    Also(
        Own,
        r#"{
            "path": "certs/server.crt",
            "change": "modified",
            "mode": "0644",
            "kind": "cert",
            "summary": {
                "subject": "C=GB, ST=Canonical, L=Canonical, O=Canonical, OU=Canonical, CN=127.0.0.1",
                "issuer": "CN=10.152.183.1",
                "version": "v3",
                "is_ca": false,
                "sans": [
                    "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                    "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
                    "IP:127.0.0.1", "IP:10.152.183.1", "IP:10.99.0.12"
                ],
                "days": 365.0,
                "key_usage": ["digital_signature", "key_encipherment", "data_encipherment"],
                "ext_key_usage": ["serverAuth", "clientAuth"],
                "extensions": [
                    "authorityKeyIdentifier", "basicConstraints", "keyUsage", "extendedKeyUsage",
                    "subjectAltName", "subjectKeyIdentifier"
                ],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "remote ca (n1)",
                "blocks": 1
            }
        }"#,
    ),
    Also(
        Own,
        r#"{
            "path": "certs/front-proxy-client.crt",
            "change": "modified",
            "mode": "0644",
            "kind": "cert",
            "summary": {
                "subject": "CN=front-proxy-client",
                "issuer": "CN=front-proxy-ca",
                "version": "v3",
                "is_ca": false,
                "sans": [
                    "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                    "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
                    "IP:127.0.0.1", "IP:10.152.183.1", "IP:10.99.0.12"
                ],
                "days": 365.0,
                "key_usage": ["digital_signature", "key_encipherment", "data_encipherment"],
                "ext_key_usage": ["serverAuth", "clientAuth"],
                "extensions": [
                    "authorityKeyIdentifier", "basicConstraints", "keyUsage", "extendedKeyUsage",
                    "subjectAltName", "subjectKeyIdentifier"
                ],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "own front-proxy ca",
                "blocks": 1
            }
        }"#,
    ),
];

/// The file in which one of two tokens is overwritten.
const ONE_CERTIFICATE_TOKEN: &str = r#"{
    "group": null,
    "group_before": null,
    "content": "                                        \n0123456789abcdef0123456789abcdef-proxy\n"
}"#;

/// The same when both are.
const TWO_CERTIFICATE_TOKENS: &str = r#"{
    "group": null,
    "content": "                                        \n                                      \n"
}"#;

const KUBECONFIGS: &[Effect] = &[
    Patch(
        Own,
        &["credentials/*.config"],
        r#"{"mode": "0600", "mode_before": "0644"}"#,
    ),
    Patch(
        Own,
        &["credentials/client.config"],
        r#"{"mode": "0640", "group": "microk8s", "group_before": "root"}"#,
    ),
];

/// Kubeconfigs of a worker that joined with our program: the join has changed two of them already.
const WORKER_KUBECONFIGS: &[Effect] = &[
    Patch(Own, &["credentials/*.config"], r#"{"mode": "0600"}"#),
    Patch(
        Own,
        &[
            "credentials/controller.config",
            "credentials/scheduler.config",
        ],
        r#"{"mode_before": "0644"}"#,
    ),
    Patch(
        Own,
        &["credentials/client.config"],
        r#"{"mode": "0640", "mode_before": "0644", "group": "microk8s", "group_before": "root"}"#,
    ),
];

/// Kubeconfigs of a control plane node that joined with our program.
const JOINED_KUBECONFIGS: &[Effect] = &[
    Patch(Own, &["credentials/*.config"], r#"{"mode": "0600"}"#),
    Patch(
        Own,
        &["credentials/client.config"],
        r#"{"mode": "0640", "group": "microk8s"}"#,
    ),
];

const NEW_KUBECONFIG: &str = r#"{"summary": {"clusters": [{
    "cluster": {"certificate-authority-data": "=certs/ca.crt", "server": "https://127.0.0.1:16443"},
    "name": "microk8s-cluster"
}]}}"#;

/// An authority of its own for a control plane node that left, and what it signed.
const NEW_AUTHORITY: &[Effect] = &[
    Patch(
        Own,
        &["certs/*.crt"],
        r#"{"summary": {"signed_by": "new ca"}}"#,
    ),
    Patch(Own, &["credentials/*.config"], NEW_KUBECONFIG),
    Also(
        Own,
        r#"{
            "path": "certs/ca.key",
            "change": "modified",
            "mode": "0600",
            "kind": "key",
            "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/ca.crt"]}
        }"#,
    ),
    Also(
        Own,
        r#"{
            "path": "certs/serviceaccount.key",
            "change": "modified",
            "mode": "0600",
            "kind": "key",
            "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY"}
        }"#,
    ),
    Also(
        Own,
        r#"{
            "path": "certs/ca.crt",
            "change": "modified",
            "mode": "0644",
            "kind": "cert",
            "summary": {
                "subject": "CN=10.152.183.1",
                "issuer": "CN=10.152.183.1",
                "version": "v3",
                "is_ca": true,
                "sans": [],
                "days": 3650.0,
                "key_usage": ["key_cert_sign", "crl_sign"],
                "ext_key_usage": [],
                "extensions": ["basicConstraints (critical)", "keyUsage (critical)", "subjectKeyIdentifier", "authorityKeyIdentifier"],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "self",
                "blocks": 1
            }
        }"#,
    ),
    Also(
        Own,
        r#"{
            "path": "certs/server.crt",
            "change": "modified",
            "mode": "0644",
            "kind": "cert",
            "summary": {
                "subject": "C=GB, ST=Canonical, L=Canonical, O=Canonical, OU=Canonical, CN=127.0.0.1",
                "issuer": "CN=10.152.183.1",
                "version": "v3",
                "is_ca": false,
                "sans": [
                    "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                    "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
                    "IP:127.0.0.1", "IP:10.152.183.1", "IP:10.99.0.11"
                ],
                "days": 365.0,
                "key_usage": ["digital_signature", "key_encipherment", "data_encipherment"],
                "ext_key_usage": ["serverAuth", "clientAuth"],
                "extensions": [
                    "authorityKeyIdentifier", "basicConstraints", "keyUsage", "extendedKeyUsage",
                    "subjectAltName", "subjectKeyIdentifier"
                ],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "new ca",
                "blocks": 1
            }
        }"#,
    ),
];

/// New keys for all that a node that left has certificates for, and a new authority of its front proxy.
const NEW_KEYS: &[Effect] = &[
    Also(
        Own,
        r#"{"path": "certs/server.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/server.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/front-proxy-ca.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/front-proxy-ca.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/front-proxy-client.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/front-proxy-client.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/kubelet.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/kubelet.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/client.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/client.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/proxy.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/proxy.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/scheduler.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/scheduler.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/controller.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/controller.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{"path": "certs/apiserver-kubelet-client.key", "change": "modified", "mode": "0600", "kind": "key", "summary": {"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY", "key_of_cert": ["certs/apiserver-kubelet-client.crt"]}}"#,
    ),
    Also(
        Own,
        r#"{
            "path": "certs/front-proxy-ca.crt",
            "change": "modified",
            "mode": "0644",
            "kind": "cert",
            "summary": {
                "subject": "CN=front-proxy-ca",
                "issuer": "CN=front-proxy-ca",
                "version": "v3",
                "is_ca": true,
                "sans": [],
                "days": 3650.0,
                "key_usage": ["key_cert_sign", "crl_sign"],
                "ext_key_usage": [],
                "extensions": ["basicConstraints (critical)", "keyUsage (critical)", "subjectKeyIdentifier", "authorityKeyIdentifier"],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "self",
                "blocks": 1
            }
        }"#,
    ),
    Also(
        Own,
        r#"{
            "path": "certs/front-proxy-client.crt",
            "change": "modified",
            "mode": "0644",
            "kind": "cert",
            "summary": {
                "subject": "CN=front-proxy-client",
                "issuer": "CN=front-proxy-ca",
                "version": "v3",
                "is_ca": false,
                "sans": [
                    "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                    "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
                    "IP:127.0.0.1", "IP:10.152.183.1", "IP:10.99.0.11"
                ],
                "days": 365.0,
                "key_usage": ["digital_signature", "key_encipherment", "data_encipherment"],
                "ext_key_usage": ["serverAuth", "clientAuth"],
                "extensions": [
                    "authorityKeyIdentifier", "basicConstraints", "keyUsage", "extendedKeyUsage",
                    "subjectAltName", "subjectKeyIdentifier"
                ],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "new front-proxy ca",
                "blocks": 1
            }
        }"#,
    ),
];

/// `server.crt` of a worker that left.
const WORKERS_SERVER: Effect = Also(
    Own,
    r#"{
        "path": "certs/server.crt",
        "change": "modified",
        "mode": "0644",
        "kind": "cert",
        "summary": {
            "subject": "C=GB, ST=Canonical, L=Canonical, O=Canonical, OU=Canonical, CN=127.0.0.1",
            "issuer": "CN=10.152.183.1",
            "version": "v3",
            "is_ca": false,
            "sans": [
                "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                    "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
                    "IP:127.0.0.1", "IP:10.152.183.1", "IP:10.99.0.12"
            ],
            "days": 365.0,
            "key_usage": ["digital_signature", "key_encipherment", "data_encipherment"],
            "ext_key_usage": ["serverAuth", "clientAuth"],
            "extensions": [
                "authorityKeyIdentifier", "basicConstraints", "keyUsage", "extendedKeyUsage",
                "subjectAltName", "subjectKeyIdentifier"
            ],
            "signature_algorithm": "sha256WithRSAEncryption",
            "public_key": {"type": "RSA", "bits": 2048},
            "signed_by": "own ca",
            "blocks": 1
        }
    }"#,
);

const N2_SERVER: &str = r#"{"summary": {"sans": [
    "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
    "IP:127.0.0.1", "IP:10.152.183.1", "IP:10.99.0.12"
]}}"#;

const CALLBACK_TOKEN_GOES: &str = r#"{"path": "credentials/callback-token.txt", "change": "removed", "mode": "0660", "kind": "text"}"#;

const SHELL_FAILED: &str = "Contacting node 10.99.0.11:19001 failed. Error:\n\
    `$SNAP/bin/dqlite -s file://$SNAP_DATA/var/kubernetes/backend/cluster.yaml \
    -c $SNAP_DATA/var/kubernetes/backend/cluster.crt -k $SNAP_DATA/var/kubernetes/backend/cluster.key \
    -f json k8s .remove 10.99.0.12:19001` failed (exit status: 1)\n";

const WRAPPER_CALLS: &[&str] = &["wrapper stop", "wrapper start"];
const STARTED: &[&str] = &[
    "snapctl start microk8s.daemon-k8s-dqlite",
    "snapctl start microk8s.daemon-kubelite",
];

/// The differences by command, each group with its heading in the document.
pub const GROUPS: &[(&str, &[Difference])] = &[
    ("`join`, on the joining node", JOINING),
    ("`add-node` and tokens", TOKENS),
    ("Keys and files of a node", FILES),
    ("`leave`", LEAVES),
    ("`remove-node`", REMOVALS),
    ("`agent`: answers and callbacks", ANSWERS),
    ("`agent`: a join, on the contacted node", ADMISSION),
    ("`apiserver-proxy`", PROXY),
    ("Launch configurations", LAUNCHES),
];

const PROXY: &[Difference] = &[
    Difference {
        microk8s: "when the list of API servers changes, the proxy stops listening and starts anew, without what it knew of them",
        here: "it goes on listening, connections go on, and new ones go to the API servers in the new list",
        why: "a control plane node that comes or goes is no reason to refuse the kubelet a connection",
        cases: &[],
        tests: &[
            "apiserver_proxy::connections_go_on_when_the_list_changes_and_new_ones_go_where_it_says",
            "apiserver_proxy_kubernetes::a_watch_goes_on_while_the_list_changes_and_another_api_server_dies_and_one_that_is_back_is_used",
        ],
    },
    Difference {
        microk8s: "a list that is empty or cannot be read ends the proxy",
        here: "the API servers stay as they are, and the log says so; the proxy does not start without a list",
        why: "the node would lose its cluster for the fault of a file",
        cases: &[],
        tests: &[
            "apiserver_proxy::connections_go_on_when_the_list_changes_and_new_ones_go_where_it_says",
        ],
    },
    Difference {
        microk8s: "an API server that failed is tried again after a minute or more, and one that is silent holds up a connection for as long as the system tries",
        here: "it is tried again every second beside the connections, and the next API server is asked after half a second",
        why: "an API server restarts within seconds, and until it is used again the others carry its load",
        cases: &[],
        tests: &[
            "apiserver_proxy::an_api_server_that_refuses_or_is_silent_is_left_out_and_used_again_when_it_is_back",
        ],
    },
    Difference {
        microk8s: "the end of one direction of a connection, or a reset, closes both sides in order",
        here: "the other direction goes on, and a reset is passed on as one",
        why: "an answer that comes after the end of a request is an answer, and half of one must not pass for a whole",
        cases: &[],
        tests: &[
            "apiserver_proxy::a_side_that_has_said_all_still_hears_the_other_one",
            "apiserver_proxy::a_side_that_is_reset_resets_the_other_one",
        ],
    },
    Difference {
        microk8s: "SIGTERM ends the proxy at once",
        here: "open connections have five seconds to finish; a second signal ends it at once",
        why: "a request that is nearly done need not be repeated",
        cases: &[],
        tests: &[
            "apiserver_proxy::open_connections_may_finish_after_sigterm_but_none_begins_and_the_service_manager_hears_of_it",
            "apiserver_proxy::a_connection_that_does_not_end_is_waited_for_no_longer_than_some_seconds",
        ],
    },
    Difference {
        microk8s: "an API server in the list that is the proxy itself, as on a worker that was a control plane node, is called again and again",
        here: "it is left out",
        why: "one connection would take all that there are",
        cases: &[],
        tests: &["apiserver_proxy::an_address_that_leads_back_to_the_proxy_is_left_out"],
    },
];

const JOINING: &[Difference] = &[
    Difference {
        microk8s: "`join`, `leave` and `remove-node` say on stdout alone why they failed",
        here: "stdout is the same, and stderr has a line `error:` and mostly one `hint:`",
        why: "people and programs look there, and some scripts keep stderr alone",
        cases: &[],
        tests: &["messages::wrong_input_is_told_what_was_wrong_and_changes_nothing"],
    },
    // Scenarios that go another way altogether.
    Difference {
        microk8s: "`join --controlplane` always fails and uses up the token",
        here: "it joins as a control plane node, as without the flag",
        why: "that is what its help says",
        cases: &[Case {
            of: &["join-controlplane-flag"],
            modes: JOIN,
            effects: &[As("join-controlplane-ok")],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "`join --controlplane` walks past the low memory guard",
        here: "the guard holds, as without the flag",
        why: "the flag asks for the very role that the guard is there for",
        cases: &[Case {
            of: &["join-guard-controlplane-flag"],
            modes: JOIN,
            effects: &[As("join-guard")],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "`join` prints success and exits 0 when the datastore never lists the node, or when its shell fails",
        here: "exit code 8, an error, and the node as it was before",
        why: "a node that the datastore does not list is no member of the cluster",
        cases: &[Case {
            of: &["join-dqlite-never-lists", "join-dqlite-shell-fails"],
            modes: JOIN,
            effects: &[
                Exit(8),
                Stdout(
                    "Contacting cluster at 10.99.0.11\n\
                 Waiting for this node to finish joining the cluster. {dots}\n",
                ),
                ERROR_LINE,
                Untouched(Own),
                AnyCalls,
            ],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "a worker counts as joined when its services were restarted, whether or not it reaches the API server",
        here: "the API server must answer through the worker's proxy within `--timeout`, with a certificate of the cluster, to the kubelet's certificate; else exit code 15, and the node as it was before. The service manager is asked whether the proxy runs",
        why: "a worker that reaches no API server never becomes ready",
        cases: &[],
        tests: &[
            "failed_joins::a_worker_has_joined_when_the_api_server_answers_through_its_proxy",
            "failed_joins::a_worker_has_not_joined_when_no_api_server_of_the_cluster_answers_in_time",
        ],
    },
    Difference {
        microk8s: "an IPv6 address in brackets, as `add-node` prints it, is refused by `join`",
        here: "it is an address like any other",
        why: "what one command prints the other must take",
        cases: &[Case {
            of: &["join-malformed-ipv6-bracketed"],
            modes: JOIN,
            effects: &[
                Stdout("Contacting cluster at fd00::1\n"),
                ERROR_LINE,
                Exit(10),
            ],
        }],
        tests: &[
            "ipv6::nodes_join_over_ipv6_by_the_string_that_add_node_prints",
            "ipv6::hosts_without_ipv4_form_a_cluster_that_a_worker_leaves_and_a_control_plane_too",
            "ipv6::all_formats_of_add_node_bring_addresses_of_ipv6_that_every_way_to_join_takes",
        ],
    },
    Difference {
        microk8s: "a node is admitted from a link-local address, where no other node can reach it",
        here: "`join` does not take such an address, and the contacted node refuses a node that calls from one; the token stays",
        why: "nodes write each other's addresses down, and this one means another machine on each link",
        cases: &[],
        tests: &["ipv6::addresses_of_one_link_are_refused_on_both_sides"],
    },
    Difference {
        microk8s: "a control plane node counts as joined when any line of the datastore's list contains its address: `10.99.0.120` will do for `10.99.0.12`",
        here: "its very address must be listed",
        why: "success must mean that the node is a member",
        cases: &[],
        tests: &["membership::a_node_is_a_member_when_the_datastore_lists_its_very_address"],
    },
    Difference {
        microk8s: "a member that joins again is refused for its spent token",
        here: "it is told that it is a member: exit code 0, nothing is changed, no token is used; a warning if another role was asked for",
        why: "automation runs the same line again and again",
        cases: &[],
        tests: &["membership::a_member_that_joins_again_is_told_so_and_nothing_changes_anywhere"],
    },
    Difference {
        microk8s: "a node that is a member of another cluster joins, and stays in the other cluster's books",
        here: "it is refused with exit code 9, before its token is shown to anybody: `microk8s leave` first",
        why: "the cluster that it is taken from loses a voter, or keeps a node that is none",
        cases: &[],
        tests: &[
            "preflight::what_a_node_is_in_is_found_before_its_token_is_shown_to_anybody",
            "preflight::a_control_plane_node_of_a_cluster_does_not_join_another_one",
        ],
    },
    Difference {
        microk8s: "a node that is in the cluster, or was removed from it, joins again like a new one",
        here: "a member is told so and exits 0, where the cluster lists it; a worker is set to where the API servers are now; a node that the cluster does not list is told to run `microk8s leave` first, with exit code 9",
        why: "what the node says of itself may be out of date, and a member has nothing to gain from another join",
        cases: &[],
        tests: &[
            "membership::a_member_that_joins_again_is_told_so_and_nothing_changes_anywhere",
            "membership::a_node_that_its_cluster_does_not_list_any_more_is_told_to_leave_and_its_token_stays",
            "membership::a_worker_whose_control_plane_has_another_address_is_set_to_it",
            "membership::a_worker_is_a_member_as_long_as_a_real_api_server_knows_it_and_its_certificate",
        ],
    },
    Difference {
        microk8s: "what stands in the way of a join shows when it fails, one fault at a time, and each try costs a token",
        here: "`join --dry-run` names all faults with what cures them, and costs nothing; `join` makes the same checks of its own node, of the clocks and of address translation, with `GET /health` before it shows its token",
        why: "faults are found before a fleet is changed",
        cases: &[],
        tests: &[
            "preflight::faults::faults_of_the_joining_node_are_named_with_their_remedies_and_cost_nothing",
            "preflight::faults::faults_that_the_contacted_node_shows_are_named_with_their_remedies_and_cost_nothing",
            "preflight::a_clock_that_is_wrong_ends_a_join_and_its_dry_run_alike_before_the_token_is_shown",
            "preflight::address_translation_ends_a_control_plane_join_and_its_dry_run_alike",
            "preflight::a_disk_that_cannot_be_written_ends_a_join_and_its_dry_run_alike",
        ],
    },
    Difference {
        microk8s: "`join` sleeps for ten seconds while the services of a control plane node restart",
        here: "it waits for what it needs, and no longer",
        why: "the services are ready sooner, or later",
        cases: &[],
        tests: &["membership::a_control_plane_join_waits_for_no_clock"],
    },
    Difference {
        microk8s: "the fingerprint is checked on the first connection of a join; the certificates are asked for on others, unchecked",
        here: "every connection must show the same certificate",
        why: "the token travels on each of them",
        cases: &[],
        tests: &["bad_input::the_fingerprint_is_checked_on_every_connection"],
    },
    Difference {
        microk8s: "fields of the answer are written to disk as they come",
        here: "an answer whose certificates, keys, addresses or tokens are none, that has no bounds, or that a shell would evaluate is refused before anything changes, and the field is named",
        why: "a node with another node's mistakes on it is broken as well, and MicroK8s's wrappers are shell scripts",
        cases: &[],
        tests: &[
            "bad_input::an_answer_with_a_field_that_makes_no_sense_is_no_answer",
            "bad_input::an_answer_that_a_shell_would_evaluate_or_that_has_no_bounds_is_refused_with_its_field",
            "bad_input::an_answer_without_a_needed_field_names_the_field",
        ],
    },
    Difference {
        microk8s: "a signed certificate is written to disk as it comes",
        here: "it is compared with what was asked for: key, subject, names, no authority, validity, the cluster's signature",
        why: "with another one the node would not be the node that joined",
        cases: &[],
        tests: &[
            "bad_input::a_certificate_that_is_not_the_one_that_was_asked_for_is_refused_before_anything_changes",
        ],
    },
    Difference {
        microk8s: "the kubeconfigs of a control plane node lead to port 16443 whatever the contacted node's `--secure-port` is, which the node's API server takes over",
        here: "they follow the port",
        why: "the node's own services would not reach its API server",
        cases: &[],
        tests: &["membership::kubeconfigs_follow_the_port_of_the_contacted_nodes_api_server"],
    },
    Difference {
        microk8s: "a contacted node that never answers holds a join for ever, and one that drips its answer does too",
        here: "`--timeout` bounds the whole join, whatever arrives; a command that is gone ends its join; a second one says at once that a join is under way",
        why: "a join that hangs cannot be tried again",
        cases: &[],
        tests: &[
            "deadline::timeout_bounds_a_join_whatever_the_contacted_node_sends",
            "deadline::a_command_that_is_gone_ends_its_join_at_once",
            "deadline::a_second_command_says_at_once_that_another_join_is_under_way",
        ],
    },
    Difference {
        microk8s: "every line of `cni.yaml` that says `first-found` is rewritten",
        here: "only the value of `IP_AUTODETECTION_METHOD`",
        why: "the other lines are not MicroK8s's",
        cases: &[],
        tests: &["membership::only_the_autodetection_method_of_the_pod_network_is_changed"],
    },
    Difference {
        microk8s: "a `cni.yaml` that kubectl refuses holds the first join up for a minute, and is tried no more",
        here: "what an API server that is ready refuses twice waits; the log has the reason, and the agent tries again until it is taken",
        why: "the manifest is not cured by waiting, and the joining node cannot cure it",
        cases: &[],
        tests: &[
            "real_kubernetes::a_manifest_of_the_pod_network_that_kubectl_refuses_holds_no_join_up_and_is_applied_once_it_is_cured",
        ],
    },
    Difference {
        microk8s: "a control plane join takes over the authorization mode of the API server, and says nothing of its admission plugins",
        here: "the answer has a field `api_server_limits` where the contacted API server is stricter than that of a fresh node, and the join warns when the joining one is not",
        why: "what one API server of a cluster refuses a worker, another one must not grant",
        cases: &[],
        tests: &[
            "membership::a_control_plane_join_warns_of_an_api_server_that_admits_more_than_the_contacted_one",
        ],
    },
    Difference {
        microk8s: "which nodes are control plane nodes is read from the labels of nodes, which each node writes itself",
        here: "it is read from the endpoints of the service `kubernetes`, which the API servers write, and from the members of the datastore; who is in one of the two alone must answer under the cluster's authority",
        why: "root on a worker can label the worker's node as he likes",
        cases: &[
            Case {
                of: EVERY_COMMAND_A_WORKER,
                modes: OUR_AGENT,
                effects: ASKS_API_SERVERS,
            },
            Case {
                of: &[
                    "join-worker-after-controlplane",
                    "join-one-time-token-twice",
                    "join-service-restart-fails",
                    "join-sign-fails",
                    "http-join-case-keys",
                    "http-join-no-content-type",
                    "http-join-token-spaces",
                ],
                modes: OUR_AGENT,
                effects: ASKS_API_SERVERS,
            },
        ],
        tests: &["real_kubernetes::a_worker_that_labels_itself_as_a_control_plane_gains_nothing"],
    },
    Difference {
        microk8s: "a worker's `provider.yaml` names the contacted node alone",
        here: "it names all control plane nodes that the answer lists",
        why: "the worker must outlive the contacted node",
        cases: &[],
        tests: &["membership::a_worker_knows_all_control_planes_that_the_answer_names"],
    },
    Difference {
        microk8s: "the words `--node-ip` in a comment of the contacted node's arguments add the argument",
        here: "comments are no arguments",
        why: "a comment asks for nothing",
        cases: &[],
        tests: &["membership::a_comment_in_the_contacted_nodes_arguments_is_no_argument"],
    },
    // What the user sees.
    Difference {
        microk8s: "a Python traceback on stderr and exit code 1 when the peer is not reachable, when its answer is no JSON or lacks a field, or when a service cannot be restarted",
        here: "one line `error: …` that says what failed on what, one that names the failed stage and says whether trying again can help, at most a line `hint: …`; an exit code for each stage (`exit-codes.md`)",
        why: "a traceback tells an operator neither what to do nor what was done, and a script cannot tell what is worth another try",
        cases: &[
            Case {
                of: &[
                    "join-refused",
                    "join-refused-worker",
                    "join-malformed-port-space",
                    "join-malformed-port-underscore",
                ],
                modes: JOIN,
                effects: &[ERROR_LINE, Exit(10)],
            },
            Case {
                of: &["join-peer-200-not-json", "join-peer-200-empty-object"],
                modes: JOIN,
                effects: &[ERROR_LINE, Exit(11)],
            },
            Case {
                // The service does not come up with the old files either.
                of: &["join-service-restart-fails"],
                modes: JOIN,
                effects: &[ERROR_LINE, Exit(16)],
            },
        ],
        tests: &[
            "documents::the_table_of_stages_has_the_stages_of_a_join_in_order_each_with_its_exit_code",
        ],
    },
    Difference {
        microk8s: "a join that fails says what failed",
        here: "after the same text on stdout, a line `hint: …` on stderr says what to do next",
        why: "`Invalid token` does not tell a typing error from a token that was used",
        cases: &[],
        tests: &["field_usage::u04_a_failure_is_told_in_one_line_and_a_hint"],
    },
    Difference {
        microk8s: "an answer that is no HTTP is printed up to its line end, control characters included",
        here: "control characters of other machines do not reach the terminal",
        why: "they could rewrite what the operator sees",
        cases: &[Case {
            of: &["join-peer-garbage"],
            modes: JOIN,
            effects: &[Instead("hello there\r\n\n", "hello there\n")],
        }],
        tests: &["bad_input::what_a_peer_says_cannot_drive_the_terminal"],
    },
    Difference {
        microk8s: "`join` takes one connection string, and refuses any second argument",
        here: "further connection strings of the same token are alternatives: the next one is used where a node cannot be reached, never once a request was sent; any other second argument gets MicroK8s's answer",
        why: "a node can join while the control plane node that its command names is down",
        cases: &[],
        tests: &[
            "connection_strings::a_join_tries_the_next_string_when_a_node_cannot_be_reached",
            "connection_strings::no_other_string_is_tried_once_a_node_was_asked_or_another_machine_answers",
        ],
    },
    Difference {
        microk8s: "a join string without a fingerprint is used without a word",
        here: "a warning on stderr; stdout is the same",
        why: "the peer could be anybody",
        cases: &[Case {
            of: &["join-no-fingerprint", "v1-join-unknown-token"],
            modes: JOIN,
            effects: &[WARNING],
        }],
        tests: &["field_usage::u01_a_join_without_fingerprint_warns_in_one_line_on_stderr"],
    },
];

const TOKENS: &[Difference] = &[
    Difference {
        microk8s: "`add-node` prints the port 25000 whatever the agent binds",
        here: "the port that the agent serves",
        why: "no node can join at another",
        cases: &[Case {
            of: &["add-node-bind-25001"],
            modes: ADD_NODE,
            effects: &[Instead(":25000/", ":25001/")],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "`add-node` says nothing of it when no agent listens on the node",
        here: "a warning on standard error where that is a terminal; the exit code is 0",
        why: "the token is of no use until an agent runs, and the join would be the first to say so; scripts merge both streams, and find in them what they found before",
        cases: &[],
        tests: &[
            "terminal::add_node_says_on_a_terminal_that_no_agent_listens_or_that_workers_alone_can_join",
        ],
    },
    Difference {
        microk8s: "a connection string that is not understood has a line on standard output alone",
        here: "the same line, and on standard error what is wrong and what to type; the token is not repeated",
        why: "`Expected format` does not say which part is missing, and `Invalid master IP` not that names are not taken",
        cases: &[Case {
            of: &[
                "join-fingerprint-empty",
                "join-fingerprint-short",
                "join-guard-disable-malformed",
                "join-malformed-dns-name",
                "join-malformed-dns-name-n1",
                "join-malformed-empty",
                "join-malformed-four-parts",
                "join-malformed-ip-bad",
                "join-malformed-ip-octal",
                "join-malformed-ipv6-plain",
                "join-malformed-missing-token",
                "join-malformed-port-0",
                "join-malformed-port-70000",
                "join-malformed-port-empty",
                "join-malformed-port-missing",
                "join-malformed-port-text",
                "join-malformed-short-token",
                "join-malformed-url",
                "join-skip-verify-short",
            ],
            modes: JOIN,
            effects: &[ERROR_LINE],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "without a readable `certs/server.crt`, `add-node` prints the hash of nothing as fingerprint and exits 0",
        here: "an error, exit code 1, and no token is made",
        why: "no node can join with it",
        cases: &[Case {
            of: &["add-node-no-server-cert"],
            modes: &[AddNodeAlone],
            effects: &[Exit(1), Stdout(""), ERROR_LINE, Untouched(Own)],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "a time to live of 0, or below -1, makes a token that has expired already",
        here: "refused, nothing is changed",
        why: "such a token can never be used",
        cases: &[Case {
            of: &["add-node-ttl-0", "add-node-ttl-minus-5"],
            modes: ADD_NODE,
            effects: &[Exit(2), Stdout(""), USAGE, Untouched(Own)],
        }],
        tests: &[],
    },
    // Tokens.
    Difference {
        microk8s: "`add-node` makes an empty `cluster-tokens.txt` even when it only prints its help or refuses its arguments",
        here: "nothing is changed",
        why: "what was refused must leave nothing behind",
        cases: &[Case {
            of: &[
                "add-node-bad-format",
                "add-node-bad-option",
                "add-node-h",
                "add-node-token-empty",
                "add-node-token-short",
                "add-node-ttl-text",
            ],
            modes: ADD_NODE,
            effects: &[Untouched(Own)],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "tokens stand in clear in `cluster-tokens.txt`",
        here: "where our agent runs, `add-node` gives the token to it, and the agent stores a hash; the file is not touched",
        why: "who reads the file, or a backup of it, can join a node to the cluster",
        cases: &[Case {
            of: &["add-node-*", "join-*", "v1-join"],
            modes: &[AddNodeThroughAgent, JoinInProcess, JoinThroughAgent],
            effects: &[Without(Every, &["credentials/cluster-tokens.txt"])],
        }],
        tests: &["tokens::a_token_is_nowhere_to_be_read_but_on_the_screen"],
    },
    Difference {
        microk8s: "the first check of a join uses up its token, so that whatever is refused later has cost it",
        here: "a join that is refused leaves its token as it was",
        why: "the next try, with the fault mended, must not need a new token",
        cases: &[Case {
            of: &[
                "join-already-in-dqlite",
                "join-already-in-dqlite-worker",
                "join-hostname-other-ip",
                "join-hostname-preferred-first",
                "join-hostname-unresolvable",
                "join-not-ha",
                "join-port-mismatch",
                "join-same-ip",
                "join-same-ip-worker",
                "http-join-old-client",
                "http-join-v1-on-ha",
            ],
            modes: &[Requests],
            effects: &[Without(Every, &["credentials/cluster-tokens.txt"])],
        }],
        tests: &["tokens::a_join_that_is_refused_leaves_its_token_to_the_next_try"],
    },
    Difference {
        microk8s: "a used token is taken out of `cluster-tokens.txt` by writing the file anew, and lines that `add-node` appends meanwhile are lost",
        here: "the token is overwritten with blanks in its place; the file is never written anew",
        why: "MicroK8s's own `add-node` appends without a lock",
        cases: &[Case {
            of: &[
                "join-controlplane-ok",
                "join-worker-ok",
                "join-cis-hardening",
                "join-dqlite-*",
                "join-fingerprint-full",
                "join-guard-disable",
                "join-guard-disable-worker",
                "join-guard-worker",
                "join-controlplane-flag",
                "join-guard-controlplane-flag",
                "join-hostname-preferred-resolves",
                "join-hostpath-warning",
                "join-no-cni-yaml",
                "join-no-fingerprint",
                "join-one-time-token-twice",
                "join-service-restart-fails",
                "join-sign-fails",
                "join-skip-verify-wrong",
                "join-stopped-lock",
                "join-third-voter",
                "join-via-virtual-ip",
                "join-worker-after-controlplane",
                "join-worker-control-plane-list",
                "join-worker-no-keys",
                "v1-join",
                "http-join-case-keys",
                "http-join-no-content-type",
            ],
            modes: &[Requests],
            effects: &[Blanked("credentials/cluster-tokens.txt")],
        }],
        tests: &[
            "tokens::no_line_that_a_stock_add_node_appends_while_nodes_join_is_lost",
            "tokens::a_token_that_a_stock_add_node_appends_counts_at_once_and_is_blanked_where_it_stands",
        ],
    },
    Difference {
        microk8s: "a token that is sent with blanks around it is accepted, and never used up",
        here: "the blanks are no part of it, and it is used up",
        why: "a one-time token has one life",
        cases: &[Case {
            of: &["http-join-token-spaces"],
            modes: &[Requests],
            effects: &[
                Only(
                    &[1],
                    &[Also(
                        N1,
                        r#"{
                            "path": "credentials/cluster-tokens.txt",
                            "change": "modified",
                            "mode": "0660",
                            "group": "microk8s",
                            "kind": "empty",
                            "content": "                                \n"
                        }"#,
                    )],
                ),
                Only(&[2], &[Without(N1, &["credentials/cluster-tokens.txt"])]),
            ],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "the tokens with which a worker has its certificates signed stand in `certs-request-tokens.txt`",
        here: "they are kept with the other tokens, as hashes",
        why: "a reader of the file can have a certificate signed",
        cases: &[Case {
            of: &["join-*", "http-join-*", "v1-join"],
            modes: OUR_AGENT,
            effects: &[Without(Every, &["credentials/certs-request-tokens.txt"])],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "a certificate request that cannot be signed uses up its token",
        here: "the token stays",
        why: "the node can ask again, and asking costs it nothing",
        cases: &[Case {
            of: &["http-sign-cert-bad-csr"],
            modes: &[Requests],
            effects: &[
                Only(&[1, 3], &[Untouched(Every)]),
                Only(
                    &[2],
                    &[
                        As("http-sign-cert"),
                        Patch(
                            Every,
                            &["credentials/certs-request-tokens.txt"],
                            ONE_CERTIFICATE_TOKEN,
                        ),
                    ],
                ),
            ],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "the line of a certificate token that was used is taken out of `certs-request-tokens.txt`, and the file given to the group microk8s",
        here: "a token that MicroK8s's agent has put there is overwritten with blanks; mode and group stay",
        why: "as for `cluster-tokens.txt`",
        cases: &[Case {
            of: &["http-sign-cert"],
            modes: &[Requests],
            effects: &[
                Only(
                    &[1],
                    &[Patch(
                        N1,
                        &["credentials/certs-request-tokens.txt"],
                        ONE_CERTIFICATE_TOKEN,
                    )],
                ),
                Only(
                    &[4],
                    &[Patch(
                        N1,
                        &["credentials/certs-request-tokens.txt"],
                        TWO_CERTIFICATE_TOKENS,
                    )],
                ),
            ],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "that a joining node is too old is noticed after the contacted node has been prepared for the join",
        here: "it is checked with the rest, before anything is changed",
        why: "what is refused must leave nothing behind",
        cases: &[Case {
            of: &["http-join-old-client"],
            modes: &[Requests],
            effects: &[Untouched(Every), NoCalls],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "a token is looked for as the beginning of a line, an expired line hides a later one with the same token, and a token that is listed twice works twice",
        here: "the whole token counts, and it has one life",
        why: "a one-time token lets one node in",
        cases: &[],
        tests: &[
            "tokens::a_token_is_matched_as_a_whole",
            "tokens::a_token_has_one_life_however_often_it_is_listed",
            "tokens::of_many_nodes_that_present_a_one_time_token_at_once_exactly_one_is_let_in",
        ],
    },
    Difference {
        microk8s: "a node whose join failed after its token was used needs a new token",
        here: "the token stays the same node's (same address and host name), which may use it again for `--retry-window` (15 minutes) or until its join is known to be complete; while nothing was handed out, it is free for other nodes again",
        why: "MicroK8s's own `join` does not report that it failed",
        cases: &[],
        tests: &[
            "membership::a_token_whose_join_failed_on_the_contacted_node_serves_the_next_try",
            "membership::a_token_whose_join_failed_on_the_joining_node_serves_its_next_try_and_no_other_node",
        ],
    },
    Difference {
        microk8s: "a script looks for a token in `cluster-tokens.txt`, or takes its line out",
        here: "`microk8s token show -` and `token revoke -` take the token on standard input and say by their exit code whether it was there; lines that others write count from that moment, lines that others take out no longer",
        why: "the token that `add-node` issues is in no file",
        cases: &[],
        tests: &[
            "token_life::tokens_are_listed_shown_and_revoked_by_their_ids_and_by_themselves",
            "tokens::a_token_whose_line_was_taken_out_of_the_file_is_dead",
        ],
    },
    Difference {
        microk8s: "the contacted node does not learn how a join ended on the joining node",
        here: "our `join` tells an agent of ours, at `/cluster/api/v2.0/join/outcome`, which MicroK8s does not have; the agent asks for it by a header of its answer to the join, and MicroK8s's agent is not asked. To an agent of ours, `join` names each join by a `join_id` in its request",
        why: "a join that failed gives its token back at once, and a report that comes late ends no later join",
        cases: &[],
        tests: &[
            "late_reports::a_report_of_an_earlier_join_leaves_the_one_that_is_under_way_its_certificates",
            "token_life::a_node_that_says_that_its_join_failed_frees_what_it_did_not_use",
            "token_life::only_the_node_itself_reports_how_its_join_ended",
        ],
    },
    Difference {
        microk8s: "expired lines stay in `cluster-tokens.txt` for ever",
        here: "they are overwritten with blanks 30 days after their end, or by `microk8s token prune`",
        why: "until then they tell why a token is refused",
        cases: &[],
        tests: &["token_life::an_expired_line_is_taken_out_by_prune_and_no_other"],
    },
    Difference {
        microk8s: "`--help` of the four commands needs a node that they may run on, and a user who may use it; `remove-node -h` is an unknown option, `help` in any argument of `add-node` asks for its help",
        here: "`-h`, `--help` and `microk8s help COMMAND` are answered everywhere and for everyone, with all options, their defaults and their values; the word `help` asks for the help of `add-node` as an argument of its own only",
        why: "help is needed most where something is missing; a description may hold the word",
        cases: &[
            Case {
                of: &[
                    "add-node-clustered-lock-help",
                    "add-node-h",
                    "add-node-help",
                    "add-node-help-word",
                ],
                modes: ADD_NODE,
                effects: &[Help],
            },
            Case {
                of: &["join-help", "join-help-h"],
                modes: JOIN,
                effects: &[Help],
            },
            Case {
                of: &["leave-help", "leave-help-not-in-cluster"],
                modes: LEAVE,
                effects: &[Help],
            },
            Case {
                of: &["remove-node-help"],
                modes: REMOVE,
                effects: &[Help],
            },
        ],
        tests: &["help::every_command_shows_its_help_without_a_node_and_without_rights"],
    },
    Difference {
        microk8s: "`add-node` appends to a last line that has no end, which spoils both tokens",
        here: "a line end is put before the token",
        why: "files that people edit end without one",
        cases: &[],
        tests: &["tokens::add_node_without_an_agent_does_not_run_into_a_line_without_an_end"],
    },
    Difference {
        microk8s: "`add-node --token` takes a `/`, a `|`, blanks and control characters",
        here: "refused, nothing is changed",
        why: "no join string can carry such a token",
        cases: &[],
        tests: &["tokens::a_token_that_no_request_could_carry_is_refused"],
    },
    Difference {
        microk8s: "a token that is added again makes a second line",
        here: "where our agent runs it is one token: it gets the terms that are given now, and keeps those that are not, as long as it is good for no more than one of both requests; standard error says what changed. One that was used, revoked or expired lives again",
        why: "what is added again is meant to work, and a token for workers is not to become a key to the cluster's authority for any number of nodes",
        cases: &[],
        tests: &[
            "token_life::a_token_that_is_added_again_is_good_for_no_more_than_was_asked_for_and_says_what_changed",
            "field_usage::u13_a_token_added_twice_is_good_until_the_end_that_was_given_last",
            "field_usage::u13_a_token_added_again_after_its_end_is_good_again",
        ],
    },
    Difference {
        microk8s: "a token that was issued before its node joined or left a cluster admits to the cluster that the node is in afterwards",
        here: "it is void, and `token list` says so; `join` and `leave` take the lines out of MicroK8s's token files, those of `persistent-cluster-tokens.txt` too",
        why: "a token belongs to the cluster in which it was issued; the other one's authority is not for those who hold it",
        cases: &[],
        tests: &[
            "token_life::what_was_issued_before_a_node_joined_or_left_a_cluster_admits_to_no_other_one",
        ],
    },
    Difference {
        microk8s: "a connection string with a carriage return, quotes or a byte order mark around it is refused, or sent with these in the token; so is a pasted `microk8s join` in front of it",
        here: "what stands around it does not count, and the whole command is understood; a token of anything but visible ASCII is refused",
        why: "it is pasted from a terminal or a mail as `add-node` printed it",
        cases: &[],
        tests: &["token_life::a_connection_string_is_understood_with_what_pasting_puts_around_it"],
    },
    Difference {
        microk8s: "`add-node` ends with a traceback and exit code 1 when its output is not read to the end",
        here: "exit code 0",
        why: "`add-node | head -n1` has got what it asked for",
        cases: &[],
        tests: &["tokens::a_closed_pipe_is_no_failure"],
    },
    // Files.
];

const FILES: &[Difference] = &[
    Difference {
        microk8s: "certificates get serial numbers from a file, `ca.srl`, on which parallel requests trip",
        here: "serial numbers are random, and the file stays as it is",
        why: "joins at the same moment must not fail each other",
        cases: &[
            Case {
                of: &["join-*", "http-sign-cert*", "v1-join"],
                modes: &[JoinInProcess, JoinThroughAgent, JoinRecordedAgent, Requests],
                effects: &[Without(Every, &["certs/ca.srl"])],
            },
            Case {
                of: &["leave-*"],
                modes: LEAVE,
                effects: &[Without(Every, &["certs/ca.srl"])],
            },
        ],
        tests: &["field_usage::u29_two_nodes_run_all_three_lines_at_the_same_time"],
    },
    Difference {
        microk8s: "a `.backup` beside each edited file holds some state between two edits",
        here: "no such files: a journal holds what undoes the join, and goes when the join is complete",
        why: "half of a join cannot be undone with them, and private keys stay in them",
        cases: &[Case {
            of: &["join-*", "v1-join"],
            modes: JOIN,
            effects: &[Without(Own, &["args/*.backup", "certs/*.backup"])],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "`join-in-progress` stays after a failure, as does whatever the join had changed by then",
        here: "the node is as it was before the join",
        why: "a node that is half in a cluster works neither alone nor as a member",
        cases: &[
            Case {
                of: &[
                    "join-already-in-dqlite",
                    "join-already-in-dqlite-worker",
                    "join-fingerprint-upper",
                    "join-hostname-other-ip",
                    "join-hostname-preferred-first",
                    "join-hostname-unresolvable",
                    "join-malformed-port-space",
                    "join-malformed-port-underscore",
                    "join-not-ha",
                    "join-peer-*",
                    "join-plain-http",
                    "join-port-mismatch",
                    "join-refused",
                    "join-refused-worker",
                    "join-same-ip",
                    "join-same-ip-worker",
                    "join-service-restart-fails",
                    "join-sign-fails",
                    "join-ttl-expired",
                    "join-unknown-token",
                    "join-wrong-fingerprint",
                    "join-wrong-fingerprint-worker",
                    "v1-join-unknown-token",
                ],
                modes: JOIN,
                effects: &[Untouched(Own)],
            },
            Case {
                of: &["join-same-ip", "join-same-ip-worker"],
                modes: &[Requests],
                effects: &[Untouched(Own)],
            },
            Case {
                of: &["join-one-time-token-twice"],
                modes: JOIN,
                effects: &[Only(&[2], &[Untouched(Own)])],
            },
        ],
        tests: &[
            "bad_input::a_join_that_is_interrupted_while_it_waits_leaves_the_node_as_it_was",
            "bad_input::a_join_killed_in_the_midst_is_undone_by_the_next_one",
        ],
    },
    Difference {
        microk8s: "the private keys of a joining control plane node become readable for the group microk8s",
        here: "they stay readable for root alone",
        why: "the key of the cluster's authority makes its reader cluster-admin",
        cases: &[
            Case {
                of: CONTROL_PLANE,
                modes: JOIN,
                effects: &[Patch(
                    Own,
                    &[
                        "certs/ca.key",
                        "certs/serviceaccount.key",
                        "var/kubernetes/backend/cluster.key",
                    ],
                    r#"{"mode": "0600", "mode_before": null, "group": null, "group_before": null}"#,
                )],
            },
            Case {
                of: &["leave-controlplane"],
                modes: LEAVE,
                effects: &[Patch(
                    Own,
                    &["var/kubernetes/backend/cluster.key"],
                    r#"{"mode_before": null, "group_before": null}"#,
                )],
            },
        ],
        tests: &[],
    },
    Difference {
        microk8s: "kubeconfigs with private keys in them are readable for everybody",
        here: "a join, or a leave, leaves `client.config` readable for the group microk8s, the others for root",
        why: "a reader of one gets the rights in it, those of the administrator in one case",
        cases: &[
            Case {
                of: CONTROL_PLANE,
                modes: JOIN,
                effects: KUBECONFIGS,
            },
            Case {
                of: WORKER,
                modes: JOIN,
                effects: KUBECONFIGS,
            },
            Case {
                of: &["v1-join"],
                modes: JOIN,
                effects: KUBECONFIGS,
            },
            Case {
                of: &["leave-alone", "leave-formed-cluster"],
                modes: LEAVE,
                effects: KUBECONFIGS,
            },
            Case {
                of: &["leave-controlplane"],
                modes: LEAVE,
                effects: JOINED_KUBECONFIGS,
            },
            Case {
                of: &["leave-worker", "leave-kubectl-fails"],
                modes: LEAVE,
                effects: WORKER_KUBECONFIGS,
            },
        ],
        tests: &[],
    },
    Difference {
        microk8s: "the installer makes kubeconfigs readable for everybody",
        here: "a node directory of our own making has them readable for root alone",
        why: "as above",
        cases: &[Case {
            of: &["fresh-node"],
            modes: &[FreshNode],
            effects: &[Patch(Own, &["credentials/*.config"], r#"{"mode": "0600"}"#)],
        }],
        tests: &[
            "compat::nodes::a_fresh_node_has_the_recorded_files_with_their_modes_and_contents",
        ],
    },
    Difference {
        microk8s: "after a control plane join `server.crt` stays signed by the node's former authority, until a background helper notices",
        here: "the join issues it anew, and `front-proxy-client.crt` with it, as the helper does",
        why: "the node's agent and API server must be trusted as soon as the join is complete",
        cases: &[Case {
            of: CONTROL_PLANE,
            modes: JOIN,
            effects: &[Only(&[1], SERVER_CERTIFICATES)],
        }],
        tests: &["signing::the_certificates_of_a_joined_control_plane_verify_and_serve_at_once"],
    },
    // Leaving, and removing nodes.
];

/// What `leave` prints on standard error of a node that was one of several.
fn has_left(node: &str) -> String {
    format!(
        "{LEFT}hint: run `microk8s remove-node {node}` on a node that stays in the cluster, where `microk8s nodes` still lists this node\n"
    )
}

const LEAVES: &[Difference] = &[
    Difference {
        microk8s: "a control plane node that left keeps the cluster's authority with its key, its service account key and its callback token",
        here: "it has an authority and a service account key of its own, everything is signed anew, `server.crt` included, and no callback token is left",
        why: "the authority's key signs every identity in the cluster; the node around which it was formed has that key too",
        cases: &[
            Case {
                of: &["leave-alone", "leave-formed-cluster", "leave-controlplane"],
                modes: LEAVE,
                effects: NEW_AUTHORITY,
            },
            Case {
                of: &["leave-controlplane"],
                modes: LEAVE,
                effects: &[
                    Patch(
                        Own,
                        &["certs/ca.crt"],
                        r#"{"mode": "0660", "group": "microk8s"}"#,
                    ),
                    Patch(Own, &["certs/server.crt"], N2_SERVER),
                    Also(Own, CALLBACK_TOKEN_GOES),
                ],
            },
        ],
        tests: &[
            "leaving::nothing_of_the_cluster_is_left_on_a_control_plane_that_left",
            "leaving::the_node_a_cluster_was_formed_around_leaves_its_authority_behind",
        ],
    },
    Difference {
        microk8s: "a node that left keeps the private keys that it had as a member, that of its front proxy's authority included, which the cluster's servers trust",
        here: "all of them are new, but for what the node has had to itself: the datastore's key from before the join, and a worker's own authority",
        why: "the key of a trusted front proxy gives every identity towards the servers behind the API servers",
        cases: &[
            Case {
                of: &["leave-alone", "leave-formed-cluster"],
                modes: LEAVE,
                effects: NEW_KEYS,
            },
            Case {
                of: &["leave-controlplane"],
                modes: LEAVE,
                effects: &[
                    Only(&[1], NEW_KEYS),
                    Patch(Own, &["certs/front-proxy-client.crt"], N2_SERVER),
                ],
            },
            Case {
                of: &["leave-worker", "leave-kubectl-fails"],
                modes: LEAVE,
                effects: &[
                    Only(&[1], NEW_KEYS),
                    WORKERS_SERVER,
                    Patch(Own, &["certs/front-proxy-client.crt"], N2_SERVER),
                ],
            },
        ],
        tests: &["leaving::a_node_that_left_has_no_key_or_token_that_it_had_as_a_member"],
    },
    Difference {
        microk8s: "`leave` of the last control plane node says nothing of the workers that lose their cluster",
        here: "a warning names them, and `--dry-run` says that the cluster's data goes",
        why: "what ran on them is lost, and they wait for an API server that never comes back",
        cases: &[Case {
            of: &["leave-alone"],
            modes: LEAVE,
            effects: &[InsteadOfCalls(
                &["snapctl stop microk8s.daemon-kubelite"],
                &[
                    "kubectl get no -o json --request-timeout=5s",
                    "snapctl stop microk8s.daemon-kubelite",
                ],
            )],
        }],
        tests: &["leaving::the_last_control_plane_warns_that_its_workers_lose_their_cluster"],
    },
    Difference {
        microk8s: "a worker that left keeps the cluster's callback token and the list of its API servers",
        here: "both are gone",
        why: "with the token one writes arguments and restarts services on the cluster's nodes",
        cases: &[Case {
            of: &["leave-worker", "leave-kubectl-fails"],
            modes: LEAVE,
            effects: &[
                Also(Own, CALLBACK_TOKEN_GOES),
                Also(
                    Own,
                    r#"{"path": "args/traefik/provider.yaml", "change": "removed", "mode": "0660", "kind": "yaml"}"#,
                ),
            ],
        }],
        tests: &["leaving::nothing_of_the_cluster_is_left_on_a_worker_that_left"],
    },
    Difference {
        microk8s: "`leave` ends with `microk8s stop` and `microk8s start`, which end and start every service of the snap",
        here: "the services that changed are started, the datastore of a worker included",
        why: "the agent that does the leaving must not end with them, and MicroK8s's own agent that was disabled must not come back",
        cases: &[
            Case {
                of: &["leave-alone", "leave-formed-cluster", "leave-controlplane"],
                modes: LEAVE,
                effects: &[InsteadOfCalls(WRAPPER_CALLS, &[])],
            },
            Case {
                of: &["leave-worker", "leave-kubectl-fails"],
                modes: LEAVE,
                effects: &[
                    InsteadOfCalls(WRAPPER_CALLS, STARTED),
                    Patch(
                        Own,
                        &["var/kubernetes/backend/cluster.yaml"],
                        r#"{"change": "modified", "content": "- Address: 127.0.0.1:19001\n  ID: 999\n  Role: 0\n"}"#,
                    ),
                    Patch(
                        Own,
                        &["var/kubernetes/backend/info.yaml"],
                        r#"{"change": "modified", "content": "Address: 127.0.0.1:19001\nID: 999\nRole: 0\n"}"#,
                    ),
                ],
            },
        ],
        tests: &[],
    },
    Difference {
        microk8s: "a `leave` that fails half way leaves services stopped and locks gone, and cannot be repeated",
        here: "the node is as it was before, services included, and the command can be repeated; once the datastore has forgotten the node, the leave is completed instead",
        why: "a node that is half in a cluster works neither alone nor as a member",
        cases: &[Case {
            of: &["leave-worker-lock-missing"],
            modes: LEAVE,
            effects: &[Stdout("Not in clustering mode.\n"), Untouched(Own)],
        }],
        tests: &[
            "leaving::a_leave_that_fails_leaves_the_node_as_it_was_and_can_be_repeated",
            "killed::a_workers_leave_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts",
            "killed::a_control_planes_leave_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts",
            "leaving::a_signal_takes_a_leave_back",
        ],
    },
    Difference {
        microk8s: "`leave` says nothing when the node's own API server does not come up",
        here: "a warning on stderr, and exit code 0 all the same: the node has left; the API server is asked more often than every five seconds",
        why: "the exit code tells whether the node has left, which nothing that comes after can undo",
        cases: &[Case {
            of: &["leave-kubectl-fails"],
            modes: LEAVE,
            effects: &[
                Effect::Stderr(|| {
                    let end = has_left("n2");
                    expectation::Stderr::Exactly(format!(
                        "warning: this node has left, but its own API server did not answer within 50 seconds; read the log of daemon-kubelite\n{end}"
                    ))
                }),
                AnyCalls,
            ],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "`leave` prints nothing when it is done",
        here: "a line on stderr says that the node has left, and another one, where nodes stay, which command is to be run there",
        why: "Kubernetes lists the node on the others until they are told, and with stdout as it is no script sees a difference",
        cases: &[
            Case {
                of: &["leave-alone"],
                modes: LEAVE,
                effects: &[Effect::Stderr(|| {
                    expectation::Stderr::Exactly(LEFT.to_owned())
                })],
            },
            Case {
                of: &["leave-formed-cluster"],
                modes: LEAVE,
                effects: &[Effect::Stderr(|| {
                    expectation::Stderr::Exactly(has_left("n1"))
                })],
            },
            Case {
                of: &["leave-controlplane", "leave-worker"],
                modes: LEAVE,
                effects: &[Effect::Stderr(|| {
                    expectation::Stderr::Exactly(has_left("n2"))
                })],
            },
        ],
        tests: &["leaving::a_leave_is_told_in_json_by_the_schema_and_says_what_is_left_to_do"],
    },
    Difference {
        microk8s: "when the datastore's shell fails, `leave` and `remove-node` print its command line as a Python object",
        here: "they print it as a command line, and how it ended",
        why: "it can be tried again by hand",
        cases: &[
            Case {
                of: &["leave-dqlite-remove-fails"],
                modes: LEAVE,
                effects: &[Stdout(SHELL_FAILED)],
            },
            Case {
                of: &["remove-node-remove-fails"],
                modes: REMOVE,
                effects: &[Stdout(SHELL_FAILED)],
            },
        ],
        tests: &[],
    },
    Difference {
        microk8s: "of two voters neither can leave: the one that stays cannot decide alone that the other, which has stopped, is to go",
        here: "the leaving node's datastore is started once more, and gives its vote",
        why: "two control plane nodes are a cluster as well",
        cases: &[],
        tests: &["real_datastore::control_planes_leave_come_back_and_are_removed_in_a_real_dqlite"],
    },
];

const REMOVALS: &[Difference] = &[
    Difference {
        microk8s: "`remove-node --force` of a node that only the datastore knows removes it and exits 1",
        here: "exit code 0",
        why: "it is what was asked for",
        cases: &[Case {
            of: &["remove-node-ghost-force"],
            modes: REMOVE,
            effects: &[Exit(0)],
        }],
        tests: &["removing::a_ghost_that_only_one_of_them_knows_is_removed_with_force"],
    },
    Difference {
        microk8s: "`remove-node --force` of an unknown node exits 1",
        here: "exit code 0, and a warning on stderr that nothing was removed",
        why: "automation tries for ever to remove what is gone",
        cases: &[Case {
            of: &["remove-node-unknown-force"],
            modes: REMOVE,
            effects: &[
                Exit(0),
                Effect::Stderr(|| {
                    expectation::Stderr::Exactly(
                        "Error from server (NotFound): nodes \"n9\" not found\n\
                         warning: node n9 is not known here: neither to Kubernetes, nor to the datastore, nor to this node; nothing was removed\n"
                            .to_owned(),
                    )
                }),
            ],
        }],
        tests: &["removing::an_unknown_node_is_removed_with_force_by_name_and_address"],
    },
    Difference {
        microk8s: "removing `n2` drops the tokens of `n22` from `known_tokens.csv` as well, and leaves a `.backup` of it",
        here: "the exact name counts, and there is no `.backup`",
        why: "the other node is still in the cluster",
        cases: &[Case {
            of: &["remove-node-token-auth"],
            modes: REMOVE,
            effects: &[
                Without(Own, &["credentials/known_tokens.csv.backup"]),
                Patch(
                    Own,
                    &["credentials/known_tokens.csv"],
                    r#"{"content": "AAAA,admin,admin,\"system:masters\"\nCCCC,system:node:n22,kubelet-2,\"system:nodes\"\n"}"#,
                ),
            ],
        }],
        tests: &["removing::removing_a_node_leaves_one_whose_name_begins_like_it_alone"],
    },
    Difference {
        microk8s: "`remove-node` takes any failure of kubectl for a node that does not exist",
        here: "an error that says that Kubernetes could not be asked; with `--force` the datastore forgets the node all the same, and the exit code is 1",
        why: "the node may well be there when the API server is back",
        cases: &[],
        tests: &["removing::an_api_server_that_is_down_is_no_node_that_is_gone"],
    },
    Difference {
        microk8s: "`remove-node` deletes the node that it runs on in Kubernetes, and leaves it in the datastore",
        here: "an error that says to run `microk8s leave`, exit code 1, by whichever name or address the node is named",
        why: "half of the node would be gone, and its kubelet registers it again",
        cases: &[Case {
            of: &["remove-node-self"],
            modes: REMOVE,
            effects: &[Untouched(Own), NoCalls, Exit(1), ERROR_LINE],
        }],
        tests: &["removing::the_own_node_is_never_removed_by_any_of_its_names_and_addresses"],
    },
    Difference {
        microk8s: "`remove-node` waits for as long as a finalizer keeps the node",
        here: "it does not wait, and names the finalizers",
        why: "a program that is gone never takes its finalizer off",
        cases: &[
            Case {
                of: DELETES_N2,
                modes: REMOVE,
                effects: &[InsteadOfCalls(
                    &["kubectl delete no n2"],
                    &["kubectl delete no n2 --wait=false", ASKS_FRONT_PROXIES],
                )],
            },
            Case {
                of: &["remove-node-ghost-force"],
                modes: REMOVE,
                effects: &[InsteadOfCalls(
                    &[REMOVES_N3],
                    &[REMOVES_N3, ASKS_FRONT_PROXIES],
                )],
            },
            Case {
                of: &["remove-node-not-ha"],
                modes: REMOVE,
                effects: &[InsteadOfCalls(
                    &["kubectl delete no n2"],
                    &["kubectl delete no n2 --wait=false"],
                )],
            },
        ],
        tests: &["removing::a_finalizer_that_keeps_a_node_is_named"],
    },
    Difference {
        microk8s: "`remove-node --force` has the datastore forget the member at whichever address a node says of itself in Kubernetes",
        here: "not where another node has that address, or the node was admitted from another one",
        why: "a worker's kubelet may write any address, and would have a control plane node removed",
        cases: &[Case {
            of: &["remove-node-in-dqlite-force", "remove-node-remove-fails"],
            modes: REMOVE,
            effects: &[InsteadOfCalls(
                &[LISTS_MEMBERS],
                &[LISTS_MEMBERS, "kubectl get no -o json --request-timeout=5s"],
            )],
        }],
        tests: &["removing::an_address_that_a_node_claims_removes_no_member_of_the_datastore"],
    },
    // The agent's answers.
];

const ANSWERS: &[Difference] = &[
    Difference {
        microk8s: "the answer to an unusable token says no more than `Invalid token`",
        here: "it has one more field, `reason`, and headers that name the node which has the token and say since when",
        why: "the operator of the joining node learns whether to wait, to ask for another token, or to look for a typing error",
        cases: &[
            Case {
                of: &[
                    "join-unknown-token",
                    "v1-join-unknown-token",
                    "http-join-unknown-token",
                ],
                modes: &[Requests],
                effects: &[Reason("unknown")],
            },
            Case {
                of: &["http-empty-object"],
                modes: &[Requests],
                effects: &[Only(&[1, 2, 3], &[Reason("unknown")])],
            },
            Case {
                of: &["http-http-1.1"],
                modes: &[Requests],
                effects: &[Only(&[4], &[Reason("unknown")])],
            },
            Case {
                of: &["http-join-check-order"],
                modes: &[Requests],
                effects: &[Only(&[1], &[Reason("unknown")])],
            },
            Case {
                of: &["http-sign-cert"],
                modes: &[Requests],
                effects: &[Only(&[2, 3], &[Reason("unknown")])],
            },
            Case {
                of: &["join-ttl-expired"],
                modes: &[Requests],
                effects: &[Reason("expired")],
            },
            Case {
                of: &["join-one-time-token-twice"],
                modes: &[Requests],
                effects: &[Only(&[2], &[Reason("used")])],
            },
        ],
        tests: &[],
    },
    Difference {
        microk8s: "JSON is labelled `text/plain; charset=utf-8`",
        here: "`application/json`",
        why: "it is JSON",
        cases: &[Case {
            of: &["http-*"],
            modes: &[Requests],
            effects: &[JsonType("application/json")],
        }],
        tests: &[],
    },
    Difference {
        microk8s: "`configure` takes any name for a service, `../credentials/newfile` included, any text for an argument, and an option for an add-on",
        here: "the services of MicroK8s and no others, arguments of one line, names of add-ons; else status 400 and nothing changes",
        why: "the name becomes a path, and a line end another argument",
        cases: &[
            Case {
                of: &["http-configure-path"],
                modes: &[Requests],
                effects: &[
                    Status(400),
                    Stdout(r#"{"error":"Unknown service \"../credentials/newfile\""}"#),
                    Only(&[1], NOTHING_HAPPENS),
                ],
            },
            Case {
                of: &["http-configure-remove"],
                modes: &[Requests],
                effects: &[
                    Status(400),
                    Stdout(r#"{"error":"Unknown service \"testservice\""}"#),
                    Only(&[1, 2], NOTHING_HAPPENS),
                ],
            },
            Case {
                of: &["http-configure-update"],
                modes: &[Requests],
                effects: &[
                    Status(400),
                    Stdout(r#"{"error":"Unknown service \"testservice\""}"#),
                    Only(&[1, 2, 3, 4], NOTHING_HAPPENS),
                    Only(
                        &[4],
                        &[Stdout(r#"{"error":"Unknown service \"newservice\""}"#)],
                    ),
                ],
            },
        ],
        tests: &[
            "compat::http::of_known_services::http_configure_update",
            "compat::http::of_known_services::http_configure_remove",
            "configuring::no_name_or_argument_leads_out_of_the_arguments_of_a_service",
        ],
    },
    Difference {
        microk8s: "`configure` changes and restarts one service after the other; what it has done before a failure stays",
        here: "all arguments change together, then each service restarts once; when one does not come up, the arguments are the old ones again",
        why: "half of a change is a broken node",
        cases: &[],
        tests: &[
            "configuring::the_services_of_a_request_change_together_or_not_at_all",
            "configuring::arguments_with_which_a_service_does_not_start_are_taken_back",
        ],
    },
    Difference {
        microk8s: "`upgrade` runs whatever script the name of an upgrade leads to, `../` included",
        here: "an upgrade is the name of a folder of `upgrade-scripts`",
        why: "no path gets through",
        cases: &[],
        tests: &["configuring::an_upgrade_is_a_script_of_microk8s_and_no_other_file"],
    },
    Difference {
        microk8s: "every node of a cluster knows its one callback token, and with it configures and upgrades every other one",
        here: "the token is taken from the node itself and from control plane nodes, by their addresses; a worker that joins through our agent asks for a token of its own, with a field that MicroK8s ignores, and learns the SHA-256 of the cluster's. `agent --callback-from any` is MicroK8s's way",
        why: "who is root on a worker must not be root on all nodes",
        cases: &[
            Case {
                of: EVERY_COMMAND_A_WORKER,
                modes: &[JoinThroughAgent],
                effects: OWN_CALLBACK_TOKEN,
            },
            Case {
                of: &["join-one-time-token-twice"],
                modes: &[JoinThroughAgent],
                effects: &[Only(&[1], OWN_CALLBACK_TOKEN)],
            },
            Case {
                of: &["join-worker-after-controlplane"],
                modes: &[JoinThroughAgent],
                effects: &[Only(&[2], OWN_CALLBACK_TOKEN)],
            },
        ],
        tests: &[
            "callbacks::a_workers_token_opens_nothing_on_a_control_plane_node",
            "callbacks::the_clusters_token_opens_nothing_from_a_workers_address",
            "callbacks::a_control_plane_node_configures_a_worker_that_knows_no_more_than_a_digest",
            "callbacks::a_worker_that_keeps_microk8ss_agent_gets_the_clusters_token",
            "callbacks::the_operator_may_have_it_as_with_microk8s",
        ],
    },
    Difference {
        microk8s: "`image/import` and all that it starts end after `--timeout`",
        here: "an image may take as long as it moves: it ends when nothing comes for a minute, or for `--timeout` where that is less; one that breaks off is not imported, with status 400 or 408",
        why: "a large image over a slow link is no fault",
        cases: &[],
        tests: &[
            "image_import::an_image_that_moves_is_not_cut_off_and_one_that_stands_still_is",
            "image_import::an_image_whose_sender_goes_away_is_not_imported",
        ],
    },
    Difference {
        microk8s: "`dqlite/remove` hands everything on to the datastore's shell, once",
        here: "status 400 for what is no address and port; the last member stays; the members are asked again while they find a new leader, and one that they do not list is removed already",
        why: "the effect of such a command on the shell is unknown, and without its last member the datastore is gone",
        cases: &[
            Case {
                of: &["http-dqlite-remove"],
                modes: &[Requests],
                effects: &[Only(
                    &[4],
                    &[
                        Status(400),
                        Stdout(
                            r#"{"error":"Failed to remove from dqlite: \"\" is no address and port"}"#,
                        ),
                        NoCalls,
                    ],
                )],
            },
            Case {
                of: &["http-dqlite-remove-fails"],
                modes: &[Requests],
                effects: &[Status(200), Stdout("null"), AnyCallsOn("n1")],
            },
        ],
        tests: &[
            "configuring::cluster_api_does_not_remove_the_last_member",
            "configuring::a_member_that_the_datastore_keeps_is_told_as_recorded",
        ],
    },
];

const ADMISSION: &[Difference] = &[
    Difference {
        microk8s: "a worker's certificate token gets any subject signed, `O=system:masters` included",
        here: "a worker gets certificates for its own name and addresses, and nothing else; a refusal is logged",
        why: "a worker must not become an administrator",
        cases: &[],
        tests: &[
            "signing::a_worker_is_signed_nothing_but_its_own_certificates_and_the_refusal_is_logged",
            "signing::a_request_whose_signature_is_wrong_is_not_signed",
            "hostile_requests::hostile_requests_are_refused_with_their_reason_in_the_log_and_cost_the_worker_nothing",
            "certificate_policy::no_well_formed_request_yields_a_certificate_outside_the_policy",
        ],
    },
    Difference {
        microk8s: "a worker joins under any name, that of the contacted node or of the API server included",
        here: "status 400, in both roles, for a name that another node has at another address, for that of a service, and for one that Kubernetes takes for no node; Kubernetes is asked for it. What a machine that comes back gets is in SECURITY.md",
        why: "the kubelet's certificate is for that name, and Kubernetes keeps one node of each",
        cases: &[],
        tests: &[
            "signing::a_worker_joins_under_no_name_that_another_node_or_a_service_has",
            "node_names::names_that_kubernetes_refuses_or_another_node_has_join_in_no_role_and_cost_no_token",
            "node_names::of_two_machines_with_one_name_the_second_is_refused_in_both_roles",
            "node_names::a_workers_token_of_one_control_plane_gets_no_name_that_another_one_admitted",
        ],
    },
    Difference {
        microk8s: "`--hostname-override` of the joining node's `args/kubelet` is lost, or the contacted node's kept; certificates are for the machine's name",
        here: "the node keeps its own, in `args/kube-proxy` too, and joins and gets its certificates under that name",
        why: "Kubernetes knows the node by it",
        cases: &[],
        tests: &[
            "node_names::a_name_of_the_operators_in_the_kubelets_arguments_is_the_nodes_and_stays",
        ],
    },
    Difference {
        microk8s: "a node joins itself by another of its addresses, and gets a certificate for `127.0.0.1`",
        here: "refused, as by the address that was contacted",
        why: "every user of the node could call so",
        cases: &[],
        tests: &[
            "node_names::a_node_does_not_join_itself_by_any_of_its_addresses_and_gets_no_certificate_for_them",
        ],
    },
    Difference {
        microk8s: "the certificate with which a node of the older flow calls etcd carries the names and addresses of an API server",
        here: "it carries no names: `join` asks for none, and the agent signs none",
        why: "etcd looks at the authority alone, and with such names the node could pose as the API server",
        cases: &[Case {
            of: &["v1-join"],
            modes: &[JoinInProcess, JoinThroughAgent, JoinRecordedAgent, Requests],
            effects: &[
                Patch(
                    Own,
                    &["certs/server.remote.crt"],
                    r#"{"summary": {"version": "v1", "sans": [], "extensions": []}}"#,
                ),
                Patch(
                    Own,
                    &["certs/server.remote.csr"],
                    r#"{"summary": {"sans": []}}"#,
                ),
            ],
        }],
        tests: &["etcd_flow::a_node_joins_a_cluster_on_etcd_with_certificates"],
    },
    Difference {
        microk8s: "the older flow checks no fingerprint",
        here: "it is checked as in any other join: exit code 4, nothing is sent; `--skip-verify` as there",
        why: "the token travels to whatever answers at the address",
        cases: &[],
        tests: &["etcd_flow::the_older_flow_checks_the_fingerprint_as_well"],
    },
    Difference {
        microk8s: "the port and the callback token of an older join become a line of `callback-tokens.txt` as they come",
        here: "status 400 when one of them would not fit into the line",
        why: "a line end in it makes a second entry",
        cases: &[],
        tests: &["signing::an_older_join_writes_no_second_line_into_the_callback_tokens"],
    },
    Difference {
        microk8s: "a worker's agent answers joins, from the authority and the datastore that it had when it was alone",
        here: "status 403, which names control plane nodes, before a token is looked at; it signs nothing and issues no tokens",
        why: "it would make a cluster of its own, by tokens that were meant for another",
        cases: &[],
        tests: &[
            "contacted_node::a_worker_admits_no_node_signs_nothing_and_names_a_control_plane",
            "contacted_node::a_worker_issues_no_token_through_its_agent",
        ],
    },
    Difference {
        microk8s: "the API server restarts for each node that is too old for certificates",
        here: "it does at most twelve times an hour; further nodes get status 503 with `Retry-After`",
        why: "one token with a life would restart it for as many names as its holder likes",
        cases: &[],
        tests: &[
            "etcd_flow::however_many_names_ask_for_tokens_the_api_server_restarts_a_few_times_an_hour",
        ],
    },
    Difference {
        microk8s: "a node is refused for what the datastore's file lists, also when it left or was removed half a minute ago",
        here: "the datastore itself is asked before; where it does not answer, its file counts and the message says so",
        why: "a node that has left is free to join",
        cases: &[Case {
            of: &[
                "join-already-in-dqlite",
                "join-already-in-dqlite-worker",
                "http-join-check-order",
            ],
            modes: OUR_AGENT,
            effects: &[AnyCallsOn("n1")],
        }],
        tests: &["contacted_node::a_node_that_the_datastore_has_forgotten_joins_at_once"],
    },
    Difference {
        microk8s: "the datastore moves at the first join, and stays there whatever becomes of that join",
        here: "a first join that failed is undone, once for a token and ever more seldom; the datastore restarts at most six times an hour for joining nodes, and a join that would restart it once more gets status 503 with `Retry-After`",
        why: "one token would restart the control plane for as long as its holder likes",
        cases: &[],
        tests: &[
            "first_join::a_token_has_the_first_join_undone_once_and_after_that_the_datastore_stays_where_it_is",
            "first_join::however_many_tokens_fail_the_datastore_restarts_a_few_times_an_hour_and_the_last_one_joins",
            "first_join::a_datastore_that_does_not_come_up_is_not_restarted_for_each_node_that_asks",
        ],
    },
    Difference {
        microk8s: "an error of a join names paths and command lines of the contacted node",
        here: "it says what failed and why, in the same words where they are known; the log of the contacted node has the rest",
        why: "they are of no use on the joining node, and tell a stranger about this one",
        cases: &[],
        tests: &[
            "contacted_node::a_file_that_cannot_be_read_is_named_by_its_kind_to_the_joining_node_and_by_its_path_in_the_log",
            "contacted_node::a_certificate_is_not_signed_without_the_authoritys_key_and_its_right_remains",
            "contacted_node::programs_that_fail_on_the_contacted_node_are_told_without_their_command_lines",
        ],
    },
    Difference {
        microk8s: "the `Host` header of a request decides the datastore's address and what counts as the same node",
        here: "the address at which the connection came in does",
        why: "the header is what the client makes of it",
        cases: &[],
        tests: &["membership::the_host_header_decides_nothing"],
    },
    Difference {
        microk8s: "a contacted node whose arguments have no `--bind` refuses everybody, with an empty port in the message",
        here: "the usual port, 25000, is meant",
        why: "that is where it listens",
        cases: &[],
        tests: &[
            "membership::a_contacted_node_whose_args_name_no_address_listens_on_the_usual_port",
        ],
    },
    Difference {
        microk8s: "an address may present as many unknown tokens as it likes, and each is answered with status 500",
        here: "after 30 in a row, and 10 a minute from then on, status 429 with `Retry-After`; a valid token from there is taken all the same",
        why: "a machine that tries an old token for ever fills the log, in which others look for their reason",
        cases: &[],
        tests: &[
            "limits::an_address_with_too_many_unknown_tokens_gets_429_and_its_valid_one_is_taken_all_the_same",
        ],
    },
    Difference {
        microk8s: "the log of the agent has no address and no reason",
        here: "it has both, and never a token",
        why: "it is where an operator learns why a join failed",
        cases: &[],
        tests: &["membership::the_log_tells_who_asked_for_what_and_why_it_was_refused"],
    },
];

const LAUNCHES: &[Difference] = &[
    Difference {
        microk8s: "a part of a launch configuration that fails leaves the parts before it applied",
        here: "all documents are one change, the join included; a failure or a crash undoes it",
        why: "half of a configuration is one that nobody wrote",
        cases: &[],
        tests: &[
            "launching::a_part_that_fails_undoes_all_parts",
            "killed::a_launch_configuration_that_is_killed_anywhere_is_undone_or_applied_with_its_join",
        ],
    },
    Difference {
        microk8s: "add-ons come first, before the arguments and the join of the same document",
        here: "they come last, because they cannot be undone, and are left out on a worker",
        why: "what an add-on has done before a join is lost by it",
        cases: &[],
        tests: &[
            "launching::addons_come_last_through_the_commands_of_the_snap",
            "launching::a_control_plane_node_joins_with_what_its_file_says",
        ],
    },
    Difference {
        microk8s: "a join after which the node has the kubelet's arguments of the contacted node, whatever `extraKubeletArgs` says",
        here: "what the file says holds after the join as well, and so does its persistent token",
        why: "the file is about this node",
        cases: &[],
        tests: &["launching::a_worker_joins_with_what_its_file_says"],
    },
    Difference {
        microk8s: "the check that keeps `extraConfigFiles` within `args` is turned around and lets every path through",
        here: "`..`, absolute paths, hidden files and symbolic links are refused, also for registries",
        why: "a file that is written as root would lie anywhere",
        cases: &[],
        tests: &["launching::a_part_that_fails_undoes_all_parts"],
    },
    Difference {
        microk8s: "names of arguments and variables, names for certificates, tokens, and values with line ends are written unchecked",
        here: "they are refused with the line, as is a key that stands twice, more than one join, and a document without a version",
        why: "a line end makes another argument, or another variable that a shell reads as root",
        cases: &[],
        tests: &["launching::a_part_that_fails_undoes_all_parts"],
    },
    Difference {
        microk8s: "a file in `etc/launcher` that was applied is renamed to `.applied`; one that fails is tried, and logged, every five seconds",
        here: "it stays, and is applied again when it changes; one that fails is tried after growing pauses, and each reason is logged once",
        why: "the file may be in the hands of a tool that would write it again; a join that always fails would fill the log",
        cases: &[],
        tests: &[
            "launch_watch::each_content_of_a_file_is_applied_once_for_as_long_as_the_file_is_there",
            "launch_watch::a_file_that_fails_is_logged_once_a_reason_and_applied_when_the_reason_has_gone",
        ],
    },
    Difference {
        microk8s: "`init` adds the persistent token again each time, and restarts services of a node that was stopped",
        here: "a token that is there is not added; a node that was stopped stays so",
        why: "what is so already needs no change",
        cases: &[],
        tests: &[
            "launching::a_persistent_token_admits_nodes_and_is_added_once",
            "launching::before_the_services_run_files_change_and_nothing_else_happens",
        ],
    },
];
