//! Who lists which node: Kubernetes, the datastore, and the records of this node.

use std::net::IpAddr;
use std::thread;

use crate::base::sanitize;
use crate::cluster::kubernetes::{self, Listed};
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::model::role::Role;
use crate::store::admissions::AdmittedNode;
use crate::store::database::StoreError;
use crate::store::dqlite;
use crate::store::tokens::Tokens;
use crate::wire::preflight_v1::Finding;

/// The checks.
pub(super) const READY: &str = "ready";
pub(super) const LISTED: &str = "listed";
const KUBERNETES: &str = "kubernetes";
const DATASTORE_MEMBERS: &str = "datastore-members";

/// For how many seconds after its admission a node may be on its way into the lists.
const JOINING: i64 = 300;

/// A node that something lists.
pub(super) struct Member {
    pub(super) name: Option<String>,
    /// The first is where it is called.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) role: Role,
    pub(super) is_own: bool,
    pub(super) datastore: Option<dqlite::Member>,
    kubernetes: Option<Listed>,
    admitted: Option<AdmittedNode>,
    /// Another name under which Kubernetes lists a node at the same address.
    same_address: Option<String>,
}

impl Member {
    pub(super) const fn new(role: Role) -> Self {
        Self {
            name: None,
            addresses: Vec::new(),
            role,
            is_own: false,
            datastore: None,
            kubernetes: None,
            admitted: None,
            same_address: None,
        }
    }

    /// This node.
    pub(super) fn own(node: &Node) -> Self {
        let mut addresses = node.addresses(node.agent_bind().ip()).unwrap_or_default();
        addresses.extend(node.own_addresses());
        Self {
            name: node.name().ok(),
            addresses,
            is_own: true,
            ..Self::new(node.role())
        }
    }

    /// Where it is called.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    fn is_at(&self, address: IpAddr) -> bool {
        let address = endpoint::plain(address);
        self.addresses.contains(&address)
    }

    /// What `remove-node` is to be told.
    fn target(&self) -> String {
        let name = self
            .name
            .as_deref()
            .map(|name| sanitize::for_log(name, 253));
        let address = || self.address().map(|address| address.to_string());
        name.or_else(address).unwrap_or_default()
    }

    /// Who lists it.
    fn listed_by(&self) -> String {
        let by = [
            ("Kubernetes", self.kubernetes.is_some()),
            ("the datastore", self.datastore.is_some()),
            ("the records of this node", self.admitted.is_some()),
        ];
        let by: Vec<&str> = by
            .into_iter()
            .filter_map(|(who, lists)| lists.then_some(who))
            .collect();
        match &by[..] {
            [] => "nothing".to_owned(),
            [only] => (*only).to_owned(),
            [before @ .., last] => format!("{} and {last}", before.join(", ")),
        }
    }
}

/// All lists; where one is not there, why.
pub(super) struct Lists {
    kubernetes: Result<Vec<Listed>, Missing>,
    datastore: Result<Vec<dqlite::Member>, Missing>,
    admitted: Vec<AdmittedNode>,
    now: i64,
}

/// Why a list is not there.
enum Missing {
    /// This node has no such thing.
    None(&'static str),
    /// It gave no answer.
    NoAnswer(String),
}

impl Lists {
    pub(super) fn gather(node: &Node, tokens: Option<&Tokens>) -> Result<Self, StoreError> {
        let mut admitted = match tokens {
            Some(tokens) => tokens.admissions().nodes()?,
            None => Vec::new(),
        };
        admitted.retain(|one| one.complete);
        let (kubernetes, datastore) = thread::scope(|scope| {
            let kubernetes = scope.spawn(|| kubernetes::list(node.platform.as_ref()));
            let datastore = datastore(node);
            let kubernetes = match kubernetes.join() {
                Ok(Ok(Some(list))) => Ok(list),
                Ok(Ok(None)) => Err(Missing::None("there is no Kubernetes on this node")),
                Ok(Err(error)) => Err(Missing::NoAnswer(error.to_string())),
                Err(_) => Err(Missing::NoAnswer("it could not be asked".to_owned())),
            };
            (kubernetes, datastore)
        });
        Ok(Self {
            kubernetes,
            datastore,
            admitted,
            now: tokens.map_or(i64::MAX, Tokens::now),
        })
    }

