//! The certificates that a node may have signed with the use of a token that admitted it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::token_use::{Phase, TokenUse};
use super::{JoinRequest, LEASE, TokenRecord};
use crate::model::node::JoiningNode;
use crate::model::role::Role;

/// What a certificate may be asked for with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CertificatePurpose {
    /// The kubelet's client certificate.
    Kubelet,
    /// kube-proxy's client certificate.
    Proxy,
    /// The certificate with which a node of an etcd cluster reaches etcd.
    Etcd,
}

impl CertificatePurpose {
    /// All of them; the one without a suffix comes last.
    pub(crate) const ALL: [Self; 3] = [Self::Kubelet, Self::Proxy, Self::Etcd];

    /// What stands behind the join token in the token for this certificate.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Kubelet => "-kubelet",
            Self::Proxy => "-proxy",
            Self::Etcd => "",
        }
    }
}

/// A certificate of a node leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    /// The node whose right to it was used up.
    pub(crate) node: JoiningNode,
    /// It was the last one that the node needs.
    pub(crate) has_all: bool,
    /// The node has one of the counted uses.
    pub(crate) is_counted: bool,
}

/// How many bytes the uses of a token may take in its record, which one object of Kubernetes has to
/// hold (1 MiB): about two thousand nodes that join within [`LEASE`].
const MAX_BYTES: usize = 400_000;

impl TokenUse {
    /// Whether the node may still have this certificate signed.
    fn may_have(&self, purpose: CertificatePurpose, now: i64) -> bool {
        self.grants.contains(&purpose) && now < self.at.saturating_add(LEASE)
    }

    /// What it takes in the record, and some more.
    fn bytes(&self) -> usize {
        240 + self.node.name.len()
    }
}

impl TokenRecord {
    /// Whether there is room for another use by this node.
    pub(crate) fn has_room_for(&self, claim: &JoinRequest) -> bool {
        self.has_use(&claim.node)
            || self.tries.iter().map(TokenUse::bytes).sum::<usize>() < MAX_BYTES
    }

    /// Whether any node may have a certificate signed with it.
    pub(crate) fn gives_certificates(&self, now: i64) -> bool {
        let may = |own: &TokenUse| {
            let mut purposes = CertificatePurpose::ALL.into_iter();
            purposes.any(|purpose| own.may_have(purpose, now))
        };
        self.void.is_none() && self.tries.iter().any(may)
    }

    /// The node at this address that may have this certificate signed.
    ///
    /// Several nodes may be joining with one token from one address: the one with the name in the
    /// request comes first. The request of a kube-proxy names no node; then a node without a kubelet's
    /// certificate comes first.
    pub(crate) fn certificate_for(
        &self,
        purpose: CertificatePurpose,
        address: IpAddr,
        name: Option<&str>,
        now: i64,
    ) -> Option<&JoiningNode> {
        self.tries
            .iter()
            .filter(|own| own.node.address == address && own.may_have(purpose, now))
            .min_by_key(|own| {
                let has_kubelets = !own.grants.contains(&CertificatePurpose::Kubelet);
                (name != Some(own.node.name.as_str()), !has_kubelets)
            })
            .filter(|_| self.void.is_none())
            .map(|own| &own.node)
    }

    /// Uses up the right of a node to a certificate, which leaves now; `None` where it has none.
    /// The use has then handed something out. With all certificates the node has what it needs, and
    /// the use is used; the node itself may still try again, because what it has to do with them may
    /// fail, and its client may not say so.
    ///
    /// A kube-proxy's certificate names no node, so that requests of several nodes behind one address
    /// may all have found the right of one of them. The later ones use up another right of that
    /// address, if there is one: no more certificates leave than nodes were admitted.
    pub(crate) fn hand_out(
        &mut self,
        node: &JoiningNode,
        purpose: CertificatePurpose,
        now: i64,
    ) -> Option<Served> {
        if self.void.is_some() {
            return None;
        }
        let has = |own: &TokenUse| own.may_have(purpose, now);
        let of = |own: &TokenUse| own.node == *node && has(own);
        let at = self.tries.iter().position(of).or_else(|| {
            let others = |own: &TokenUse| own.node.address == node.address && has(own);
            let any = purpose == CertificatePurpose::Proxy;
            any.then(|| self.tries.iter().position(others)).flatten()
        })?;
        let own = &mut self.tries[at];
        own.grants.retain(|other| *other != purpose);
        if own.phase == Phase::Admitted {
            own.phase = Phase::HandedOut;
        }
        let served = Served {
            node: own.node.clone(),
            has_all: own.grants.is_empty(),
            is_counted: own.is_counted,
        };
        if served.has_all {
            own.phase = Phase::Served;
            own.was_served = true;
            if !own.is_counted {
                self.tries.remove(at);
            }
        }
        Some(served)
    }

    /// Takes in the certificates of a node from where an earlier version kept them.
    pub(crate) fn restore_grants(
        &mut self,
        node: JoiningNode,
        grants: Vec<CertificatePurpose>,
        at: i64,
        is_counted: bool,
    ) {
        if !is_counted {
            self.tries.push(TokenUse {
                node,
                role: Role::Worker,
                at,
                phase: Phase::Admitted,
                was_served: false,
                join_id: None,
                is_counted,
                grants,
            });
        } else if let Some(own) = self.find(&node) {
            own.grants = grants;
        }
    }
}
