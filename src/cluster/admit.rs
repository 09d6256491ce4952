//! Letting a node in: the accepting side of a join.
//!
//! Everything that can be checked is checked before the token is reserved, in the order of
//! MicroK8s's agent (recording `http-join-check-order`); the token is used when the answer is
//! complete, and given back when anything fails before.

mod checks;
mod look;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;
use crate::cluster::callback;
use crate::cluster::first_join::{self, FirstJoinError, Needs};
use crate::cluster::kubernetes::{self, ListError};
use crate::cluster::node::Node;
use crate::cluster::pod_network;
use crate::cluster::readiness::Readiness;
use crate::host::{Action, CommandError, Service};
use crate::model::endpoint;
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_life::{Claim, Reason, Refusal, Release};
use crate::pki::PkiError;
use crate::pki::ca::{self, Ca};
use crate::pki::csr::ParsedRequest;
use crate::pki::csr_policy::{self, Expected, Foreign, Violation};
use crate::pki::name::AltName;
use crate::store::admissions::CertificatePurpose;
use crate::store::database::StoreError;
use crate::store::dqlite::{DatastoreRole, Member};
use crate::store::known_users;
use crate::store::layout::ReadError;
use crate::store::token_files;
use crate::store::tokens::Tokens;
use crate::wire::{cluster_v1, cluster_v2};

use checks::Asked;

/// The node as others see it who want to join its cluster.
pub struct Gate {
    node: Node,
    tokens: Tokens,
    /// What the first join changes on this node, and who relies on it.
    readiness: Readiness,
    /// MicroK8s's files of tokens are read and written anew by one join at a time.
    token_files: Mutex<()>,
}

/// The two ends of the connection that a request came over.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Who calls.
    pub remote: IpAddr,
    /// At which of our addresses.
    pub local: IpAddr,
}

impl Caller {
    /// The ends of a connection, IPv4 as IPv4 also on a dual-stack socket.
    pub fn new(remote: IpAddr, local: IpAddr) -> Self {
        Self {
            remote: endpoint::plain(remote),
            local: endpoint::plain(local),
        }
    }
}