    /// The nodes, each once: this one first, then those of the datastore, of the records, and of
    /// Kubernetes.
    pub(super) fn members(&self, node: &Node) -> Vec<Member> {
        let mut all = vec![Member::own(node)];
        let datastore = self.datastore.as_deref().unwrap_or_default();
        for member in datastore {
            let Some(ip) = member.ip().map(endpoint::plain) else {
                continue;
            };
            // One that is alone is this node, wherever it listens.
            let known = |other: &Member| other.is_at(ip) || (other.is_own && datastore.len() == 1);
            let at = find_or_add(&mut all, known, Role::ControlPlane);
            at.datastore = Some(member.clone());
            if !at.is_own {
                at.addresses.insert(0, ip);
            }
        }
        for one in &self.admitted {
            let (name, address) = (&one.node.name, endpoint::plain(one.node.address));
            let known = |other: &Member| match &other.name {
                Some(known) => known == name,
                None => other.is_at(address),
            };
            let at = find_or_add(&mut all, known, one.role);
            at.name = Some(name.clone());
            at.addresses.push(address);
            at.admitted = Some(one.clone());
        }
        let mut listed: Vec<&Listed> = self.kubernetes.iter().flatten().collect();
        // Of two at one address the one whose kubelet runs is the node.
        listed.sort_by_key(|one| one.ready.as_deref() != Some("True"));
        for one in listed {
            let role = match one.claims_control_plane {
                true => Role::ControlPlane,
                false => Role::Worker,
            };
            let has_name = |other: &Member| other.name.as_ref() == Some(&one.name);
            let shares = |other: &Member| one.addresses.iter().any(|at| other.is_at(*at));
            let same_address = all
                .iter()
                .find(|other| !has_name(other) && other.kubernetes.is_some() && shares(other))
                .and_then(|other| other.name.clone());
            let is_unnamed = |other: &Member| other.name.is_none() && shares(other);
            let known = |other: &Member| has_name(other) || is_unnamed(other);
            let at = find_or_add(&mut all, known, role);
            at.name = Some(one.name.clone());
            at.addresses.extend(&one.addresses);
            at.kubernetes = Some(one.clone());
            at.same_address = same_address;
        }
        all
    }

    /// What the lists say of a node, whose agent answers or does not.
    pub(super) fn judge(&self, member: &Member, answers: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        if member.is_own {
            if let Err(Missing::NoAnswer(why)) = &self.kubernetes {
                findings.push(Finding::fault(
                    KUBERNETES,
                    format!("Kubernetes does not say which nodes it has: {why}"),
                    "see that the API server of this node runs: `snap logs microk8s.daemon-kubelite`",
                ));
            }
            if let Err(Missing::NoAnswer(why)) = &self.datastore {
                findings.push(Finding::fault(
                    DATASTORE_MEMBERS,
                    format!("the datastore does not say which members it has: {why}"),
                    "start the other control plane nodes: without a majority of its voters the datastore stands still",
                ));
            }
        }
        findings.push(self.ready(member, answers));
        findings.push(self.listed(member, answers));
        findings
    }

    /// Why Kubernetes lists no node.
    fn no_kubernetes(&self) -> Option<&'static str> {
        match &self.kubernetes {
            Ok(_) => None,
            Err(Missing::None(why)) => Some(why),
            Err(Missing::NoAnswer(_)) => Some("Kubernetes does not answer"),
        }
    }

    fn ready(&self, member: &Member, answers: bool) -> Finding {
        let Some(listed) = &member.kubernetes else {
            let why = self.no_kubernetes();
            return Finding::unchecked(READY, why.unwrap_or("Kubernetes does not list this node"));
        };
        let remedy = match answers {
            true => "look on that node why its kubelet is not ready: `snap logs microk8s.daemon-kubelite`".to_owned(),
            false => format!("start the machine; if it is gone for good, remove the node with `microk8s remove-node {}{}`", member.target(), force(member)),
        };
        match listed.ready.as_deref() {
            Some("True") => Finding::ok(READY, "Kubernetes says that the node is ready"),
            Some("Unknown") => {
                let message = "Kubernetes has not heard of the kubelet of this node for a while";
                Finding::fault(READY, message, remedy)
            }
            Some(_) => Finding::fault(READY, "Kubernetes says that the node is not ready", remedy),
            None => Finding::warning(READY, "the kubelet of this node has not reported yet")
                .with_remedy(None, remedy),
        }
    }

