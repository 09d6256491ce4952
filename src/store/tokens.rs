//! The tokens of this node, in a database beside MicroK8s's files.
//!
//! Tokens are kept under their SHA-256; none is ever written in clear. A token is consumed last:
//! it is reserved in memory while a join is being admitted, and written as used, durably, before
//! the answer leaves. The node that used it may use it again for a while, because the rest of
//! its join may fail after the answer.

use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::base::clock::Clock;
use crate::model::role::Role;
use crate::model::token::{Lifetime, Token, TokenDigest};
use crate::store::layout::Layout;
use crate::store::token_files::{self, Listed};
use crate::wire::error_body::TokenRefusal;

/// For how long the node that used a one-time token may use it again, in seconds.
pub const RETRY_WINDOW: i64 = 15 * 60;

const TOKENS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tokens");
const CERTIFICATE_REQUESTS: TableDefinition<'_, (&[u8], &str), &[u8]> =
    TableDefinition::new("certificate-requests");
const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");

/// The database, or a file of MicroK8s's, cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("the token database `{}`: {source}", path.display())]
    Database {
        /// Where it is.
        path: PathBuf,
        /// What it says.
        #[source]
        source: Box<redb::Error>,
    },
    /// A file.
    #[error("cannot use `{}`: {source}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A record that this version cannot read.
    #[error("the token database holds a record that this version cannot read")]
    Record,
}

/// Who joins: a host name, and the address that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JoiningNode {
    /// Its host name.
    pub name: String,
    /// The address that its request came from.
    pub address: IpAddr,
}

impl JoiningNode {
    fn key(&self) -> String {
        format!("{}@{}", self.name, self.address)
    }
}

/// What the database says of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The end of its life in unix seconds; without one it has one use.
    until: Option<i64>,
    /// Who used it, and when.
    used: Option<Use>,
}

/// The use of a one-time token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Use {
    by: JoiningNode,
    at: i64,
    /// The node's certificates are signed: from now on the token is that node's alone.
    complete: bool,
    /// The token's line in MicroK8s's file is not blanked yet. A line that is found there then
    /// is the old one, and issues nothing anew.
    #[serde(default)]
    has_line: bool,
}

/// What a certificate may be asked for with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificatePurpose {
    /// The kubelet's client certificate.
    Kubelet,
    /// kube-proxy's client certificate.
    Proxy,
    /// The certificate with which a node of an etcd cluster reaches etcd.
    Etcd,
}

impl CertificatePurpose {
    /// What stands behind the join token in the token for this certificate.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Kubelet => "-kubelet",
            Self::Proxy => "-proxy",
            Self::Etcd => "",
        }
    }
}

/// A node's right to have one certificate signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// What for.
    pub purpose: CertificatePurpose,
    /// Who; not known for a token that Canonical's agent issued.
    pub node: Option<JoiningNode>,
    /// The join token's digest, its bytes.
    join: Option<Vec<u8>>,
    /// The end of the right in unix seconds; one from MicroK8s's file has none.
    until: Option<i64>,
}

impl CertificateRequest {
    fn is_alive(&self, now: i64) -> bool {
        self.until.is_none_or(|end| now < end)
    }
}

/// A node that was let in by this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmittedNode {
    /// Its name and address.
    pub node: JoiningNode,
    /// What it joined as.
    pub role: Role,
    /// Its certificates are signed.
    pub complete: bool,
}

/// The tokens of this node.
pub struct Tokens {
    database: Database,
    path: PathBuf,
    layout: Layout,
    clock: Arc<dyn Clock>,
    /// Who holds which token while it is being admitted, and in how many requests.
    reserved: Mutex<HashMap<TokenDigest, (JoiningNode, usize)>>,
}

/// A token that one joining node holds while it is being admitted; dropping it gives it back.
#[must_use]
pub struct Reservation<'a> {
    tokens: &'a Tokens,
    token: Token,
    node: JoiningNode,
    source: Source,
}

/// Where a token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Usable any number of times.
    ManyUses,
    /// One use, in our database.
    Database,
    /// One use, in MicroK8s's file.
    File,
}

