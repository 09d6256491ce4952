//! What a token is issued for: how long, how often, for which role and for which node.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use strum::Display;

use crate::model::node::NodeName;
use crate::model::role::Role;

/// The most characters of a description.
pub(crate) const MAX_DESCRIPTION: usize = 200;

/// What the operator wants a token to be good for.
///
/// What is not named stays as it is when the token exists already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// How long it can be used; without it by one use, whenever that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lifetime: Option<Lifetime>,
    /// By how many nodes; without it by one, or by any number while a token with a time lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<Uses>,
    /// As what nodes may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<RoleLimit>,
    /// The only node that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeName>,
    /// What the operator wants to remember.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Description>,
}

impl Terms {
    /// A token for this time, for any node and role.
    pub const fn lasting(lifetime: Lifetime) -> Self {
        Self {
            lifetime: Some(lifetime),
            uses: None,
            role: None,
            node: None,
            description: None,
        }
    }
}

/// How long a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// By one node, whenever that is.
    OneUse,
    /// By any number of nodes, for so many seconds.
    Seconds(u32),
}

/// A time to live that would make a token unusable, or is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidLifetime {
    /// Zero, or below zero and not -1.
    #[error(
        "a token that lives {0} seconds could never be used; give a positive number, or -1 for one use"
    )]
    Dead(i64),
    /// Beyond [`u32::MAX`] seconds, 136 years.
    #[error("{0} seconds is more than the {max} that a token can live", max = u32::MAX)]
    TooLong(i64),
}

impl Lifetime {
    /// Takes MicroK8s's `--token-ttl`: seconds, or -1 for one use.
    pub(crate) fn from_ttl(ttl: i64) -> Result<Self, InvalidLifetime> {
        match ttl {
            -1 => Ok(Self::OneUse),
            ..=0 => Err(InvalidLifetime::Dead(ttl)),
            _ => u32::try_from(ttl)
                .map(Self::Seconds)
                .map_err(|_| InvalidLifetime::TooLong(ttl)),
        }
    }
}

/// By how many nodes a token can be used: one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub(crate) struct Uses(u32);

/// A number of uses that no token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token has at least 1 use, and at most {max}", max = u32::MAX)]
pub(crate) struct InvalidUses;

impl Uses {
    /// One.
    pub(crate) const ONE: Self = Self(1);

    /// The number.
    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Uses {
    type Error = InvalidUses;

    fn try_from(number: u32) -> Result<Self, InvalidUses> {
        if number == 0 {
            return Err(InvalidUses);
        }
        Ok(Self(number))
    }
}

/// As what a node may join with a token.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Display, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum RoleLimit {
    /// As anything.
    #[default]
    Any,
    /// As a worker only.
    Worker,
    /// As a control plane node only.
    ControlPlane,
}

impl RoleLimit {
    /// Whether a node may join in this role.
    pub(crate) fn allows(self, role: Role) -> bool {
        match self {
            Self::Any => true,
            Self::Worker => role == Role::Worker,
            Self::ControlPlane => role == Role::ControlPlane,
        }
    }
}

/// A line of text that an operator gave to a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Description(String);

/// A text that is no description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a description is one line of {MAX_DESCRIPTION} characters at most")]
pub(crate) struct InvalidDescription;

impl Description {
    /// Takes a line without control characters; nothing but blanks is no description.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidDescription> {
        let text = text.trim();
        let fits = (1..=MAX_DESCRIPTION).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDescription)
        }
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Description {
    type Error = InvalidDescription;

    fn try_from(text: String) -> Result<Self, InvalidDescription> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_that_never_lets_anybody_in_is_refused() {
        assert_eq!(Lifetime::from_ttl(-1), Ok(Lifetime::OneUse));
        assert_eq!(
            Lifetime::from_ttl(4_294_967_295),
            Ok(Lifetime::Seconds(u32::MAX))
        );
        for bad in [0, -2, -5, i64::MIN] {
            assert_eq!(Lifetime::from_ttl(bad), Err(InvalidLifetime::Dead(bad)));
        }
        assert!(Lifetime::from_ttl(i64::MAX).is_err());
    }

    #[test]
    fn a_token_has_one_use_at_least() {
        assert_eq!(Uses::try_from(0), Err(InvalidUses));
        assert_eq!(Uses::try_from(1), Ok(Uses::ONE));
        assert!(serde_json::from_str::<Uses>("0").is_err());
    }

    #[test]
    fn a_description_is_one_line() {
        assert_eq!(Description::parse(" for n2 ").unwrap().as_str(), "for n2");
        for bad in ["", "  ", "a\nb", "\u{1b}[2J", &"x".repeat(201)] {
            assert_eq!(Description::parse(bad), Err(InvalidDescription), "{bad:?}");
        }
    }
}
