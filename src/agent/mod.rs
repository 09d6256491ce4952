//! Layer 5: the daemon: MicroK8s's cluster API over HTTPS for other nodes, and the local API over
//! a Unix socket for the command line.

mod after_response;
pub(crate) mod apiserver_proxy;
mod callback_api;
mod certificate;
mod cluster_api;
mod concurrency_limits;
mod connection_limiter;
mod date;
mod https;
mod join_steps;
mod launch_watch;
mod local_api;
mod local_events;
mod local_socket;
mod log_limit;
mod metrics;
mod metrics_page;
mod moved;
mod request_log;
mod service_manager;
mod status;
mod status_map;
mod tcp;
mod token_rate_limit;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::local_events::Clients;
use crate::agent::log_limit::LastProblem;
use crate::base::clock::SystemClock;
use crate::base::file_lock::{FileLock, FileLockError};
use crate::base::mutex::lock;
use crate::base::runtime;
use crate::base::{atomic_file, disk};
use crate::cluster::admission::Admission;
use crate::cluster::callback::Callbacks;
use crate::cluster::carry_over::{CarryOverError, carry_over};
use crate::cluster::join;
use crate::cluster::node::Node;
use crate::cluster::pod_network;
use crate::cluster::store_choice::StoreChoice;
use crate::cluster::token_admin;
use crate::model::agent_options::{CallbackFrom, TokenStoreChoice};
use crate::platform::{Action, Service};
use crate::store::database::StoreError;
use crate::store::layout::Lock;
use crate::store::tokens::Tokens;

use certificate::{CertificateError, ServedCertificate};
use concurrency_limits::ConcurrencyLimits;
use connection_limiter::ConnectionLimiter;
use metrics::Metrics;
use service_manager::{ServiceManager, StopSignals};
use tcp::{ListenError, Listener};
use token_rate_limit::TokenRateLimit;

/// How the agent is to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where to listen for other nodes.
    pub(crate) bind: SocketAddr,
    /// The certificate to serve, PEM.
    pub(crate) certificate: PathBuf,
    /// Its key, PEM.
    pub(crate) key: PathBuf,
    /// The local API's socket.
    pub(crate) socket: PathBuf,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub(crate) has_tls12: bool,
    /// For how long a node may use again the token that it used.
    pub(crate) retry_window: Duration,
    /// How many connections of other nodes are kept open.
    pub(crate) max_connections: usize,
    /// Whether `/metrics` is there.
    pub(crate) serves_metrics: bool,
    /// From where callbacks are taken.
    pub(crate) callback_from: CallbackFrom,
    /// Where tokens are kept.
    pub(crate) token_store: TokenStoreChoice,
    /// Where Cluster API puts its token.
    pub(crate) capi_token: PathBuf,
    /// How often the agent looks for launch configurations, where it does.
    pub(crate) launch_interval: Option<Duration>,
}

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// Another agent has the node.
    #[error("another agent runs on this node directory (`{}` is locked)", .0.display())]
    AlreadyRunning(PathBuf),
    /// Another agent has the directory that the node was in.
    #[error(transparent)]
    CarryOver(#[from] CarryOverError),
    /// A folder, lock or socket.
    #[error("cannot use `{}`: {source}{}", path.display(), disk::cure_of(source))]
    Own {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The address is taken, or not ours.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Another program listens on the socket.
    #[error("another program listens on `{}`", .0.display())]
    SocketTaken(PathBuf),
    /// Something else has the socket's name.
    #[error("`{}` is not a socket; name another place for it with `--socket`", .0.display())]
    NoSocket(PathBuf),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The runtime, or its signals.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

impl AgentError {
    /// What to do.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AlreadyRunning(_) => Some("stop that one first, or name another node directory"),
            Self::Listen(error) => match error.source.kind() {
                io::ErrorKind::AddrInUse => Some(
                    "see with `ss -ltnp` which program listens there; where it is MicroK8s's own agent, `sudo snap stop --disable microk8s.daemon-cluster-agent` stops it",
                ),
                io::ErrorKind::AddrNotAvailable => {
                    Some("`ip address` lists the addresses of this machine")
                }
                _ => Some("name another address and port with --bind"),
            },
            Self::SocketTaken(_) => Some("stop that program, or name another socket with --socket"),
            _ => None,
        }
    }
}

