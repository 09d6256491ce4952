//! The changes of a join, in the terms of a node.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use crate::base::atomic_file::Access;
use crate::base::secret::Secret;
use crate::cluster::identity::NodeKey;
use crate::cluster::join::Audience;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::report::Report;
use crate::cluster::journal::{Journal, JournalError};
use crate::cluster::node::{Node, Privacy};
use crate::cluster::node_lock::NodeLockError;
use crate::model::node_label::NodeLabel;
use crate::model::token::TokenDigest;
use crate::platform::{Action, Service};
use crate::store::args_file::ArgsFile;
use crate::store::layout::Lock;
use crate::store::token_files::{self, CALLBACK_DIGEST, CALLBACK_TOKEN};
use crate::wire::local_v1::{JoinEvent, JoinOrder};

/// The mode of lock files that MicroK8s's client makes (recording `join-worker-ok`).
const LOCK_MODE: u32 = 0o700;

/// The argument with which a kubelet labels its node.
pub const NODE_LABELS: &str = "--node-labels";

/// The changes that a join makes to its node.
pub struct Change<'a> {
    node: &'a Node,
    end: Instant,
    journal: Option<Journal>,
}

impl<'a> Change<'a> {
    /// No change yet; all of them, and what they bring about, must be done at `end`.
    pub fn new(node: &'a Node, end: Instant) -> Self {
        Self {
            node,
            end,
            journal: None,
        }
    }

    /// The node that changes.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// When the join must be done.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// Everything that was changed is taken back: `error` made the join fail.
    pub fn take_back(mut self, error: JoinError) -> JoinError {
        match self.undo() {
            Ok(()) => error,
            Err(undo) => JoinError::NotTakenBack {
                error: Box::new(error),
                undo,
            },
        }
    }

    fn undo(&mut self) -> Result<(), JournalError> {
        match self.journal.take() {
            Some(journal) => journal.roll_back(self.node.platform.as_ref()).map(drop),
            None => Ok(()),
        }
    }

    /// The last thing: the changes become final.
    pub fn finish(
        &mut self,
        order: &JoinOrder,
        audience: &mut dyn Audience,
    ) -> Result<(), JoinError> {
        if order.disable_low_memory_guard {
            self.unlock(Lock::LowMemoryGuard)?;
        }
        self.lock(Lock::NoCertReissue)?;
        self.unlock(Lock::JoinInProgress)?;
        self.commit("joined the cluster", audience)
    }

    /// The changes become final, and the node has done this.
    pub fn commit(&mut self, done: &str, audience: &mut dyn Audience) -> Result<(), JoinError> {
        if let Some(journal) = &mut self.journal {
            let committed = journal.commit()?;
            self.journal = None;
            if let Some(message) = committed.warning(done) {
                audience.tell(JoinEvent::Warning {
                    message,
                    from_microk8s: false,
                });
            }
        }
        Ok(())
    }

    /// Keeps what the contacted node must be told when the join is taken back.
    pub fn keep_report(&mut self, report: &Report) -> Result<(), JoinError> {
        Ok(self.journal()?.keep_report(&report.text())?)
    }

    pub fn journal(&mut self) -> Result<&mut Journal, JoinError> {
        if self.journal.is_none() {
            self.journal = Some(Journal::begin(&self.node.layout)?);
        }
        self.journal
            .as_mut()
            .ok_or(JoinError::NodeLock(NodeLockError::Busy))
    }

    /// Writes a file that is shared in this way.
    pub fn write(&mut self, path: &Path, content: &str, privacy: Privacy) -> Result<(), JoinError> {
        let access = self.node.access(privacy);
        Ok(self.journal()?.write(path, content.as_bytes(), access)?)
    }

    /// Writes a file that keeps its mode and owners; a new one gets this mode.
    pub fn rewrite(&mut self, path: &Path, content: &str, or: u32) -> Result<(), JoinError> {
        Ok(self
            .journal()?
            .write(path, content.as_bytes(), Access::Keep { or })?)
    }

    /// Changes the arguments of a service.
    pub fn arguments(
        &mut self,
        service: &str,
        edit: impl FnOnce(&mut ArgsFile),
    ) -> Result<(), JoinError> {
        let mut arguments = self.node.arguments(service)?;
        edit(&mut arguments);
        self.write_arguments(service, &arguments)
    }

    fn write_arguments(&mut self, service: &str, arguments: &ArgsFile) -> Result<(), JoinError> {
        let path = self.node.layout.args(service);
        let access = self.node.access(Privacy::Group);
        Ok(self.journal()?.write(&path, &arguments.bytes(), access)?)
    }

    /// Makes a lock file; one that is there keeps its content, and gets the mode of the others
    /// (recording `v1-join`).
    pub fn lock(&mut self, lock: Lock) -> Result<(), JoinError> {
        let path = self.node.layout.lock(lock);
        let content = match std::fs::metadata(&path) {
            Ok(found) if found.permissions().mode() & 0o7777 == LOCK_MODE => return Ok(()),
            Ok(_) => self.node.layout.read(&path)?,
            Err(_) => String::new(),
        };
        let access = Access::Set {
            mode: LOCK_MODE,
            uid: None,
            gid: None,
        };
        Ok(self.journal()?.write(&path, content.as_bytes(), access)?)
    }

    /// Removes a lock file.
    pub fn unlock(&mut self, lock: Lock) -> Result<(), JoinError> {
        let path = self.node.layout.lock(lock);
        Ok(self.journal()?.remove(&path)?)
    }

