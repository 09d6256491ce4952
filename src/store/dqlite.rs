//! The files of MicroK8s's datastore service that name the members of its cluster.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use strum::{EnumString, FromRepr};

use crate::model::endpoint;

/// One entry of `cluster.yaml`, or all of `info.yaml`; also an entry of what the dqlite shell
/// prints for `.cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// `address:port`.
    #[serde(rename = "Address")]
    pub(crate) address: String,
    /// dqlite's number for the node.
    #[serde(rename = "ID", default)]
    pub(crate) id: u64,
    /// What the node does in the datastore.
    #[serde(rename = "Role", default)]
    pub(crate) role: DatastoreRole,
}

/// What a node does in the datastore.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, FromRepr, EnumString,
)]
#[serde(try_from = "Written", into = "u64")]
#[strum(serialize_all = "kebab-case")]
#[repr(u64)]
pub(crate) enum DatastoreRole {
    /// Has a vote.
    #[default]
    Voter = 0,
    /// Has the data and no vote.
    StandBy = 1,
    /// Has neither.
    Spare = 2,
}

/// MicroK8s's files hold a number, the dqlite shell of Debian prints a word.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Word(String),
}

impl From<DatastoreRole> for u64 {
    fn from(role: DatastoreRole) -> Self {
        role as Self
    }
}

impl TryFrom<Written> for DatastoreRole {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => {
                Self::from_repr(number).ok_or_else(|| format!("no datastore role {number}"))
            }
            Written::Word(word) => {
                let known = word.parse();
                known.map_err(|_| "an unknown datastore role".to_owned())
            }
        }
    }
}

impl Member {
    /// The IP address of the member.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        endpoint::address_of(&self.address)
    }

    /// Whether this is the node at `address`: the whole address counts, not its beginning.
    pub(crate) fn is_at(&self, address: IpAddr) -> bool {
        self.ip()
            .is_some_and(|ip| endpoint::plain(ip) == endpoint::plain(address))
    }

    /// The port of the datastore.
    pub(crate) fn port(&self) -> u16 {
        endpoint::split(&self.address)
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(endpoint::DATASTORE_PORT)
    }
}

/// A file of the datastore that is no such file.
#[derive(Debug, thiserror::Error)]
#[error("`{file}` is not what the datastore writes: {why}")]
pub(crate) struct Malformed {
    file: &'static str,
    why: String,
}

fn read<T: serde::de::DeserializeOwned>(file: &'static str, text: &str) -> Result<T, Malformed> {
    serde_saphyr::from_str(text).map_err(|error| Malformed {
        file,
        why: error.to_string(),
    })
}

/// Reads `cluster.yaml`.
pub(crate) fn read_cluster(text: &str) -> Result<Vec<Member>, Malformed> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    read("cluster.yaml", text)
}

/// Reads `info.yaml`.
pub(crate) fn read_info(text: &str) -> Result<Member, Malformed> {
    read("info.yaml", text)
}

/// Reads what the dqlite shell answers to `.cluster` with `-f json`.
pub(crate) fn read_shell_answer(text: &str) -> Result<Vec<Member>, Malformed> {
    serde_json::from_str(text.trim()).map_err(|error| Malformed {
        file: ".cluster",
        why: error.to_string(),
    })
}

/// `cluster.yaml`, as the datastore itself writes it.
pub(crate) fn cluster_yaml(members: &[Member]) -> String {
    members
        .iter()
        .map(|member| {
            format!(
                "- Address: {}\n  ID: {}\n  Role: {}\n",
                quoted(&member.address),
                member.id,
                u64::from(member.role)
            )
        })
        .collect()
}

/// `info.yaml`, as the datastore itself writes it.
pub(crate) fn info_yaml(member: &Member) -> String {
    cluster_yaml(std::slice::from_ref(member))
        .lines()
        .map(|line| format!("{}\n", line.trim_start_matches("- ").trim_start()))
        .collect()
}

/// `init.yaml`: the datastore joins this cluster when it starts (recording
/// `join-controlplane-ok`).
pub(crate) fn init_yaml(own: &str, voters: &[String]) -> String {
    let mut text = address_yaml(own) + "Cluster:\n";
    for voter in voters {
        text.push_str(&format!("- {}\n", quoted(voter)));
    }
    text
}

/// `init.yaml` of a node that begins a cluster of its own (recording `leave-alone`), and
/// `update.yaml`, by which the datastore moves to another address when it starts.
pub(crate) fn address_yaml(own: &str) -> String {
    format!("Address: {}\n", quoted(own))
}

/// An IPv6 endpoint begins with a bracket, which YAML takes for a list.
fn quoted(endpoint: &str) -> String {
    if endpoint.starts_with('[') {
        format!("'{endpoint}'")
    } else {
        endpoint.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `init.yaml` says.
    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Init {
        /// The node's own `address:port`.
        #[serde(rename = "Address")]
        address: String,
        /// The voters to join.
        #[serde(rename = "Cluster", default)]
        cluster: Vec<String>,
    }

    fn read_init(text: &str) -> Result<Init, Malformed> {
        read("init.yaml", text)
    }

    const CLUSTER: &str = "- Address: 10.99.0.11:19001\n  ID: 3297041220608546238\n  Role: 0\n- Address: '[fd00::2]:19001'\n  ID: 1\n  Role: 1\n";

    #[test]
    fn what_the_datastore_writes_is_read_and_written_alike() {
        let members = read_cluster(CLUSTER).unwrap();
        assert_eq!(members[0].id, 3_297_041_220_608_546_238);
        assert_eq!(members[1].role, DatastoreRole::StandBy);
        assert_eq!(cluster_yaml(&members), CLUSTER);
        let info = info_yaml(&members[1]);
        assert_eq!(read_info(&info).unwrap(), members[1]);
        assert_eq!(
            info_yaml(&members[0]),
            "Address: 10.99.0.11:19001\nID: 3297041220608546238\nRole: 0\n"
        );
    }

    #[test]
    fn the_whole_address_counts() {
        let member = Member {
            address: "10.99.0.120:19001".into(),
            id: 1,
            role: DatastoreRole::Voter,
        };
        assert!(!member.is_at("10.99.0.12".parse().unwrap()));
        assert!(member.is_at("10.99.0.120".parse().unwrap()));
        assert!(member.is_at("::ffff:10.99.0.120".parse().unwrap()));
    }

    #[test]
    fn the_shell_answers_in_numbers_or_words() {
        let answer = r#"[{"ID":1,"Address":"10.99.0.11:19001","Role":0},{"ID":2,"Address":"10.99.0.12:19001","Role":"spare"}]"#;
        let members = read_shell_answer(answer).unwrap();
        assert_eq!(members[1].role, DatastoreRole::Spare);
        assert!(read_shell_answer("no").is_err());
    }

    #[test]
    fn init_yaml_is_as_recorded_and_takes_ipv6() {
        assert_eq!(
            init_yaml("10.99.0.12:19001", &["10.99.0.11:19001".into()]),
            "Address: 10.99.0.12:19001\nCluster:\n- 10.99.0.11:19001\n"
        );
        let text = init_yaml("[fd00::2]:19001", &["[fd00::1]:19001".into()]);
        let init = read_init(&text).unwrap();
        assert_eq!(
            (init.address.as_str(), init.cluster[0].as_str()),
            ("[fd00::2]:19001", "[fd00::1]:19001")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC{0,80}") {
            let _ = (read_cluster(&text), read_info(&text), read_init(&text), read_shell_answer(&text));
        }
    }
}
