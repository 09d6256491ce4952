//! The changes of a join, in the terms of a node.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::base::atomic_file::Access;
use crate::base::secret::Secret;
use crate::cluster::identity::NodeKey;
use crate::cluster::join::begin;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::report::Report;
use crate::cluster::node::{Node, Privacy};
use crate::cluster::operation::Progress;
use crate::cluster::transaction::{Step, Steps, Transaction};
use crate::model::join_stage::JoinStage;
use crate::model::launch_configuration::Values;
use crate::model::node_label::NodeLabel;
use crate::model::token::TokenDigest;
use crate::platform::{Action, Service};
use crate::store::args_file::ArgsFile;
use crate::store::layout::{Lock, ReadError};
use crate::store::token_files::{self, CALLBACK_DIGEST, CALLBACK_TOKEN};
use crate::wire::operation::{Event, JoinOrder};

/// The mode of lock files that MicroK8s's client makes (recording `join-worker-ok`).
const LOCK_MODE: u32 = 0o700;

/// The argument with which a kubelet labels its node.
pub(crate) const NODE_LABELS: &str = "--node-labels";

/// The changes that a join makes to its node.
pub(crate) struct Change<'a> {
    /// When the join must be done.
    pub(crate) end: Instant,
    /// What is still to be done.
    pub(crate) steps: Steps<'a>,
    /// How many of these come before the services.
    before_services: Option<usize>,
    transaction: Option<Transaction>,
    /// What comes before the changes become final.
    last: Vec<Step>,
    /// Arguments that the kubelet keeps, or must not have, whatever the cluster says.
    kubelet: Values,
}

impl<'a> Change<'a> {
    /// No change yet; all of them, and what they bring about, must be done at `end`.
    pub(crate) fn new(node: &'a Node, end: Instant) -> Self {
        Self {
            end,
            steps: Steps::new(node),
            before_services: None,
            transaction: None,
            last: Vec::new(),
            kubelet: Values::new(),
        }
    }

    /// More that the operator wants than a join: steps that come last of all, and arguments of the
    /// kubelet. A service that was restarted before is not restarted again.
    pub(crate) fn extend(&mut self, last: Vec<Step>, kubelet: Values) {
        self.last = last;
        self.kubelet = kubelet;
    }

