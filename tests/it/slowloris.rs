//! Connections that idle or trickle, more of them than anybody needs: nodes join all the same, at
//! once, and the agent's memory stays small.
//!
//! The suite has a small one. The large one takes as long and has as many as these say, with an
//! agent of the release build:
//!
//! ```sh
//! cargo build --release
//! MICROK8S_PROGRAM=target/release/microk8s SLOWLORIS_SECONDS=600 \
//!     cargo test --test it -- slowloris --nocapture --test-threads 1
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use microk8s::base::wait;
use microk8s::client::pinned_tls::{self, Identity};
use microk8s::model::role::Role;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;

use crate::lab::scratch;
use crate::lab::swarm::agent::StandaloneAgent;
use crate::lab::swarm::{Attempt, Outcome, STALL_TIMEOUT, Swarm};

/// Of the loopback network, apart from the addresses of agents and joining nodes.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 1);

/// How often something more of a request comes on a connection that trickles.
const TRICKLE: Duration = Duration::from_secs(1);
/// How often at most one who lost his connection opens another one.
const AGAIN: Duration = Duration::from_secs(2);

/// What a connection does instead of asking for something.
#[derive(Debug, Clone, Copy)]
enum Idling {
    /// Nothing, not even TLS.
    Tcp,
    /// Nothing more once TLS stands.
    Tls,
    /// Nothing more after one question.
    Asked,
    /// Sends the head of a request byte by byte.
    Head,
    /// Sends the body of a request byte by byte.
    Body,
}

/// Who loiters from where.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    idle: usize,
    trickling: usize,
    /// From one address, and else each from its own.
    from_one: bool,
}