    /// Controls a service.
    pub fn service(&mut self, action: Action, service: Service) -> Result<(), JoinError> {
        let host = self.node.platform.clone();
        Ok(self.journal()?.service(host.as_ref(), action, service)?)
    }

    /// Writes a key that was made for the join; one that the node had stays as it is.
    pub fn key(&mut self, name: &str, key: &NodeKey) -> Result<(), JoinError> {
        if !key.is_new {
            return Ok(());
        }
        self.write(
            &self.node.layout.cert(&format!("{name}.key")),
            key.pem.expose(),
            Privacy::Root,
        )
    }

    /// Writes a kubeconfig. The administrator's tells MicroK8s's tools who may use the node;
    /// the others are for services only.
    pub fn kubeconfig(&mut self, name: &str, text: &Secret) -> Result<(), JoinError> {
        let privacy = if name == "client.config" {
            Privacy::GroupReads
        } else {
            Privacy::Root
        };
        self.write(&self.node.layout.credential(name), text.expose(), privacy)
    }

    /// The token by which this node's agent is called; with a digest of the cluster's, the token is
    /// this node's own.
    pub fn callback_token(
        &mut self,
        token: Option<&Secret>,
        clusters: Option<&TokenDigest>,
    ) -> Result<(), JoinError> {
        let layout = &self.node.layout;
        if let Some(token) = token {
            let path = layout.credential(CALLBACK_TOKEN);
            self.write(&path, token.expose(), Privacy::Group)?;
        }
        let path = layout.credential(CALLBACK_DIGEST);
        match clusters {
            Some(digest) => self.write(&path, &format!("{}\n", digest.digits()), Privacy::Root),
            // One of an earlier cluster would make this token none of the new one's.
            None => Ok(self.journal()?.remove(&path)?),
        }
    }

    /// What MicroK8s's files of tokens hold was issued in the cluster that the node leaves by joining:
    /// it must admit no node to the other one.
    pub fn forget_token_lines(&mut self) -> Result<(), JoinError> {
        for name in token_files::OF_THE_CLUSTER {
            let path = self.node.layout.credential(name);
            if std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() > 0) {
                self.rewrite(&path, "", 0o600)?;
            }
        }
        Ok(())
    }

    /// kube-proxy and the datastore's users get the cluster's pod network.
    pub fn pod_network(&mut self, theirs: Option<&str>) -> Result<(), JoinError> {
        let Some(theirs) = theirs else { return Ok(()) };
        if self.node.arguments("kube-proxy")?.get("--cluster-cidr") == Some(theirs) {
            return Ok(());
        }
        self.arguments("kube-proxy", |arguments| {
            arguments.set("--cluster-cidr", theirs);
        })?;
        self.service(Action::Restart, Service::Kubelite)
    }

    /// The API server gets the cluster's authorization mode and port, and is started anew.
    pub fn api_server(&mut self, mode: Option<&str>, port: Option<&str>) -> Result<(), JoinError> {
        self.arguments("kube-apiserver", |arguments| {
            for (key, value) in [("--authorization-mode", mode), ("--secure-port", port)] {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    arguments.set(key, value);
                }
            }
        })?;
        self.service(Action::Restart, Service::Kubelite)
    }

    /// The kubelet gets the arguments of the contacted node's, but for what is that node's own, and
    /// what the operator ordered for this node.
    pub fn kubelet(
        &mut self,
        theirs: &str,
        own: &str,
        order: &JoinOrder,
        edit: impl FnOnce(&mut ArgsFile),
    ) -> Result<(), JoinError> {
        let mut arguments = ArgsFile::parse(theirs);
        if arguments.get("--node-ip").is_some() {
            arguments.set("--node-ip", own);
        }
        // The node keeps a name of its own, and gets no other's.
        match self.node.overriding_name() {
            Some(own) => arguments.set("--hostname-override", &own),
            None => arguments.remove("--hostname-override"),
        }
        edit(&mut arguments);
        // What the operator said counts for more than what came with the answer.
        if let Some(address) = order.node_ip {
            arguments.set("--node-ip", &address.to_string());
        }
        if !order.labels.is_empty() {
            let present = arguments.get_all(NODE_LABELS).join(",");
            let labels = NodeLabel::add_to(&present, &order.labels);
            arguments.set(NODE_LABELS, &format!("\"{labels}\""));
        }
        self.write_arguments("kubelet", &arguments)
    }

    /// kube-proxy finds the API server by itself, and its own name unless the kubelet has another.
    pub fn kube_proxy(&mut self) -> Result<(), JoinError> {
        let own = self.node.overriding_name();
        self.arguments("kube-proxy", |arguments| {
            arguments.remove("--master");
            match own {
                Some(own) => arguments.set("--hostname-override", &own),
                None => arguments.remove("--hostname-override"),
            }
        })
    }

    /// The node does not run a control plane of its own any more.
    pub fn become_worker(&mut self) -> Result<(), JoinError> {
        self.lock(Lock::Clustered)?;
        self.lock(Lock::NoK8sDqlite)?;
        for service in [
            Service::Kubelite,
            Service::Etcd,
            Service::ApiserverKicker,
            Service::ApiserverProxy,
            Service::K8sDqlite,
        ] {
            self.service(Action::Restart, service)?;
        }
        Ok(())
    }
}

/// A join that ends in no orderly way, by a panic, is taken back as well.
impl Drop for Change<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::error!(%error, "the changes of a join cannot be taken back");
        }
    }
}
