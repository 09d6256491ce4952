//! Looking after tokens: listing them, taking them back, forgetting those that are over.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::cluster::node::Node;
use crate::cluster::secret_store::SecretStore;
use crate::cluster::transaction;
use crate::model::cluster_id::CurrentCluster;
use crate::model::token::TokenDigest;
use crate::model::token_record::{Issuer, TokenRecord};
use crate::model::token_terms::RoleLimit;
use crate::pki::ca;
use crate::store::database::StoreError;
use crate::store::layout::{Layout, Lock};
use crate::store::token_files::{Listed, PERSISTENT_TOKENS};
use crate::store::tokens::{ListedToken, Tokens};
use crate::wire::local_v1::{TokenEntry, TokenListEnd, TokenSelection, TokenUse};

/// The tokens of a node, which belong to the cluster that it is in.
pub(crate) fn open(node: &Node, clock: Arc<dyn Clock>, window: i64) -> Tokens {
    let layout = node.layout.clone();
    let cluster = move || current_cluster(&layout);
    let kubeconfig = node.layout.credential("client.config");
    let name = node.name().unwrap_or_default();
    Tokens::new(
        &node.layout,
        clock,
        window,
        Arc::new(cluster),
        name,
        |due| Box::new(SecretStore::new(kubeconfig, due)),
    )
}

/// The certificate authority (PEM) of the cluster that the node is in.
pub(crate) fn authority(layout: &Layout) -> Option<String> {
    let text = layout.text(&authority_file(layout)).ok()?;
    Some(text.expose().to_owned())
}

fn authority_file(layout: &Layout) -> PathBuf {
    layout.cert(match layout.has(Lock::Clustered) {
        true => "ca.remote.crt",
        false => "ca.crt",
    })
}

/// The cluster that the node is in, by its authority.
fn current_cluster(layout: &Layout) -> CurrentCluster {
    let parse = |pem: &[u8]| ca::cluster_of(&String::from_utf8_lossy(pem));
    let id = layout.parsed(&authority_file(layout), parse);
    CurrentCluster {
        id: id.ok().and_then(Result::ok).as_deref().cloned(),
        is_changing: transaction::is_open(layout),
    }
}

/// The fewest digits that name a token.
const MIN_DIGITS: usize = 4;

