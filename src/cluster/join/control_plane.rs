//! Joining a cluster on dqlite as a control plane node.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::base::secret::Secret;
use crate::base::wait;
use crate::cluster::cni;
use crate::cluster::identity::{self, NodeKey, Renewed};
use crate::cluster::join::answer::Answer;
use crate::cluster::join::change::Change;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::still_wanted;
use crate::cluster::node::{Node, Privacy};
use crate::cluster::operation::Progress;
use crate::cluster::transaction::Step;
use crate::model::endpoint;
use crate::model::join_stage::JoinStage;
use crate::pki::ca::{self, Ca};
use crate::pki::key::PrivateKey;
use crate::platform::{Action, Service};
use crate::store::dqlite::{self, Member};
use crate::store::known_users;
use crate::store::layout::Lock;
use crate::wire::cluster_v2::JoinResponse;
use crate::wire::operation::{Event, JoinOrder};

/// How often the datastore is asked whether it lists the node: soon at first, then less often.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A dot appears as often as MicroK8s's client prints one (`messages.md`, join).
const NOT_LISTED_DOT: Duration = Duration::from_secs(5);
const NOT_ANSWERING_DOT: Duration = Duration::from_secs(2);

/// All that the join needs, before anything is changed.
pub(crate) struct Plan {
    answer: Answer<JoinResponse>,
    contacted: IpAddr,
    own: IpAddr,
    ca: String,
    renewed: Vec<Renewed>,
    servers: Vec<(&'static str, String)>,
    datastore: Datastore,
}

/// What Kubernetes keeps its state in.
enum Datastore {
    /// MicroK8s's own.
    Dqlite(Dqlite),
    /// An etcd outside the cluster, at these addresses.
    Etcd(String),
}

/// What it takes to join the cluster's dqlite.
struct Dqlite {
    certificate: String,
    key: Secret,
    voters: Vec<String>,
    own: String,
}

impl Plan {
    /// Reads the answer, and signs what the node needs with the cluster's key.
    pub(crate) fn prepare(
        node: &Node,
        answer: Answer<JoinResponse>,
        contacted: IpAddr,
    ) -> Result<Self, JoinError> {
        let own = answer.need("hostname_override", answer.hostname_override.as_deref())?;
        let own: IpAddr = own
            .parse()
            .map_err(|error| answer.bad("hostname_override", error))?;
        let ca_pem = answer.need("ca", answer.ca.clone())?;
        let ca_key = answer.need("ca_key", answer.ca_key.as_ref())?;
        let ca =
            Ca::from_pem(&ca_pem, ca_key.expose()).map_err(|error| answer.bad("ca_key", error))?;
        let account_key =
            answer.need("service_account_key", answer.service_account_key.as_ref())?;
        PrivateKey::from_pem(account_key.expose())
            .map_err(|error| answer.bad("service_account_key", error))?;
        answer.need("kubelet_args", answer.kubelet_args.as_ref())?;
        answer.need_callback_token()?;
        answer.check()?;
        let datastore = match &answer.etcd_servers {
            Some(servers) => Datastore::Etcd(servers.clone()),
            None => Self::dqlite(node, &answer, own)?,
        };
        let renewed =
            identity::renew(node, &ca, &ca_pem, answer.apiport.as_deref(), &mut |name| {
                NodeKey::read_or_make(node, name)
            })?;
        let servers = reissue_servers(node, &ca)?;
        Ok(Self {
            answer,
            contacted,
            own,
            ca: ca_pem,
            renewed,
            servers,
            datastore,
        })
    }

    fn dqlite(
        node: &Node,
        answer: &Answer<JoinResponse>,
        own: IpAddr,
    ) -> Result<Datastore, JoinError> {
        let voters = answer.need("voters", answer.voters.as_ref())?;
        // Without a member to join, the node would form a cluster of its own.
        if voters.is_empty() {
            return Err(answer.bad("voters", "it is empty"));
        }
        let voters = answer.list("voters", voters)?;
        for voter in &voters {
            voter
                .parse::<SocketAddr>()
                .map_err(|error| answer.bad("voters", error))?;
        }
        let certificate = answer.need("cluster_cert", answer.cluster_cert.clone())?;
        let key = answer.need("cluster_key", answer.cluster_key.clone())?;
        ca::check_pair(&certificate, key.expose())
            .map_err(|error| answer.bad("cluster_key", error))?;
        // The port of the datastore is that of the one that the node has.
        let own_member = node.own_member();
        let port = own_member.map_or(endpoint::DATASTORE_PORT, |member| member.port());
        Ok(Datastore::Dqlite(Dqlite {
            certificate,
            key,
            voters: voters.into_iter().map(str::to_owned).collect(),
            own: endpoint::join(own, port),
        }))
    }