impl Tokens {
    /// Opens the node's tokens, creating the database when there is none.
    pub fn open(layout: &Layout, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let path = layout.own_state().join("tokens.redb");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::File {
                path: path.clone(),
                source,
            })?;
        let database = Database::builder()
            .set_cache_size(4 << 20)
            .create_with_backend(
                FileBackend::new(file).map_err(|source| database_error(&path, source))?,
            )
            .map_err(|source| database_error(&path, source))?;
        let tokens = Self {
            database,
            path,
            layout: layout.clone(),
            clock,
            reserved: Mutex::default(),
        };
        tokens.write(|transaction| {
            transaction.open_table(TOKENS)?;
            transaction.open_table(CERTIFICATE_REQUESTS)?;
            transaction.open_table(NODES)?;
            Ok(())
        })?;
        Ok(tokens)
    }

    /// Issues a token. One that exists lives until the later of both ends, and lives again when
    /// it was used; what its earlier life left behind ends.
    pub fn add(&self, token: &Token, lifetime: Lifetime) -> Result<(), StoreError> {
        let key = token.digest();
        let now = self.clock.unix_seconds();
        self.write(|transaction| {
            let mut table = transaction.open_table(TOKENS)?;
            let known = get_json::<Record>(&table, key.as_bytes())?.ok();
            let known_until = known
                .as_ref()
                .and_then(|record| record.until)
                .filter(|end| now < *end);
            let until = match lifetime {
                Lifetime::Seconds(seconds) => Some(
                    now.saturating_add(seconds.into())
                        .max(known_until.unwrap_or(now)),
                ),
                Lifetime::OneUse => known_until,
            };
            let record = Record { until, used: None };
            table.insert(key.as_bytes().as_slice(), json(&record).as_slice())?;
            // Nodes that are joining with a token that is alive still need theirs.
            if known_until.is_none() {
                retain_rights(transaction, |right| {
                    right.join.as_deref() != Some(key.as_bytes().as_slice())
                })?;
            }
            Ok(())
        })
    }

    /// Reserves a token for a node. Of any number of nodes that present a one-time token at the
    /// same moment, one gets it.
    ///
    /// `is_member` tells whether the node that used the token before became a member: until then
    /// that node, and no other, may use it again within [`RETRY_WINDOW`].
    pub fn reserve(
        &self,
        token: &Token,
        node: &JoiningNode,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<Reservation<'_>, TokenRefusal>, StoreError> {
        let digest = token.digest();
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let source = match self.judge(token, node, is_member)? {
            Ok(source) => source,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if source != Source::ManyUses {
            let (holder, requests) = reserved.entry(digest).or_insert_with(|| (node.clone(), 0));
            if holder != node {
                return Ok(Err(TokenRefusal::InUse));
            }
            *requests += 1;
        }
        Ok(Ok(Reservation {
            tokens: self,
            token: token.clone(),
            node: node.clone(),
            source,
        }))
    }

    /// Whether a token would let this node in now; changes nothing.
    pub fn check(
        &self,
        token: &Token,
        node: &JoiningNode,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<(), TokenRefusal>, StoreError> {
        Ok(self.judge(token, node, is_member)?.map(|_| ()))
    }

    fn judge(
        &self,
        token: &Token,
        node: &JoiningNode,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<Source, TokenRefusal>, StoreError> {
        if token.expose().is_empty() {
            return Ok(Err(TokenRefusal::Unknown));
        }
        let now = self.clock.unix_seconds();
        let listed = |name| {
            let path = self.layout.credential(name);
            token_files::look_up(&path, token, now)
                .map_err(|source| StoreError::File { path, source })
        };
        if matches!(
            listed(token_files::PERSISTENT_TOKENS)?,
            Listed::Open | Listed::Until(_)
        ) {
            return Ok(Ok(Source::ManyUses));
        }
        let record = self.record(token)?;
        if let Some(record) = &record {
            match (record.until, &record.used) {
                (Some(end), _) if now < end => return Ok(Ok(Source::ManyUses)),
                (None, None) => return Ok(Ok(Source::Database)),
                _ => {}
            }
        }
        let mut in_file = listed(token_files::CLUSTER_TOKENS)?;
        let was_interrupted = record
            .as_ref()
            .and_then(|record| record.used.as_ref())
            .is_some_and(|used| used.has_line);
        if was_interrupted && in_file == Listed::Open {
            self.blank_line(token)?;
            in_file = Listed::Not;
        }
        match in_file {
            Listed::Until(_) => return Ok(Ok(Source::ManyUses)),
            // The line counts from the moment it is written, also for a token used before.
            Listed::Open => return Ok(Ok(Source::File)),
            Listed::Not | Listed::Expired => {}
        }
        Ok(match record {
            Some(Record {
                used: Some(used), ..
            }) => {
                let recent = now < used.at.saturating_add(RETRY_WINDOW);
                let is_member = is_member(&used.by);
                if used.by == *node && recent && !is_member {
                    Ok(Source::Database)
                } else if used.complete || is_member || !recent {
                    Err(TokenRefusal::Used)
                } else {
                    Err(TokenRefusal::InUse)
                }
            }
            Some(_) => Err(TokenRefusal::Expired),
            None if in_file == Listed::Expired => Err(TokenRefusal::Expired),
            None => Err(TokenRefusal::Unknown),
        })
    }

    /// Whether a token gives any right to a certificate at all.
    pub fn gives_certificates(&self, token: &Token) -> Result<bool, StoreError> {
        Ok(!self.rights(token)?.is_empty() || self.right_in_file(token)?.is_some())
    }

    /// Finds the right to a certificate that this token gives to the node at `address`, without
    /// using it up. No other node's right counts.
    ///
    /// Several nodes may be joining with one token from one address: the one with the name in
    /// the request comes first. A kube-proxy names nobody; there a node comes first whose kubelet
    /// has no certificate yet.
    pub fn certificate_request(
        &self,
        token: &Token,
        address: IpAddr,
        name: Option<&str>,
    ) -> Result<Option<CertificateRequest>, StoreError> {
        let kubelet_token = token
            .expose()
            .strip_suffix(CertificatePurpose::Proxy.suffix())
            .map(|join| Token::presented(join).with_suffix(CertificatePurpose::Kubelet.suffix()));
        let open = kubelet_token.map_or(Ok(Vec::new()), |token| self.rights(&token))?;
        let rank = |node: &JoiningNode| {
            let is_named = name == Some(node.name.as_str());
            let is_open = open.iter().any(|other| other.node.as_ref() == Some(node));
            (!is_named, !is_open)
        };
        let found = self
            .rights(token)?
            .into_iter()
            .filter_map(|right| {
                let node = right.node.as_ref().filter(|node| node.address == address)?;
                Some((rank(node), right))
            })
            .min_by_key(|(rank, _)| *rank);
        match found {
            Some((_, right)) => Ok(Some(right)),
            None => self.right_in_file(token),
        }
    }

    /// The rights that the database has under a token and that have not ended.
    fn rights(&self, token: &Token) -> Result<Vec<CertificateRequest>, StoreError> {
        let digest = token.digest();
        let now = self.clock.unix_seconds();
        self.read(|transaction| {
            let table = transaction.open_table(CERTIFICATE_REQUESTS)?;
            let range =
                (digest.as_bytes().as_slice(), "")..=(digest.as_bytes().as_slice(), "\u{10ffff}");
            let mut found = Vec::new();
            for entry in table.range(range)? {
                found.extend(serde_json::from_slice(entry?.1.value()).ok());
            }
            found.retain(|right: &CertificateRequest| right.is_alive(now));
            Ok(found)
        })
    }

    /// The right that a line of Canonical's agent gives.
    fn right_in_file(&self, token: &Token) -> Result<Option<CertificateRequest>, StoreError> {
        let path = self.layout.credential(token_files::CERTIFICATE_TOKENS);
        let listed = token_files::look_up(&path, token, self.clock.unix_seconds())
            .map_err(|source| StoreError::File { path, source })?;
        let purpose = [
            CertificatePurpose::Kubelet,
            CertificatePurpose::Proxy,
            CertificatePurpose::Etcd,
        ]
        .into_iter()
        .find(|purpose| token.expose().ends_with(purpose.suffix()));
        Ok(match (listed, purpose) {
            (Listed::Open | Listed::Until(_), Some(purpose)) => Some(CertificateRequest {
                purpose,
                node: None,
                join: None,
                until: None,
            }),
            _ => None,
        })
    }

    /// Uses the right up: the certificate is signed. When it was the last one that the node needs,
    /// no other node gets in with the token any more. Says whether the right was still there.
    pub fn certificate_signed(
        &self,
        token: &Token,
        request: &CertificateRequest,
    ) -> Result<bool, StoreError> {
        let Some(node) = &request.node else {
            let path = self.layout.credential(token_files::CERTIFICATE_TOKENS);
            return token_files::consume(&path, token)
                .map_err(|source| StoreError::File { path, source });
        };
        let digest = token.digest();
        let now = self.clock.unix_seconds();
        self.write(|transaction| {
            let mut table = transaction.open_table(CERTIFICATE_REQUESTS)?;
            let key = node.key();
            let is_there = table
                .remove((digest.as_bytes().as_slice(), key.as_str()))?
                .and_then(|value| serde_json::from_slice::<CertificateRequest>(value.value()).ok())
                .is_some_and(|right| right.is_alive(now));
            if !is_there {
                return Ok(false);
            }
            let more = table.iter()?.any(|entry| {
                entry.is_ok_and(|(_, value)| {
                    serde_json::from_slice::<CertificateRequest>(value.value()).is_ok_and(|other| {
                        other.node.as_ref() == Some(node)
                            && other.join == request.join
                            && other.is_alive(now)
                    })
                })
            });
            if more {
                return Ok(true);
            }
            let mut nodes = transaction.open_table(NODES)?;
            if let Ok(mut admitted) = get_node(&nodes, &key)? {
                admitted.complete = true;
                nodes.insert(key.as_str(), json(&admitted).as_slice())?;
            }
            let mut tokens = transaction.open_table(TOKENS)?;
            if let Some(join) = &request.join
                && let Ok(mut record) = get_json::<Record>(&tokens, join)?
                && let Some(used) = record.used.as_mut().filter(|used| used.by == *node)
            {
                used.complete = true;
                tokens.insert(join.as_slice(), json(&record).as_slice())?;
            }
            Ok(true)
        })
    }

    /// The nodes that this one let in.
    pub fn admitted(&self) -> Result<Vec<AdmittedNode>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(NODES)?;
            let mut nodes = Vec::new();
            for entry in table.iter()? {
                nodes.extend(serde_json::from_slice(entry?.1.value()).ok());
            }
            Ok(nodes)
        })
    }

    /// Forgets the nodes of exactly this name or address; says whether there were any.
    pub fn forget(&self, name_or_address: &str) -> Result<bool, StoreError> {
        let address: Option<IpAddr> = name_or_address.parse().ok();
        self.write(|transaction| {
            let mut found = false;
            let mut table = transaction.open_table(NODES)?;
            table.retain(|_, value| {
                let is_meant = serde_json::from_slice::<AdmittedNode>(value).is_ok_and(|other| {
                    other.node.name == name_or_address || Some(other.node.address) == address
                });
                found |= is_meant;
                !is_meant
            })?;
            Ok(found)
        })
    }

    /// Whether MicroK8s's file lists a token for one use.
    fn has_line(&self, token: &Token) -> Result<bool, StoreError> {
        let path = self.layout.credential(token_files::CLUSTER_TOKENS);
        let listed = token_files::look_up(&path, token, self.clock.unix_seconds())
            .map_err(|source| StoreError::File { path, source })?;
        Ok(listed == Listed::Open)
    }

    /// Takes a token that was used out of MicroK8s's file, and remembers that it is.
    fn blank_line(&self, token: &Token) -> Result<(), StoreError> {
        let path = self.layout.credential(token_files::CLUSTER_TOKENS);
        token_files::consume(&path, token).map_err(|source| StoreError::File { path, source })?;
        let digest = token.digest();
        self.write(|transaction| {
            let mut table = transaction.open_table(TOKENS)?;
            if let Ok(mut record) = get_json::<Record>(&table, digest.as_bytes())?
                && let Some(used) = record.used.as_mut()
            {
                used.has_line = false;
                table.insert(digest.as_bytes().as_slice(), json(&record).as_slice())?;
            }
            Ok(())
        })
    }

    fn record(&self, token: &Token) -> Result<Option<Record>, StoreError> {
        let digest = token.digest();
        let found = self.read(|transaction| {
            let table = transaction.open_table(TOKENS)?;
            Ok(table
                .get(digest.as_bytes().as_slice())?
                .map(|value| value.value().to_vec()))
        })?;
        found
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|_| StoreError::Record))
            .transpose()
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.database
            .begin_read()
            .map_err(redb::Error::from)
            .and_then(|transaction| work(&transaction))
            .map_err(|source| database_error(&self.path, source))
    }

    /// Runs one transaction; it is on disk when this returns.
    fn write<T>(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.database
            .begin_write()
            .map_err(redb::Error::from)
            .and_then(|transaction| {
                let done = work(&transaction)?;
                transaction.commit()?;
                Ok(done)
            })
            .map_err(|source| database_error(&self.path, source))
    }
}

