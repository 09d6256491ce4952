//! The steps of a change, and how they are put together.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::base::atomic_file::Access;
use crate::base::secret::Secret;
use crate::cluster::node::{Node, Privacy};
use crate::model::token::Token;
use crate::platform::{Action, Service};
use crate::store::args_file::ArgsFile;
use crate::store::layout::ReadError;
use crate::store::token_files::Sharing;

/// A step that can be undone. Those that are left behind a commit point are written down there, and may
/// be taken twice: no others can be.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Replaces or creates a file.
    #[serde(skip)]
    Write {
        /// Which one.
        path: PathBuf,
        /// What it holds then.
        content: Zeroizing<Vec<u8>>,
        /// Its mode and owners then.
        access: Access,
    },
    /// Adds a token to one of MicroK8s's files, where it is not in it; what others add stays.
    #[serde(skip)]
    AddToken {
        /// Which file.
        path: PathBuf,
        /// The token.
        token: Token,
        /// Who may read the file.
        sharing: Sharing,
    },
    /// Removes a file; one that is not there is no change.
    #[serde(skip)]
    Remove(PathBuf),
    /// Makes a folder; one that is there is no change.
    #[serde(skip)]
    MakeFolder(PathBuf),
    /// Moves a folder. What stands at its new place is kept until the changes are final. A later step
    /// taken together with this one changes nothing at the new place.
    #[serde(rename = "replace")]
    MoveFolder {
        /// Where it is.
        from: PathBuf,
        /// Where it is to be.
        to: PathBuf,
    },
    /// The manifest of the pod network is about to change; this mark has Kubernetes told of it.
    #[serde(skip)]
    MarkManifest(PathBuf),
    /// Starts, stops or restarts a service.
    Service {
        /// What is done to it.
        action: Action,
        /// Which one.
        service: Service,
    },
}

impl Step {
    /// Writes a file.
    pub(crate) fn write(path: &Path, content: &[u8], access: Access) -> Self {
        Self::Write {
            path: path.to_owned(),
            content: Zeroizing::new(content.to_vec()),
            access,
        }
    }

    /// Restarts a service.
    pub(crate) const fn restart(service: Service) -> Self {
        Self::Service {
            action: Action::Restart,
            service,
        }
    }
}

/// The steps so far, in the terms of a node.
pub(crate) struct Steps<'a> {
    node: &'a Node,
    list: Vec<Step>,
}

impl<'a> Steps<'a> {
    /// No step yet.
    pub(crate) fn new(node: &'a Node) -> Self {
        Self {
            node,
            list: Vec::new(),
        }
    }

    /// The node that changes.
    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    /// The steps so far; the next ones come behind them.
    pub(crate) fn take(&mut self) -> Vec<Step> {
        mem::take(&mut self.list)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// One more.
    pub(crate) fn push(&mut self, step: Step) {
        self.list.push(step);
    }

    /// Controls a service.
    pub(crate) fn service(&mut self, action: Action, service: Service) {
        self.push(Step::Service { action, service });
    }

    /// Writes a file that is shared in this way.
    pub(crate) fn write(&mut self, path: &Path, content: &str, privacy: Privacy) {
        self.push(Step::write(
            path,
            content.as_bytes(),
            self.node.access(privacy),
        ));
    }

    /// Writes a file that keeps its mode and owners; a new one gets this mode.
    pub(crate) fn rewrite(&mut self, path: &Path, content: &str, or: u32) {
        self.push(Step::write(path, content.as_bytes(), Access::Keep { or }));
    }

    /// Removes a file, where it is there.
    pub(crate) fn remove(&mut self, path: &Path) {
        if path.exists() {
            self.push(Step::Remove(path.to_owned()));
        }
    }

    /// Makes a folder.
    pub(crate) fn make_folder(&mut self, path: &Path) {
        self.push(Step::MakeFolder(path.to_owned()));
    }

    /// Changes the arguments of a service.
    pub(crate) fn arguments(
        &mut self,
        service: &str,
        edit: impl FnOnce(&mut ArgsFile),
    ) -> Result<(), ReadError> {
        let path = self.node.layout.args(service);
        let pending = self.list.iter().rev().find_map(|step| match step {
            Step::Write {
                path: other,
                content,
                ..
            } if *other == path => Some(ArgsFile::parse(content)),
            _ => None,
        });
        let mut arguments = match pending {
            Some(pending) => pending,
            None => Arc::unwrap_or_clone(self.node.arguments(service)?),
        };
        edit(&mut arguments);
        self.set_arguments(service, &arguments);
        Ok(())
    }

    /// Replaces the arguments of a service.
    pub(crate) fn set_arguments(&mut self, service: &str, arguments: &ArgsFile) {
        self.push(Step::write(
            &self.node.layout.args(service),
            &arguments.bytes(),
            self.node.access(Privacy::Group),
        ));
    }

    /// Writes a private key of the node.
    pub(crate) fn key(&mut self, name: &str, pem: &Secret) {
        let path = self.node.layout.cert(&format!("{name}.key"));
        self.write(&path, pem.expose(), Privacy::Root);
    }

    /// Writes a kubeconfig. The administrator's tells MicroK8s's tools who may use the node;
    /// the others are for services only.
    pub(crate) fn kubeconfig(&mut self, name: &str, text: &Secret) {
        let privacy = if name == "client.config" {
            Privacy::GroupReads
        } else {
            Privacy::Root
        };
        self.write(&self.node.layout.credential(name), text.expose(), privacy);
    }
}
