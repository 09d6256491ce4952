//! Limits the open connections of the agent, in total and per machine, and chooses the one that
//! is closed for a new one.
//!
//! A machine that opens many connections takes neither those of others nor the file descriptors
//! that the agent needs for its work. When no permit is left, the agent closes an idle connection,
//! one without a complete request: of the machine that has the most, the one that is idle for
//! longest. So idle and trickling connections keep no other machine out, and a new connection is
//! the last to be closed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::agent::metrics::{Limit, Metrics};

/// Which part of all connections one machine may have. Many nodes may sit behind one address, so
/// it is not a handful.
const SHARE: usize = 4;
/// On which part of all connections something may be asked at a time.
const ASKING: usize = 3;
/// Machines that have no more than this part of all connections count as having equally many.
const MODEST: usize = 64;
/// File descriptors that are kept for the agent's own work: its store, the node's files, the
/// local API, the pipes of the programs that it runs, and connections that are about to close.
const RESERVED: u64 = 128 + MOST_LEAVING as u64;
/// How many connections may have lost their permit and not be closed yet before no more are
/// accepted.
const MOST_LEAVING: usize = 128;

/// The permits for connections.
#[derive(Clone)]
pub struct ConnectionLimiter {
    most: usize,
    table: Arc<Table>,
}

struct Table {
    taken: Mutex<Taken>,
    /// A connection that had lost its permit is closed.
    closed: Notify,
    /// A permit has become free, or its connection idle.
    free: Notify,
    metrics: Arc<Metrics>,
}

/// The place of a quiet connection in the order of going: whether it showed a token of use, when
/// it became quiet, and its number.
type Rank = (bool, u64, u64);

#[derive(Default)]
struct Taken {
    /// Counts what happens: the order of everything.
    moment: u64,
    limiter: HashMap<u64, Held>,
    peers: HashMap<IpAddr, Peer>,
    /// The machines that have quiet connections; the last one gives one up first.
    quiet: BTreeSet<(usize, Reverse<Rank>, IpAddr)>,
    /// How many connections have lost their permit and are not closed yet.
    leaving: usize,
    /// [`MODEST`] in connections.
    modest: usize,
}

struct Held {
    peer: IpAddr,
    rank: Rank,
    at_work: usize,
    evicted: Arc<Notify>,
}

#[derive(Default)]
struct Peer {
    limiter: usize,
    quiet: BTreeSet<Rank>,
}

/// A connection's permit; released when it is dropped.
pub struct ConnectionPermit {
    number: u64,
    table: Arc<Table>,
    evicted: Arc<Notify>,
}

/// Permits for connections, and for those of them on which something is asked: as many as `most`, or
/// as the process may have files open; the soft limit on files is raised as far as that needs. A
/// connection takes some ten kilobytes of memory, and some thirty when something is asked on it.
pub fn for_this_process(
    most: usize,
    metrics: &Arc<Metrics>,
) -> (ConnectionLimiter, ConnectionLimiter) {
    let wanted = u64::try_from(most)
        .unwrap_or(u64::MAX)
        .saturating_add(RESERVED);
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted && soft < hard => {
            let more = wanted.min(hard);
            setrlimit(Resource::RLIMIT_NOFILE, more, hard).map_or(soft, |()| more)
        }
        Ok((soft, _)) => soft,
        Err(_) => u64::MAX,
    };
    // With very few files half of them is a better guess than none.
    let free = files.saturating_sub(RESERVED).max(files / 2);
    let all = usize::try_from(free).unwrap_or(most).clamp(2, most.max(2));
    let asking = (all / ASKING).max(1);
    (
        ConnectionLimiter::new(all, metrics.clone()),
        ConnectionLimiter::new(asking, metrics.clone()),
    )
}

