//! What can be reached of a node from here, its certificate and its clock.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::base::wait;
use crate::client::clock_reading;
use crate::client::pinned_tls::Identity;
use crate::client::remote::{self, Peer, RemoteError, Wait};
use crate::cluster::control_planes;
use crate::cluster::health::lists::Member;
use crate::cluster::join::{self, preflight};
use crate::cluster::node::Node;
use crate::cluster::token_admin;
use crate::model::endpoint;
use crate::model::role::Role;
use crate::pki::ca;
use crate::wire::preflight_v1::Finding;
use crate::wire::routes;

/// The checks.
const AGENT: &str = "agent";
const CERTIFICATE: &str = "certificate";
const CLOCK: &str = "clock";
const API_SERVER: &str = "api-server";
const DATASTORE: &str = "datastore";

/// How long one node may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long all may take.
const ALL_LIMIT: Duration = Duration::from_secs(30);
/// How many are asked at once.
const AT_ONCE: usize = 64;
const DAY: i64 = 24 * 60 * 60;
/// For fewer days than this a certificate is worth a warning.
const SOON: i64 = 30;

/// What was found of a node.
#[derive(Default)]
pub(super) struct Probed {
    pub(super) findings: Vec<Finding>,
    pub(super) certificate_days: Option<i64>,
    /// Its agent answers.
    pub(super) answers: bool,
}

/// Asks all nodes, many at once; the answers are in the order of the nodes.
pub(super) fn all(node: &Node, members: &[Member]) -> Vec<Probed> {
    let authority = token_admin::authority(&node.layout).unwrap_or_default();
    let end = wait::end_of(ALL_LIMIT);
    let mut probed = Vec::new();
    for some in members.chunks(AT_ONCE) {
        let limit = LIMIT.min(end.saturating_duration_since(Instant::now()));
        probed.extend(thread::scope(|scope| {
            let authority = &authority;
            let started: Vec<_> = some
                .iter()
                .map(|member| {
                    let agent = scope.spawn(move || agent(node, member, authority, limit));
                    let others = scope.spawn(move || services(node, member, limit));
                    (agent, others)
                })
                .collect();
            let ended = started.into_iter().map(|(agent, others)| {
                let mut probed = agent.join().unwrap_or_default();
                probed.findings.extend(others.join().unwrap_or_default());
                probed
            });
            ended.collect::<Vec<_>>()
        }));
    }
    probed
}

/// Its agent, which shows a certificate and tells the time.
fn agent(node: &Node, member: &Member, authority: &str, limit: Duration) -> Probed {
    let Some(address) = member.address() else {
        let why = "no address of this node is known";
        let checks = [AGENT, CERTIFICATE, CLOCK];
        return Probed {
            findings: checks.map(|check| Finding::unchecked(check, why)).into(),
            ..Probed::default()
        };
    };
    let at = SocketAddr::new(address, node.agent_bind().port());
    let wait = Wait::within(limit);
    let connected = Peer::connect(&wait, at, None, Identity::default());
    let answered = connected.and_then(|mut peer| {
        let reply = peer.get(&wait, routes::HEALTH)?;
        Ok((peer, reply))
    });
    let (peer, reply) = match answered {
        Ok(answered) => answered,
        Err(error) => return silent(node, member, at, &error),
    };
    let (certificate, certificate_days) = certificate(member.role, peer.certificate(), authority);
    let agent = match reply.status {
        200 => Finding::ok(AGENT, format!("the agent at {at} answers")),
        status => Finding::fault(
            AGENT,
            format!("the agent at {at} answers with status {status}"),
            "look into the log of the cluster agent of that node",
        ),
    };
    let clock = preflight::judge_clock(reply.clock, Role::ControlPlane, address);
    let clock = clock.unwrap_or_else(|error| {
        let remedy = "set the wrong one of the two clocks: `timedatectl set-ntp true`";
        Finding::fault(CLOCK, error.to_string(), remedy)
    });
    Probed {
        findings: vec![agent, certificate, clock],
        certificate_days,
        answers: true,
    }
}

