//! The token store of a cluster with several control planes: a Secret for each token, in the cluster's
//! own API.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::base::mutex::lock;
use crate::client::kubernetes::KubernetesError;
use crate::client::secrets::{Kind, SecretObject, Secrets};
use crate::model::token::TokenDigest;
use crate::model::token_record::TokenRecord;
use crate::store::database::StoreError;
use crate::store::token_store::{ChangeId, NextChange, Stored, Swap, TokenStore};

const NAMESPACE: &str = "kube-system";
const KIND: Kind = Kind {
    namespace: NAMESPACE,
    secret_type: "microk8s.io/join-token",
    label: ("app.kubernetes.io/managed-by", "microk8s-cluster-agent"),
};
/// What stands before a token's SHA-256 in the name of its Secret.
const PREFIX: &str = "microk8s-join-token-";
/// Under what a Secret holds the record.
const KEY: &str = "record";
/// The form in which records are written.
const FORMAT: u32 = 1;
/// How many changes are under way at once.
const AT_ONCE: usize = 8;
/// For how long what was read or written is good enough to begin a change with.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many records are in memory at most.
const REMEMBERED_RECORDS: usize = 1000;
/// How often all tokens are looked through for those that are due, where that does not take longer.
const SEARCH_PERIOD: Duration = Duration::from_secs(300);
/// After how many seconds a request may be granted that the API server could not serve, where it does
/// not say.
const COME_AGAIN: u64 = 10;

/// What a Secret holds.
#[derive(Serialize, Deserialize)]
struct Row {
    format: u32,
    change: ChangeId,
    record: TokenRecord,
}

/// The tokens in the cluster's API.
pub(crate) struct SecretStore {
    secrets: Secrets,
    next_change: NextChange,
    search: Mutex<Option<Search>>,
    /// What was read and written lately, and when.
    remembered: Mutex<HashMap<TokenDigest, (Instant, Stored)>>,
}

/// How far the tokens were looked through for those that are due.
struct Search {
    begun: Instant,
    /// Where the next page begins, where there is one.
    next: Option<String>,
}

impl SecretStore {
    /// The tokens in the API to which this kubeconfig leads.
    pub(crate) fn new(kubeconfig: PathBuf, next_change: NextChange) -> Self {
        Self {
            secrets: Secrets::new(kubeconfig, KIND),
            next_change,
            search: Mutex::default(),
            remembered: Mutex::default(),
        }
    }

    /// Returns the token where its record is another one than was expected.
    fn swap_one(&self, swap: &Swap) -> Result<Option<TokenDigest>, StoreError> {
        let name = name_of(&swap.key);
        let row = |record: &TokenRecord| {
            let row = Row {
                format: FORMAT,
                change: swap.change,
                record: record.clone(),
            };
            let text = serde_json::to_vec(&row).unwrap_or_default();
            [(KEY, STANDARD.encode(text))]
        };
        self.remember(swap.key, None);
        let version =
            |written: Option<SecretObject>| written.map(|secret| Some(secret.version().to_owned()));
        let (verb, written) = match (&swap.expected, &swap.next) {
            (None, None) => return Ok(Some(swap.key)),
            (None, Some(record)) => {
                let created = self.secrets.create(&name, &row(record));
                ("create", created.map(version))
            }
            (Some(expected), Some(record)) => {
                let replaced = self.secrets.replace(&name, expected, &row(record));
                ("update", replaced.map(version))
            }
            (Some(expected), None) => {
                let deleted = self.secrets.delete(&name, expected);
                ("delete", deleted.map(|deleted| deleted.then_some(None)))
            }
        };
        let Some(version) = written.map_err(|error| store_error(error, verb, &name))? else {
            return Ok(Some(swap.key));
        };
        let stored = swap.next.clone().zip(version);
        let stored = stored.map(|(record, version)| Stored {
            record,
            version,
            change: swap.change,
        });
        self.remember(swap.key, stored);
        Ok(None)
    }

    /// Keeps in memory what is known of a token now; `None` where nothing is known for certain.
    fn remember(&self, key: TokenDigest, stored: Option<Stored>) {
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_RECORDS {
            remembered.clear();
        }
        match stored {
            Some(stored) => remembered.insert(key, (Instant::now(), stored)),
            None => remembered.remove(&key),
        };
    }
}

