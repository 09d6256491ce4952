//! How often joining nodes had this node move its datastore, kept on the disk.
//!
//! A token that admits a node can be presented again after each join that failed. Each first join
//! restarts the datastore, and with it the API server, and so does undoing it. What is written down
//! here bounds that, whatever tokens and nodes ask for and however often the agent starts anew.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::atomic_file::{self, Access};
use crate::base::missing::none_if_missing;
use crate::model::token::TokenDigest;
use crate::store::layout::Layout;

const HOUR: u64 = 3600;
/// So often the datastore is restarted within an hour for nodes that want to join.
const OF_DATASTORE: usize = 6;
/// So often the API server is, each time for another node that needs a token of its own.
const OF_API_SERVER: usize = 12;
/// A first join may restart the datastore, and once more when it fails.
const OF_A_JOIN: usize = 2;
/// Undoing restarts it as well, and must leave room for the join that comes next.
const OF_AN_UNDO: usize = 1 + OF_A_JOIN;

/// How long after an undo the next one has to wait; twice as long after each further one.
const UNDO_PAUSE: u64 = 10 * 60;
/// For how long an undo counts for that.
const DAY: u64 = 24 * HOUR;
/// For how long a token whose join was undone is remembered.
const MONTH: u64 = 30 * DAY;
/// How many tokens are remembered of the joins that one undo was for, and how many undos.
pub(crate) const REMEMBERED: usize = 32;

/// What was done for joining nodes, on the disk. Changes must come one after the other.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    #[serde(skip)]
    path: PathBuf,
    /// When a service was restarted for them, in unix seconds.
    #[serde(default)]
    restarts: Vec<i64>,
    /// The first joins that were undone.
    #[serde(default)]
    undone: Vec<Undone>,
    /// The tokens of the nodes that asked to join since the node was last made ready for others.
    #[serde(default)]
    asked: Vec<TokenDigest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Undone {
    at: i64,
    tokens: Vec<TokenDigest>,
}

/// What becomes of a first join on which no node relies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// It is undone now.
    Now,
    /// It waits.
    Later,
    /// It stays: one of its tokens had this node do and undo the same before.
    Never,
}

impl History {
    /// The restarts of a node's datastore for joining nodes, and what they were for.
    pub(crate) fn of_first_joins(layout: &Layout) -> Self {
        Self::load(layout.own_state().join("first-join.history"))
    }

    /// The history in a file; an empty one where there is none, or none that can be read.
    fn load(path: PathBuf) -> Self {
        let text = none_if_missing(std::fs::read_to_string(&path)).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read `{}`", path.display());
            None
        });
        let read = text.map_or_else(|| Ok(Self::default()), |text| serde_json::from_str(&text));
        let history = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "`{}` is damaged, and begins anew", path.display());
            Self::default()
        });
        Self { path, ..history }
    }

    fn save(&self) -> io::Result<()> {
        let text = serde_json::to_string(self)?;
        atomic_file::write(&self.path, text.as_bytes(), Access::PRIVATE)
    }

    /// Whether there is room for so many restarts of at most `limit`.
    fn check_room(&self, now: i64, restarts: usize, limit: usize) -> Result<(), TooOften> {
        let mut recent: Vec<i64> = self.restarts.clone();
        recent.retain(|at| is_within(*at, now, HOUR));
        recent.sort_unstable();
        let too_many = (recent.len() + restarts).saturating_sub(limit);
        let Some(leaves) = too_many.checked_sub(1).and_then(|last| recent.get(last)) else {
            return Ok(());
        };
        let leaves = leaves.saturating_add_unsigned(HOUR);
        let seconds = u64::try_from(leaves.saturating_sub(now))
            .unwrap_or(0)
            .clamp(1, 2 * HOUR);
        Err(TooOften { seconds })
    }

    /// Whether there is room for a first join.
    pub(crate) fn check(&self, now: i64) -> Result<(), TooOften> {
        self.check_room(now, OF_A_JOIN, OF_DATASTORE)
    }

    /// The node is about to be made ready for others, as this token asks. It is on the disk before the
    /// datastore restarts.
    pub(crate) fn begin(
        mut self,
        now: i64,
        token: &TokenDigest,
        restarts_datastore: bool,
    ) -> io::Result<Result<(), TooOften>> {
        if restarts_datastore {
            if let Err(too_often) = self.check(now) {
                return Ok(Err(too_often));
            }
            self.add_restart(now);
        }
        self.asked = vec![*token];
        self.save().map(Ok)
    }

    /// The service is restarted once more.
    pub(crate) fn note_restart(mut self, now: i64) -> io::Result<()> {
        self.add_restart(now);
        self.save()
    }

    fn add_restart(&mut self, now: i64) {
        self.restarts.retain(|at| is_within(*at, now, HOUR));
        self.restarts.push(now);
    }

    /// Another node asks to join with this token, now that this one is ready. It waits for no disk: a
    /// power loss, which no node that joins can bring about, may take it back.
    pub(crate) fn note_asked(mut self, token: &TokenDigest) -> io::Result<()> {
        if self.asked.len() >= REMEMBERED || self.asked.contains(token) {
            return Ok(());
        }
        self.asked.push(*token);
        let text = serde_json::to_string(&self)?;
        atomic_file::write_unflushed(&self.path, text.as_bytes(), Access::PRIVATE).map(drop)
    }

    /// Whether a first join on which no node relies is undone.
    pub(crate) fn undo(&self, now: i64) -> Undo {
        let has_failed_before = |token| {
            let mut undone = self.undone.iter();
            undone.any(|undone| undone.tokens.contains(token))
        };
        if self.asked.iter().any(has_failed_before) {
            return Undo::Never;
        }
        let recent = self.undone.iter().map(|undone| undone.at);
        let recent: Vec<i64> = recent.filter(|at| is_within(*at, now, DAY)).collect();
        let doublings = u32::try_from(recent.len())
            .unwrap_or(u32::MAX)
            .checked_sub(1);
        let pause = doublings.map_or(0, |by| UNDO_PAUSE.saturating_mul(2_u64.saturating_pow(by)));
        let waits = recent.iter().any(|at| is_within(*at, now, pause.min(DAY)));
        match waits || self.check_room(now, OF_AN_UNDO, OF_DATASTORE).is_err() {
            true => Undo::Later,
            false => Undo::Now,
        }
    }

    /// The first join is about to be undone.
    pub(crate) fn note_undo(mut self, now: i64) -> io::Result<()> {
        self.add_restart(now);
        self.undone
            .retain(|undone| is_within(undone.at, now, MONTH));
        if self.undone.len() >= REMEMBERED {
            self.undone.remove(0);
        }
        let tokens = std::mem::take(&mut self.asked);
        self.undone.push(Undone { at: now, tokens });
        self.save()
    }
}

