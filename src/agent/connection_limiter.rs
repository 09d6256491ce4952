//! Limits the open connections of the agent, in total and per peer, and chooses the one that is
//! closed for a new one.
//!
//! A connection without a complete request is idle. When there is no room for a new connection, the
//! one that has been idle for longest is closed, of the peer with the most connections. So idle and
//! trickling connections keep no other peer out, and a new connection is the last to be closed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::agent::metrics::{Limit, Metrics};
use crate::base::mutex::lock;

/// Which part of all connections one peer may have. Many nodes may be behind one address, so it is
/// not a handful.
const PEER_SHARE: usize = 4;
/// On which part of all connections requests may be incomplete, or come next: each may hold headers
/// or a body in memory.
const INCOMPLETE_SHARE: usize = 3;
/// Peers that have no more than this part of all connections count as having equally many.
const SMALL_SHARE: usize = 64;
/// File descriptors that are kept for the agent's own work: its store, the node's files, the
/// local API, the pipes of the programs that it runs, and connections that are about to close.
const RESERVED: u64 = 128 + MAX_CLOSING as u64;
/// How many evicted connections may still be open before no more are accepted.
const MAX_CLOSING: usize = 128;
/// How long a client may take to send the headers of its first request.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection stays open between two requests. A client that asks again opens another
/// one, at the cost of a handshake.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Both limits once the agent was told to stop.
const LAST_IDLE_LIMIT: Duration = Duration::from_secs(1);
/// How often connections are checked against these limits.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Gives permits to connections.
pub(crate) struct ConnectionLimiter {
    max: usize,
    open: Mutex<Open>,
    /// An evicted connection is closed.
    closed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Open {
    last_number: u64,
    connections: HashMap<u64, Connection>,
    by_peer: HashMap<IpAddr, usize>,
    /// How many connections are evicted and not closed yet.
    closing: usize,
}

struct Connection {
    peer: IpAddr,
    idle_since: Instant,
    /// The first bytes of a request have come: what serves HTTP takes memory from then on.
    has_begun: bool,
    /// The headers of a request have come.
    has_asked: bool,
    /// Requests whose headers have arrived.
    under_way: usize,
    /// Those of them that are complete.
    complete: usize,
    evicted: CancellationToken,
}

/// A connection's permit; released when it is dropped.
pub(crate) struct ConnectionPermit {
    number: u64,
    limiter: Arc<ConnectionLimiter>,
    evicted: CancellationToken,
}

impl ConnectionLimiter {
    /// As many permits as `max`, or as the process may have files open; the soft limit on files is
    /// raised as far as that needs. A connection takes some twenty kilobytes of memory.
    pub(crate) fn for_this_process(max: usize, metrics: &Arc<Metrics>) -> Arc<Self> {
        let wanted = u64::try_from(max)
            .unwrap_or(u64::MAX)
            .saturating_add(RESERVED);
        let files = allow_files(wanted);
        // With very few files half of them is a better guess than none.
        let free = files.saturating_sub(RESERVED).max(files / 2);
        let max = usize::try_from(free).unwrap_or(max).clamp(2, max.max(2));
        Self::new(max, metrics.clone())
    }

    fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: Mutex::default(),
            closed: Notify::new(),
            metrics,
        })
    }

    /// A permit for a connection from this address, and whether another one was evicted for it.
    /// There is none only when every connection that could make room has a complete request.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        address: IpAddr,
    ) -> Option<(Arc<ConnectionPermit>, bool)> {
        let acquired = self.lock().acquire(peer(address), self.max);
        let Some((number, evicted, has_evicted)) = acquired else {
            self.metrics.limit_hit(Limit::Connections);
            return None;
        };
        if has_evicted {
            self.metrics.limit_hit(Limit::Evicted);
        }
        self.metrics.connection_opened();
        let permit = ConnectionPermit {
            number,
            limiter: self.clone(),
            evicted,
        };
        Some((Arc::new(permit), has_evicted))
    }

    /// Ends when not too many evicted connections are still open: they hold files.
    pub(crate) async fn settled(&self) {
        loop {
            let closed = self.closed.notified();
            if self.lock().closing < MAX_CLOSING {
                return;
            }
            closed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }

    /// Evicts connections on which nothing is asked for too long, and keeps on doing so.
    pub(crate) async fn close_idle(&self, stop: &CancellationToken) {
        let mut ticks = interval(CHECK_INTERVAL);
        loop {
            let now = ticks.tick().await;
            let evicted = self.lock().evict_idle(now, stop.is_cancelled());
            self.metrics.limits_hit(Limit::Idle, evicted);
        }
    }
}

impl ConnectionPermit {
    /// Ends when the connection has to be closed.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// The first bytes of a request have come.
    pub(crate) fn begin(&self) {
        let limiter = &self.limiter;
        let evicted = limiter.lock().begin(self.number, limiter.max);
        limiter.metrics.limits_hit(Limit::Evicted, evicted);
    }

    /// The connection has made progress: it has been idle from now on.
    pub(crate) fn touch(&self) {
        self.limiter.lock().change(self.number, |_| ());
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.metrics.connection_closed();
        let mut open = self.limiter.lock();
        if open.remove(self.number).is_none() {
            open.closing -= 1;
            self.limiter.closed.notify_one();
        }
    }
}