/// Why tokens could not be looked after.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenCareError {
    /// No token has this id.
    #[error("there is no token `{0}` on this node")]
    NoSuchId(String),
    /// The token that was given is not known.
    #[error("this token is not known on this node; it may have been issued on another one")]
    NoSuchToken,
    /// Several tokens have ids that begin like this.
    #[error("`{0}` matches several ids: give more digits")]
    Ambiguous(String),
    /// Too short a beginning, or no id at all.
    #[error(
        "`{0}` is not the id of a token: give at least the first {MIN_DIGITS} of its hexadecimal digits"
    )]
    NotAnId(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Is given tokens, some at a time, and may break off.
pub(crate) type TakeTokens<'a> = dyn FnMut(Vec<TokenEntry>) -> ControlFlow<()> + 'a;

/// Gives the tokens that are meant to `take`, of those that it gets at a time the last issued first.
pub(crate) fn find(
    tokens: &Tokens,
    selection: &TokenSelection,
    take: &mut TakeTokens<'_>,
) -> Result<TokenListEnd, TokenCareError> {
    let now = tokens.now();
    in_batches(tokens, selection, |batch| {
        let mut entries: Vec<_> = batch.iter().map(|token| entry(token, now)).collect();
        entries.sort_by(|a, b| (b.issued_at, &a.id).cmp(&(a.issued_at, &b.id)));
        Ok(take(entries))
    })?;
    Ok(TokenListEnd {
        now,
        notices: tokens.notices(),
    })
}

/// Revokes the tokens that are meant, and gives those to `take` that were still usable. When one of
/// them is unknown, none is revoked.
pub(crate) fn revoke(
    tokens: &Tokens,
    selection: &TokenSelection,
    uid: u32,
    take: &mut TakeTokens<'_>,
) -> Result<TokenListEnd, TokenCareError> {
    let now = tokens.now();
    let mut notices = tokens.notices();
    in_batches(tokens, selection, |batch| {
        let revoked: HashSet<_> = tokens.revoke(&batch, uid)?.into_iter().collect();
        let is_revoked = |token: &&ListedToken| revoked.contains(&token.digest);
        let (usable, others): (Vec<_>, Vec<_>) = batch.iter().partition(is_revoked);
        if *selection != TokenSelection::All {
            notices.extend(others.into_iter().map(|token| {
                let token = entry(token, now);
                format!("token {} is {} already", token.id, token.state.into_str())
            }));
        }
        // All of them are to be revoked, whether the client still listens or not.
        let _: ControlFlow<()> = take(usable.into_iter().map(|token| entry(token, now)).collect());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(TokenListEnd { now, notices })
}

/// Gives the tokens that are meant to `work`: those that are named at once, all of them some at a time.
fn in_batches(
    tokens: &Tokens,
    selection: &TokenSelection,
    mut work: impl FnMut(Vec<ListedToken>) -> Result<ControlFlow<()>, TokenCareError>,
) -> Result<(), TokenCareError> {
    match selection {
        TokenSelection::All => tokens.find_in_batches("", work),
        TokenSelection::Token(token) => {
            let digest = token.digest();
            let mut found = tokens.find(&digest.to_string())?;
            found.retain(|token| token.digest == digest);
            if found.is_empty() {
                return Err(TokenCareError::NoSuchToken);
            }
            work(found).map(drop)
        }
        TokenSelection::Ids(ids) => {
            let mut all: Vec<ListedToken> = Vec::new();
            for id in ids {
                if id.len() < MIN_DIGITS || TokenDigest::first_with(id).is_none() {
                    return Err(TokenCareError::NotAnId(id.clone()));
                }
                let mut found = tokens.find(id)?;
                match (found.pop(), found.is_empty()) {
                    (None, _) => return Err(TokenCareError::NoSuchId(id.clone())),
                    (Some(_), false) => return Err(TokenCareError::Ambiguous(id.clone())),
                    (Some(one), true) if all.iter().all(|other| other.digest != one.digest) => {
                        all.push(one);
                    }
                    (Some(_), true) => {}
                }
            }
            work(all).map(drop)
        }
    }
}

fn entry(token: &ListedToken, now: i64) -> TokenEntry {
    let id = token.digest.to_string();
    let state = token.state(now);
    let expires_in_file = match token.in_file {
        Listed::Until(end) => Some(end),
        Listed::Not | Listed::Open | Listed::Expired => None,
    };
    let file = token.file.map(str::to_owned);
    let record = token.record.as_ref();
    let revoked = record.and_then(TokenRecord::revoked);
    let void = record.and_then(|record| record.void(now));
    TokenEntry {
        id,
        state,
        role: record.map_or(RoleLimit::Any, TokenRecord::role),
        uses_left: match record {
            Some(record) => record.uses_left(now),
            None => uses_left_of_line(token),
        },
        expires: record.and_then(TokenRecord::expires).max(expires_in_file),
        node: record.and_then(TokenRecord::node).map(ToString::to_string),
        issued_at: record.map(TokenRecord::issued_at),
        issued_by: match record.map(TokenRecord::issuer) {
            Some(Issuer::Uid(uid)) => Some(uid),
            Some(Issuer::TokenFile) | None => None,
        },
        issued_on: record.and_then(TokenRecord::issued_on).map(str::to_owned),
        file,
        admissions: record.map_or(0, TokenRecord::admissions),
        last_use: record.and_then(TokenRecord::last_use).map(|last| TokenUse {
            node: last.node.name.clone(),
            address: last.node.address,
            role: last.role,
            at: last.at,
        }),
        revoked_at: revoked.map(|revoked| revoked.at),
        revoked_by: revoked.map(|revoked| revoked.uid),
        void_since: void.map(|void| void.at),
        void_because: void.map(|void| void.why.as_str().to_owned()),
        description: record
            .and_then(TokenRecord::description)
            .map(|description| description.as_str().to_owned()),
    }
}

/// How many nodes a line of a token file still admits, of which there is no record.
fn uses_left_of_line(token: &ListedToken) -> Option<u32> {
    match token.in_file {
        Listed::Open if token.file != Some(PERSISTENT_TOKENS) => Some(1),
        Listed::Open | Listed::Until(_) => None,
        Listed::Not | Listed::Expired => Some(0),
    }
}