fn silent(node: &Node, member: &Member, at: SocketAddr, error: &RemoteError) -> Probed {
    let port = at.port();
    let remedy = match member.is_own {
        true => "start the agent of this node".to_owned(),
        false => format!(
            "see that the machine and its cluster agent run, and let TCP port {port} through the firewalls between the nodes"
        ),
    };
    let agent = match node.is_worker() && !member.is_own {
        // A worker needs the API server alone; a load balancer has no agent.
        true => Finding::warning(AGENT, error.to_string()).with_remedy(None, remedy),
        false => Finding::fault(AGENT, error.to_string(), remedy),
    };
    let why = "the agent does not answer";
    let others = [CERTIFICATE, CLOCK].map(|check| Finding::unchecked(check, why));
    Probed {
        findings: std::iter::once(agent).chain(others).collect(),
        ..Probed::default()
    }
}

/// The certificate that its agent shows, and for how many more days it is valid.
fn certificate(role: Role, der: &[u8], authority: &str) -> (Finding, Option<i64>) {
    const RENEW: &str = "renew it on that node with `microk8s refresh-certs -e server.crt`";
    let now = clock_reading::unix_seconds(SystemTime::now());
    let (begins, ends) = match ca::validity(der) {
        Ok(validity) => validity,
        Err(error) => return (Finding::fault(CERTIFICATE, error.to_string(), RENEW), None),
    };
    let days = (ends - now).div_euclid(DAY);
    let is_by_cluster = role == Role::Worker || ca::is_signed_by(der, authority);
    let finding = if !is_by_cluster {
        let message = "the certificate is not signed by the authority of this cluster";
        let remedy = "if the node is a member, renew it there with `microk8s refresh-certs -e server.crt`; otherwise another machine answers at this address";
        Finding::fault(CERTIFICATE, message, remedy)
    } else if now < begins {
        let message = "the certificate is not valid yet";
        Finding::fault(CERTIFICATE, message, "compare the clocks of the two nodes")
    } else if now >= ends {
        Finding::fault(CERTIFICATE, "the certificate has expired", RENEW)
    } else if days < SOON {
        let message = format!("the certificate is valid for {days} more days");
        Finding::warning(CERTIFICATE, message).with_remedy(None, RENEW)
    } else {
        let by = match role {
            Role::ControlPlane => "",
            Role::Worker => ", under an authority of the worker's own",
        };
        let message = format!("the certificate is valid for {days} more days{by}");
        Finding::ok(CERTIFICATE, message)
    };
    (finding, Some(days))
}

/// The services of a control plane node that others need.
fn services(node: &Node, member: &Member, limit: Duration) -> Vec<Finding> {
    if member.role == Role::Worker {
        return Vec::new();
    }
    let Some(address) = member.address() else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let api_server = scope.spawn(|| api_server(node, address, limit));
        let datastore = member.datastore.as_ref().map(|at| {
            let at = at.ip().map(|ip| SocketAddr::new(ip, at.port()));
            at.map(|at| datastore(at, limit))
        });
        let datastore = datastore.flatten().unwrap_or_else(|| {
            Finding::unchecked(DATASTORE, "the datastore does not list this node")
        });
        let api_server = api_server.join().ok();
        api_server.into_iter().chain([datastore]).collect()
    })
}

fn api_server(node: &Node, address: IpAddr, limit: Duration) -> Finding {
    if node.is_standalone() {
        return Finding::unchecked(API_SERVER, "standalone nodes have no API server");
    }
    let port = join::api_port(node);
    let remedy = format!(
        "see that the API server runs there (`snap logs microk8s.daemon-kubelite`), and let TCP port {port} through the firewalls between the nodes"
    );
    match control_planes::ask(node, address, limit) {
        // 401 and 403: it answers, and does not tell this node whether it is ready.
        Ok(200 | 401 | 403) => {
            let at = endpoint::join(address, port);
            Finding::ok(API_SERVER, format!("the API server at {at} answers"))
        }
        Ok(status) => {
            let message = format!("the API server says that it is not ready (status {status})");
            Finding::fault(API_SERVER, message, remedy)
        }
        Err(why) => Finding::fault(API_SERVER, why, remedy),
    }
}

fn datastore(at: SocketAddr, limit: Duration) -> Finding {
    match remote::reach(at, None, limit) {
        Ok(()) => Finding::ok(DATASTORE, format!("the datastore at {at} can be reached")),
        Err(error) => Finding::fault(
            DATASTORE,
            format!("cannot connect to the datastore at {at}: {error}"),
            format!(
                "see that the datastore runs there (`snap logs microk8s.daemon-k8s-dqlite`), and let TCP port {} through the firewalls between the nodes",
                at.port()
            ),
        ),
    }
}