impl Open {
    fn acquire(&mut self, peer: IpAddr, max: usize) -> Option<(u64, CancellationToken, bool)> {
        let of_peer = self.by_peer.get(&peer).copied().unwrap_or_default();
        let victim = if of_peer >= (max / PEER_SHARE).max(1) {
            Some(self.longest_idle(|open| open.peer == peer)?)
        } else if self.connections.len() >= max {
            Some(self.longest_idle_of_busiest(max, |_| true)?)
        } else {
            None
        };
        if let Some(victim) = victim {
            self.evict(victim);
        }
        self.last_number += 1;
        let evicted = CancellationToken::new();
        let connection = Connection {
            peer,
            idle_since: Instant::now(),
            has_begun: false,
            has_asked: false,
            under_way: 0,
            complete: 0,
            evicted: evicted.clone(),
        };
        self.connections.insert(self.last_number, connection);
        *self.by_peer.entry(peer).or_default() += 1;
        Some((self.last_number, evicted, victim.is_some()))
    }

    /// Of these connections the one without a complete request that has been idle for longest.
    fn longest_idle(&self, which: impl Fn(&Connection) -> bool) -> Option<u64> {
        let idle = self
            .connections
            .iter()
            .filter(|(_, open)| open.complete == 0 && which(open));
        let longest = idle.min_by_key(|(number, open)| (open.idle_since, **number));
        longest.map(|(number, _)| *number)
    }

    /// The same of the peer with the most connections, unless there is none or all peers have few.
    fn longest_idle_of_busiest(
        &self,
        max: usize,
        which: impl Fn(&Connection) -> bool,
    ) -> Option<u64> {
        let busiest = self.by_peer.iter().max_by_key(|(_, count)| **count);
        busiest
            .filter(|(_, count)| **count > (max / SMALL_SHARE).max(1))
            .and_then(|(peer, _)| self.longest_idle(|open| open.peer == *peer && which(open)))
            .or_else(|| self.longest_idle(which))
    }

    /// A request begins to arrive. Where too many may, the connection of another one is evicted, and
    /// counted.
    fn begin(&mut self, number: u64, max: usize) -> usize {
        let is_arriving = |open: &Connection| {
            open.has_begun && (open.complete == 0 || open.under_way > open.complete)
        };
        let arriving = self.connections.values().filter(|open| is_arriving(open));
        let victim = match arriving.count() >= (max / INCOMPLETE_SHARE).max(1) {
            true => self.longest_idle_of_busiest(max, is_arriving),
            false => None,
        };
        victim.iter().for_each(|victim| self.evict(*victim));
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.has_begun = true;
        }
        victim.iter().count()
    }

    /// The headers of a request have arrived; as [`Self::begin`].
    fn begin_request(&mut self, number: u64, max: usize) -> usize {
        // First, so that it is not itself the one that has been idle for longest.
        self.change(number, |open| {
            open.has_asked = true;
            open.under_way += 1;
        });
        self.begin(number, max)
    }

    fn evict(&mut self, number: u64) {
        if let Some(connection) = self.remove(number) {
            self.closing += 1;
            connection.evicted.cancel();
        }
    }

    /// Evicts the connections on which nothing is asked for too long, and counts them.
    fn evict_idle(&mut self, now: Instant, is_stopping: bool) -> usize {
        let is_idle = |connection: &Connection| {
            let limit = match connection.has_asked {
                _ if is_stopping => LAST_IDLE_LIMIT,
                true => IDLE_LIMIT,
                false => FIRST_REQUEST_LIMIT,
            };
            connection.under_way == 0 && now.duration_since(connection.idle_since) >= limit
        };
        let idle = self.connections.iter().filter(|(_, open)| is_idle(open));
        let numbers: Vec<u64> = idle.map(|(number, _)| *number).collect();
        numbers.iter().for_each(|number| self.evict(*number));
        numbers.len()
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        if let Some(count) = self.by_peer.get_mut(&connection.peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&connection.peer);
            }
        }
        Some(connection)
    }

    /// Changes a connection, which has been idle from now on; `false` when it is evicted.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Connection)) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else {
            return false;
        };
        change(connection);
        connection.idle_since = Instant::now();
        true
    }
}

/// A request from its headers to its answer. While it is under way, its connection is not closed as
/// idle; once it is complete, not for another connection either.
pub(crate) struct RequestPermit {
    connection: Arc<ConnectionPermit>,
    is_complete: AtomicBool,
}

impl RequestPermit {
    /// For a request whose headers have arrived.
    pub(crate) fn new(connection: Arc<ConnectionPermit>) -> Self {
        let limiter = &connection.limiter;
        let mut open = limiter.lock();
        let evicted = open.begin_request(connection.number, limiter.max);
        drop(open);
        limiter.metrics.limits_hit(Limit::Evicted, evicted);
        Self {
            connection,
            is_complete: AtomicBool::new(false),
        }
    }

    /// The request is complete. `false` when its connection is evicted: then it is not handled.
    pub(crate) fn complete(&self) -> bool {
        let was_complete = self.is_complete.swap(true, Ordering::SeqCst);
        self.change(|open| open.complete += usize::from(!was_complete))
    }

    fn change(&self, change: impl FnOnce(&mut Connection)) -> bool {
        let ConnectionPermit {
            limiter, number, ..
        } = &*self.connection;
        limiter.lock().change(*number, change)
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let was_complete = self.is_complete.load(Ordering::SeqCst);
        self.change(|open| {
            open.under_way -= 1;
            open.complete -= usize::from(was_complete);
        });
    }
}

/// Raises the soft limit on open files to as many as are wanted, or as the hard limit allows; gives how
/// many this process may have.
pub(crate) fn allow_files(wanted: u64) -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted && soft < hard => {
            let more = wanted.min(hard);
            setrlimit(Resource::RLIMIT_NOFILE, more, hard).map_or(soft, |()| more)
        }
        Ok((soft, _)) => soft,
        Err(_) => u64::MAX,
    }
}

/// What counts as one peer: with IPv6 a machine has a whole /64 to call from.
pub(crate) fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests;
