//! Whether a worker reaches the API server through its proxy.
//!
//! It is asked in the way in which the kubelet will ask: at the address in its kubeconfig, under
//! the cluster's authority, with the kubelet's certificate, all as they are on disk now.
//!
//! Where nothing listens, only the service manager can tell a proxy that is not up yet from a
//! machine on which there is none. When its answer cannot be understood, as with a stand-in in
//! tests, there is nothing to wait for. When it fails, it is asked again for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::secret::Secret;
use crate::base::wait;
use crate::client::api_server::{ApiServer, ApiServerError};
use crate::cluster::join::error::JoinError;
use crate::cluster::join::{begin, worker};
use crate::cluster::node::Node;
use crate::cluster::operation::Progress;
use crate::model::endpoint;
use crate::model::join_stage::JoinStage;
use crate::platform::{Service, ServiceState};
use crate::store::layout::ReadError;
use crate::wire::operation::JoinOrder;

/// How often the API server is asked: soon at first, then less often.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a proxy that was started may be down: one that failed once is started again.
const MAY_BE_DOWN: Duration = Duration::from_secs(5);
/// How long a service manager may fail before there is none, as on a machine that was not started by
/// one. A snapd that restarts is back sooner.
const MAY_FAIL: Duration = Duration::from_secs(20);
/// The status with which an API server refuses an unknown certificate.
const NOT_AUTHENTICATED: u16 = 401;

/// Asks until the API server answers, for as long as was ordered.
pub(crate) fn wait_until_answered(
    node: &Node,
    server: &str,
    order: &JoinOrder,
    end: Instant,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    // No service runs on a standalone node; what listens there is another node's.
    if node.is_standalone() {
        return Ok(());
    }
    begin(JoinStage::ApiServer, progress);
    let seconds = order.timeout_seconds;
    let set_up = |why: String| JoinError::NoApiServer { seconds, why };
    let (host, port) = host_and_port(server).map_err(set_up)?;
    let server = api_server(node, &host, port)?.map_err(|error| set_up(error.to_string()))?;
    let server = Arc::new(server);

    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut why = String::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let limit = ANSWER_LIMIT.min(left.max(FIRST_PAUSE));
        let server = server.clone();
        let asked = wait::unless(progress.cancelled(), move || server.ask(limit));
        match asked.ok_or(JoinError::Interrupted)? {
            Ok(NOT_AUTHENTICATED) => {
                "it does not know the kubelet's certificate".clone_into(&mut why);
            }
            Ok(_) => return Ok(()),
            // The last attempt may have hardly any time, and tells less than the one before.
            Err(ApiServerError::TimedOut(_)) if limit < LONGEST_PAUSE && !why.is_empty() => {}
            Err(error) => {
                if matches!(error, ApiServerError::NothingListens(_)) && is_not_there(node, began)?
                {
                    return Ok(());
                }
                why = error.to_string();
            }
        }
        let now = Instant::now();
        if now >= end {
            return Err(JoinError::NoApiServer { seconds, why });
        }
        if wait::pause_unless(pause.min(end - now), progress.cancelled()) {
            return Err(JoinError::Interrupted);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The API server at this address, as this worker's kubelet would ask it; an error where its
/// certificates are of no use.
pub(crate) fn api_server(
    node: &Node,
    host: &str,
    port: u16,
) -> Result<Result<ApiServer, ApiServerError>, ReadError> {
    let read = |name| node.layout.read(&node.layout.cert(name));
    let key = Secret::new(read("kubelet.key")?);
    let (authority, certificate) = (read("ca.remote.crt")?, read("kubelet.crt")?);
    let client = Some((certificate.as_str(), &key));
    Ok(ApiServer::new(host, port, &authority, client))
}

/// Where this worker's services reach its proxy.
pub(crate) fn own_server(node: &Node) -> Result<(String, u16), JoinError> {
    let path = node.layout.args("traefik/traefik-template.yaml");
    let server = worker::proxied_server(&node.layout.read(&path)?);
    host_and_port(&server).map_err(|why| JoinError::Unreadable { path, why })
}

fn host_and_port(server: &str) -> Result<(String, u16), String> {
    let address = server.strip_prefix("https://").unwrap_or(server);
    endpoint::split(address)
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| format!("`{address}` is no address with a port"))
}

/// Nothing listens where the proxy should: whether there is no proxy at all, as far as can be told.
fn is_not_there(node: &Node, began: Instant) -> Result<bool, JoinError> {
    const PROXY: Service = Service::ApiserverProxy;
    match node.platform.service_state(PROXY) {
        ServiceState::Active => Ok(false),
        ServiceState::Unanswered if began.elapsed() < MAY_FAIL => Ok(false),
        ServiceState::Inactive if began.elapsed() < MAY_BE_DOWN => Ok(false),
        ServiceState::Inactive => Err(JoinError::NoProxy(PROXY.daemon())),
        ServiceState::Unanswered | ServiceState::Unknown => {
            tracing::info!(
                "the service manager does not tell whether {} runs, and nothing listens there: the API server was not asked",
                PROXY.daemon()
            );
            Ok(true)
        }
    }
}
