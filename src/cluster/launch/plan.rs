//! What a launch configuration changes on this node: the files as they are to be, and the services
//! that read them. Finding out changes nothing.

use std::fs::{self, FileType};
use std::mem;
use std::path::{Path, PathBuf};

use crate::base::atomic_file::Access;
use crate::cluster::configure;
use crate::cluster::fresh_node;
use crate::cluster::launch::error::LaunchError;
use crate::cluster::node::Node;
use crate::cluster::transaction::Step;
use crate::model::launch_configuration::{Part, Values};
use crate::platform::Service;
use crate::store::args_file::ArgsFile;
use crate::store::layout::{Lock, ReadError, none_if_missing};
use crate::store::token_files::PERSISTENT_TOKENS;

/// The mode of a new file (recording `http-configure-update`).
const NEW_FILE: u32 = 0o640;
/// The mode of what containerd reads of a registry, as MicroK8s has it.
const REGISTRY_FILE: u32 = 0o644;
/// The template of the API server's certificate request, below `certs`.
const REQUEST: &str = "csr.conf.template";

/// A file that a configuration concerns.
struct File {
    path: PathBuf,
    /// Its path below `args`.
    name: Option<String>,
    before: Option<Vec<u8>>,
    after: Vec<u8>,
    /// Whether it is to be there although nothing is in it.
    is_wanted: bool,
    new_mode: u32,
}

impl File {
    fn set(&mut self, content: &str) {
        content.as_bytes().clone_into(&mut self.after);
        self.is_wanted = true;
    }

    fn changes(&self) -> bool {
        match &self.before {
            Some(before) => *before != self.after,
            None => self.is_wanted || !self.after.is_empty(),
        }
    }
}

/// All that changes.
pub(super) struct Plan<'a> {
    node: &'a Node,
    folders: Vec<PathBuf>,
    files: Vec<File>,
    tokens: Vec<Step>,
    /// Arguments that a join would take away.
    pub(super) kubelet: Values,
}

impl<'a> Plan<'a> {
    /// What these documents change, one after the other.
    pub(super) fn of(node: &'a Node, parts: &[Part]) -> Result<Self, LaunchError> {
        let mut plan = Self {
            node,
            folders: Vec::new(),
            files: Vec::new(),
            tokens: Vec::new(),
            kubelet: Values::new(),
        };
        parts.iter().try_for_each(|part| plan.add(part))?;
        plan.files.retain(File::changes);
        Ok(plan)
    }

    fn add(&mut self, part: &Part) -> Result<(), LaunchError> {
        let layout = &self.node.layout;
        if let Some(token) = &part.persistent_token {
            self.tokens.push(Step::AddToken {
                path: layout.credential(PERSISTENT_TOKENS),
                token: token.clone(),
                sharing: self.node.token_file_sharing(),
            });
        }
        for (name, content) in &part.config_files {
            self.file("args", name, NEW_FILE)?.set(content);
        }
        for (name, values) in &part.settings {
            if *name == "kubelet" {
                self.kubelet.extend(values.iter().cloned());
            }
            let file = self.file("args", name, NEW_FILE)?;
            let mut settings = ArgsFile::parse(&file.after);
            for (key, value) in values {
                match value {
                    // A line that says the same stays as it is.
                    Some(value) if settings.get(key) == Some(value) => {}
                    Some(value) => settings.set(key, value),
                    None => settings.remove(key),
                }
            }
            file.after = settings.bytes();
        }
        if let Some(names) = &part.extra_sans {
            let template = fresh_node::request_template(names);
            self.file("certs", REQUEST, NEW_FILE)?.set(&template);
        }
        for (registry, content) in &part.registries {
            let name = format!("certs.d/{registry}/hosts.toml");
            self.make_folders(&name)?;
            self.file("args", &name, REGISTRY_FILE)?.set(content);
        }
        Ok(())
    }

