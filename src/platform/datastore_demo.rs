//! A real dqlite beside the agent, for trying clusters out: Debian's `dqlite-demo` in the place
//! of MicroK8s's datastore service.
//!
//! It is told by the same files as that service: `init.yaml` makes it join a cluster, `info.yaml`
//! says where it listens. `dqlite-demo` keeps its files in a folder named after its address, so
//! links in the usual places lead there. It speaks no TLS, so the datastore's certificate is not
//! used.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;

use crate::base::atomic_file::{self, Access};
use crate::base::mutex::lock;
use crate::base::wait;
use crate::platform::Action;
use crate::platform::command::{self, CommandError};
use crate::platform::datastore_shell;
use crate::platform::process::ChildProcess;

/// The programs, and the package of Debian that has them.
const SERVER: &str = "dqlite-demo";
const SHELL: &str = "dqlite";
/// The server's own files.
const CLUSTER_FILE: &str = "cluster.yaml";
const INFO_FILE: &str = "info.yaml";
/// How long it may take to hand its data over when it ends; alone it never can.
const GRACE: Duration = Duration::from_secs(2);
/// How long it may take to come up.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The package's name, for people who lack it.
pub(crate) const PACKAGE: &str = "go-dqlite";

/// The datastore of a standalone node.
#[derive(Debug)]
pub struct DatastoreDemo {
    backend: PathBuf,
    running: Mutex<Option<ChildProcess>>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Cluster", default)]
    cluster: Vec<String>,
}

/// Whether the programs are installed.
pub fn is_installed() -> bool {
    command::is_on_path(SERVER) && command::is_on_path(SHELL)
}

impl DatastoreDemo {
    /// The datastore in this folder; it does not run yet.
    pub fn new(backend: impl Into<PathBuf>) -> Self {
        Self {
            backend: backend.into(),
            running: Mutex::default(),
        }
    }

    /// Starts, stops or restarts it.
    pub fn control(&self, action: Action) -> Result<(), CommandError> {
        let mut running = lock(&self.running);
        if matches!(action, Action::Stop | Action::Restart) {
            *running = None;
        }
        if matches!(action, Action::Start | Action::Restart) && running.is_none() {
            *running = Some(self.start()?);
        }
        Ok(())
    }

    fn start(&self) -> Result<ChildProcess, CommandError> {
        let init = self.backend.join("init.yaml");
        let update = self.backend.join("update.yaml");
        if update.exists() {
            self.take_new_address(&update)?;
        }
        let (file, joins) = if init.exists() {
            (init.clone(), true)
        } else {
            (self.backend.join(INFO_FILE), false)
        };
        let place = read_place(&file)?;
        let host = place
            .address
            .rsplit_once(':')
            .map_or("127.0.0.1", |(host, _)| host);
        let mut arguments = vec![
            "--api".to_owned(),
            format!("{host}:0"),
            "--db".to_owned(),
            place.address.clone(),
            "--dir".to_owned(),
            self.backend.to_string_lossy().into_owned(),
        ];
        for member in &place.cluster {
            arguments.extend(["--join".to_owned(), member.clone()]);
        }
        let log = |line: &str| tracing::debug!(line, "{SERVER}");
        let mut companion =
            ChildProcess::start_logged(SERVER, &arguments, GRACE, log).map_err(not_started)?;
        let files = Path::new(&place.address);
        wait_for(&mut companion, &self.backend.join(files).join(CLUSTER_FILE))?;
        for name in [CLUSTER_FILE, INFO_FILE] {
            atomic_file::link(&files.join(name), &self.backend.join(name)).map_err(not_started)?;
        }
        if joins {
            // As MicroK8s's service does once it has read the file.
            atomic_file::remove(&init).map_err(not_started)?;
        }
        Ok(companion)
    }

    /// Listens at another address from now on, as MicroK8s's service does when it finds this file.
    fn take_new_address(&self, update: &Path) -> Result<(), CommandError> {
        let new = read_place(update)?.address;
        // The links lead to the folder that is named after the old address.
        let info = std::fs::read_link(self.backend.join(INFO_FILE)).map_err(not_started)?;
        let old = info
            .parent()
            .unwrap_or(&info)
            .to_string_lossy()
            .into_owned();
        let folder = self.backend.join(&new);
        // One that was cut off here before has moved it already.
        if !folder.exists() {
            atomic_file::rename(&self.backend.join(&old), &folder).map_err(not_started)?;
        }
        for name in [CLUSTER_FILE, INFO_FILE] {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).map_err(not_started)?;
            let text = text.replace(&old, &new);
            let access = Access::Keep { or: 0o644 };
            atomic_file::write(&path, text.as_bytes(), access).map_err(not_started)?;
        }
        let (place, list) = (folder.display(), folder.join(CLUSTER_FILE));
        shell(&new, &format!(".reconfigure {place} {}", list.display()))?;
        for name in [CLUSTER_FILE, INFO_FILE] {
            atomic_file::link(&Path::new(&new).join(name), &self.backend.join(name))
                .map_err(not_started)?;
        }
        atomic_file::remove(update).map_err(not_started)
    }
}

fn not_started(source: std::io::Error) -> CommandError {
    CommandError::NotStarted {
        command: SERVER.to_owned(),
        source,
    }
}

fn read_place(file: &Path) -> Result<Place, CommandError> {
    let text = std::fs::read_to_string(file).map_err(not_started)?;
    serde_saphyr::from_str(&text)
        .map_err(|error| not_started(std::io::Error::other(error.to_string())))
}

/// Gives these members a command, through the datastore's shell.
pub(super) fn shell(servers: &str, command: &str) -> Result<String, CommandError> {
    let arguments = ["-s", servers, "-f", "json", "k8s", command];
    command::run(SHELL, &arguments, datastore_shell::LIMIT)
}

/// Waits until the server has written a file, which it does when it is up.
fn wait_for(companion: &mut ChildProcess, file: &Path) -> Result<(), CommandError> {
    let up_or_over = || {
        file.exists()
            .then_some(None)
            .or_else(|| companion.ended().map(Some))
    };
    match wait::until(START_LIMIT, Duration::from_millis(10), up_or_over) {
        Some(None) => Ok(()),
        Some(Some(status)) => Err(CommandError::Failed {
            command: SERVER.to_owned(),
            status,
            output: String::new(),
        }),
        None => Err(CommandError::TimedOut {
            command: SERVER.to_owned(),
            seconds: START_LIMIT.as_secs(),
        }),
    }
}