impl ConnectionLimiter {
    fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        let taken = Taken {
            modest: (most / MODEST).max(1),
            ..Taken::default()
        };
        Self {
            most,
            table: Arc::new(Table {
                taken: Mutex::new(taken),
                closed: Notify::new(),
                free: Notify::new(),
                metrics,
            }),
        }
    }

    /// A permit for a connection from this address, and whether another one lost it for that. There
    /// is none only when every connection that could make room is being worked for.
    pub fn take(&self, address: IpAddr) -> Option<(Arc<ConnectionPermit>, bool)> {
        let taken = self.try_take(address);
        if taken.is_none() {
            self.table.metrics.limit_hit(Limit::Connections);
        }
        taken
    }

    /// A permit as from [`Self::take`], as soon as there is one.
    pub async fn free(&self, address: IpAddr) -> Arc<ConnectionPermit> {
        loop {
            let mut free = pin!(self.table.free.notified());
            // What becomes free from here on is heard of.
            free.as_mut().enable();
            if let Some((permit, _)) = self.try_take(address) {
                return permit;
            }
            free.await;
        }
    }

    fn try_take(&self, address: IpAddr) -> Option<(Arc<ConnectionPermit>, bool)> {
        let address = peer(address);
        let mut taken = self.table.lock();
        let of_one = taken.peers.get(&address).map_or(0, |one| one.limiter);
        let victim = if of_one >= (self.most / SHARE).max(1) {
            taken
                .peers
                .get(&address)
                .map(|one| one.quiet.first().copied())
        } else if taken.limiter.len() >= self.most {
            Some(taken.quiet.last().map(|(_, Reverse(rank), _)| *rank))
        } else {
            None
        };
        if let Some(victim) = victim {
            let (.., number) = victim?;
            taken.evict(number);
            self.table.metrics.limit_hit(Limit::Evicted);
        }
        let (number, evicted) = taken.permit(address);
        drop(taken);
        let permit = ConnectionPermit {
            number,
            table: self.table.clone(),
            evicted,
        };
        Some((Arc::new(permit), victim.is_some()))
    }

    /// Ends when not too many connections have lost their permit without being closed yet: they hold
    /// files.
    pub async fn settled(&self) {
        loop {
            let closed = self.table.closed.notified();
            if self.table.lock().leaving < MOST_LEAVING {
                return;
            }
            closed.await;
        }
    }
}

impl ConnectionPermit {
    /// Ends when the permit goes to another connection; this one has to be closed.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A request is complete and is being handled: the permit is kept until that is done. Says
    /// whether it was not lost before.
    pub fn begin(&self) -> bool {
        self.table
            .lock()
            .change(self.number, |held, _| held.at_work += 1)
    }

    /// A request is done. A connection on which a token was accepted is closed only after all
    /// others from now on.
    pub fn end(&self, is_trusted: bool) {
        self.table.lock().change(self.number, |held, now| {
            held.at_work = held.at_work.saturating_sub(1);
            held.rank.0 |= is_trusted;
            held.rank.1 = now;
        });
        self.table.free.notify_waiters();
    }

    /// Something was asked with a token that is of use: it is one of the last to go.
    pub fn trust(&self) {
        self.table
            .lock()
            .change(self.number, |held, _| held.rank.0 = true);
    }

    /// Whether something was asked with a token that is of use.
    pub fn is_trusted(&self) -> bool {
        let taken = self.table.lock();
        taken
            .limiter
            .get(&self.number)
            .is_some_and(|held| held.rank.0)
    }