/// Connections that are opened again whenever the agent closes them, until this is dropped.
struct Loiterers {
    open: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Loiterers {
    fn gather(agent: SocketAddr, crowd: Crowd) -> Self {
        let idle = [Idling::Tcp, Idling::Tls, Idling::Asked]
            .into_iter()
            .cycle();
        let trickling = [Idling::Head, Idling::Body].into_iter().cycle();
        let all = idle.take(crowd.idle).chain(trickling.take(crowd.trickling));
        Self::of(all, agent, crowd.from_one)
    }

    fn of(all: impl Iterator<Item = Idling>, agent: SocketAddr, from_one: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (open, closed) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let tls = TlsConnector::from(pinned_tls::config(Identity::default()).unwrap());
        for (number, idling) in (0..).zip(all) {
            let tail = if from_one { 0 } else { number };
            let from = Ipv4Addr::from_bits(FIRST.to_bits() + tail);
            let (tls, open, closed) = (tls.clone(), open.clone(), closed.clone());
            runtime.spawn(async move {
                let mut again = interval(AGAIN);
                again.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    again.tick().await;
                    // That it is closed at some time is what is expected.
                    let _ = loiter(agent, from.into(), idling, &tls, &open).await;
                    closed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            open,
            closed,
            _runtime: runtime,
        }
    }

    /// Waits until so many are there at the same time.
    fn wait_for(&self, count: usize) {
        let enough = || (self.open.load(Ordering::Relaxed) >= count).then_some(());
        let there = wait::until(STALL_TIMEOUT, Duration::from_millis(5), enough);
        assert!(
            there.is_some(),
            "{} of {count}",
            self.open.load(Ordering::Relaxed)
        );
    }
}

/// One that is there, until this is dropped.
struct There<'a>(&'a AtomicUsize);

impl<'a> There<'a> {
    fn new(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for There<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects and idles until the agent closes the connection.
async fn loiter(
    agent: SocketAddr,
    from: IpAddr,
    idling: Idling,
    tls: &TlsConnector,
    open: &AtomicUsize,
) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let mut tcp = socket.connect(agent).await?;
    if let Idling::Tcp = idling {
        let _there = There::new(open);
        return until_closed(&mut tcp).await;
    }
    let name = ServerName::IpAddress(agent.ip().into());
    let mut stream = tls.connect(name, tcp).await?;
    let _there = There::new(open);
    let trickled: &[u8] = match idling {
        Idling::Tcp | Idling::Tls => return until_closed(&mut stream).await,
        Idling::Asked => {
            stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: agent\r\n\r\n")
                .await?;
            return until_closed(&mut stream).await;
        }
        Idling::Head => b"POST /cluster/api/v2.0/join HTTP/1.1\r\nHost: agent\r\nX-More: ",
        Idling::Body => {
            stream
                .write_all(b"POST /cluster/api/v2.0/join HTTP/1.1\r\nHost: agent\r\nContent-Length: 1000\r\n\r\n{")
                .await?;
            b"\"token\":"
        }
    };
    let mut ticks = interval(TRICKLE);
    for byte in trickled.iter().chain(std::iter::repeat(&b'a')) {
        ticks.tick().await;
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        // Whether it was closed is looked at here, because the agent may answer before that.
        let mut answer = [0; 512];
        if let Ok(read) = timeout(Duration::from_millis(1), stream.read(&mut answer)).await
            && read? == 0
        {
            return Ok(());
        }
    }
    Ok(())
}

async fn until_closed<S: AsyncReadExt + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut answer = [0; 512];
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}

/// What one look at an agent amid a crowd showed.
#[derive(Debug, Default)]
struct Seen {
    joins: usize,
    slowest: Duration,
    fewest_open: usize,
}

/// Lets a worker join about every second for so long, and says how that went.
fn join_amid(agent: &StandaloneAgent, swarm: &Swarm, crowd: &Loiterers, time: Duration) -> Seen {
    let mut seen = Seen {
        fewest_open: usize::MAX,
        ..Seen::default()
    };
    let end = Instant::now() + time;
    let mut next = Instant::now();
    // One from elsewhere and one from among them, however long they take.
    while Instant::now() < end || seen.joins < 2 {
        let token = agent.issue(1).remove(0);
        let node = if seen.joins.is_multiple_of(2) {
            swarm.newcomer(Role::Worker)
        } else {
            // From where the others loiter.
            swarm.newcomer_at(FIRST, Role::Worker)
        };
        seen.fewest_open = seen.fewest_open.min(crowd.open.load(Ordering::Relaxed));
        let began = Instant::now();
        assert_eq!(
            swarm.join([Attempt { node, token }], 1),
            [Outcome::Admitted]
        );
        seen.slowest = seen.slowest.max(began.elapsed());
        seen.joins += 1;
        next += time.min(Duration::from_secs(1)) / 4;
        wait::until(
            next.saturating_duration_since(Instant::now()),
            AGAIN,
            || None::<()>,
        );
    }
    seen
}

fn report(what: &str, agent: &StandaloneAgent, crowd: &Loiterers, seen: &Seen) {
    eprintln!(
        "{what}: {} joins, the slowest {:.3} s; {} to {} loiterers at each; {} connections closed; \
         memory of the agent {} KiB at most",
        seen.joins,
        seen.slowest.as_secs_f64(),
        seen.fewest_open,
        crowd.open.load(Ordering::Relaxed),
        crowd.closed.load(Ordering::Relaxed),
        agent.memory("VmHWM"),
    );
}

/// How large it is to be, and how long.
fn seconds() -> Option<u64> {
    let text = std::env::var("SLOWLORIS_SECONDS").ok()?;
    Some(text.parse().unwrap())
}

#[test]
fn with_thousands_of_idle_and_trickling_connections_a_node_joins_at_once() {
    let large = seconds();
    let (idle, trickling) = if large.is_some() {
        (2000, 500)
    } else {
        (400, 100)
    };
    let agent = StandaloneAgent::start(&scratch());
    let swarm = Swarm::new(agent.endpoint());
    let from_one = false;
    let crowd = Loiterers::gather(
        agent.endpoint(),
        Crowd {
            idle,
            trickling,
            from_one,
        },
    );
    // Of those who want to be there, as many as there are seats for.
    crowd.wait_for((idle + trickling).min(1000));
    let time = Duration::from_secs(large.unwrap_or(2));
    let seen = join_amid(&agent, &swarm, &crowd, time);
    report("each from an address of its own", &agent, &crowd, &seen);
    if large.is_some() {
        assert!(seen.slowest < Duration::from_secs(1), "{seen:?}");
        assert!(agent.memory("VmHWM") < 64 << 10);
    }
    assert!(agent.memory("RssAnon") < 64 << 10);
}

/// How much memory an agent may take for a connection on which nothing is done, in KiB.
const CONNECTION_COST: u64 = 40;

#[test]
fn an_idle_connection_costs_little_before_between_and_during_requests() {
    for idling in [Idling::Tls, Idling::Asked, Idling::Head, Idling::Body] {
        let count = 400;
        let agent = StandaloneAgent::start(&scratch());
        let before = agent.memory("RssAnon");
        let crowd = Loiterers::of(std::iter::repeat_n(idling, count), agent.endpoint(), false);
        crowd.wait_for(count);
        // Its answer shows that the agent has come that far with everybody.
        let swarm = Swarm::new(agent.endpoint());
        let attempt = Attempt {
            node: swarm.newcomer(Role::Worker),
            token: agent.issue(1).remove(0),
        };
        assert_eq!(swarm.join([attempt], 1), [Outcome::Admitted]);
        let each = (agent.memory("RssAnon") - before) / u64::try_from(count).unwrap();
        eprintln!("{idling:?}: {each} KiB a connection");
        assert!(each < CONNECTION_COST, "{idling:?}: {each} KiB");
    }
}

/// All permits are taken, and a client that loses its connection opens another one: from one address,
/// and from many.
#[test]
fn nodes_join_also_when_others_want_more_connections_than_there_are() {
    let time = Duration::from_secs(seconds().map_or(2, |seconds| seconds.div_ceil(10)));
    for from_one in [true, false] {
        let agent = StandaloneAgent::start_with(&scratch(), &["--max-connections", "512"]);
        let swarm = Swarm::new(agent.endpoint());
        // A quarter of the seats is for one address.
        let (idle, trickling) = if from_one { (160, 40) } else { (500, 140) };
        let crowd = Loiterers::gather(
            agent.endpoint(),
            Crowd {
                idle,
                trickling,
                from_one,
            },
        );
        crowd.wait_for(if from_one { 120 } else { 480 });
        let seen = join_amid(&agent, &swarm, &crowd, time);
        report(
            &format!("too many, from one address: {from_one}"),
            &agent,
            &crowd,
            &seen,
        );
        assert!(crowd.closed.load(Ordering::Relaxed) > 0);
    }
}
