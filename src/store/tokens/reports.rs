//! What becomes of the nodes that were admitted: how their joins end, and when they are forgotten.

use std::net::IpAddr;
use std::ops::ControlFlow;

use super::Tokens;
use crate::model::join_id::JoinId;
use crate::model::node::JoiningNode;
use crate::model::token::Token;
use crate::model::token_record::{Release, TokenRecord};
use crate::store::database::{Flush, StoreError};

impl Tokens {
    /// A node that was admitted says how its join ended, and which one, where it tells. `None` when
    /// the token is not known, or did not admit that node.
    pub(crate) fn report(
        &self,
        token: &Token,
        node: &JoiningNode,
        join_id: Option<&JoinId>,
        has_joined: bool,
    ) -> Result<Option<Release>, StoreError> {
        let join = token.digest();
        let admitted = self.admissions.find(&join, node)?;
        let last_id = admitted.as_ref().and_then(|known| known.join_id.as_ref());
        if JoinId::differ(last_id, join_id) {
            return Ok(Some(Release::Outdated));
        }
        let (by, of) = (node.clone(), join_id.cloned());
        let end = move |record: &mut Option<TokenRecord>| {
            let Some(record) = record else {
                return (false, false, Release::None);
            };
            let was_admitted = record.has_admitted(&by);
            let (was_counted, release) = match record.is_of_other_join(&by, of.as_ref()) {
                true => (false, Release::Outdated),
                false if has_joined => (record.complete(&by), Release::None),
                false => (false, record.fail(&by)),
            };
            (was_admitted, was_counted, release)
        };
        let edited = self.records.edit(Flush::Soon, &join, end)?;
        let (was_admitted, was_counted, release) = edited;
        if !was_admitted && admitted.is_none() {
            return Ok(None);
        }
        match release {
            Release::Outdated => return Ok(Some(release)),
            _ if has_joined => self.admissions.set_complete(&join, node)?,
            _ => self
                .admissions
                .fail(&join, node, release == Release::Free)?,
        }
        self.database.flush()?;
        match release {
            Release::Free => {
                self.audit_join(
                    "released",
                    &join,
                    node,
                    "the node says that its join failed",
                );
            }
            Release::KeptForNode => {
                let outcome = "the node says that its join failed; only this node may try again";
                self.audit_join("kept", &join, node, outcome);
            }
            Release::None if was_counted => {
                self.audit_join("complete", &join, node, "the node says that it has joined");
            }
            Release::None | Release::Outdated => {}
        }
        Ok(Some(release))
    }

    /// Forgets the nodes of exactly this name or address; says whether there were any. They cannot
    /// come back with what they joined with.
    pub(crate) fn forget(&self, name_or_address: &str) -> Result<bool, StoreError> {
        let address: Option<IpAddr> = name_or_address.parse().ok();
        let is_meant =
            |node: &JoiningNode| node.name == name_or_address || Some(node.address) == address;
        let gone = self.admissions.nodes_that(|other| is_meant(&other.node))?;
        let mut joining = Vec::new();
        self.records.store().list("", &mut |digest, record| {
            if record.users().any(is_meant) {
                joining.push(digest);
            }
            ControlFlow::Continue(())
        })?;
        self.records.edit_all(&joining, false, |record| {
            let Some(record) = record else {
                return;
            };
            let users = record.users().filter(|user| is_meant(user));
            for user in users.cloned().collect::<Vec<_>>() {
                record.complete(&user);
            }
        })?;
        self.admissions.forget(&gone)?;
        Ok(!gone.is_empty() || !joining.is_empty())
    }
}
