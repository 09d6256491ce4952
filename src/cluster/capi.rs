//! What Cluster API asks of a control plane node: to have the datastore forget a member whose
//! machine goes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::base::io_error_text;
use crate::cluster::node::Node;
use crate::cluster::{first_join, forget};
use crate::model::token::Token;
use crate::platform::CommandError;
use crate::store::layout::ReadError;
use crate::wire::cluster_v2::RemoveRequest;

/// How long the datastore is asked: while its members find a new leader they refuse to forget
/// anybody.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Why the datastore was not asked, or did not do it; the texts are those of MicroK8s's agent
/// (recordings `http-dqlite-remove*`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    /// The token that Cluster API laid down cannot be read.
    #[error(
        "Failed to remove from dqlite: failed to validate CAPI auth token: failed to read token file: failed to read {}: open {}: {}",
        .0.path.display(), .0.path.display(), io_error_text::of(&.0.source)
    )]
    NoTokenFile(#[source] ReadError),
    /// Another token. Only the caller that presented it gets it back.
    #[error("Failed to remove from dqlite: invalid CAPI auth token {:?}", .0.expose())]
    InvalidToken(Token),
    /// What is to be removed is no address and port.
    #[error("Failed to remove from dqlite: {0:?} is no address and port")]
    NoEndpoint(String),
    /// Without its last member the datastore is gone.
    #[error("Failed to remove from dqlite: {0} is the last member")]
    LastMember(SocketAddr),
    /// The members cannot be listed.
    #[error("Failed to remove from dqlite: the members are not known: {0}")]
    MembersUnknown(String),
    /// The datastore's shell.
    #[error(
        "Failed to remove from dqlite: failed to remove node from dqlite: failed to run remove command: {}",
        .0.in_microk8s_words()
    )]
    NotRemoved(#[source] CommandError),
}

/// Has the datastore forget a member. `token_file` is where Cluster API puts its token.
pub(crate) fn remove(
    node: &Node,
    token_file: &Path,
    presented: &Token,
    request: &RemoveRequest,
) -> Result<(), RemoveError> {
    let expected = node
        .layout
        .read(token_file)
        .map_err(RemoveError::NoTokenFile)?;
    let expected = Token::presented(&expected);
    let is_right = expected.digest().matches(&presented.digest());
    if expected.expose().is_empty() || !is_right {
        return Err(RemoveError::InvalidToken(presented.clone()));
    }
    let endpoint: SocketAddr = request
        .remove_endpoint
        .parse()
        .map_err(|_| RemoveError::NoEndpoint(request.remove_endpoint.clone()))?;
    let members = first_join::datastore_members(node)
        .map_err(|error| RemoveError::MembersUnknown(error.to_string()))?;
    match &members[..] {
        [] => return Err(RemoveError::MembersUnknown("the list is empty".to_owned())),
        [only] if only.is_at(endpoint.ip()) => return Err(RemoveError::LastMember(endpoint)),
        _ => {}
    }
    let (host, backend) = (node.platform.as_ref(), node.layout.backend());
    forget::ask(host, &backend, &endpoint.to_string(), ASK_LIMIT, &|| false)
        .map_err(RemoveError::NotRemoved)
}
