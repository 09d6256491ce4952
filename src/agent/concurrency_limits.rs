//! How many requests of other nodes are handled at once.
//!
//! Each takes a thread that reads and writes files and may wait for a service. A request over the
//! limit waits, and is answered with a time to retry when that takes too long: a node without any
//! answer would not know what became of its token.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How many join requests are handled at once.
const JOINS: usize = 64;
/// How many other requests are: signatures, and how joins ended. They are short and come from nodes
/// that were admitted, and joins that wait must not delay them.
const OTHERS: usize = 64;
/// How many callbacks are: they may wait for services, and come from the cluster, if they are not
/// refused at once.
const CALLBACKS: usize = 32;
/// Dry runs have a limit of their own, so that they never delay a join: one may ask Kubernetes,
/// and takes no token.
const DRY_RUNS: usize = 4;
/// How long a request waits for its turn.
const WAIT: Duration = Duration::from_secs(30);
/// The `Retry-After` of a request that waited too long, in seconds.
pub(crate) const COME_AGAIN: u64 = 10;

/// The limits.
#[derive(Debug, Clone)]
pub(crate) struct ConcurrencyLimits {
    joins: Arc<Semaphore>,
    others: Arc<Semaphore>,
    callbacks: Arc<Semaphore>,
    dry_runs: Arc<Semaphore>,
    wait: Duration,
}

/// What kind of request a permit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// To be admitted.
    Join,
    /// To know whether a join would be admitted.
    DryRun,
    /// Requests of a node that was admitted.
    Other,
    /// What the cluster has this node do.
    Callback,
}

impl Default for ConcurrencyLimits {
    fn default() -> Self {
        Self::new(JOINS, OTHERS, WAIT)
    }
}

impl ConcurrencyLimits {
    fn new(joins: usize, others: usize, wait: Duration) -> Self {
        Self {
            joins: Arc::new(Semaphore::new(joins)),
            others: Arc::new(Semaphore::new(others)),
            callbacks: Arc::new(Semaphore::new(CALLBACKS)),
            dry_runs: Arc::new(Semaphore::new(DRY_RUNS)),
            wait,
        }
    }

    /// A permit, when one gets free in time, in the order of the requests.
    pub(crate) async fn take(&self, class: RequestClass) -> Option<OwnedSemaphorePermit> {
        let semaphore = match class {
            RequestClass::Join => self.joins.clone(),
            RequestClass::DryRun => self.dry_runs.clone(),
            RequestClass::Other => self.others.clone(),
            RequestClass::Callback => self.callbacks.clone(),
        };
        let permit = timeout(self.wait, semaphore.acquire_owned()).await;
        permit.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_waited_for_and_given_up_in_time() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let limits = ConcurrencyLimits::new(1, 1, Duration::from_millis(50));
            let first = limits.take(RequestClass::Join).await;
            assert!(first.is_some());
            assert!(
                limits.take(RequestClass::Join).await.is_none(),
                "no permit is left"
            );
            assert!(
                limits.take(RequestClass::Other).await.is_some(),
                "another kind"
            );
            let (second, ()) = tokio::join!(limits.take(RequestClass::Join), async { drop(first) });
            assert!(second.is_some());
        });
    }
}
