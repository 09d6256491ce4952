//! What can be checked with the contacted node: by this one, and by that one.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::client::remote::{self, Wait};
use crate::cluster::join::answer::Answer;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::Contact;
use crate::cluster::join::{membership, requested_role, role_here, source_address};
use crate::cluster::node::Node;
use crate::cluster::strictness;
use crate::model::join_stage::JoinStage;
use crate::model::join_url::JoinUrl;
use crate::model::role::Role;
use crate::store::layout::Lock;
use crate::wire::operation::JoinOrder;
use crate::wire::preflight_v1::Machine::{ContactedNode, JoiningNode};
use crate::wire::preflight_v1::{Finding, JoinCheck, Severity};

use super::greeted::{self, OWN_ADDRESS};
use super::{clock, failed, told, version};

/// How long a port may take to answer.
const PORT_LIMIT: Duration = Duration::from_secs(5);
/// How many voters are tried: a cluster has three, and some more for a moment.
const VOTERS: usize = 9;
/// How many findings of the contacted node are taken, and how long their texts may be.
const FINDINGS: usize = 50;
const TEXT: usize = 1000;

/// The checks in their order, for saying which ones were left out.
const ALL: [&str; 19] = [
    "connection",
    "fingerprint",
    MEMBERSHIP,
    clock::CHECK,
    OWN_ADDRESS,
    "cluster-agent",
    TOKEN,
    HIGH_AVAILABILITY,
    "agent-port",
    SAME_ADDRESS,
    REACHABLE_ADDRESS,
    "host-name",
    "node-name",
    "datastore-entry",
    "version",
    "pod-network",
    "api-server",
    "api-server-limits",
    "datastore",
];
const MEMBERSHIP: &str = "membership";
/// The first of those that the contacted node does.
const TOKEN: &str = "token";
const HIGH_AVAILABILITY: &str = "high-availability";
const SAME_ADDRESS: &str = "same-address";
const REACHABLE_ADDRESS: &str = "reachable-address";
const END: &str = "";

/// Says as what the node is a member of the contacted cluster already.
pub(crate) fn check(node: &Node, order: &JoinOrder, tell: &mut dyn FnMut(Finding)) -> Option<Role> {
    let [url, others @ ..] = &order.urls[..] else {
        let why = "without a connection string there is no node to contact";
        leave_out(ALL[0], END, why, tell);
        return None;
    };
    let mut look = Look {
        node,
        order,
        url,
        others,
        role: role_here(node, order.role),
        tell,
    };
    look.go()
}

/// Says why the checks from this one to before that one are left out.
fn leave_out(from: &str, to: &str, why: &str, tell: &mut dyn FnMut(Finding)) {
    ALL.iter()
        .skip_while(|check| **check != from)
        .take_while(|check| **check != to)
        .for_each(|check| tell(Finding::unchecked(check, why)));
}

struct Look<'a> {
    node: &'a Node,
    order: &'a JoinOrder,
    url: &'a JoinUrl,
    /// Which ones a join tries next.
    others: &'a [JoinUrl],
    role: Role,
    tell: &'a mut dyn FnMut(Finding),
}

