//! Which token store a node uses: its own, or the one in the cluster's API.

use std::time::Duration;

use crate::base::cached::Cached;
use crate::cluster::node::Node;
use crate::cluster::{first_join, kubernetes, transaction};
use crate::model::agent_options::TokenStoreChoice;
use crate::store::database::StoreError;
use crate::store::token_store::{Place, Stores, Taken};
use crate::store::tokens::Tokens;

/// For how long it is known which nodes serve the API of a cluster without a datastore of MicroK8s's.
const KNOWN: Duration = Duration::from_secs(60);

/// Chooses the store, again and again.
pub(crate) struct StoreChoice {
    choice: TokenStoreChoice,
    api_servers: Cached<Option<usize>>,
}

impl StoreChoice {
    /// Chooses what the operator wants.
    pub(crate) fn new(choice: TokenStoreChoice) -> Self {
        Self {
            choice,
            api_servers: Cached::new(KNOWN, 1),
        }
    }

    /// Uses the store that is to be used by now, and moves to it what is still in the other one.
    pub(crate) fn follow(&self, node: &Node, tokens: &Tokens) -> Result<(), StoreError> {
        let stores = tokens.stores();
        match self.choice {
            TokenStoreChoice::Cluster => stores.use_cluster()?,
            TokenStoreChoice::Local => stores.use_local(Taken::Own)?,
            // What a join or leave has begun may be taken back.
            TokenStoreChoice::Auto if transaction::is_open(&node.layout) => {}
            TokenStoreChoice::Auto => match self.control_planes(node, stores)? {
                Some(0..=1) => stores.use_local(Taken::All)?,
                Some(_) if stores.place()? == Place::Cluster || stores.answers() => {
                    stores.use_cluster()?;
                }
                Some(_) | None => {}
            },
        }
        stores.log_place()?;
        let moved = stores.move_all()?;
        stores.log_place()?;
        if moved > 0 {
            tracing::info!(moved, "tokens were moved to the store that is in use");
        }
        Ok(())
    }

    /// How many control planes the cluster has; nothing where that cannot be told.
    fn control_planes(&self, node: &Node, stores: &Stores) -> Result<Option<usize>, StoreError> {
        if node.is_worker() {
            return Ok(Some(0));
        }
        if node.uses_dqlite() {
            let members = first_join::datastore_members(node);
            let count = members.map_or(0, |members| members.len());
            return Ok(Some(count).filter(|count| *count > 0));
        }
        // Where no API server answers, kubectl need not be started to learn that.
        if stores.place()? == Place::Local && !stores.answers() {
            return Ok(None);
        }
        let ask = || {
            let servers = kubernetes::api_servers(node.platform.as_ref()).ok()?;
            servers.map(|servers| servers.len())
        };
        Ok(self.api_servers.get(ask).flatten())
    }
}
