//! How many connections the agent keeps open, in all and for one machine, so that a stranger who
//! opens many takes neither the others' nor the files that the agent needs for its work.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

/// Connections in all. A join takes a few short ones, so this is far above what a cluster needs,
/// and what they hold in memory stays small.
const MOST: usize = 1024;
/// Which part of all connections one address may have: 256 of 1024. Many nodes may sit behind
/// one address, so it is not a handful.
const SHARE: usize = 4;
/// File descriptors that are kept for the agent's own work: its store, the node's files, the
/// local API, and the pipes of the programs that it runs.
const RESERVED: u64 = 128;

/// The seats for connections.
#[derive(Debug, Clone)]
pub struct Seats {
    most: usize,
    most_of_one: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's seat; free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    address: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Seats {
    /// As many as the process may have files open, and [`MOST`] at most.
    pub fn for_this_process() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        // With very few files half of them is a better guess than none.
        let free = files.saturating_sub(RESERVED).max(files / 2);
        Self::new(usize::try_from(free).unwrap_or(MOST).clamp(1, MOST))
    }

    fn new(most: usize) -> Self {
        Self {
            most,
            most_of_one: (most / SHARE).max(1),
            taken: Arc::default(),
        }
    }

    /// A seat for a connection from this address, when there is one.
    pub fn take(&self, address: IpAddr) -> Option<Seat> {
        let address = machine(address);
        let mut taken = lock(&self.taken);
        let of_one = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= self.most || of_one >= self.most_of_one {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, of_one + 1);
        Some(Seat {
            address,
            taken: self.taken.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        let left = taken.by_address.get(&self.address).map(|count| count - 1);
        match left {
            Some(count) if count > 0 => {
                taken.by_address.insert(self.address, count);
            }
            _ => {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one machine: with IPv6 a machine has a whole /64 to call from.
fn machine(address: IpAddr) -> IpAddr {
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
    use super::*;

    #[test]
    fn one_address_gets_its_share_and_the_others_the_rest() {
        let seats = Seats::new(8);
        let take = |address: &str| seats.take(address.parse().unwrap());
        let first: Vec<_> = (0..2).map(|_| take("10.0.0.1").unwrap()).collect();
        assert!(take("10.0.0.1").is_none());
        assert!(take("::ffff:10.0.0.1").is_none(), "the same address");
        let _second: Vec<_> = (0..2).map(|_| take("fd00::1").unwrap()).collect();
        assert!(take("fd00::2").is_none(), "the same machine");
        let _others: Vec<_> = (2..6)
            .map(|n| take(&format!("10.0.0.{n}")).unwrap())
            .collect();
        assert!(take("10.0.0.9").is_none(), "no seat is left");
        drop(first);
        assert!(take("10.0.0.1").is_some() && take("10.0.0.9").is_some());
    }
}