impl TokenStore for SecretStore {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        let name = name_of(key);
        let found = self.secrets.get(&name);
        let found = found.map_err(|error| store_error(error, "get", &name))?;
        let stored = found.map(|secret| read_secret(&secret)).transpose();
        self.remember(*key, stored.as_ref().ok().cloned().flatten());
        stored
    }

    fn remembered(&self, key: &TokenDigest) -> Option<Stored> {
        let remembered = lock(&self.remembered);
        let (since, stored) = remembered.get(key)?;
        (since.elapsed() < REMEMBERED).then(|| stored.clone())
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError> {
        let mut conflicts = Vec::new();
        for some in swaps.chunks(AT_ONCE) {
            if let [one] = some {
                conflicts.extend(self.swap_one(one)?);
                continue;
            }
            let swapped = thread::scope(|scope| {
                let begun: Vec<_> = some
                    .iter()
                    .map(|swap| scope.spawn(|| self.swap_one(swap)))
                    .collect();
                begun
                    .into_iter()
                    .map(|one| one.join().unwrap_or(Err(StoreError::Interrupted)))
                    .collect::<Result<Vec<_>, _>>()
            });
            conflicts.extend(swapped?.into_iter().flatten());
        }
        Ok(conflicts)
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let listed = self.secrets.list(&mut |secret| {
            let Some(digest) = digest_of(secret.name()) else {
                return true;
            };
            if !digest.begins_with(beginning) {
                return true;
            }
            match read_secret(&secret) {
                Ok(stored) => take(digest, stored.record).is_continue(),
                Err(error) => {
                    tracing::warn!("{error}");
                    true
                }
            }
        });
        listed.map_err(|error| store_error(error, "list", ""))
    }

    /// Looks at one page: however many tokens there are, each call costs as much, and none is kept.
    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError> {
        let mut search = lock(&self.search);
        if let Some(Search { begun, next: None }) = &*search
            && begun.elapsed() < SEARCH_PERIOD
        {
            return Ok(Vec::new());
        }
        let under_way = search
            .take()
            .and_then(|last| Some((last.begun, last.next?)));
        let (begun, position) = under_way.unwrap_or_else(|| (Instant::now(), String::new()));
        let page = self.secrets.page(&position);
        let page = page.map_err(|error| store_error(error, "list", ""))?;
        let next = page.next();
        *search = Some(Search { begun, next });
        let tokens = page.items.iter().filter_map(|secret| {
            let stored = read_secret(secret).ok()?;
            let moment = (self.next_change)(&stored.record)?;
            digest_of(secret.name()).filter(|_| moment <= now)
        });
        Ok(tokens.take(limit).collect())
    }

    fn revision(&self) -> Result<Option<u64>, StoreError> {
        let version = self.secrets.version();
        let version = version.map_err(|error| store_error(error, "list", ""))?;
        Ok(version.parse().ok())
    }
}

fn name_of(key: &TokenDigest) -> String {
    format!("{PREFIX}{}", key.digits())
}

fn digest_of(name: &str) -> Option<TokenDigest> {
    TokenDigest::from_digits(name.strip_prefix(PREFIX)?)
}

fn read_secret(secret: &SecretObject) -> Result<Stored, StoreError> {
    let unreadable = |why: &str| StoreError::Secret {
        name: format!("{NAMESPACE}/{}", secret.name()),
        why: why.to_owned(),
    };
    let text = secret
        .value(KEY)
        .and_then(|value| STANDARD.decode(value).ok());
    let text = text.ok_or_else(|| unreadable("it has no record"))?;
    let row: Row = serde_json::from_slice(&text).map_err(|error| unreadable(&error.to_string()))?;
    if row.format != FORMAT {
        return Err(unreadable("another version of this program wrote it"));
    }
    Ok(Stored {
        record: row.record,
        version: secret.version().to_owned(),
        change: row.change,
    })
}

fn store_error(error: KubernetesError, verb: &str, name: &str) -> StoreError {
    let why = error.to_string();
    let is_write = !matches!(verb, "get" | "list");
    let unavailable = |why, seconds: Option<u64>, is_unsure| StoreError::Unavailable {
        why,
        seconds: seconds.unwrap_or(COME_AGAIN),
        is_unsure,
    };
    match error {
        KubernetesError::Refused {
            status: 401 | 403, ..
        } => StoreError::Forbidden {
            rights: format!("{verb} secrets in the namespace {NAMESPACE}"),
            why,
        },
        KubernetesError::Refused {
            status,
            retry_after,
            ..
        } if status == 429 || status >= 500 => {
            unavailable(why, retry_after, is_write && status >= 500)
        }
        KubernetesError::Refused { .. } => StoreError::Secret {
            name: format!("{NAMESPACE}/{name}"),
            why,
        },
        KubernetesError::NoAnswer { .. } | KubernetesError::Unreadable(_) => {
            unavailable(why, None, is_write)
        }
        KubernetesError::Kubeconfig(_) | KubernetesError::NoConnection(_) => {
            unavailable(why, None, false)
        }
    }
}
