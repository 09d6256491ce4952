//! Issuing a token, and telling how to reach the node that it lets others into.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::base::clock::Clock;
use crate::cluster::control_planes;
use crate::cluster::node::Node;
use crate::model::fingerprint::Fingerprint;
use crate::model::token::{InvalidToken, NoRandomness, Token};
use crate::model::token_record::GrantedTerms;
use crate::model::token_terms::{Lifetime, RoleLimit, Terms, Uses};
use crate::pki::{PkiError, ca};
use crate::store::database::StoreError;
use crate::store::layout::{Lock, ReadError};
use crate::store::token_files;
use crate::store::tokens::Tokens;
use crate::wire::local_v1::{AddTokenRequest, IssuedToken};

/// Why `add-node` may not run on a node; the texts are MicroK8s's (recordings `add-node-*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHere {
    /// The node's CA dates from before clusters.
    OldCa {
        /// The snap is confined strictly, so it is not installed with `--classic`.
        strict: bool,
    },
    /// The node was stopped.
    Stopped,
}

/// Whether the node can issue tokens at all.
pub(crate) fn refuse_unfit(node: &Node) -> Result<(), NotHere> {
    let is_old = node
        .layout
        .read(&node.layout.cert("ca.crt"))
        .ok()
        .and_then(|pem| ca::subject_of(&pem).ok())
        .is_some_and(|subject| subject.contains("127.0.0.1"));
    if is_old {
        let strict = node.platform.group().name != "microk8s";
        return Err(NotHere::OldCa { strict });
    }
    if node.layout.has(Lock::Stopped) {
        return Err(NotHere::Stopped);
    }
    Ok(())
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddNodeError {
    /// The node is a worker: a token would admit no node.
    #[error(
        "this node is a worker, which issues no tokens: run `microk8s add-node` on a control plane node"
    )]
    Worker,
    /// The token that was chosen.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// No random numbers.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the node.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The certificate.
    #[error("the server certificate cannot be used: {0}")]
    Certificate(#[from] PkiError),
    /// The token file.
    #[error("cannot write `{}`: {source}", path.display())]
    TokenFile {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The addresses.
    #[error("cannot list this machine's addresses: {0}")]
    Addresses(#[source] io::Error),
    /// No address at all.
    #[error("this machine has no address that another node could reach")]
    NoAddress,
    /// What only our own agent can see to.
    #[error(
        "the agent of this node does not run, and MicroK8s's own cannot honour `{0}`: start `microk8s agent`, or leave the option out"
    )]
    NotHonoured(&'static str),
    /// No agent is there to honour a token.
    #[error("no agent runs on this node, and `{}` is missing: is MicroK8s installed here?", .0.display())]
    NoAgent(PathBuf),
}

/// How the agent of this node can be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serving {
    /// What it is bound to.
    pub(crate) bind: SocketAddr,
    /// The certificate that it shows.
    pub(crate) fingerprint: Fingerprint,
}

/// Issues a token into the agent's own store.
pub(crate) fn issue(
    node: &Node,
    tokens: &Tokens,
    serving: Serving,
    request: AddTokenRequest,
    uid: u32,
) -> Result<IssuedToken, AddNodeError> {
    if node.is_worker() {
        return Err(AddNodeError::Worker);
    }
    let mut issued = describe(node, serving, &request, tokens.now())?;
    (issued.granted, issued.added_again) = tokens.add(&issued.token, &request.terms, uid)?;
    issued.notices = tokens.notices();
    if request.all {
        add_others(node, serving, tokens.are_shared(), &mut issued);
    }
    Ok(issued)
}

/// Adds the other control plane nodes, and says what keeps a join from using them.
fn add_others(node: &Node, serving: Serving, are_shared: bool, issued: &mut IssuedToken) {
    let others = control_planes::others(node, serving.fingerprint);
    if let Some(error) = others.unlisted {
        issued.notices.push(format!(
            "Kubernetes does not say which control plane nodes there are, so some may be missing: {error}"
        ));
    }
    let is_alone = others.serving.is_empty() && others.silent.is_empty();
    for (address, why) in others.silent {
        issued.notices.push(format!(
            "there is no connection string for the control plane node {address}: {why}"
        ));
    }
    if !are_shared && !is_alone {
        issued.notices.push(
            "this token is valid on this node alone, because the control plane nodes do not share tokens: a connection string of another node works once the token was added there as well, with `microk8s add-node --token-file FILE`".to_owned(),
        );
    }
    let text = |(address, fingerprint): (IpAddr, Fingerprint)| (address, fingerprint.to_string());
    issued.others = Some(others.serving.into_iter().map(text).collect());
}