impl Reservation<'_> {
    /// Lets the node in: the token is used, durably, and the node gets the right to these
    /// certificates.
    pub fn commit(self, role: Role, certificates: &[CertificatePurpose]) -> Result<(), StoreError> {
        // Who has a token of the database in the file too has one token, not two.
        let has_line = match self.source {
            Source::ManyUses => false,
            Source::File => true,
            Source::Database => self.tokens.has_line(&self.token)?,
        };
        self.admit(role, certificates, has_line)?;
        if has_line {
            self.tokens.blank_line(&self.token)?;
        }
        Ok(())
    }

    /// Writes down that the node is in.
    fn admit(
        &self,
        role: Role,
        certificates: &[CertificatePurpose],
        has_line: bool,
    ) -> Result<(), StoreError> {
        let digest = self.token.digest();
        let now = self.tokens.clock.unix_seconds();
        self.tokens.write(|transaction| {
            if self.source != Source::ManyUses {
                let record = Record {
                    until: None,
                    used: Some(Use {
                        by: self.node.clone(),
                        at: now,
                        complete: false,
                        has_line,
                    }),
                };
                transaction
                    .open_table(TOKENS)?
                    .insert(digest.as_bytes().as_slice(), json(&record).as_slice())?;
            }
            // What an earlier admission left unsigned is replaced: that of this node, and that of
            // any node by a one-time token, which is this node's now.
            retain_rights(transaction, |right| {
                let is_taken = self.source != Source::ManyUses
                    && right.join.as_deref() == Some(digest.as_bytes().as_slice());
                right.node.as_ref() != Some(&self.node) && !is_taken && right.is_alive(now)
            })?;
            let mut requests = transaction.open_table(CERTIFICATE_REQUESTS)?;
            for purpose in certificates {
                let request = CertificateRequest {
                    purpose: *purpose,
                    node: Some(self.node.clone()),
                    join: Some(digest.as_bytes().to_vec()),
                    until: Some(now.saturating_add(RETRY_WINDOW)),
                };
                let key = self.token.with_suffix(purpose.suffix()).digest();
                requests.insert(
                    (key.as_bytes().as_slice(), self.node.key().as_str()),
                    json(&request).as_slice(),
                )?;
            }
            let admitted = AdmittedNode {
                node: self.node.clone(),
                role,
                complete: certificates.is_empty(),
            };
            transaction
                .open_table(NODES)?
                .insert(self.node.key().as_str(), json(&admitted).as_slice())?;
            Ok(())
        })
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.source != Source::ManyUses {
            let mut reserved = self
                .tokens
                .reserved
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let digest = self.token.digest();
            if let Some((_, requests)) = reserved.get_mut(&digest) {
                *requests -= 1;
                if *requests == 0 {
                    reserved.remove(&digest);
                }
            }
        }
    }
}

