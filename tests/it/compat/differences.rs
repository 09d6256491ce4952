//! Where this project differs from MicroK8s on purpose: the one table, for tests and for readers.
//!
//! `docs/compatibility.md` shows it; `exceptions` says how a row is used.

use super::exceptions::Effect::{
    Also, AnyCalls, As, Blanked, Exit, Instead, Patch, Stdout, Untouched, Without,
};
use super::exceptions::Mode::{
    AddNodeAlone, AddNodeThroughAgent, JoinInProcess, JoinRecordedAgent, JoinThroughAgent, Requests,
};
use super::exceptions::Side::{Every, Own};
use super::exceptions::{Difference, Effect, Mode};
use super::expectation;

const ADD_NODE: &[Mode] = &[AddNodeAlone, AddNodeThroughAgent];
const JOIN: &[Mode] = &[JoinInProcess, JoinThroughAgent, JoinRecordedAgent];

const ERROR_LINE: Effect = Effect::Stderr(|| expectation::Stderr::ErrorLine);
const WARNING: Effect = Effect::Stderr(|| expectation::Stderr::Line("warning: "));

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

/// Joins that end with a control plane node.
const CONTROL_PLANE: &[&str] = &[
    "join-controlplane-*",
    "join-guard-disable",
    "join-no-cni-yaml",
    "join-third-voter",
    "join-via-virtual-ip",
    "join-worker-after-controlplane",
];

pub const DIFFERENCES: &[Difference] = &[
    // Whole scenarios that go another way.
    Difference {
        microk8s: "`join --controlplane` always fails and uses up the token",
        here: "joins as a control plane, as without the flag",
        why: "it is what the help of the flag says",
        recordings: &["join-controlplane-flag"],
        modes: &[JoinInProcess, JoinThroughAgent],
        effects: &[As("join-controlplane-ok")],
        tests: &[],
    },
    Difference {
        microk8s: "`join --controlplane` walks past the low memory guard",
        here: "the guard holds, as without the flag",
        why: "the flag asks for the very role that the guard keeps off small machines",
        recordings: &["join-guard-controlplane-flag"],
        modes: &[JoinInProcess, JoinThroughAgent],
        effects: &[As("join-guard")],
        tests: &[],
    },
    Difference {
        microk8s: "success is printed, with exit code 0, when the datastore never lists the node or its shell fails",
        here: "exit code 8, no success line, and the node is as it was before",
        why: "a node that is no member of the cluster has not joined it",
        recordings: &["join-dqlite-never-lists", "join-dqlite-shell-fails"],
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
        tests: &[],
    },
    // What a join leaves behind.
    Difference {
        microk8s: "files are edited in place, and a `.backup` beside them holds the state between two edits",
        here: "no `.backup` files; changes are journalled until the join is complete",
        why: "what is needed to undo a join must not look like a part of the node, and must go when it is complete",
        recordings: &["join-worker-*", "join-controlplane-ok", "join-cis-hardening"],
        modes: JOIN,
        effects: &[Without(Own, &["args/*.backup", "certs/*.backup"])],
        tests: &[],
    },
];
