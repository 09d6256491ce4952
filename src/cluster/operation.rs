//! Operations: `join`, `leave`, `remove-node` and `init`, in the node's agent or in the process of a command.

use tokio_util::sync::CancellationToken;

use crate::cluster::configure::Configured;
use crate::cluster::join::{self, preflight};
use crate::cluster::node::Node;
use crate::cluster::{launch, leave, remove_node};
use crate::store::tokens::Tokens;
use crate::wire::operation::{Event, Operation};

/// Where an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsIn {
    /// In the node's agent, which takes the callbacks of the cluster after a join.
    Agent,
    /// In the process of a command. Callbacks are for whatever agent the node has: MicroK8s's may
    /// be the one, and it can do nothing with a digest.
    Command,
}

/// Takes the events of an operation, and says when it is to stop.
pub(crate) trait Progress {
    /// Something happened.
    fn tell(&mut self, event: Event);

    /// The node is going to be changed from now on.
    fn changes_begin(&mut self) {}

    /// Cancelled when the operation is not wanted any more. It is taken back then, as long as it can be; a
    /// removal is not, since it can be repeated.
    fn cancelled(&self) -> &CancellationToken;

    /// Whether the operation is not wanted any more, or must not go on.
    fn is_cancelled(&self) -> bool {
        self.cancelled().is_cancelled()
    }
}

/// Runs an operation; its last event says how it ended. `tokens` are those of the node's agent, which
/// the caller restarts where the value says so.
pub(crate) fn run(
    node: &Node,
    tokens: Option<&Tokens>,
    operation: &Operation,
    runs_in: RunsIn,
    progress: &mut dyn Progress,
) -> Configured {
    let mut configured = Configured::default();
    let end = match operation {
        Operation::Join(order) => match order.urls.split_first() {
            Some(urls) if !order.dry_run => join::join(node, urls, order, runs_in, progress),
            _ => preflight::check(node, order, progress),
        },
        Operation::Leave { dry_run } => leave::leave(node, tokens, *dry_run, progress),
        Operation::RemoveNode(order) => remove_node::remove_node(node, tokens, order, progress),
        Operation::Launch(order) => {
            let end;
            (end, configured) = launch::run(node, order, runs_in, progress);
            end
        }
    };
    progress.tell(Event::End(end));
    configured
}