    /// The node that changes.
    pub(crate) fn node(&self) -> &'a Node {
        self.steps.node()
    }

    /// The steps that follow are those of the services.
    pub(crate) fn begin_services(&mut self) {
        self.before_services = Some(self.steps.count());
    }

    /// Does what is still to be done.
    pub(crate) fn apply(&mut self, progress: &mut dyn Progress) -> Result<(), JoinError> {
        let steps = self.steps.take();
        let before_services = self.before_services.take();
        self.transaction()?.apply(&steps, |number| {
            if before_services == Some(number) {
                begin(JoinStage::Services, progress);
            }
            Ok(())
        })
    }

    /// Everything that was changed is undone: `error` made the join fail.
    pub(crate) fn take_back(mut self, error: JoinError) -> JoinError {
        match self.transaction.take().map(Transaction::roll_back) {
            None | Some(Ok(_)) => error,
            Some(Err(undo)) => JoinError::NotTakenBack {
                error: Box::new(error),
                undo,
            },
        }
    }

    /// The last thing: the changes become final.
    pub(crate) fn finish(
        &mut self,
        order: &JoinOrder,
        progress: &mut dyn Progress,
    ) -> Result<(), JoinError> {
        if order.disable_low_memory_guard {
            self.unlock(Lock::LowMemoryGuard);
        }
        self.unlock(Lock::JoinInProgress);
        self.commit("joined the cluster", progress)
    }

    /// The changes become final, and the node has done this.
    pub(crate) fn commit(
        &mut self,
        done: &str,
        progress: &mut dyn Progress,
    ) -> Result<(), JoinError> {
        self.apply(progress)?;
        let mut last = std::mem::take(&mut self.last);
        let transaction = self.transaction()?;
        last.retain(|step| !transaction.has_restarted(step));
        if last.iter().any(|step| matches!(step, Step::Service { .. })) {
            begin(JoinStage::Services, progress);
        }
        self.transaction()?.apply_all(&last)?;
        let committed = self.transaction()?.commit()?;
        self.transaction = None;
        if let Some(message) = committed.warning(done) {
            progress.tell(Event::warning(message));
        }
        Ok(())
    }

    /// Makes final what has changed, where anything has.
    pub(crate) fn commit_if_begun(&mut self, progress: &mut dyn Progress) -> Result<(), JoinError> {
        if self.transaction.is_none() && self.steps.count() + self.last.len() == 0 {
            return Ok(());
        }
        self.commit("changed this node", progress)
    }

    /// Keeps what the contacted node must be told when the join is undone.
    pub(crate) fn keep_report(&mut self, report: &Report) -> Result<(), JoinError> {
        Ok(self.transaction()?.keep_report(&report.text())?)
    }

    pub(crate) fn transaction(&mut self) -> Result<&mut Transaction, JoinError> {
        let transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => Transaction::begin(self.node())?,
        };
        Ok(self.transaction.insert(transaction))
    }

    /// Makes a lock file; one that is there keeps its content, and gets the mode of the others
    /// (recording `v1-join`).
    pub(crate) fn lock(&mut self, lock: Lock) -> Result<(), JoinError> {
        let path = self.node().layout.lock(lock);
        let content = match std::fs::metadata(&path) {
            Ok(found) if found.permissions().mode() & 0o7777 == LOCK_MODE => return Ok(()),
            Ok(_) => self.node().layout.read(&path)?,
            Err(_) => String::new(),
        };
        let access = Access::Set {
            mode: LOCK_MODE,
            uid: None,
            gid: None,
        };
        self.steps
            .push(Step::write(&path, content.as_bytes(), access));
        Ok(())
    }

    /// Removes a lock file.
    pub(crate) fn unlock(&mut self, lock: Lock) {
        self.steps.remove(&self.node().layout.lock(lock));
    }

    /// Writes a key that was made for the join; one that the node had stays as it is.
    pub(crate) fn key(&mut self, name: &str, key: &NodeKey) {
        if key.is_new {
            self.steps.key(name, &key.pem);
        }
    }

    /// The token with which this node's agent is called; with a digest of the cluster's, the token is
    /// this node's own.
    pub(crate) fn callback_token(
        &mut self,
        token: Option<&Secret>,
        clusters: Option<&TokenDigest>,
    ) {
        let layout = &self.node().layout;
        if let Some(token) = token {
            let path = layout.credential(CALLBACK_TOKEN);
            self.steps.write(&path, token.expose(), Privacy::Group);
        }
        let path = layout.credential(CALLBACK_DIGEST);
        match clusters {
            Some(digest) => {
                let line = format!("{}\n", digest.digits());
                self.steps.write(&path, &line, Privacy::Root);
            }
            // One of an earlier cluster would make this token none of the new one's.
            None => self.steps.remove(&path),
        }
    }

    /// What MicroK8s's files of tokens hold was issued in the cluster that the node leaves by joining:
    /// it must admit no node to the other one.
    pub(crate) fn forget_token_lines(&mut self) {
        for name in token_files::OF_THE_CLUSTER {
            let path = self.node().layout.credential(name);
            if std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() > 0) {
                self.steps.rewrite(&path, "", 0o600);
            }
        }
    }

    /// kube-proxy and the datastore's users get the cluster's pod network.
    pub(crate) fn pod_network(&mut self, theirs: Option<&str>) -> Result<(), JoinError> {
        let Some(theirs) = theirs else { return Ok(()) };
        if self.node().arguments("kube-proxy")?.get("--cluster-cidr") == Some(theirs) {
            return Ok(());
        }
        self.steps.arguments("kube-proxy", |arguments| {
            arguments.set("--cluster-cidr", theirs);
        })?;
        self.steps.service(Action::Restart, Service::Kubelite);
        Ok(())
    }

    /// The API server gets the cluster's authorization mode and port, and is started anew.
    pub(crate) fn api_server(
        &mut self,
        mode: Option<&str>,
        port: Option<&str>,
    ) -> Result<(), JoinError> {
        self.steps.arguments("kube-apiserver", |arguments| {
            for (key, value) in [("--authorization-mode", mode), ("--secure-port", port)] {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    arguments.set(key, value);
                }
            }
        })?;
        self.steps.service(Action::Restart, Service::Kubelite);
        Ok(())
    }

    /// The kubelet gets the arguments of the contacted node's, but for what is that node's own, and
    /// what the operator ordered for this node.
    pub(crate) fn kubelet(
        &mut self,
        theirs: &str,
        own: &str,
        order: &JoinOrder,
        edit: impl FnOnce(&mut ArgsFile),
    ) {
        let mut arguments = ArgsFile::parse(theirs);
        if arguments.get("--node-ip").is_some() {
            arguments.set("--node-ip", own);
        }
        // The node keeps a name of its own, and gets no other's.
        match self.node().overriding_name() {
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
        for (key, value) in &self.kubelet {
            match value {
                Some(value) => arguments.set(key, value),
                None => arguments.remove(key),
            }
        }
        self.steps.set_arguments("kubelet", &arguments);
    }

    /// kube-proxy finds the API server by itself, and its own name unless the kubelet has another.
    pub(crate) fn kube_proxy(&mut self) -> Result<(), ReadError> {
        let own = self.node().overriding_name();
        self.steps.arguments("kube-proxy", |arguments| {
            arguments.remove("--master");
            match own {
                Some(own) => arguments.set("--hostname-override", &own),
                None => arguments.remove("--hostname-override"),
            }
        })
    }

    /// The node does not run a control plane of its own any more.
    pub(crate) fn become_worker(&mut self) -> Result<(), JoinError> {
        self.lock(Lock::Clustered)?;
        self.lock(Lock::NoK8sDqlite)?;
        for service in [
            Service::Kubelite,
            Service::Etcd,
            Service::ApiserverKicker,
            Service::ApiserverProxy,
            Service::K8sDqlite,
        ] {
            self.steps.service(Action::Restart, service);
        }
        Ok(())
    }
}
