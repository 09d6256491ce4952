//! The socket of the local API: born closed, then given to the group.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::pin;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{AgentError, tcp};
use crate::base::atomic_file;

/// Who is at the other end of the socket, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalCaller {
    /// The user.
    pub(crate) uid: u32,
    /// The process, where known.
    pub(crate) pid: Option<i32>,
}

/// Makes the socket in a private folder and moves it to its place with its final mode, so that
/// it is never open to other users. A stale socket, on which no program listens, is replaced.
pub(crate) fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, AgentError> {
    let own = |source| AgentError::Own {
        path: path.to_owned(),
        source,
    };
    if StdUnixStream::connect(path).is_ok() {
        return Err(AgentError::SocketTaken(path.to_owned()));
    }
    // A mistyped path must not replace another file.
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(AgentError::NoSocket(path.to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    atomic_file::make_folder(folder, 0o755).map_err(own)?;
    let closed = atomic_file::temporary_folder(folder, ".s").map_err(own)?;
    let born = closed.path().join("s");
    let listener = UnixListener::bind(&born).map_err(own)?;
    share(&born, group).map_err(own)?;
    atomic_file::rename(&born, path).map_err(own)?;
    Ok(listener)
}

/// The socket is the group's where there is one and we may give it away, else ours alone.
fn share(socket: &Path, group: Option<u32>) -> io::Result<()> {
    if group.is_some() && atomic_file::set_access(socket, 0o660, None, group).is_ok() {
        return Ok(());
    }
    atomic_file::set_access(socket, 0o600, None, None)
}

/// Serves connections until told to stop; then lets the open ones end.
pub(crate) async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, router.clone(), stop.clone()));
            }
            Err(error) => tcp::not_accepted(&error).await,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: UnixStream, router: Router, stop: CancellationToken) {
    let Ok(peer) = stream.peer_cred() else { return };
    let caller = LocalCaller {
        uid: peer.uid(),
        pid: peer.pid(),
    };
    let service = tcp::service(router, move |extensions| {
        extensions.insert(caller);
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "local connection");
    }
}
