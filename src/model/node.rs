//! A node: its name, as Kubernetes knows it, and a node that wants to join.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A host name in lower case, fit to be a node's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// Why a text is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no host name: 1 to 253 letters, digits, `-` and `.` are allowed")]
pub struct InvalidNodeName {
    name: String,
}

impl NodeName {
    /// Takes a host name, in any case.
    pub fn parse(name: &str) -> Result<Self, InvalidNodeName> {
        let lower = name.trim().to_ascii_lowercase();
        let label_is_fine = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if lower.len() <= 253 && lower.split('.').all(label_is_fine) {
            Ok(Self(lower))
        } else {
            Err(InvalidNodeName {
                name: crate::base::sanitize::for_log(name, 80),
            })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeName {
    type Error = InvalidNodeName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

/// Who joins: a host name, and the address that the request came from. Both together tell one
/// node from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JoiningNode {
    /// Its host name, in lower case.
    pub name: String,
    /// The address that its request came from.
    pub address: IpAddr,
}

impl fmt::Display for JoiningNode {
    /// `n2 (10.99.0.12)`; the name comes from the other machine and is not cleaned here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_well_formed() {
        assert_eq!(
            NodeName::parse("Node-1.Example").unwrap().as_str(),
            "node-1.example"
        );
        for bad in ["", "-a", "a-", "a..b", "a b", "a/b", "a*", &"a".repeat(64)] {
            assert!(NodeName::parse(bad).is_err(), "{bad}");
        }
    }
}
