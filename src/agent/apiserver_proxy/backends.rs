//! The API servers that connections go to: which of them answer, and which one is next.
//!
//! A connection goes to the API server with the fewest connections: those of kubelets stay for
//! days, and after a round robin one that was away would get its share only of new ones. Of equally
//! busy ones one is drawn by lot, because each worker of a cluster has the same list.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};

use crate::base::mutex::lock;

/// How long one API server may take to answer before the next one is asked as well.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long all of them may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often an API server that failed is tried again, by itself: at the cost of no connection. The
/// pause does not grow, because one that is back should be used within two seconds.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The API servers.
pub(crate) struct Backends {
    /// Where the proxy itself listens.
    own: SocketAddr,
    list: Mutex<Vec<Arc<Backend>>>,
}

/// An API server.
struct Backend {
    address: String,
    /// It did not answer, and is being tried again.
    is_failing: AtomicBool,
    /// As many more references as it has connections.
    connections: InUse,
}

/// Counts as a connection of an API server until it is dropped.
pub(crate) type InUse = Arc<()>;

impl Backends {
    /// A list for a proxy that listens there.
    pub(crate) fn new(own: SocketAddr) -> Self {
        let list = Mutex::default();
        Self { own, list }
    }

    /// The addresses, sorted.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut addresses: Vec<String> = lock(&self.list)
            .iter()
            .map(|one| one.address.clone())
            .collect();
        addresses.sort();
        addresses
    }

    /// Takes over another list, sorted. Connections under way stay as they are, and what is known of
    /// an API server that stays in the list.
    pub(crate) fn replace(&self, addresses: &[String]) {
        if self.addresses() == addresses {
            return;
        }
        tracing::info!("the API servers are {}", addresses.join(", "));
        let mut list = lock(&self.list);
        let new = |address: &String| {
            let known = list.iter().find(|one| one.address == *address);
            known.cloned().unwrap_or_else(|| {
                Arc::new(Backend {
                    address: address.clone(),
                    is_failing: AtomicBool::new(false),
                    connections: Arc::default(),
                })
            })
        };
        *list = addresses.iter().map(new).collect();
    }

    /// Those that answer before those that failed, and among these those with few connections first.
    fn ordered(&self) -> Vec<Arc<Backend>> {
        let mut ordered = lock(&self.list).clone();
        ordered.shuffle(&mut rand::rng());
        ordered.sort_by_key(|one| {
            let is_failing = one.is_failing.load(Ordering::Relaxed);
            (is_failing, Arc::strong_count(&one.connections))
        });
        ordered
    }

    /// A connection to the first API server that answers. One that refuses, or does not answer at
    /// once, costs this connection no more than a moment, and later ones nothing.
    pub(crate) async fn connect(&self) -> Option<(TcpStream, InUse)> {
        let end = Instant::now() + CONNECT_LIMIT;
        let mut untried = self.ordered().into_iter();
        let mut attempts = JoinSet::new();
        let mut last = None;
        loop {
            if let Some(backend) = untried.next() {
                last = Some(backend.clone());
                let (own, in_use) = (self.own, backend.connections.clone());
                attempts.spawn(async move {
                    let opened = open(&backend.address, own).await;
                    (opened.map(|stream| (stream, in_use)), backend)
                });
            }
            let patience = match untried.len() {
                0 => end,
                _ => end.min(Instant::now() + PATIENCE),
            };
            match timeout_at(patience, attempts.join_next()).await {
                Ok(Some(Ok((Ok(connected), _)))) => return Some(connected),
                Ok(Some(Ok((Err(error), backend)))) => backend.has_failed(&error, self.own),
                Ok(Some(Err(_))) => {}
                Ok(None) => return None,
                Err(_) => {
                    let last = last.take()?;
                    last.has_failed(&io::ErrorKind::TimedOut.into(), self.own);
                }
            }
        }
    }
}

impl Backend {
    /// Notes a failure. The API server is asked again until it answers, or is in no list any more.
    fn has_failed(self: &Arc<Self>, error: &io::Error, own: SocketAddr) {
        if self.is_failing.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            "the API server at {} does not answer: {error}",
            self.address
        );
        tokio::spawn(try_again(Arc::downgrade(self), own));
    }
}

async fn try_again(backend: Weak<Backend>, own: SocketAddr) {
    let mut ticks = interval_at(Instant::now() + RETRY_INTERVAL, RETRY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(backend) = backend.upgrade() else {
            return;
        };
        if let Ok(Ok(_)) = timeout(RETRY_INTERVAL, open(&backend.address, own)).await {
            tracing::info!("the API server at {} answers again", backend.address);
            return backend.is_failing.store(false, Ordering::Relaxed);
        }
    }
}

async fn open(address: &str, own: SocketAddr) -> io::Result<TcpStream> {
    let found: Vec<SocketAddr> = lookup_host(address).await?.collect();
    if found.iter().any(|to| leads_to(*to, own)) {
        return Err(io::Error::other("it is this proxy itself"));
    }
    TcpStream::connect(&found[..]).await
}

/// Whether a connection to this address would come back to where the proxy listens. A worker that
/// was a control plane node may be listed still.
fn leads_to(to: SocketAddr, own: SocketAddr) -> bool {
    if to.port() != own.port() || !own.ip().is_unspecified() {
        return to == own;
    }
    // The kernel calls an address of this machine from that address itself.
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let source = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.local_addr()
    };
    to.ip().is_loopback() || source().is_ok_and(|source| source.ip() == to.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_leads_to_a_proxy_that_listens_on_all_of_them() {
        for (to, own, leads) in [
            ("127.0.0.1:16443", "0.0.0.0:16443", true),
            ("127.0.0.2:16443", "[::]:16443", true),
            ("127.0.0.2:16443", "127.0.0.1:16443", false),
            ("127.0.0.1:16443", "127.0.0.1:16443", true),
            ("127.0.0.1:16444", "0.0.0.0:16443", false),
            ("192.0.2.1:16443", "0.0.0.0:16443", false),
        ] {
            assert_eq!(
                leads_to(to.parse().unwrap(), own.parse().unwrap()),
                leads,
                "{to} {own}"
            );
        }
    }

    fn preferred(backends: &Backends) -> Vec<String> {
        let ordered = backends.ordered().into_iter();
        ordered.map(|backend| backend.address.clone()).collect()
    }

    #[test]
    fn the_api_server_with_the_fewest_connections_is_next_and_one_that_failed_is_last() {
        let backends = Backends::new("127.0.0.1:16443".parse().unwrap());
        let names = ["a:1", "b:1", "c:1"].map(str::to_owned);
        backends.replace(&names);
        let list = lock(&backends.list).clone();
        let _two = [list[0].connections.clone(), list[0].connections.clone()];
        let one = list[1].connections.clone();
        assert_eq!(preferred(&backends), ["c:1", "b:1", "a:1"]);
        list[2].is_failing.store(true, Ordering::Relaxed);
        assert_eq!(preferred(&backends), ["b:1", "a:1", "c:1"]);
        // What is known stays with those that stay.
        backends.replace(&names[1..]);
        assert_eq!(preferred(&backends), ["b:1", "c:1"]);
        drop(one);
        list[2].is_failing.store(false, Ordering::Relaxed);
        let first: std::collections::BTreeSet<String> =
            (0..200).map(|_| preferred(&backends).remove(0)).collect();
        assert_eq!(first.len(), 2, "one of them is drawn by lot");
    }
}