/// What the two interfaces share.
struct Shared {
    admission: Admission,
    store_choice: StoreChoice,
    callbacks: Callbacks,
    settings: Settings,
    served: ServedCertificate,
    /// Where the agent listens for other nodes.
    bind: SocketAddr,
    metrics: Arc<Metrics>,
    census: metrics_page::Census,
    token_rate_limit: TokenRateLimit,
    concurrency_limits: ConcurrencyLimits,
    /// For whom the agent is doing something by its local API.
    clients: Clients,
    /// Images on their way to the container runtime, and how these end with the agent.
    imports: TaskTracker,
    end_imports: CancellationToken,
    /// What the log said last of a token store that cannot be used.
    logged_move_problem: LastProblem,
    logged_problem: LastProblem,
    /// The agent was told to stop: joins that are under way are taken back.
    stopping: CancellationToken,
}

impl Shared {
    fn new(
        node: Node,
        tokens: Tokens,
        served: ServedCertificate,
        bind: SocketAddr,
        settings: Settings,
    ) -> Self {
        Self {
            callbacks: Callbacks::new(node.clone(), settings.callback_from),
            admission: Admission::new(node, tokens),
            store_choice: StoreChoice::new(settings.token_store),
            settings,
            served,
            bind,
            metrics: Metrics::new(),
            census: metrics_page::Census::default(),
            token_rate_limit: TokenRateLimit::default(),
            concurrency_limits: ConcurrencyLimits::default(),
            clients: Clients::default(),
            imports: TaskTracker::new(),
            end_imports: CancellationToken::new(),
            logged_problem: LastProblem::default(),
            logged_move_problem: LastProblem::default(),
            stopping: CancellationToken::new(),
        }
    }

    /// Whether changes that are under way are to be taken back: the agent stops, or its node directory is
    /// not the node's any more.
    fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled() || self.admission.node().layout.check_current().is_err()
    }
}

/// How many connections of other nodes are kept open, unless another number is given. A join takes
/// a few short ones, so this is far above what a cluster needs.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// How often it is looked what time has done to the tokens.
const PERIOD: Duration = Duration::from_secs(10);

/// How long requests under way get to end when the agent is told to stop. With what comes after
/// it, this is less than service managers wait: 30 seconds those of snaps, 90 systemd.
const DRAIN: Duration = Duration::from_secs(20);
/// How long work for requests that were cut off may then take to end.
const LAST_DRAIN: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop, or until the node has another directory, which is then the
/// value: the agent has to start again there.
pub(crate) fn run(node: Node, settings: Settings) -> Result<Option<PathBuf>, AgentError> {
    // snapd may have led on since the agent's directory was named.
    if let Some(to) = moved::elsewhere(&node.layout) {
        return Ok(Some(to));
    }
    let _lock = take_lock(&node)?;
    let manager = ServiceManager::from_environment();
    let starting = manager.starting("starting: seeing to what was interrupted");
    match carry_over(&node) {
        Ok(Some(from)) => tracing::info!("the tokens of `{}` were taken over", from.display()),
        Ok(None) => {}
        Err(error @ CarryOverError::InUse(_)) => return Err(error.into()),
        Err(error) => tracing::error!(%error, "tokens that were issued there are not known here"),
    }
    match join::recover(&node) {
        Ok(Some(ending)) => tracing::warn!("{ending}"),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "an earlier join or leave was interrupted, and cannot be undone");
        }
    }
    let window = settings
        .retry_window
        .as_secs()
        .try_into()
        .unwrap_or(i64::MAX);
    let tokens = token_admin::open(&node, Arc::new(SystemClock), window);
    let served = ServedCertificate::load(settings.certificate.clone(), settings.key.clone())?;
    start_datastore(&node);
    drop(starting);
    let runtime = runtime::build(&mut tokio::runtime::Builder::new_multi_thread())
        .map_err(AgentError::Runtime)?;
    let result = runtime.block_on(serve(node, tokens, served, settings, manager));
    match result {
        Ok(Ending::AtOnce) => runtime.shutdown_background(),
        Ok(Ending::Drained | Ending::Moved(_)) | Err(_) => runtime.shutdown_timeout(LAST_DRAIN),
    }
    result.map(|ending| match ending {
        Ending::Moved(to) => Some(to),
        Ending::Drained | Ending::AtOnce => None,
    })
}