    /// The handshake is done, or a good part of a request has come: the connection does not
    /// trickle.
    pub fn touch(&self) {
        self.table
            .lock()
            .change(self.number, |held, now| held.rank.1 = now);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.table.lock();
        if taken.remove(self.number).is_none() {
            taken.leaving -= 1;
            self.table.closed.notify_one();
        }
        drop(taken);
        self.table.free.notify_waiters();
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn permit(&mut self, address: IpAddr) -> (u64, Arc<Notify>) {
        self.moment += 1;
        let (number, evicted) = (self.moment, Arc::new(Notify::new()));
        let held = Held {
            peer: address,
            rank: (false, number, number),
            at_work: 0,
            evicted: evicted.clone(),
        };
        self.of_peer(address, |one| {
            one.limiter += 1;
            one.quiet.insert(held.rank);
        });
        self.limiter.insert(number, held);
        (number, evicted)
    }

    fn evict(&mut self, number: u64) {
        if let Some(held) = self.remove(number) {
            self.leaving += 1;
            held.evicted.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.limiter.remove(&number)?;
        self.of_peer(held.peer, |one| {
            one.limiter -= 1;
            one.quiet.remove(&held.rank);
        });
        Some(held)
    }

    /// Changes a permit, and its place in the order of going; `false` when it is lost.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Held, u64)) -> bool {
        self.moment += 1;
        let now = self.moment;
        let Some(mut held) = self.limiter.remove(&number) else {
            return false;
        };
        let before = held.rank;
        change(&mut held, now);
        self.of_peer(held.peer, |one| {
            one.quiet.remove(&before);
            if held.at_work == 0 {
                one.quiet.insert(held.rank);
            }
        });
        self.limiter.insert(number, held);
        true
    }

    /// Changes what is known of a machine, and its place among those that give up a connection.
    fn of_peer(&mut self, address: IpAddr, change: impl FnOnce(&mut Peer)) {
        let mut one = self.peers.remove(&address).unwrap_or_default();
        if let Some(place) = one.place(self.modest) {
            self.quiet.remove(&(place.0, place.1, address));
        }
        change(&mut one);
        if let Some(place) = one.place(self.modest) {
            self.quiet.insert((place.0, place.1, address));
        }
        if one.limiter > 0 {
            self.peers.insert(address, one);
        }
    }
}

impl Peer {
    fn place(&self, modest: usize) -> Option<(usize, Reverse<Rank>)> {
        let first = self.quiet.first()?;
        Some((self.limiter.max(modest), Reverse(*first)))
    }
}

/// One request on a connection, from its head to its answer.
pub struct Request {
    permit: Arc<ConnectionPermit>,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not come as a whole.
    Arriving,
    /// It is worked on.
    AtWork,
    /// It is answered.
    Over,
}

impl Request {
    /// A request whose head has come.
    pub fn new(permit: Arc<ConnectionPermit>) -> Self {
        Self {
            permit,
            phase: Mutex::new(Phase::Arriving),
        }
    }

    /// The connection's permit.
    pub fn permit(&self) -> &ConnectionPermit {
        &self.permit
    }

    /// All of it has come. `false` when the connection has lost its permit meanwhile.
    pub fn is_whole(&self) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Arriving => {
                *phase = Phase::AtWork;
                self.permit.begin()
            }
            Phase::AtWork | Phase::Over => true,
        }
    }

    /// It is answered; `is_trusted` as in [`ConnectionPermit`].
    pub fn is_over(&self, is_trusted: bool) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *phase, Phase::Over) == Phase::AtWork {
            self.permit.end(is_trusted);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.is_over(false);
    }
}