    fn listed(&self, member: &Member, answers: bool) -> Finding {
        let (target, by) = (member.target(), member.listed_by());
        let is_voter_missing = self.datastore.is_ok() && member.datastore.is_none();
        if let Some(other) = &member.same_address {
            let other = sanitize::for_log(other, 253);
            return Finding::fault(
                LISTED,
                format!("Kubernetes lists {other} at the same address"),
                format!(
                    "if this is an earlier name of the same machine, remove it with `microk8s remove-node {target}`"
                ),
            );
        }
        if member.role == Role::ControlPlane && is_voter_missing {
            let remedy = match member.is_own {
                true => "run `microk8s leave` on this node, and join again".to_owned(),
                false => format!(
                    "remove it with `microk8s remove-node {target}{}`; where the machine still runs, run `microk8s leave` on it and join again",
                    if member.kubernetes.is_none() {
                        " --force"
                    } else {
                        ""
                    }
                ),
            };
            let message = match member.is_own {
                true => "the datastore does not list this node".to_owned(),
                false => format!("a control plane node, listed by {by}, and not by the datastore"),
            };
            return Finding::fault(LISTED, message, remedy);
        }
        if member.kubernetes.is_some() {
            return Finding::ok(LISTED, format!("listed by {by}"));
        }
        if let Some(why) = self.no_kubernetes() {
            return Finding::unchecked(LISTED, why);
        }
        const KUBELET: &str = "see that its kubelet runs: `snap services microk8s`";
        if member.is_own {
            return Finding::fault(LISTED, "Kubernetes does not list this node", KUBELET);
        }
        let message = format!("listed by {by}, and not by Kubernetes");
        let admitted = member.admitted.as_ref();
        if admitted.is_some_and(|one| self.now.saturating_sub(one.since) < JOINING) {
            let message = format!("{message}; it joined less than five minutes ago");
            return Finding::warning(LISTED, message).with_remedy(None, KUBELET);
        }
        let remove = format!("remove it with `microk8s remove-node {target} --force`");
        let remedy = match answers {
            true => format!("{KUBELET}; if the node is not to be a member, {remove}"),
            false => format!("if the node is gone for good, {remove}"),
        };
        Finding::fault(LISTED, message, remedy)
    }
}

/// `remove-node` asks for it where the datastore lists the node.
const fn force(member: &Member) -> &'static str {
    match member.datastore {
        Some(_) => " --force",
        None => "",
    }
}

fn find_or_add(all: &mut Vec<Member>, is_it: impl Fn(&Member) -> bool, role: Role) -> &mut Member {
    let at = all.iter().position(is_it).unwrap_or_else(|| {
        all.push(Member::new(role));
        all.len() - 1
    });
    &mut all[at]
}

/// The members of the datastore, as it lists them itself.
fn datastore(node: &Node) -> Result<Vec<dqlite::Member>, Missing> {
    if !node.runs_datastore() {
        return Err(Missing::None("no datastore of MicroK8s runs on this node"));
    }
    let listed = node.datastore_members();
    listed.map_err(|error| Missing::NoAnswer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::node::JoiningNode;
    use crate::model::token::Token;
    use crate::wire::preflight_v1::Severity;

    #[test]
    fn a_node_that_only_the_records_list_is_named_with_the_command_that_removes_it() {
        let token = Token::preset("0123456789abcdef0123456789abcdef").unwrap();
        let since = 1000;
        let mut member = Member::new(Role::Worker);
        member.name = Some("n2".to_owned());
        member.admitted = Some(AdmittedNode {
            node: JoiningNode {
                name: "n2".to_owned(),
                address: "10.99.0.12".parse().unwrap(),
            },
            role: Role::Worker,
            complete: true,
            join: token.digest(),
            cluster: None,
            since,
            join_id: None,
        });
        let judged = |seconds, answers| {
            let lists = Lists {
                kubernetes: Ok(Vec::new()),
                datastore: Ok(Vec::new()),
                admitted: Vec::new(),
                now: since + seconds,
            };
            lists.listed(&member, answers)
        };
        assert_eq!(judged(JOINING - 1, false).severity, Severity::Warning);
        for (answers, remedy) in [
            (
                false,
                "if the node is gone for good, remove it with `microk8s remove-node n2 --force`",
            ),
            (
                true,
                "see that its kubelet runs: `snap services microk8s`; if the node is not to be a member, remove it with `microk8s remove-node n2 --force`",
            ),
        ] {
            let ghost = judged(JOINING, answers);
            assert_eq!(ghost.severity, Severity::Error);
            assert_eq!(
                ghost.message,
                "listed by the records of this node, and not by Kubernetes"
            );
            assert_eq!(ghost.remedy.as_deref(), Some(remedy));
        }
    }
}
