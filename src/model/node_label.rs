//! Labels that a node gives itself when it joins.
//!
//! The rules are Kubernetes's: its syntax of labels, and what a kubelet accepts in `--node-labels`.
//! A kubelet that is given another label does not start, so they are checked beforehand.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most characters of a name and of a value.
const MAX_NAME: usize = 63;
/// The most characters of a prefix.
const MAX_PREFIX: usize = 253;
/// The namespaces that are Kubernetes's own, with all below them.
const RESTRICTED: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Those among them that a kubelet may use.
const FOR_KUBELETS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The labels elsewhere among them that a kubelet may set.
const WELL_KNOWN: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// The labels that say what a node is in a cluster of MicroK8s's; the join sets them.
const OF_THE_JOIN: [&str; 3] = [
    "microk8s.io/cluster",
    "node.kubernetes.io/microk8s-controlplane",
    "node.kubernetes.io/microk8s-worker",
];

/// A label that a kubelet accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeLabel {
    key: String,
    value: String,
}

/// Why a label cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNodeLabel {
    /// There is no `=`.
    #[error("a label has the form KEY=VALUE")]
    NoValue,
    /// The part of the key before its `/`.
    #[error(
        "the part of a key before its `/` is a DNS name of at most {MAX_PREFIX} lower-case letters, digits, `-` and `.`"
    )]
    Prefix,
    /// The key, or its part behind the `/`.
    #[error(
        "a key is 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit, and may have a DNS name and a `/` in front"
    )]
    Name,
    /// The value.
    #[error(
        "a value is up to {MAX_NAME} letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit"
    )]
    Value,
    /// A namespace of Kubernetes's.
    #[error(
        "a node may not set labels below kubernetes.io and k8s.io on itself, other than those of kubelet.kubernetes.io, node.kubernetes.io and the well-known ones; set it with `microk8s kubectl label node` once the node has joined"
    )]
    Restricted,
    /// A label of MicroK8s's.
    #[error("the join sets this label by itself")]
    OfTheJoin,
}

impl NodeLabel {
    /// The key, with its prefix.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Adds labels to the value of the kubelet's `--node-labels`. A label that is there under the
    /// same key goes.
    pub(crate) fn add_to(present: &str, labels: &[Self]) -> String {
        let is_replaced = |pair: &str| {
            let key = pair.split('=').next().unwrap_or_default().trim();
            labels.iter().any(|label| label.key == key)
        };
        let mut pairs: Vec<String> = present
            .split(',')
            .filter(|pair| !pair.trim().is_empty() && !is_replaced(pair))
            .map(str::to_owned)
            .collect();
        pairs.extend(labels.iter().map(Self::to_string));
        pairs.join(",")
    }
}

impl FromStr for NodeLabel {
    type Err = InvalidNodeLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').ok_or(InvalidNodeLabel::NoValue)?;
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        if prefix.is_some_and(|prefix| !is_dns_name(prefix)) {
            return Err(InvalidNodeLabel::Prefix);
        }
        if name.is_empty() || !is_name(name) {
            return Err(InvalidNodeLabel::Name);
        }
        if !is_name(value) {
            return Err(InvalidNodeLabel::Value);
        }
        if OF_THE_JOIN.contains(&key) {
            return Err(InvalidNodeLabel::OfTheJoin);
        }
        let is_below = |spaces: &[&str]| {
            spaces.iter().any(|space| {
                prefix
                    .and_then(|prefix| prefix.strip_suffix(space))
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        };
        if is_below(&RESTRICTED) && !is_below(&FOR_KUBELETS) && !WELL_KNOWN.contains(&key) {
            return Err(InvalidNodeLabel::Restricted);
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// Letters, digits and marks, without a mark at either end; nothing is one as well.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && [text.bytes().next(), text.bytes().last()]
            .into_iter()
            .flatten()
            .all(|b| b.is_ascii_alphanumeric())
}

fn is_dns_name(text: &str) -> bool {
    let is_lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= MAX_PREFIX
        && text.split('.').all(|part| {
            part.bytes().all(|b| is_lower(b) || b == b'-')
                && part.bytes().next().is_some_and(is_lower)
                && part.bytes().last().is_some_and(is_lower)
        })
}

impl fmt::Display for NodeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl TryFrom<String> for NodeLabel {
    type Error = InvalidNodeLabel;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeLabel> for String {
    fn from(label: NodeLabel) -> Self {
        label.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> InvalidNodeLabel {
        text.parse::<NodeLabel>().expect_err(text)
    }

    #[test]
    fn what_a_kubelet_accepts_is_a_label() {
        let long = format!("{}=x", "k".repeat(63));
        let longest = format!("{}/{long}", "p".repeat(253));
        for text in [
            "disk=ssd",
            "Disk_1.a-b=SSD.2",
            "empty=",
            "example.com/rack=4",
            &long,
            &longest,
            "node.kubernetes.io/pool=a",
            "a.kubelet.kubernetes.io/pool=a",
            "topology.kubernetes.io/zone=eu-1a",
            "notkubernetes.io/a=b",
            "notk8s.io/a=b",
        ] {
            assert_eq!(text.parse::<NodeLabel>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_kubernetes_would_not_take_is_refused() {
        use InvalidNodeLabel::*;
        let long = "x".repeat(64);
        for (text, why) in [
            ("", NoValue),
            ("disk", NoValue),
            ("=ssd", Name),
            ("-disk=ssd", Name),
            ("disk_=ssd", Name),
            ("di sk=ssd", Name),
            (&format!("{long}=x"), Name),
            ("example.com/=x", Name),
            ("a/b/c=x", Name),
            ("/rack=4", Prefix),
            ("Example.com/rack=4", Prefix),
            ("example..com/rack=4", Prefix),
            (&format!("{}/rack=4", "p".repeat(254)), Prefix),
            ("disk=a,b", Value),
            ("disk=a=b", Value),
            ("disk=-a", Value),
            ("disk=$HOME", Value),
            ("disk=\u{e4}", Value),
            (&format!("disk={long}"), Value),
            ("kubernetes.io/role=x", Restricted),
            ("node-role.kubernetes.io/worker=", Restricted),
            ("node-restriction.kubernetes.io/a=b", Restricted),
            ("x.k8s.io/a=b", Restricted),
            ("topology.kubernetes.io/rack=4", Restricted),
            ("microk8s.io/cluster=false", OfTheJoin),
        ] {
            assert_eq!(refused(text), why, "{text}");
        }
    }

    #[test]
    fn labels_are_added_to_those_that_are_there() {
        let labels: Vec<NodeLabel> = ["disk=ssd", "rack=4"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for (present, sum) in [
            ("", "disk=ssd,rack=4"),
            ("a=b,", "a=b,disk=ssd,rack=4"),
            ("rack=3,a=b,disk", "a=b,disk=ssd,rack=4"),
        ] {
            assert_eq!(NodeLabel::add_to(present, &labels), sum);
        }
    }
}