    /// A file below a folder of the node. Nothing on the way to it is a symbolic link: members of the
    /// group may put one there, and what is written is written as root.
    fn file(&mut self, folder: &str, name: &str, new_mode: u32) -> Result<&mut File, LaunchError> {
        let path = self.node.layout.data().join(folder).join(name);
        if let Some(place) = self.files.iter().position(|file| file.path == path) {
            return Ok(&mut self.files[place]);
        }
        for above in folders_of(&self.node.layout.data().join(folder), name) {
            match kind(&above)? {
                Some(kind) if kind.is_dir() => {}
                None if self.folders.contains(&above) => {}
                Some(kind) if kind.is_symlink() => return Err(place(above, LINK)),
                _ => return Err(place(above, "it is not a folder")),
            }
        }
        let before = match kind(&path)? {
            None => None,
            Some(kind) if kind.is_file() => Some(self.node.layout.read_bytes(&path)?),
            Some(kind) if kind.is_symlink() => return Err(place(path, LINK)),
            Some(_) => return Err(place(path, "it is not a file")),
        };
        self.files.push(File {
            path,
            name: (folder == "args").then(|| name.to_owned()),
            after: before.clone().unwrap_or_default(),
            before,
            is_wanted: false,
            new_mode,
        });
        let last = self.files.len() - 1;
        Ok(&mut self.files[last])
    }

    /// The folders of a file below `args` that are not there are to be made.
    fn make_folders(&mut self, name: &str) -> Result<(), LaunchError> {
        for folder in folders_of(&self.node.layout.args(""), name) {
            if kind(&folder)?.is_none() && !self.folders.contains(&folder) {
                self.folders.push(folder);
            }
        }
        Ok(())
    }

    /// The services that read what changes, each once.
    fn services(&self) -> Vec<Service> {
        let mut services = Vec::new();
        for name in self.files.iter().filter_map(|file| file.name.as_deref()) {
            for service in readers(name, self.node.layout.has(Lock::Lite)) {
                if !services.contains(&service) {
                    services.push(service);
                }
            }
        }
        services
    }

    /// Whether the agent has new arguments.
    pub(super) fn restarts_agent(&self) -> bool {
        self.services().contains(&Service::ClusterAgent)
    }

    /// What the operator still has to do.
    pub(super) fn warning(&self, joins: bool) -> Option<&'static str> {
        let is_request = |file: &File| file.path.ends_with(REQUEST);
        let is_fixed = joins || self.node.layout.has(Lock::NoCertReissue);
        (is_fixed && self.files.iter().any(is_request)).then_some(
            "the certificates of a member of a cluster are not issued again by themselves; `microk8s refresh-certs --cert server.crt` gives the API server the names in `extraSANs`",
        )
    }

    /// The steps that come first.
    pub(super) fn files(&self) -> Vec<Step> {
        let folders = self.folders.iter().cloned().map(Step::MakeFolder);
        let files = self.files.iter().map(|file| {
            let access = Access::Keep { or: file.new_mode };
            Step::write(&file.path, &file.after, access)
        });
        folders.chain(files).collect()
    }

    /// The steps that come last: tokens, which a join would take away, and services. This agent
    /// restarts when all is done; that is the caller's.
    pub(super) fn last(&mut self, restarts: bool) -> Vec<Step> {
        let mut steps = mem::take(&mut self.tokens);
        if restarts {
            let mut services = self.services();
            services.retain(|service| *service != Service::ClusterAgent);
            steps.extend(services.into_iter().map(Step::restart));
        }
        steps
    }
}

const LINK: &str = "it is a symbolic link";

fn place(path: PathBuf, why: &'static str) -> LaunchError {
    LaunchError::Place { path, why }
}

/// The folders between `base` and a file below it, `base` included, the outermost first.
fn folders_of(base: &Path, name: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Path::new(name)
        .ancestors()
        .skip(1)
        .map(|above| base.join(above).components().collect())
        .collect();
    folders.reverse();
    folders
}

/// What is at a path itself.
fn kind(path: &Path) -> Result<Option<FileType>, ReadError> {
    let found = fs::symlink_metadata(path).map_err(|source| ReadError {
        path: path.to_owned(),
        source,
    });
    Ok(none_if_missing(found)?.map(|found| found.file_type()))
}

/// The services that read a file below `args` when they start.
fn readers(name: &str, is_lite: bool) -> Vec<Service> {
    match name.strip_suffix("-env").unwrap_or(name) {
        "fips" => vec![Service::Kubelite, Service::K8sDqlite, Service::ClusterAgent],
        service => configure::known(service, is_lite)
            .map(|(service, _)| service)
            .into_iter()
            .collect(),
    }
}