/// What counts as one machine: with IPv6 a machine has a whole /64 to call from.
pub fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn limiter(most: usize) -> ConnectionLimiter {
        ConnectionLimiter::new(most, Metrics::new())
    }

    fn take(limiter: &ConnectionLimiter, address: &str) -> Option<Arc<ConnectionPermit>> {
        Some(limiter.take(address.parse().unwrap())?.0)
    }

    fn is_evicted(permit: &ConnectionPermit) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(permit.evicted()).poll(&mut context).is_ready()
    }

    #[test]
    fn one_machine_gets_its_share_and_pays_for_more_itself() {
        let limiter = limiter(8);
        let other = take(&limiter, "10.0.0.2").unwrap();
        let first = take(&limiter, "10.0.0.1").unwrap();
        let second = take(&limiter, "10.0.0.1").unwrap();
        let third = take(&limiter, "::ffff:10.0.0.1").unwrap();
        assert!(is_evicted(&first), "the same address");
        assert!(!is_evicted(&second) && !is_evicted(&third) && !is_evicted(&other));
        let six = ["fd00::1", "fd00::2", "fd00::3"].map(|address| take(&limiter, address).unwrap());
        assert!(is_evicted(&six[0]) && !is_evicted(&six[2]), "the same /64");
        assert_eq!(limiter.table.lock().peers.len(), 3);
        drop((other, first, second, third, six));
        let taken = limiter.table.lock();
        assert!(taken.peers.is_empty() && taken.quiet.is_empty() && taken.limiter.is_empty());
        assert_eq!(taken.leaving, 0);
    }

    #[test]
    fn the_machine_with_the_most_gives_way_and_with_it_the_one_that_is_quiet_for_longest() {
        let limiter = limiter(128);
        let of = |net: u8, count: u8| -> Vec<_> {
            (0..count)
                .map(|_| take(&limiter, &format!("10.0.0.{net}")).unwrap())
                .collect()
        };
        let modest = of(1, 1);
        let greedy = of(2, 32);
        let others: Vec<_> = (3..98).flat_map(|net| of(net, 1)).collect();
        assert_eq!(limiter.table.lock().limiter.len(), 128);
        let _new = of(200, 1);
        assert!(is_evicted(&greedy[0]) && !is_evicted(&greedy[1]));
        assert!(!is_evicted(&modest[0]) && !others.iter().any(|permit| is_evicted(permit)));
    }

    #[test]
    fn of_machines_with_few_each_the_longest_quiet_goes_and_one_that_was_let_in_last() {
        let limiter = limiter(4);
        let all: Vec<_> = (0..4)
            .map(|net| take(&limiter, &format!("10.0.0.{net}")).unwrap())
            .collect();
        let request = Request::new(all[0].clone());
        assert!(request.is_whole());
        request.is_over(true);
        let request = Request::new(all[1].clone());
        assert!(request.is_whole());
        request.is_over(false);
        let mut newcomers = Vec::new();
        for (number, goes) in [2, 3, 1].into_iter().enumerate() {
            let new = take(&limiter, &format!("10.0.1.{number}")).unwrap();
            assert!(new.begin(), "so that it is not the next to go");
            assert!(is_evicted(&all[goes]), "{goes}");
            newcomers.push(new);
        }
        assert!(!is_evicted(&all[0]));
    }

    #[test]
    fn a_connection_that_is_worked_for_keeps_its_seat_and_one_that_lost_it_gets_no_work_done() {
        let limiter = limiter(2);
        let busy = take(&limiter, "10.0.0.1").unwrap();
        let request = Request::new(busy.clone());
        assert!(request.is_whole());
        let quiet = take(&limiter, "10.0.0.2").unwrap();
        let late = Request::new(quiet.clone());
        let _new = take(&limiter, "10.0.0.3").unwrap();
        assert!(is_evicted(&quiet) && !is_evicted(&busy));
        assert!(!late.is_whole(), "its permit is gone");
        let another = Request::new(_new.clone());
        assert!(another.is_whole());
        assert!(take(&limiter, "10.0.0.4").is_none(), "both are at work");
        drop(request);
        assert!(take(&limiter, "10.0.0.4").is_some());
        assert!(is_evicted(&busy));
    }

    #[test]
    fn a_body_that_flows_keeps_the_seat_before_one_that_trickles() {
        let limiter = limiter(2);
        let upload = take(&limiter, "10.0.0.1").unwrap();
        let trickle = take(&limiter, "10.0.0.2").unwrap();
        upload.touch();
        let _new = take(&limiter, "10.0.0.3").unwrap();
        assert!(is_evicted(&trickle) && !is_evicted(&upload));
    }
}