/// How the agent stopped serving.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// What was under way came to its end, or had its time.
    Drained,
    /// It was told a second time to stop.
    AtOnce,
    /// The node is in another directory; what was under way came to its end, or had its time.
    Moved(PathBuf),
}

fn take_lock(node: &Node) -> Result<FileLock, AgentError> {
    let own = node.layout.own_state();
    atomic_file::make_folder(&own, 0o700).map_err(|source| AgentError::Own {
        path: own.clone(),
        source,
    })?;
    let path = node.layout.agent_lock();
    FileLock::try_take(&path).map_err(|error| match error {
        FileLockError::Held => AgentError::AlreadyRunning(path),
        FileLockError::Io(source) => AgentError::Own { path, source },
    })
}

/// A standalone node has no service manager that would start the datastore.
fn start_datastore(node: &Node) {
    if !node.is_standalone() || !node.platform.has_datastore() || node.layout.has(Lock::NoK8sDqlite)
    {
        return;
    }
    if let Err(error) = node.platform.service(Action::Start, Service::K8sDqlite) {
        tracing::error!(%error, "the datastore did not start");
    }
}

async fn serve(
    node: Node,
    tokens: Tokens,
    served: ServedCertificate,
    settings: Settings,
    manager: ServiceManager,
) -> Result<Ending, AgentError> {
    let (listener, ping) = Listener::new(settings.bind)?;
    let bind = listener.address().map_err(AgentError::Runtime)?;
    // As in MicroK8s, this lock takes away from the group what it could use.
    let group = match node.layout.has(Lock::CisHardening) {
        true => None,
        false => node.platform.group().gid,
    };
    let shared = Arc::new(Shared::new(node, tokens, served, bind, settings));
    let settings = &shared.settings;
    let acceptor = https::acceptor(&shared.served, settings.has_tls12)?;
    let socket = local_socket::bind(&settings.socket, group)?;
    let mut signals = StopSignals::new().map_err(AgentError::Runtime)?;
    // A file that may not grow is an error of the one who writes it, and not the end of the agent.
    let _too_large =
        signal(SignalKind::from_raw(Signal::SIGXFSZ as i32)).map_err(AgentError::Runtime)?;

    let mut periodic = start_periodic_work(&shared);
    let stop = CancellationToken::new();
    let server = https::Server {
        acceptor,
        router: cluster_api::router(shared.clone()),
        limiter: ConnectionLimiter::for_this_process(settings.max_connections, &shared.metrics),
        metrics: shared.metrics.clone(),
        stop: stop.clone(),
    };
    let remote = tokio::spawn(https::serve(listener, server));
    let local = tokio::spawn(local_socket::serve(
        socket,
        local_api::router(shared.clone()),
        stop.clone(),
    ));
    tokio::task::spawn_blocking({
        let shared = shared.clone();
        move || report_interrupted_join(shared.admission.node())
    });
    tracing::info!(
        address = %bind,
        socket = %settings.socket.display(),
        fingerprint = %shared.served.fingerprint(),
        "listening on {bind}"
    );

    let manager = Arc::new(manager);
    manager.ready(&format!("listening on {bind}"));
    let answering = shared.clone();
    let answers = move || answers(answering.clone(), ping.clone());
    tokio::spawn(manager.clone().give_signs_of_life(answers));

    let ending = wait_for_end(&shared, &mut signals, &manager).await;
    shared.stopping.cancel();
    periodic.abort_all();
    // The socket goes first: without it, programs know that no agent runs.
    let _ = atomic_file::remove(&settings.socket);
    stop.cancel();
    let drained = tokio::time::timeout(DRAIN, async { tokio::join!(remote, local) });
    let ending = tokio::select! {
        in_time = drained => {
            if in_time.is_err() {
                tracing::warn!("requests are still under way, and are not waited for any longer");
            }
            ending
        }
        _ = signals.next() => Ending::AtOnce,
    };
    // Half an image must not be taken for a whole one when this process is gone.
    shared.end_imports.cancel();
    shared.imports.close();
    shared.imports.wait().await;
    Ok(ending)
}