/// Why a node was not let in; the texts are MicroK8s's (`http-api.md`).
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The token.
    #[error("Invalid token")]
    InvalidToken(Refusal),
    /// This cluster has no high availability.
    #[error("Not possible to join. This is not an HA MicroK8s cluster")]
    NotHa,
    /// This cluster has, and the joining node's has not.
    #[error(
        "Failed to join the cluster. This is an HA MicroK8s cluster.\nPlease retry after enabling HA on this joining node with 'microk8s enable ha-cluster'"
    )]
    IsHa,
    /// The agents listen on different ports.
    #[error("The port of the cluster agent port has to be set to {0}")]
    Port(u16),
    /// The node joins itself.
    #[error("The joining node has the same IP ({0}) as the node we contact")]
    SameAddress(IpAddr),
    /// The node calls from an address that no other node could reach it at.
    #[error(
        "The joining node has the link-local address {0}, which is known on its own link only. Refusing join"
    )]
    LinkLocal(IpAddr),
    /// The node's name leads elsewhere, or nowhere.
    #[error(
        "The hostname ({name}) of the joining node does not resolve to the IP \"{address}\". Refusing join"
    )]
    Name {
        /// The name.
        name: String,
        /// Where the request came from.
        address: IpAddr,
    },
    /// A name that no node can have.
    #[error("The hostname ({0}) of the joining node is not a valid name. Refusing join")]
    NoName(String),
    /// The name of this node, or of one that was let in before.
    #[error("The hostname ({0}) of the joining node is taken by another node. Refusing join")]
    NameTaken(String),
    /// A value that would not fit into this node's files.
    #[error("The {0} of the joining node is not valid. Refusing join")]
    Unusable(&'static str),
    /// The datastore knows the address.
    #[error(
        "Failed to retrieve dqlite cluster nodes: the joining node ({0}) is already known to dqlite"
    )]
    AlreadyKnown(IpAddr),
    /// The node is too old.
    #[error(
        "Joining this MicroK8s cluster requires x509 authentication. update MicroK8s to version 1.28 or newer and retry the join operation"
    )]
    NeedsX509,
    /// The node is too old for an external etcd.
    #[error(
        "This MicroK8s cluster uses a custom etcd endpoint. update MicroK8s to version 1.28 or newer and retry the join operation"
    )]
    NeedsCustomEtcd,
    /// A certificate request that is none. The text is that of MicroK8s's helper program.
    #[error("Failed to sign certificate: sign_certificate failed: exit status 1")]
    Unsignable(#[source] PkiError),
    /// A certificate request that the policy refuses.
    #[error("Failed to sign certificate: {0}")]
    Policy(#[source] Violation),
    /// The list of control plane nodes.
    #[error("Failed to retrieve list of control plane nodes: {0}")]
    ControlPlane(#[from] ListError),
    /// This node could not be made ready for others.
    #[error("Failed to retrieve dqlite cluster nodes: {0}")]
    FirstJoin(#[from] FirstJoinError),
    /// A file of this node.
    #[error("Failed to read the files of this node: {0}")]
    Read(#[from] ReadError),
    /// The token store.
    #[error("Failed to use the token store: {0}")]
    Store(#[from] StoreError),
    /// A file of this node cannot be written.
    #[error("Failed to write `{path}`: {source}")]
    Write {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A user that token authentication needs.
    #[error("No known token found for user {0}")]
    NoKnownToken(&'static str),
    /// A service.
    #[error("Failed to restart apiserver service: {0}")]
    Service(#[from] CommandError),
}

impl AdmitError {
    /// What a stranger is told. Whatever is wrong with this node itself stays in its log.
    pub fn told(&self) -> String {
        match self {
            Self::Read(_) => "Failed to read the files of the contacted node".to_owned(),
            Self::Store(_) => "Failed to use the token store of the contacted node".to_owned(),
            Self::Write { .. } => "Failed to write the files of the contacted node".to_owned(),
            other => other.to_string(),
        }
    }
}

impl Gate {
    /// The gate of a node.
    pub fn new(node: Node, tokens: Tokens) -> Self {
        Self {
            node,
            tokens,
            readiness: Readiness::default(),
            token_files: Mutex::default(),
        }
    }

    /// The node behind it.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The tokens that open it.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// A node joins a cluster on dqlite, or on an etcd outside.
    pub fn join(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let claim = self.claim(
            &request.token,
            &request.hostname,
            request.worker.role(),
            caller,
        )?;
        self.check(checks::V2, &Asked::v2(request, &claim.node, caller))?;
        // All that the answer needs is read before the token is touched.
        let answer = self.answer(request, caller)?;

        let uses_dqlite = self.node.uses_dqlite();
        let reservation = self
            .tokens
            .reserve(&request.token, &claim, |node| self.is_member(node))?
            .map_err(AdmitError::InvalidToken)?;
        let needs = Needs {
            datastore: Some((caller.local, caller.remote)),
        };
        let until = self.tokens.lease_end();
        let asking = self.readiness.prepare(&self.node, &needs, until)?;
        let answer = self.with_callback_token(answer, request)?;
        let answer = match request.worker.role() {
            Role::Worker => cluster_v2::JoinResponse {
                control_plane_nodes: Some(self.control_plane_nodes()?),
                ..answer
            },
            Role::ControlPlane if uses_dqlite => cluster_v2::JoinResponse {
                voters: Some(voters(&first_join::datastore_members(&self.node)?)),
                ..answer
            },
            Role::ControlPlane => answer,
        };
        let certificates: &[CertificatePurpose] = match request.worker.role() {
            Role::Worker => &[CertificatePurpose::Kubelet, CertificatePurpose::Proxy],
            Role::ControlPlane => &[],
        };
        reservation
            .commit(certificates, false)?
            .map_err(AdmitError::InvalidToken)?;
        self.readiness.let_in(&self.node, claim.node, until);
        drop(asking);
        Ok(answer)
    }

    /// Who asks to be let in, as soon as the token is looked at: it would let that node in.
    fn claim(
        &self,
        token: &Token,
        hostname: &str,
        role: Role,
        caller: Caller,
    ) -> Result<Claim, AdmitError> {
        let claim = Claim {
            node: joining_node(hostname, caller),
            role,
        };
        self.tokens
            .check(token, &claim, |node| self.is_member(node))?
            .map_err(AdmitError::InvalidToken)?;
        Ok(claim)
    }

    /// The answer, as far as it can be given before the node is made ready.
    fn answer(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        match request.worker.role() {
            Role::Worker => self.common_answer(caller),
            Role::ControlPlane => self.answer_for_control_plane(request, caller),
        }
    }

    /// Whether the datastore lists a control plane node.
    fn is_member(&self, node: &JoiningNode) -> bool {
        first_join::datastore_members(&self.node)
            .unwrap_or_default()
            .iter()
            .any(|member| member.is_at(node.address))
    }

    /// A node that was let in says how its join ended.
    pub fn report(
        &self,
        request: &cluster_v2::JoinOutcome,
        caller: Caller,
    ) -> Result<Release, AdmitError> {
        let node = joining_node(&request.hostname, caller);
        let has_joined = match request.outcome {
            cluster_v2::Outcome::Joined => true,
            cluster_v2::Outcome::Failed => false,
        };
        let release = self
            .tokens
            .report(&request.token, &node, has_joined)?
            .ok_or_else(|| AdmitError::InvalidToken(Reason::Unknown.into()))?;
        self.readiness.has_ended(&node);
        Ok(release)
    }

    /// Settles what the first join changed on this node, and the pod network.
    pub fn settle(&self) {
        self.readiness.settle(&self.node, &self.tokens);
        pod_network::catch_up(&self.node);
    }

    /// Does what time has done to the tokens.
    pub fn sweep(&self) -> Result<(), StoreError> {
        self.tokens.sweep(|node| self.is_member(node))
    }

    /// By which names and addresses this node's API server is known.
    fn served_names(&self) -> Vec<AltName> {
        let layout = &self.node.layout;
        layout
            .read(&layout.cert("server.crt"))
            .ok()
            .and_then(|pem| ca::alternative_names(&pem).ok())
            .unwrap_or_default()
    }

    fn common_answer(&self, caller: Caller) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let layout = &self.node.layout;
        let api_server = self.node.arguments("kube-apiserver")?;
        let value = |key| Some(api_server.get(key).unwrap_or_default().to_owned());
        Ok(cluster_v2::JoinResponse {
            ca: Some(layout.read(&layout.cert("ca.crt"))?),
            apiport: value("--secure-port"),
            api_authz_mode: value("--authorization-mode"),
            kubelet_args: Some(layout.read(&layout.args("kubelet"))?),
            hostname_override: Some(caller.remote.to_string()),
            service_account_key: Some(Secret::default()),
            cluster_cidr: self
                .node
                .arguments("kube-proxy")?
                .get("--cluster-cidr")
                .filter(|cidr| !cidr.is_empty())
                .map(str::to_owned),
            ..cluster_v2::JoinResponse::default()
        })
    }

    fn answer_for_control_plane(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let layout = &self.node.layout;
        let secret = |path: PathBuf| layout.read(&path).map(Secret::new);
        let mut answer = self.common_answer(caller)?;
        answer.ca_key = Some(secret(layout.cert("ca.key"))?);
        answer.service_account_key = Some(secret(layout.cert("serviceaccount.key"))?);
        let api_server = self.node.arguments("kube-apiserver")?;
        if api_server
            .get("--token-auth-file")
            .is_some_and(|file| !file.is_empty())
        {
            answer.admin_token = Some(self.known_token("admin")?);
        } else if !request.can_handle_x509_auth {
            return Err(AdmitError::NeedsX509);
        }
        if self.node.uses_dqlite() {
            let backend = layout.backend();
            answer.cluster_cert = Some(layout.read(&backend.join("cluster.crt"))?);
            answer.cluster_key = Some(secret(backend.join("cluster.key"))?);
            return Ok(answer);
        }
        let file = |key| {
            api_server
                .get(key)
                .filter(|path| !path.is_empty())
                .map(|path| layout.read(&self.node.expand(path)))
                .transpose()
        };
        answer.etcd_servers = api_server.get("--etcd-servers").map(str::to_owned);
        answer.etcd_ca = file("--etcd-cafile")?;
        answer.etcd_cert = file("--etcd-certfile")?;
        answer.etcd_key = file("--etcd-keyfile")?.map(Secret::new);
        Ok(answer)
    }

    fn with_callback_token(
        &self,
        answer: cluster_v2::JoinResponse,
        request: &cluster_v2::JoinRequest,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let callback_token = first_join::own_callback_token(&self.node)?;
        // What a worker does not know nobody can take from it. A control plane node has to know.
        let has_digest =
            request.worker.role() == Role::Worker && request.can_handle_callback_digest;
        let (callback_token, digest) = if has_digest {
            let (own, digest) = callback::for_worker(&callback_token);
            (own, Some(digest))
        } else {
            (callback_token, None)
        };
        Ok(cluster_v2::JoinResponse {
            callback_token: Some(callback_token),
            callback_token_sha256: digest,
            ..answer
        })
    }

    /// The addresses of the control plane nodes, as Kubernetes lists them.
    fn control_plane_nodes(&self) -> Result<Vec<String>, AdmitError> {
        let listed = kubernetes::control_plane_nodes(self.node.host.as_ref())?;
        let nodes = listed.into_iter().flatten();
        Ok(nodes
            .filter_map(|node| Some(node.addresses.first()?.to_string()))
            .collect())
    }

    fn known_token(&self, user: &'static str) -> Result<Secret, AdmitError> {
        let layout = &self.node.layout;
        let users = layout.read(&layout.credential(known_users::FILE))?;
        known_users::token_of(&users, user).ok_or(AdmitError::NoKnownToken(user))
    }

    /// A node joins a cluster on MicroK8s's own etcd.
    pub fn join_v1(
        &self,
        request: &cluster_v1::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v1::JoinResponse, AdmitError> {
        let claim = self.claim(&request.token, &request.hostname, Role::Worker, caller)?;
        self.check(checks::V1, &Asked::v1(request, &claim.node, caller))?;
        let layout = &self.node.layout;
        let name = if self.leads_to(&request.hostname, caller.remote) {
            request.hostname.clone()
        } else {
            caller.remote.to_string()
        };
        let mut kubelet_args = layout.read(&layout.args("kubelet"))?;
        if name != request.hostname {
            kubelet_args.push_str(&format!("\n--hostname-override={name}"));
        }
        let value = |service: &str, key: &str| -> Result<Option<String>, AdmitError> {
            Ok(self.node.arguments(service)?.get(key).map(str::to_owned))
        };
        let mut answer = cluster_v1::JoinResponse {
            ca: Some(layout.read(&layout.cert("ca.crt"))?),
            etcd: Some(value("etcd", "--listen-client-urls")?.unwrap_or_default()),
            apiport: Some(value("kube-apiserver", "--secure-port")?.unwrap_or_default()),
            kubelet_args: Some(kubelet_args),
            hostname_override: Some(name.clone()),
            cluster_cidr: value("kube-proxy", "--cluster-cidr")?.filter(|cidr| !cidr.is_empty()),
            ..cluster_v1::JoinResponse::default()
        };

        let reservation = self
            .tokens
            .reserve(&request.token, &claim, |node| self.is_member(node))?
            .map_err(AdmitError::InvalidToken)?;
        let until = self.tokens.lease_end();
        let asking = self
            .readiness
            .prepare(&self.node, &Needs { datastore: None }, until)?;
        let _one_at_a_time = self
            .token_files
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut certificates = vec![CertificatePurpose::Etcd];
        if request.can_handle_x509_auth {
            answer.api_authn_mode = Some("Cert".into());
            answer.kubeproxy = Some(request.token.clone());
            answer.kubelet = Some(request.token.clone());
            certificates.extend([CertificatePurpose::Kubelet, CertificatePurpose::Proxy]);
        } else {
            answer.api_authn_mode = Some("Token".into());
            answer.kubeproxy = Some(Token::presented(
                self.known_token("system:kube-proxy")?.expose(),
            ));
            answer.kubelet = Some(Token::presented(self.kubelet_token(&name)?.expose()));
        }
        let callback = format!(
            "{} {}",
            join_host_port(&name, &request.port),
            request.callback.expose()
        );
        self.append(token_files::CALLBACK_TOKENS, &callback)?;
        reservation
            .commit(&certificates, !request.can_handle_x509_auth)?
            .map_err(AdmitError::InvalidToken)?;
        self.readiness.let_in(&self.node, claim.node, until);
        drop(asking);
        Ok(answer)
    }

    /// The token of a node's kubelet, made when there is none. A new one counts once the API
    /// server has read the file again.
    fn kubelet_token(&self, node: &str) -> Result<Secret, AdmitError> {
        let layout = &self.node.layout;
        let path = layout.credential(known_users::FILE);
        let users = layout.read(&path)?;
        if let Some(token) = known_users::token_of(&users, &format!("system:node:{node}")) {
            return Ok(token);
        }
        let token = first_join::random_text(32);
        let changed = Secret::new(known_users::with_kubelet(&users, &token, node));
        let access = Access::Keep { or: 0o600 };
        atomic_file::write(&path, changed.expose().as_bytes(), access).map_err(|source| {
            AdmitError::Write {
                path: path.display().to_string(),
                source,
            }
        })?;
        self.node.host.service(Action::Restart, Service::Kubelite)?;
        Ok(token)
    }

    fn append(&self, file: &str, line: &str) -> Result<(), AdmitError> {
        let path = self.node.layout.credential(file);
        token_files::append(&path, line, self.node.token_file_sharing()).map_err(|source| {
            AdmitError::Write {
                path: path.display().to_string(),
                source,
            }
        })
    }

    /// Signs a certificate for a node that is joining.
    pub fn sign_certificate(
        &self,
        request: &cluster_v1::SignCertRequest,
        caller: Caller,
    ) -> Result<Signed, AdmitError> {
        let unknown = || AdmitError::InvalidToken(Reason::Unknown.into());
        // Nobody without a token has a signature verified.
        if !self.tokens.gives_certificates(&request.token)? {
            return Err(unknown());
        }
        let parsed = ParsedRequest::from_pem(&request.request).map_err(AdmitError::Unsignable)?;
        let claimed = csr_policy::claimed_node(&parsed);
        let claimed = claimed.as_ref().map(NodeName::as_str);
        let right = self
            .tokens
            .certificate_request(&request.token, caller.remote, claimed)?
            .ok_or_else(unknown)?;
        let node = right.node.as_ref();
        let expected = match right.purpose {
            CertificatePurpose::Proxy => Expected::Proxy,
            CertificatePurpose::Etcd => Expected::Etcd,
            CertificatePurpose::Kubelet => Expected::Kubelet {
                node: node
                    .map(|node| NodeName::parse(&node.name))
                    .transpose()
                    .map_err(|_| unknown())?,
                address: node.map_or(caller.remote, |node| node.address),
                foreign: self.foreign(node, caller)?,
            },
        };
        let approved = csr_policy::judge(&parsed, &expected).map_err(AdmitError::Policy)?;
        let layout = &self.node.layout;
        let ca_key = Secret::new(layout.read(&layout.cert("ca.key")).map_err(unsignable)?);
        let ca = Ca::from_pem(
            &layout.read(&layout.cert("ca.crt")).map_err(unsignable)?,
            ca_key.expose(),
        );
        let certificate = ca
            .and_then(|ca| ca.issue_approved(&approved))
            .map_err(AdmitError::Unsignable)?;
        if !self.tokens.certificate_signed(&request.token, &right)? {
            // Another request with this token came first.
            return Err(AdmitError::InvalidToken(Reason::Used.into()));
        }
        Ok(Signed {
            subject: approved.subject().to_string(),
            certificate,
        })
    }

    /// Who else there is: what a joining node may not pose as.
    fn foreign(&self, node: Option<&JoiningNode>, caller: Caller) -> Result<Foreign, AdmitError> {
        let mut foreign = Foreign {
            names: self.node.host.host_name().into_iter().collect(),
            addresses: vec![caller.local],
            networks: service_networks(&self.node),
            left_out: Vec::new(),
        };
        for name in self.served_names() {
            foreign.left_out.extend(match name {
                AltName::Ip(ip) => Some(ip),
                AltName::Dns(_) => None,
            });
        }
        for member in first_join::datastore_members(&self.node).unwrap_or_default() {
            foreign.addresses.extend(member.ip());
        }
        let others = self.tokens.admissions().nodes_that(|other| match node {
            Some(node) => node.name != other.node.name,
            None => other.node.address != caller.remote,
        })?;
        for other in others {
            foreign.addresses.push(other.node.address);
            foreign.names.push(other.node.name);
        }
        Ok(foreign)
    }
}

/// A signed certificate.
#[derive(Debug)]
pub struct Signed {
    /// Whom it is for.
    pub subject: String,
    /// The certificate, PEM.
    pub certificate: String,
}

fn unsignable(error: ReadError) -> AdmitError {
    AdmitError::Unsignable(PkiError::malformed("certificate authority", error))
}

fn joining_node(hostname: &str, caller: Caller) -> JoiningNode {
    JoiningNode {
        name: hostname.trim().to_lowercase(),
        address: caller.remote,
    }
}

fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn voters(members: &[Member]) -> Vec<String> {
    members
        .iter()
        .filter(|member| member.role == DatastoreRole::Voter)
        .map(|member| member.address.clone())
        .collect()
}

/// The networks of Kubernetes's services; MicroK8s's own where the arguments do not say.
fn service_networks(node: &Node) -> Vec<(IpAddr, u8)> {
    let arguments = node.arguments("kube-apiserver").ok();
    arguments
        .as_ref()
        .and_then(|arguments| arguments.get("--service-cluster-ip-range"))
        .unwrap_or("10.152.183.0/24")
        .split(',')
        .filter_map(|network| {
            let (base, prefix) = network.trim().split_once('/')?;
            Some((base.parse().ok()?, prefix.parse().ok()?))
        })
        .collect()
}