/// Issues a token for Canonical's agent, where no agent of ours runs: a line in its file, as
/// MicroK8s's own `add-node` writes it (recording `add-node-token-given-ttl`).
pub(crate) fn issue_into_file(
    node: &Node,
    clock: &dyn Clock,
    request: &AddTokenRequest,
) -> Result<IssuedToken, AddNodeError> {
    refuse_beyond_microk8s(&request.terms)?;
    let arguments = node.layout.args("cluster-agent");
    if !arguments.is_file() {
        return Err(AddNodeError::NoAgent(arguments));
    }
    let certificate = node.layout.read(&served_certificate(node))?;
    let serving = Serving {
        bind: node.agent_bind(),
        fingerprint: Fingerprint::of(&ca::certificate_der(&certificate)?),
    };
    let mut issued = describe(node, serving, request, clock.unix_seconds())?;
    let line = match issued.granted.until {
        None => issued.token.expose().to_owned(),
        Some(end) => format!("{}|{end}", issued.token.expose()),
    };
    let path = node.layout.credential(token_files::CLUSTER_TOKENS);
    token_files::append(&path, &line, node.token_file_sharing())
        .map_err(|source| AddNodeError::TokenFile { path, source })?;
    if request.all {
        add_others(node, serving, false, &mut issued);
    }
    Ok(issued)
}

/// MicroK8s's own agent knows a token's time, and nothing else of what a token may be for.
fn refuse_beyond_microk8s(terms: &Terms) -> Result<(), AddNodeError> {
    let has_time = matches!(terms.lifetime, Some(Lifetime::Seconds(_)));
    let beyond = [
        (
            "--uses",
            terms.uses.is_some_and(|uses| uses != Uses::ONE || has_time),
        ),
        (
            "--role",
            terms.role.is_some_and(|role| role != RoleLimit::Any),
        ),
        ("--node", terms.node.is_some()),
        ("--description", terms.description.is_some()),
    ];
    match beyond.into_iter().find(|(_, is_beyond)| *is_beyond) {
        Some((option, _)) => Err(AddNodeError::NotHonoured(option)),
        None => Ok(()),
    }
}

/// The operator's token, wherever it came from, held to the rules; else a new one.
fn chosen(preset: Option<&Token>) -> Result<Token, AddNodeError> {
    Ok(match preset {
        Some(token) => Token::preset(token.expose())?,
        None => Token::generate()?,
    })
}

/// The certificate file that the node's agent serves, by its arguments.
fn served_certificate(node: &Node) -> PathBuf {
    node.arguments("cluster-agent")
        .ok()
        .and_then(|arguments| arguments.get("--certfile").map(|path| node.expand(path)))
        .unwrap_or_else(|| node.layout.cert("server.crt"))
}

fn describe(
    node: &Node,
    serving: Serving,
    request: &AddTokenRequest,
    now: i64,
) -> Result<IssuedToken, AddNodeError> {
    let addresses = node
        .addresses(serving.bind.ip())
        .map_err(AddNodeError::Addresses)?;
    Ok(IssuedToken {
        token: chosen(request.token.as_ref())?,
        fingerprint: serving.fingerprint.to_string(),
        port: serving.bind.port(),
        default_address: *addresses.first().ok_or(AddNodeError::NoAddress)?,
        addresses,
        others: None,
        takes_workers: node.layout.has(Lock::HaCluster),
        granted: GrantedTerms::asked_by(&request.terms, now),
        added_again: None,
        notices: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_token_has_to_follow_the_rules() {
        for bad in ["", "short", "0123456789abcdef0123456789abcde|"] {
            let token = Token::presented(bad);
            assert!(
                matches!(chosen(Some(&token)), Err(AddNodeError::Token(_))),
                "{bad}"
            );
        }
        let fine = Token::presented("0123456789abcdef0123456789abcdef");
        assert_eq!(chosen(Some(&fine)).unwrap(), fine);
        chosen(None).unwrap();
    }
}