impl Look<'_> {
    /// Tells what a check found, where it found anything.
    fn tell(&mut self, finding: impl Into<Option<Finding>>) {
        if let Some(finding) = finding.into() {
            (self.tell)(finding);
        }
    }

    fn leave_out(&mut self, from: &str, to: &str, why: &str) {
        leave_out(from, to, why, self.tell);
    }

    fn go(&mut self) -> Option<Role> {
        let endpoint = self.url.endpoint();
        let connected = format!("{endpoint} can be reached, and speaks TLS");
        let connected = Finding::ok("connection", connected);
        let mut contact = match Contact::open(self.node, self.url, self.order) {
            Ok(contact) => contact,
            Err(error @ JoinError::NotVerified { .. }) => {
                self.tell(connected);
                self.tell(failed("fingerprint", &error, JoinStage::Identity));
                // What it says cannot be believed, and it is told no token.
                let why = "the contacted node is not the one of the connection string";
                self.leave_out(MEMBERSHIP, END, why);
                return None;
            }
            Err(error) => {
                if let [next, others @ ..] = self.others
                    && error.is_unreachable()
                {
                    let message = format!("{error}; a join tries {} next", next.endpoint());
                    self.tell(Finding::warning("connection", message));
                    (self.url, self.others) = (next, others);
                    return self.go();
                }
                self.tell(failed("connection", &error, JoinStage::Contact));
                let why = "the contacted node could not be connected to";
                self.leave_out("fingerprint", END, why);
                return None;
            }
        };
        self.tell(connected);
        self.tell_identity();
        if let Some(role) = membership::role_of(self.node) {
            return self.confirm(role, &mut contact);
        }
        self.tell(Finding::ok(MEMBERSHIP, "this node is not in a cluster"));
        self.greet(&mut contact);
        self.ask(&mut contact);
        None
    }

    /// What the contacted node tells without a token.
    fn greet(&mut self, contact: &mut Contact) {
        if let Err(error) = contact.greet() {
            self.tell(failed("cluster-agent", &error, JoinStage::Contact));
        }
        for (check, checked) in greeted::check(self.node, self.order, contact) {
            self.tell(told(check, checked, JoinStage::Contact));
        }
    }

    /// Whether the node that was connected to is known to be that of the connection string.
    fn tell_identity(&mut self) {
        const CHECK: &str = "fingerprint";
        let remedy = "take the whole string that `microk8s add-node` prints, with the fingerprint at its end";
        let is_verified = self.order.fingerprints().next().is_some();
        self.tell(if !is_verified && !self.order.skip_verify {
            let message = "the connection string has no fingerprint, so the identity of the contacted node is not verified";
            Finding::warning(CHECK, message).with_remedy(JoiningNode, remedy)
        } else if !is_verified {
            let message = "with `--skip-verify` the identity of the contacted node is not verified";
            Finding::warning(CHECK, message).with_remedy(JoiningNode, "leave `--skip-verify` out")
        } else {
            Finding::ok(CHECK, "the served certificate is the one of the connection string")
        });
    }

    /// Says as what the node is a member, where it is one of the contacted cluster.
    fn confirm(&mut self, role: Role, contact: &mut Contact) -> Option<Role> {
        let wait = Wait::within(Duration::MAX);
        let stale = match membership::confirm(self.node, role, contact, &wait) {
            Ok(stale) => stale,
            Err(error) => {
                self.tell(failed(MEMBERSHIP, &error, JoinStage::Contact));
                let why = "this node has to leave its cluster first";
                self.leave_out(clock::CHECK, END, why);
                return None;
            }
        };
        let message = format!("this node is a {role} node of the cluster already");
        let asked = self.order.role;
        self.tell(if let Some(stale) = stale {
            let old: Vec<String> = stale.old.iter().map(ToString::to_string).collect();
            let message = format!(
                "{message}, and none of the API servers that it knows answers: {}",
                old.join(", ")
            );
            let remedy = format!("the join would set it to {}", stale.new);
            Finding::warning(MEMBERSHIP, message).with_remedy(JoiningNode, remedy)
        } else if role == asked {
            Finding::ok(MEMBERSHIP, message)
        } else {
            let message = format!("{message}, and would not become a {asked} node");
            let remedy = "to change its role, run `microk8s leave` first";
            Finding::warning(MEMBERSHIP, message).with_remedy(JoiningNode, remedy)
        });
        Some(role)
    }

    /// Has the contacted node look at the join.
    fn ask(&mut self, contact: &mut Contact) {
        const CHECK: &str = "cluster-agent";
        let requested = requested_role(self.order.role, self.order.role_was_named);
        let answer = contact.preflight(self.node, requested);
        match answer {
            Ok(Some(answer)) => {
                self.tell(Finding::ok(
                    CHECK,
                    "the contacted node tells what it would refuse",
                ));
                self.take_over(&answer);
                self.tell(self.version(&answer));
                self.tell(self.pod_network(&answer));
                self.tell(self.api_server(&answer));
                self.tell(self.api_server_limits(&answer));
                self.tell(self.datastore(&answer));
            }
            Ok(None) => {
                let why = "the contacted node runs MicroK8s's own agent, or an older one of this program, which does not tell";
                self.tell(Finding::ok(CHECK, "an agent answers"));
                self.leave_out(TOKEN, SAME_ADDRESS, why);
                self.same_address(why);
                self.leave_out(REACHABLE_ADDRESS, END, why);
            }
            Err(
                error @ JoinError::Refused {
                    refusal: Some(_), ..
                },
            ) => {
                self.tell(Finding::ok(CHECK, "an agent answers"));
                self.tell(failed(TOKEN, &error, JoinStage::Admission));
                let why = "the contacted node tells no more without a token that admits this node";
                self.leave_out(HIGH_AVAILABILITY, END, why);
            }
            Err(error) => {
                self.tell(failed(CHECK, &error, JoinStage::Admission));
                let why = "the contacted node gave no answer that can be used";
                self.leave_out(TOKEN, END, why);
            }
        }
    }

    /// The contacted node would say so; where it does not tell, this one knows its own addresses.
    fn same_address(&mut self, why: &str) {
        let address = self.url.address;
        let interfaces = self.node.platform.interfaces().unwrap_or_default();
        let is_own = interfaces.iter().any(|own| own.address == address);
        self.tell(if is_own && !address.is_loopback() {
            let message = format!("{address} is an address of this machine itself");
            let exit = ExitStatus::Refused.code();
            let remedy = "take the connection string of another node";
            Finding::error(SAME_ADDRESS, message, exit).with_remedy(JoiningNode, remedy)
        } else {
            Finding::unchecked(SAME_ADDRESS, why)
        });
    }

    /// The contacted node's findings, made harmless.
    fn take_over(&mut self, answer: &Answer<JoinCheck>) {
        let clean = |text: &str| sanitize::for_log(text, TEXT);
        for finding in answer.findings.iter().take(FINDINGS) {
            let is_error = finding.severity == Severity::Error;
            let exit = finding
                .exit
                .and_then(ExitStatus::from_repr)
                .filter(|exit| *exit != ExitStatus::Success)
                .unwrap_or(ExitStatus::Refused)
                .code();
            self.tell(Finding {
                check: sanitize::for_log(&finding.check, 40),
                severity: finding.severity,
                message: clean(&finding.message),
                remedy: finding.remedy.as_deref().map(clean),
                on: finding.on,
                exit: is_error.then_some(exit),
            });
        }
    }

    fn version(&self, answer: &JoinCheck) -> Finding {
        let own = self.node.platform.microk8s_version();
        let theirs = answer.version.as_deref().map(cleaned);
        version::judge(own.as_deref(), theirs.as_deref(), self.role)
    }

    fn pod_network(&self, answer: &JoinCheck) -> Option<Finding> {
        const CHECK: &str = "pod-network";
        // Without the file, the check of this node's files has said so.
        let arguments = self.node.arguments("kube-proxy").ok()?;
        let own = arguments.get("--cluster-cidr").unwrap_or_default();
        Some(match answer.cluster_cidr.as_deref().map(cleaned) {
            None => Finding::unchecked(
                CHECK,
                "the contacted node does not say which pod network the cluster has",
            ),
            Some(theirs) if theirs == own => Finding::ok(CHECK, format!("{own} on both nodes")),
            Some(theirs) => {
                let message = format!(
                    "the cluster has the pod network {theirs}, and this node {own}, which the join replaces"
                );
                let remedy = format!(
                    "let the join replace it, or set `--cluster-cidr={theirs}` in `args/kube-proxy` before"
                );
                Finding::warning(CHECK, message).with_remedy(JoiningNode, remedy)
            }
        })
    }

    /// A worker lives off the API server; a control plane node has its own.
    fn api_server(&self, answer: &JoinCheck) -> Finding {
        const CHECK: &str = "api-server";
        let Some(port) = answer.apiport.as_ref().and_then(|port| port.parse().ok()) else {
            let message = "the contacted node names no API server";
            return Finding::unchecked(CHECK, message);
        };
        let endpoint = SocketAddr::new(self.url.address, port);
        let Err(why) = self.reach(endpoint) else {
            return Finding::ok(CHECK, format!("{endpoint} can be reached"));
        };
        let finding = match self.role {
            Role::Worker => Finding::error(CHECK, why, ExitStatus::NoApiServer.code()),
            Role::ControlPlane => Finding::warning(CHECK, why),
        };
        with_remedy_of_port(finding, port)
    }

    /// Every API server of the cluster decides for itself what it admits.
    fn api_server_limits(&self, answer: &JoinCheck) -> Option<Finding> {
        const CHECK: &str = "api-server-limits";
        if self.role == Role::Worker {
            return Some(Finding::ok(CHECK, "a worker has no API server"));
        }
        // Without the file, the check of this node's files has said so.
        let own = self.node.arguments("kube-apiserver").ok()?;
        let than = format!("than that of {}", self.url.address);
        Some(match strictness::looser(&own, &answer.api_server_limits) {
            None => {
                let message = format!("the API server of this node admits no more {than}");
                Finding::ok(CHECK, message)
            }
            Some(why) => {
                let message = format!("the API server of this node admits more {than}: {why}");
                let remedy = "set the same in `args/kube-apiserver` of this node as there";
                Finding::warning(CHECK, message).with_remedy(JoiningNode, remedy)
            }
        })
    }

    /// The datastore's nodes speak to each other, each to each.
    fn datastore(&self, answer: &JoinCheck) -> Finding {
        const CHECK: &str = "datastore";
        let has_dqlite = self.node.layout.has(Lock::HaCluster);
        if self.role == Role::Worker || !has_dqlite {
            return Finding::ok(CHECK, "a worker does not need it");
        }
        let voters = answer.voters.iter().take(VOTERS);
        let voters: Vec<SocketAddr> = voters.filter_map(|voter| voter.parse().ok()).collect();
        let contacted = self.url.address;
        match &voters[..] {
            [] => {
                let message = "the contacted node names no datastore of its own";
                return Finding::unchecked(CHECK, message);
            }
            [alone] if alone.ip().is_loopback() && !contacted.is_loopback() => {
                let port = alone.port();
                let message = format!(
                    "the datastore moves to {contacted}:{port} when the first node joins; until then nothing listens there"
                );
                return Finding::unchecked(CHECK, message);
            }
            _ => {}
        }
        for voter in &voters {
            if let Err(why) = self.reach(*voter) {
                let finding = Finding::error(CHECK, why, ExitStatus::NotListed.code());
                return with_remedy_of_port(finding, voter.port());
            }
        }
        let all: Vec<String> = voters.iter().map(ToString::to_string).collect();
        Finding::ok(CHECK, format!("{} can be reached", all.join(", ")))
    }

    fn reach(&self, endpoint: SocketAddr) -> Result<(), String> {
        let from = source_address(self.node, endpoint.ip());
        remote::reach(endpoint, from, PORT_LIMIT)
            .map_err(|error| format!("cannot connect to {endpoint}: {error}"))
    }
}

/// A word of the contacted node, made harmless.
fn cleaned(text: &str) -> String {
    sanitize::for_log(text, 40)
}

fn with_remedy_of_port(finding: Finding, port: u16) -> Finding {
    let remedy = format!(
        "make sure that the service runs (`microk8s status`), and let TCP port {port} through the firewalls between the nodes"
    );
    finding.with_remedy(ContactedNode, remedy)
}
