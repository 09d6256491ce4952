//! The API server proxy of a worker: the kubelet and kube-proxy of the node speak to it, and it
//! passes their connections on to the API servers of the cluster, byte for byte.
//!
//! The list of API servers is MicroK8s's file; it is read again when another program changes it,
//! and kept up to date with what Kubernetes says ([`list`]).

mod backends;
mod list;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::agent::again_and_again;
use crate::agent::connection_limiter::allow_files;
use crate::agent::log_limit::{self, Kind};
use crate::agent::service_manager::{ServiceManager, StopSignals, goes_around};
use crate::agent::tcp::{ListenError, Listener};
use crate::base::runtime;

use backends::{Backends, InUse};
use list::List;

/// How many connections are passed on at once.
const MAX_CONNECTIONS: u64 = 4096;
/// Which part of them other machines may have: the proxy is there for the node's own services.
const SHARE_OF_OTHERS: usize = 2;
/// A connection has two ends, and may have a further attempt at the second one.
const FILES_PER_CONNECTION: u64 = 3;
/// How many files are open for other things than connections.
const RESERVED_FILES: u64 = 64;
/// How much of a connection is in memory, in bytes, for each direction.
const BUFFER: usize = 16 << 10;
/// How long open connections may go on after SIGTERM. A watch does not end by itself, and while
/// they go on nothing listens: a client that is cut off calls the next proxy sooner.
const DRAIN: Duration = Duration::from_secs(5);

/// After how many seconds of silence a machine is asked whether it is still there, and how often
/// it is asked again.
const KEEP_ALIVE: u32 = 15;

/// How the proxy is to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// The file with the list of API servers.
    pub(crate) provider: PathBuf,
    /// What Kubernetes is asked with.
    pub(crate) kubeconfig: PathBuf,
    /// How often it is asked; never where there is nothing.
    pub(crate) refresh_interval: Option<Duration>,
}

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// There is nowhere to lead to.
    #[error("no API server is known: `{}`: {why}", path.display())]
    NoList {
        /// The file that should name one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The address is taken, or not ours.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The runtime, or its signals.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs the proxy until it is told to stop.
pub(crate) fn run(settings: &Settings) -> Result<(), ProxyError> {
    let manager = Arc::new(ServiceManager::from_environment());
    let runtime = runtime::build(&mut tokio::runtime::Builder::new_multi_thread())
        .map_err(ProxyError::Runtime)?;
    let served = runtime.block_on(serve(settings, manager));
    runtime.shutdown_background();
    served
}

async fn serve(settings: &Settings, manager: Arc<ServiceManager>) -> Result<(), ProxyError> {
    let (listener, ping) = Listener::new(settings.listen)?;
    let listen = listener.address().map_err(ProxyError::Runtime)?;
    let backends = Arc::new(Backends::new(listen));
    let list = List::read(settings, backends.clone()).map_err(|why| ProxyError::NoList {
        path: settings.provider.clone(),
        why,
    })?;
    let mut signals = StopSignals::new().map_err(ProxyError::Runtime)?;
    let list = Arc::new(list);
    tokio::spawn(list.clone().follow_file());
    if let Some(interval) = settings.refresh_interval {
        tokio::spawn(again_and_again(interval, move || list.refresh()));
    }
    let connections = TaskTracker::new();
    let accepting = tokio::spawn(accept(listener, backends, connections.clone()));
    tracing::info!("listening on {listen}");
    manager.ready(&format!("listening on {listen}"));
    let answers = move || goes_around(ping.clone());
    tokio::spawn(manager.clone().give_signs_of_life(answers));

    signals.next().await;
    tracing::info!("stopping: {} connections are open", connections.len());
    manager.stopping();
    accepting.abort();
    connections.close();
    tokio::select! {
        in_time = timeout(DRAIN, connections.wait()) => {
            if in_time.is_err() {
                tracing::warn!("connections are still open, and are not waited for any longer");
            }
        }
        _ = signals.next() => {}
    }
    Ok(())
}

/// Accepts connections until it is aborted. Those that are too many wait, in the kernel.
async fn accept(mut listener: Listener, backends: Arc<Backends>, connections: TaskTracker) {
    let files = allow_files(FILES_PER_CONNECTION * MAX_CONNECTIONS + RESERVED_FILES);
    let max = files.saturating_sub(RESERVED_FILES) / FILES_PER_CONNECTION;
    let max = max.clamp(2, MAX_CONNECTIONS);
    let max = usize::try_from(max).unwrap_or(2);
    let permits = Arc::new(Semaphore::new(max));
    let permits_of_others = Arc::new(Semaphore::new(max / SHARE_OF_OTHERS));
    loop {
        let room = || permits.clone().acquire_owned();
        let (permit, client, peer) = listener.accept(room).await;
        let permit_of_others = match peer.ip().to_canonical().is_loopback() {
            true => None,
            false => match permits_of_others.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    if log_limit::is_written(Kind::Connection) {
                        tracing::warn!(%peer, "too many connections of other machines: this one is closed");
                    }
                    continue;
                }
            },
        };
        if permits.available_permits() == 0 && log_limit::is_written(Kind::Connection) {
            tracing::warn!(%peer, "{max} connections are open: further ones wait");
        }
        let backends = backends.clone();
        connections.spawn(async move {
            let _permits = (permit, permit_of_others);
            let connected = backends.connect().await;
            if let Err(error) = pass_on(client, connected).await
                && tracing::enabled!(tracing::Level::DEBUG)
                && log_limit::is_written(Kind::Connection)
            {
                tracing::debug!(%peer, %error, "connection");
            }
        });
    }
}

/// Passes on what comes from either side until both have ended. Where one side is reset, or there
/// is no other side, the other one is reset too: an end in order would pass for a complete answer.
async fn pass_on(mut client: TcpStream, connected: Option<(TcpStream, InUse)>) -> io::Result<()> {
    let Some((mut server, _in_use)) = connected else {
        client.set_zero_linger()?;
        return Err(io::Error::other("no API server answers"));
    };
    for side in [&client, &server] {
        side.set_nodelay(true)?;
        // Finds out that a machine is gone where nothing is sent for hours.
        setsockopt(side, sockopt::KeepAlive, &true)?;
        setsockopt(side, sockopt::TcpKeepIdle, &KEEP_ALIVE)?;
        setsockopt(side, sockopt::TcpKeepInterval, &KEEP_ALIVE)?;
    }
    let copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
    if copied.is_err() {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    copied.map(drop)
}
