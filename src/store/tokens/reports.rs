//! What becomes of the nodes that were admitted: how their joins end, and when they are forgotten.

use std::net::IpAddr;

use super::Tokens;
use crate::model::join_id::JoinId;
use crate::model::node::JoiningNode;
use crate::model::token::{Token, TokenDigest};
use crate::model::token_record::{Release, TokenRecord};
use crate::store::database::StoreError;

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
        let Some(admitted) = self.admissions.find(&join, node)? else {
            return Ok(None);
        };
        if JoinId::differ(admitted.join_id.as_ref(), join_id) {
            return Ok(Some(Release::Outdated));
        }
        if !has_joined {
            let why = "the node says that its join failed";
            return self.release(&join, node, join_id, why).map(Some);
        }
        let (by, of) = (node.clone(), join_id.cloned());
        let completed = self.change_try(&join, node, move |record| {
            (!record.is_of_other_join(&by, of.as_ref())).then(|| record.complete(&by))
        })?;
        if completed == Some(None) {
            return Ok(Some(Release::Outdated));
        }
        self.admissions.set_complete(&join, node)?;
        if completed == Some(Some(true)) {
            self.audit_join("complete", &join, node, "the node says that it has joined");
        }
        Ok(Some(Release::None))
    }

    /// A node does not make use of what a token gave to it, by this join where it is named.
    pub(super) fn release(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        join_id: Option<&JoinId>,
        why: &str,
    ) -> Result<Release, StoreError> {
        let (by, of) = (node.clone(), join_id.cloned());
        let release = self.change_try(join, node, move |record| {
            match record.is_of_other_join(&by, of.as_ref()) {
                true => Release::Outdated,
                false => record.fail(&by),
            }
        })?;
        let release = release.unwrap_or(Release::None);
        if release == Release::Outdated {
            return Ok(release);
        }
        let is_free = release == Release::Free;
        if !self.admissions.fail(join, node, join_id, is_free)? {
            return Ok(Release::Outdated);
        }
        match release {
            Release::Free => self.audit_join("released", join, node, why),
            Release::KeptForNode => {
                let outcome = format!("{why}; only this node may try again");
                self.audit_join("kept", join, node, &outcome);
            }
            Release::None | Release::Outdated => {}
        }
        Ok(release)
    }

    /// Forgets the nodes of exactly this name or address; says whether there were any. They cannot
    /// come back with what they joined with.
    pub(crate) fn forget(&self, name_or_address: &str) -> Result<bool, StoreError> {
        let address: Option<IpAddr> = name_or_address.parse().ok();
        let gone = self.admissions.nodes_that(|other| {
            other.node.name == name_or_address || Some(other.node.address) == address
        })?;
        for other in &gone {
            let node = other.node.clone();
            self.change_try(&other.join, &other.node, move |record| {
                record.complete(&node)
            })?;
        }
        self.admissions.forget(&gone)?;
        Ok(!gone.is_empty())
    }

    /// Changes the record of a token when the node holds one of its counted uses.
    pub(super) fn change_try<T: Send + 'static>(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        mut change: impl FnMut(&mut TokenRecord) -> T + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        // Most who ask for nothing that is counted are told so without a write.
        if !self
            .records
            .read(join)?
            .is_some_and(|record| record.has_try(node))
        {
            return Ok(None);
        }
        let node = node.clone();
        self.records.edit(join, move |record| {
            record.map_or((None, None), |mut record| {
                // The use may have been given back since it was looked at.
                let value = record.has_try(&node).then(|| change(&mut record));
                (Some(record), value)
            })
        })
    }
}
