//! A node: its name, as Kubernetes knows it, and a node that wants to join.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::base::sanitize;

/// The longest name of a node, in characters: it is the value of one of the node's labels as well.
const LONGEST: usize = 63;

/// A host name as a kubelet makes it its node's name: in lower case, and a subdomain by RFC 1123.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeName(String);

/// Why a text is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNodeName {
    /// Its form.
    #[error(
        "`{0}` is not a valid name of a node in Kubernetes: 1 to 253 letters, digits, `-` and `.`, each part beginning and ending with a letter or digit"
    )]
    Form(String),
    /// Its length.
    #[error("`{0}` is longer than the {LONGEST} characters that a node's name may have")]
    Length(String),
}

impl NodeName {
    /// Takes a host name, in any case.
    pub fn parse(name: &str) -> Result<Self, InvalidNodeName> {
        let lower = name.trim().to_ascii_lowercase();
        let label_is_fine = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if lower.len() <= 253 && lower.split('.').all(label_is_fine) {
            Ok(Self(lower))
        } else {
            Err(InvalidNodeName::Form(sanitize::for_log(name, 80)))
        }
    }

    /// Takes the host name of a node that is to be made.
    pub(crate) fn of_new_node(name: &str) -> Result<Self, InvalidNodeName> {
        let name = Self::parse(name)?;
        if name.0.len() > LONGEST {
            return Err(InvalidNodeName::Length(name.0));
        }
        Ok(name)
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
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

/// Who joins: a host name, and the address that the request came from. Both together tell one
/// node from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct JoiningNode {
    /// Its host name, in lower case.
    pub(crate) name: String,
    /// The address that its request came from.
    pub(crate) address: IpAddr,
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
        assert_eq!(NodeName::parse(" n2\n").unwrap().as_str(), "n2");
        for bad in [
            "",
            " ",
            "-a",
            "a-",
            "a..b",
            ".a",
            "n2.",
            "a.-b",
            "a b",
            "a/b",
            "a*",
            "my_node",
            "n\u{fc}",
            "\u{212a}1",
            "system:node:n2",
            &"a".repeat(254),
        ] {
            assert!(NodeName::parse(bad).is_err(), "{bad}");
        }
        let long = "a".repeat(64);
        assert!(NodeName::parse(&long).is_ok() && NodeName::of_new_node(&long[1..]).is_ok());
        assert_eq!(
            NodeName::of_new_node(&long),
            Err(InvalidNodeName::Length(long))
        );
    }
}