/// Whether a time is less than so many seconds away. One in the future is of a clock that was wrong:
/// it counts for no longer than one in the past.
fn is_within(at: i64, now: i64, seconds: u64) -> bool {
    at.abs_diff(now) < seconds
}

/// A change that joining nodes have asked for too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOften {
    /// After how many seconds it can be asked for again.
    pub(crate) seconds: u64,
}

/// The API server is about to be restarted, so that it reads the tokens of users again. It is on the
/// disk before. Calls must come one after the other.
pub(crate) fn begin_api_server_restart(
    layout: &Layout,
    now: i64,
) -> io::Result<Result<(), TooOften>> {
    let history = History::load(layout.own_state().join("api-server.history"));
    match history.check_room(now, 1, OF_API_SERVER) {
        Ok(()) => history.note_restart(now).map(Ok),
        Err(too_often) => Ok(Err(too_often)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::Token;

    fn token(number: usize) -> TokenDigest {
        Token::presented(&format!("{number:032}")).digest()
    }

    /// The most restarts within any hour.
    fn most_in_an_hour(restarts: &[i64]) -> usize {
        let within = |from: i64| {
            restarts
                .iter()
                .filter(|at| (from..from + 3600).contains(*at))
                .count()
        };
        restarts.iter().map(|at| within(*at)).max().unwrap_or(0)
    }

    /// Joins by these tokens that all fail, one a minute for a day; the restarts.
    fn day_of_failed_joins(token_of: impl Fn(usize) -> TokenDigest, move_fails: bool) -> Vec<i64> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("history");
        let joins = || History::load(path.clone());
        let (mut made, mut is_ready, mut is_final) = (Vec::new(), false, false);
        for number in 0..1440 {
            let now = 1_000_000 + 60 * i64::try_from(number).unwrap();
            let token = token_of(number);
            if is_final {
                break;
            }
            if is_ready {
                joins().note_asked(&token).unwrap();
            } else if joins().begin(now, &token, true).unwrap().is_ok() {
                made.push(now);
                is_ready = !move_fails;
                if move_fails {
                    joins().note_restart(now).unwrap();
                    made.push(now);
                }
            }
            if is_ready {
                match joins().undo(now) {
                    Undo::Now => {
                        joins().note_undo(now).unwrap();
                        made.push(now);
                        is_ready = false;
                    }
                    Undo::Later => {}
                    Undo::Never => is_final = true,
                }
            }
        }
        made
    }

    #[test]
    fn one_token_has_a_first_join_undone_once() {
        assert_eq!(day_of_failed_joins(|_| token(0), false).len(), 3);
    }

    #[test]
    fn however_many_tokens_ask_restarts_are_few_an_hour_and_fewer_in_the_end() {
        let made = day_of_failed_joins(token, false);
        assert!(most_in_an_hour(&made) <= OF_DATASTORE, "{made:?}");
        let early = made.iter().filter(|at| **at < 1_000_000 + 7200).count();
        assert!((4..=20).contains(&made.len()), "{made:?}");
        assert!(early * 2 >= made.len(), "{made:?}");
    }

    #[test]
    fn moves_that_fail_are_few_an_hour() {
        let made = day_of_failed_joins(token, true);
        assert!(most_in_an_hour(&made) <= OF_DATASTORE, "{made:?}");
        assert!(made.len() >= 24, "there is a try each hour: {made:?}");
    }

    #[test]
    fn a_clock_that_was_wrong_blocks_nothing_for_longer_than_an_hour() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("history");
        let joins = || History::load(path.clone());
        for _ in 0..OF_DATASTORE {
            joins().note_restart(4_000_000_000).unwrap();
        }
        let refused = joins().begin(4_000_000_000, &token(0), true).unwrap();
        assert_eq!(refused, Err(TooOften { seconds: 3600 }));
        assert_eq!(
            joins().begin(1_700_000_000, &token(0), true).unwrap(),
            Ok(())
        );
    }

    #[test]
    fn a_history_that_cannot_be_read_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("history");
        std::fs::write(&path, "\u{0}nope").unwrap();
        assert!(History::load(path).restarts.is_empty());
    }
}