    /// The cluster authenticates with tokens when it sends the administrator's, and with
    /// certificates alone when it does not.
    fn token_authentication(&self, change: &mut Change<'_>) -> Result<(), JoinError> {
        const KEY: &str = "--token-auth-file";
        const FILE: &str = "${SNAP_DATA}/credentials/known_tokens.csv";
        let node = change.node();
        let is_on = node.arguments("kube-apiserver")?.get(KEY).is_some();
        let Some(token) = &self.answer.admin_token else {
            if is_on {
                let steps = &mut change.steps;
                steps.arguments("kube-apiserver", |arguments| arguments.remove(KEY))?;
            }
            return Ok(());
        };
        let path = node.layout.credential(known_users::FILE);
        let users = match is_on {
            true => node.layout.read(&path).unwrap_or_default(),
            false => String::new(),
        };
        let users = Secret::new(known_users::with_admin_token(&users, token));
        let steps = &mut change.steps;
        steps.write(&path, users.expose(), Privacy::Group);
        if !is_on {
            steps.arguments("kube-apiserver", |arguments| arguments.set(KEY, FILE))?;
        }
        Ok(())
    }

    fn join_dqlite(
        &self,
        change: &mut Change<'_>,
        cluster: &Dqlite,
        order: &JoinOrder,
        progress: &mut dyn Progress,
    ) -> Result<(), JoinError> {
        let layout = &change.node().layout;
        let backend = layout.backend();
        let steps = &mut change.steps;
        steps.service(Action::Stop, Service::Kubelite);
        steps.service(Action::Stop, Service::K8sDqlite);
        steps.push(Step::MoveFolder {
            from: backend.clone(),
            to: layout.backend_backup(),
        });
        steps.make_folder(&backend);
        let certificate = &cluster.certificate;
        steps.write(&backend.join("cluster.crt"), certificate, Privacy::Group);
        let key = cluster.key.expose();
        steps.write(&backend.join("cluster.key"), key, Privacy::Root);
        let (voters, own) = (&cluster.voters, &cluster.own);
        let init = dqlite::init_yaml(own, voters);
        steps.rewrite(&backend.join("init.yaml"), &init, 0o644);
        change.apply(progress)?;
        // From its start on the service enters the node into the datastore, whatever comes then.
        change
            .transaction()?
            .enter_datastore(&backend, voters, own)?;
        change.steps.service(Action::Start, Service::K8sDqlite);
        change.apply(progress)?;
        progress.tell(Event::Waiting {
            stage: JoinStage::Datastore,
            message: "Waiting for this node to finish joining the cluster".to_owned(),
        });
        let listed = wait_until_listed(change.node(), self.own, change.end, progress);
        progress.tell(Event::WaitingDone);
        still_wanted(progress)?;
        if !listed {
            return Err(JoinError::NotListed(order.timeout_seconds));
        }
        change.steps.service(Action::Start, Service::Kubelite);
        change.apply(progress)
    }

    fn use_etcd(&self, change: &mut Change<'_>, servers: &str) -> Result<(), JoinError> {
        let answer = &self.answer;
        let layout = &change.node().layout;
        let (ca, certificate) = (answer.etcd_ca.as_deref(), answer.etcd_cert.as_deref());
        let key = answer.etcd_key.as_ref().map(Secret::expose);
        let mut settings = Vec::new();
        for (argument, name, content, privacy) in [
            ("--etcd-cafile", "remote-etcd-ca.crt", ca, Privacy::Group),
            (
                "--etcd-certfile",
                "remote-etcd.crt",
                certificate,
                Privacy::Group,
            ),
            ("--etcd-keyfile", "remote-etcd.key", key, Privacy::Root),
        ] {
            if let Some(content) = content.filter(|content| !content.is_empty()) {
                change.steps.write(&layout.cert(name), content, privacy);
                settings.push((argument, format!("${{SNAP_DATA}}/certs/{name}")));
            }
        }
        change.steps.arguments("kube-apiserver", |arguments| {
            arguments.set("--etcd-servers", servers);
            for (argument, path) in &settings {
                arguments.set(argument, path);
            }
        })?;
        change.lock(Lock::NoK8sDqlite)?;
        change.steps.service(Action::Restart, Service::K8sDqlite);
        change.steps.service(Action::Restart, Service::Kubelite);
        Ok(())
    }