/// Waits until the agent is to stop, or the node has another directory, and tells the service manager.
async fn wait_for_end(
    shared: &Shared,
    signals: &mut StopSignals,
    manager: &ServiceManager,
) -> Ending {
    let layout = &shared.admission.node().layout;
    tokio::select! {
        name = signals.next() => {
            tracing::info!("stopping: {name}");
            manager.stopping();
            Ending::Drained
        }
        to = moved::wait_until_elsewhere(layout) => {
            manager.moving(&to);
            Ending::Moved(to)
        }
    }
}

fn start_periodic_work(shared: &Arc<Shared>) -> JoinSet<()> {
    let mut periodic = JoinSet::new();
    let works: [fn(&Shared); 4] = [
        |shared| shared.admission.reconcile(),
        |shared| pod_network::catch_up(shared.admission.node()),
        expire_tokens,
        keep_tokens_in_place,
    ];
    for work in works {
        let shared = shared.clone();
        periodic.spawn(again_and_again(PERIOD, move || work(&shared)));
    }
    let served = shared.served.clone();
    periodic.spawn(again_and_again(certificate::LOOK_PAUSE, move || {
        served.refresh();
    }));
    match shared.settings.launch_interval {
        Some(interval) => {
            let (shared, mut failures) = (shared.clone(), launch_watch::Failures::new());
            periodic.spawn(again_and_again(interval, move || {
                launch_watch::look(&shared, interval, &mut failures);
            }));
        }
        None => tracing::info!("launch configurations are not looked for"),
    }
    periodic
}

fn report_interrupted_join(node: &Node) {
    if let Err(error) = join::settle_when_free(node) {
        tracing::warn!(%error, "an interrupted join could not be reported");
    }
}

/// Whether a request could be answered now. A store that says what is wrong with it does answer:
/// the agent serves what it can without it, and starting anew would not mend it.
async fn answers(shared: Arc<Shared>, pings: mpsc::Sender<service_manager::Ping>) -> bool {
    service_manager::goes_around(pings).await
        && request_log::on_a_thread(move || shared.admission.tokens().look())
            .await
            .is_ok()
}

/// Does something again and again until this is dropped, on a thread of its own. Each such work waits for
/// its own end and for no other, so that it neither overlaps itself nor is held back by what another
/// program takes.
async fn again_and_again(period: Duration, work: impl FnMut() + Send + 'static) {
    let work = Arc::new(Mutex::new(work));
    let mut pause = tokio::time::interval(period);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pause.tick().await;
        let work = work.clone();
        if let Err(panic) = tokio::task::spawn_blocking(move || lock(&work)()).await {
            tracing::error!(%panic, "a periodic task failed unexpectedly");
        }
    }
}

/// Keeps the tokens up with the time. A store that cannot be used is said once, and tried again: the
/// agent serves what it can meanwhile.
fn expire_tokens(shared: &Shared) {
    log_limit::reconcile();
    log_problem(&shared.logged_problem, shared.admission.expire_tokens());
}

/// Keeps the tokens in the store in which they are to be.
fn keep_tokens_in_place(shared: &Shared) {
    let admission = &shared.admission;
    let followed = shared
        .store_choice
        .follow(admission.node(), admission.tokens());
    log_problem(&shared.logged_move_problem, followed);
}

fn log_problem(logged: &LastProblem, outcome: Result<(), StoreError>) {
    let problem = outcome.err().map(|error| error.to_string());
    if logged.changes(problem.as_deref()) {
        match problem {
            Some(error) => tracing::error!("{error}"),
            None => tracing::info!("the tokens can be used again"),
        }
    }
}