fn database_error(path: &Path, source: impl Into<redb::Error>) -> StoreError {
    StoreError::Database {
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The record under a key; `Err(())` when there is none that can be read.
fn get_json<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Result<T, ()>, redb::Error> {
    Ok(match table.get(key)? {
        Some(value) => serde_json::from_slice(value.value()).map_err(|_| ()),
        None => Err(()),
    })
}

/// Deletes the rights to certificates that are not to be kept, and those that cannot be read.
fn retain_rights(
    transaction: &redb::WriteTransaction,
    keep: impl Fn(&CertificateRequest) -> bool,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(CERTIFICATE_REQUESTS)?;
    table.retain(|_, value| serde_json::from_slice(value).is_ok_and(|right| keep(&right)))?;
    Ok(())
}

fn get_node(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Result<AdmittedNode, ()>, redb::Error> {
    Ok(match table.get(key)? {
        Some(value) => serde_json::from_slice(value.value()).map_err(|_| ()),
        None => Err(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;

    struct Fixture {
        dir: tempfile::TempDir,
        tokens: Tokens,
        clock: Arc<ManualClock>,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::standalone(dir.path());
        std::fs::create_dir_all(layout.own_state()).unwrap();
        std::fs::create_dir_all(layout.credential("")).unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let tokens = Tokens::open(&layout, clock.clone()).unwrap();
        Fixture { dir, tokens, clock }
    }

    fn node(n: u8) -> JoiningNode {
        JoiningNode {
            name: format!("n{n}"),
            address: IpAddr::from([10, 99, 0, 10 + n]),
        }
    }

    fn token() -> Token {
        Token::preset("0123456789abcdef0123456789abcdef").unwrap()
    }

    impl Fixture {
        fn join(&self, node: &JoiningNode) -> Result<(), TokenRefusal> {
            let reservation = self.tokens.reserve(&token(), node, |_| false).unwrap()?;
            reservation
                .commit(
                    Role::Worker,
                    &[CertificatePurpose::Kubelet, CertificatePurpose::Proxy],
                )
                .unwrap();
            Ok(())
        }

        fn sign(&self, suffix: &str, node: &JoiningNode) -> bool {
            let token = token().with_suffix(suffix);
            match self
                .tokens
                .certificate_request(&token, node.address, Some(&node.name))
                .unwrap()
            {
                Some(request) => self.tokens.certificate_signed(&token, &request).unwrap(),
                None => false,
            }
        }
    }

    #[test]
    fn a_reservation_that_is_dropped_gives_the_token_back() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        let held = f
            .tokens
            .reserve(&token(), &node(2), |_| false)
            .unwrap()
            .unwrap();
        assert_eq!(
            f.tokens
                .reserve(&token(), &node(3), |_| false)
                .unwrap()
                .err(),
            Some(TokenRefusal::InUse)
        );
        drop(held);
        assert_eq!(f.join(&node(3)), Ok(()));
    }

    #[test]
    fn the_same_node_may_retry_for_a_while_and_nobody_else() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        assert_eq!(f.join(&node(3)), Err(TokenRefusal::InUse));
        assert_eq!(f.join(&node(2)), Ok(()));
        assert!(f.sign("-proxy", &node(2)));
        assert!(f.sign("-kubelet", &node(2)));
        assert!(!f.sign("-kubelet", &node(2)));
        // What follows the certificates may fail as well, and nobody tells us.
        assert_eq!(f.join(&node(3)), Err(TokenRefusal::Used));
        assert_eq!(f.join(&node(2)), Ok(()));
        assert!(f.sign("-kubelet", &node(2)) && f.sign("-proxy", &node(2)));
        f.clock.advance(RETRY_WINDOW);
        assert_eq!(f.join(&node(2)), Err(TokenRefusal::Used));
        assert_eq!(f.join(&node(3)), Err(TokenRefusal::Used));
    }

    #[test]
    fn a_token_whose_node_never_finished_is_nobodys_after_the_window() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        f.clock.advance(RETRY_WINDOW);
        for n in [2, 3] {
            assert_eq!(f.join(&node(n)), Err(TokenRefusal::Used), "{n}");
        }
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(3)), Ok(()));
    }

    #[test]
    fn a_member_does_not_use_its_token_again() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        let check = |n, is_member| {
            let node = node(n);
            f.tokens.check(&token(), &node, |_| is_member).unwrap()
        };
        assert_eq!(check(2, false), Ok(()));
        assert_eq!(check(2, true), Err(TokenRefusal::Used));
    }

    #[test]
    fn an_empty_token_is_unknown_whatever_the_database_holds() {
        let f = fixture();
        let empty = Token::presented("");
        f.tokens.add(&empty, Lifetime::OneUse).unwrap();
        assert_eq!(
            f.tokens.check(&empty, &node(2), |_| false).unwrap(),
            Err(TokenRefusal::Unknown)
        );
        let reserved = f.tokens.reserve(&empty, &node(2), |_| false).unwrap();
        assert_eq!(reserved.err(), Some(TokenRefusal::Unknown));
    }

    #[test]
    fn rights_to_certificates_end_with_the_window() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(9999)).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        f.clock.advance(RETRY_WINDOW - 1);
        assert!(f.sign("-proxy", &node(2)));
        f.clock.advance(1);
        assert!(!f.sign("-kubelet", &node(2)));
    }

    #[test]
    fn a_new_admission_replaces_the_rights_of_an_earlier_one() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(60)).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        let again = f
            .tokens
            .reserve(&token(), &node(2), |_| false)
            .unwrap()
            .unwrap();
        again.commit(Role::ControlPlane, &[]).unwrap();
        assert!(!f.sign("-kubelet", &node(2)));
    }

    #[test]
    fn issuing_a_one_time_token_again_takes_the_rights_of_its_last_user() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert!(!f.sign("-kubelet", &node(2)));
    }

    #[test]
    fn a_token_that_is_issued_for_longer_leaves_those_alone_who_are_joining_with_it() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(60)).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        f.tokens.add(&token(), Lifetime::Seconds(600)).unwrap();
        assert!(f.sign("-kubelet", &node(2)));
    }

    #[test]
    fn a_right_is_of_no_use_at_another_address() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(60)).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        let elsewhere = JoiningNode {
            address: node(3).address,
            ..node(2)
        };
        assert!(!f.sign("-kubelet", &elsewhere) && !f.sign("-proxy", &elsewhere));
        assert!(f.sign("-kubelet", &node(2)) && f.sign("-proxy", &node(2)));
    }

    #[test]
    fn nodes_behind_one_address_get_their_own_certificates_each() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(60)).unwrap();
        let behind = |n| JoiningNode {
            address: node(9).address,
            ..node(n)
        };
        for n in [2, 3] {
            assert_eq!(f.join(&behind(n)), Ok(()));
        }
        for n in [3, 2] {
            for suffix in ["-proxy", "-kubelet"] {
                let token = token().with_suffix(suffix);
                let name = (suffix == "-kubelet").then(|| behind(n).name);
                let right = f
                    .tokens
                    .certificate_request(&token, behind(n).address, name.as_deref())
                    .unwrap()
                    .unwrap();
                if name.is_some() {
                    assert_eq!(right.node, Some(behind(n)));
                }
                assert!(f.tokens.certificate_signed(&token, &right).unwrap());
            }
        }
        let admitted = f.tokens.admitted().unwrap();
        assert_eq!(admitted.len(), 2);
        assert!(admitted.iter().all(|node| node.complete), "{admitted:?}");
    }

    #[test]
    fn a_token_in_the_database_and_in_the_file_admits_one_node() {
        let f = fixture();
        let path = f.tokens.layout.credential(token_files::CLUSTER_TOKENS);
        std::fs::write(&path, format!("{}\n", token().expose())).unwrap();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
        assert_eq!(f.join(&node(3)), Err(TokenRefusal::InUse));
    }

    #[test]
    fn a_token_with_a_life_is_used_by_many_until_it_ends() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(60)).unwrap();
        for n in 2..6 {
            assert_eq!(f.join(&node(n)), Ok(()));
        }
        // Each of them has certificates of its own, although they share the token.
        for n in 2..6 {
            assert!(
                f.sign("-kubelet", &node(n)) && f.sign("-proxy", &node(n)),
                "{n}"
            );
        }
        f.clock.advance(60);
        assert_eq!(f.join(&node(7)), Err(TokenRefusal::Expired));
    }

    #[test]
    fn adding_a_token_again_makes_it_live_longer_or_again() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::Seconds(600)).unwrap();
        f.tokens.add(&token(), Lifetime::Seconds(60)).unwrap();
        f.clock.advance(599);
        assert_eq!(f.join(&node(2)), Ok(()));
        f.clock.advance(1);
        assert_eq!(f.join(&node(2)), Err(TokenRefusal::Expired));
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        f.sign("-kubelet", &node(2));
        f.sign("-proxy", &node(2));
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(3)), Ok(()));
    }

    #[test]
    fn tokens_outlive_the_program() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        let layout = f.tokens.layout.clone();
        drop(f.tokens);
        let again = Tokens::open(&layout, f.clock).unwrap();
        assert_eq!(again.check(&token(), &node(2), |_| false).unwrap(), Ok(()));
        drop(f.dir);
    }

    #[test]
    fn lines_in_the_files_of_microk8s_count() {
        let f = fixture();
        let path = f.tokens.layout.credential(token_files::CLUSTER_TOKENS);
        std::fs::write(&path, format!("{}\n", token().expose())).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
        assert_eq!(f.join(&node(3)), Err(TokenRefusal::InUse));
        // Who appends a line issues a token, also one that was used before.
        std::fs::write(&path, format!("{}\n", token().expose())).unwrap();
        assert_eq!(f.join(&node(3)), Ok(()));
        let persistent = f.tokens.layout.credential(token_files::PERSISTENT_TOKENS);
        std::fs::write(persistent, format!("{}\n", token().expose())).unwrap();
        for n in 2..9 {
            assert_eq!(f.join(&node(n)), Ok(()));
        }
    }

    #[test]
    fn a_line_that_a_crash_kept_from_being_blanked_admits_nobody_else() {
        let f = fixture();
        let path = f.tokens.layout.credential(token_files::CLUSTER_TOKENS);
        std::fs::write(&path, format!("{}\n", token().expose())).unwrap();
        let reservation = f
            .tokens
            .reserve(&token(), &node(2), |_| false)
            .unwrap()
            .unwrap();
        reservation.admit(Role::ControlPlane, &[], true).unwrap();
        drop(reservation);
        assert_eq!(f.join(&node(3)), Err(TokenRefusal::InUse));
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
        assert_eq!(f.join(&node(2)), Ok(()));
    }

    #[test]
    fn two_requests_of_one_node_hold_a_token_until_both_have_ended() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        let reserve = |n| f.tokens.reserve(&token(), &node(n), |_| false).unwrap();
        let first = reserve(2).unwrap();
        let second = reserve(2).unwrap();
        drop(first);
        assert_eq!(reserve(3).err(), Some(TokenRefusal::InUse));
        drop(second);
        assert!(reserve(3).is_ok());
    }

    #[test]
    fn a_certificate_token_of_canonicals_agent_works_once() {
        let f = fixture();
        let path = f.tokens.layout.credential(token_files::CERTIFICATE_TOKENS);
        std::fs::write(&path, format!("{}-kubelet\n", token().expose())).unwrap();
        assert!(f.sign("-kubelet", &node(2)));
        assert!(!f.sign("-kubelet", &node(2)));
    }

    #[test]
    fn of_many_nodes_at_once_one_gets_a_one_time_token() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        let admitted: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = (2..18)
                .map(|n| {
                    scope.spawn({
                        let f = &f;
                        move || f.join(&node(n)).is_ok()
                    })
                })
                .collect();
            tries
                .into_iter()
                .map(|t| usize::from(t.join().unwrap()))
                .sum()
        });
        assert_eq!(admitted, 1);
    }

    #[test]
    fn no_token_is_on_disk_in_clear() {
        let f = fixture();
        f.tokens.add(&token(), Lifetime::OneUse).unwrap();
        assert_eq!(f.join(&node(2)), Ok(()));
        let bytes = std::fs::read(&f.tokens.path).unwrap();
        let needle = token();
        assert!(
            !bytes
                .windows(32)
                .any(|window| window == needle.expose().as_bytes())
        );
    }
}