    /// Files and services change in the order of recording `join-controlplane-ok`.
    pub(crate) fn apply(
        &self,
        change: &mut Change<'_>,
        order: &JoinOrder,
        progress: &mut dyn Progress,
    ) -> Result<(), JoinError> {
        let answer = &self.answer;
        let layout = &change.node().layout;
        change.pod_network(answer.cluster_cidr.as_deref())?;
        change
            .steps
            .write(&layout.cert("ca.crt"), &self.ca, Privacy::Group);
        for (name, key) in [
            ("ca.key", &answer.ca_key),
            ("serviceaccount.key", &answer.service_account_key),
        ] {
            let Some(key) = key else { continue };
            let path = layout.cert(name);
            change.steps.write(&path, key.expose(), Privacy::Root);
        }
        self.token_authentication(change)?;
        for renewed in &self.renewed {
            renewed.write(&mut change.steps);
        }
        for (name, certificate) in &self.servers {
            change.steps.rewrite(&layout.cert(name), certificate, 0o644);
        }
        change.api_server(answer.api_authz_mode.as_deref(), answer.apiport.as_deref())?;
        let theirs = answer.kubelet_args.as_deref().unwrap_or_default();
        change.kubelet(theirs, &self.own.to_string(), order, |_| {});
        change.callback_token(answer.callback_token.as_ref(), None);
        // The manifest is applied in the cluster already; here it is only kept the same.
        let manifest = layout.cni_manifest();
        match layout.read(&manifest) {
            Ok(text) => {
                if let Some(changed) = cni::reach(&text, self.contacted) {
                    change.steps.rewrite(&manifest, &changed, 0o644);
                }
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
        change.begin_services();
        match &self.datastore {
            Datastore::Dqlite(cluster) => self.join_dqlite(change, cluster, order, progress),
            Datastore::Etcd(servers) => {
                self.use_etcd(change, servers)?;
                change.apply(progress)
            }
        }
    }
}

/// The node's server certificates, signed anew. MicroK8s leaves this to a helper that notices
/// the other authority some seconds later.
fn reissue_servers(node: &Node, ca: &Ca) -> Result<Vec<(&'static str, String)>, JoinError> {
    let layout = &node.layout;
    let read = |name: &str| layout.read(&layout.cert(name));
    let mut servers = Vec::new();
    if let Ok(old) = read("server.crt") {
        servers.push(("server.crt", ca.reissue_server(&old, None)?));
    }
    // The authority of the front proxy is the node's own, and stays.
    if let (Ok(old), Ok(certificate), Ok(key)) = (
        read("front-proxy-client.crt"),
        read("front-proxy-ca.crt"),
        read("front-proxy-ca.key"),
    ) {
        let front = Ca::from_pem(&certificate, Secret::new(key).expose())?;
        servers.push(("front-proxy-client.crt", front.reissue_server(&old, None)?));
    }
    Ok(servers)
}

/// Asks the datastore until it lists the node; says whether it did in time.
fn wait_until_listed(node: &Node, own: IpAddr, end: Instant, progress: &mut dyn Progress) -> bool {
    let mut pause = FIRST_PAUSE;
    let mut next_dot = Instant::now();
    loop {
        let (host, backend) = (node.platform.clone(), node.layout.backend());
        let asked = wait::unless(progress.cancelled(), move || {
            host.datastore_members(&backend)
        });
        let Some(answer) = asked else { return false };
        let members = answer
            .ok()
            .and_then(|answer| dqlite::read_shell_answer(&answer).ok());
        let (event, until_next) = match members {
            Some(members) if members.iter().any(|member: &Member| member.is_at(own)) => {
                return true;
            }
            Some(_) => (Event::NotYet, NOT_LISTED_DOT),
            None => (Event::NotAnswering, NOT_ANSWERING_DOT),
        };
        let now = Instant::now();
        if now >= next_dot {
            progress.tell(event);
            next_dot = now + until_next;
        }
        if now >= end || wait::pause_unless(pause.min(end - now), progress.cancelled()) {
            return false;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
