//! Signing certificates for nodes that are being admitted.

use std::net::IpAddr;

use crate::cluster::admission::names::Known;
use crate::cluster::admission::{Admission, AdmitError, Caller};
use crate::cluster::first_join;
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::model::token_record::{CertificatePurpose, Reason};
use crate::pki::PkiError;
use crate::pki::ca::{self, Ca};
use crate::pki::csr::ParsedRequest;
use crate::pki::csr_policy::{self, Expected, ReservedIdentity};
use crate::pki::key::PrivateKey;
use crate::pki::name::AltName;
use crate::store::layout::ReadError;
use crate::wire::cluster_v1;

/// A signed certificate.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The node that it is for.
    pub(crate) subject: String,
    /// The certificate, PEM.
    pub(crate) certificate: String,
}

impl Admission {
    /// Signs a certificate for a node that is joining.
    pub(crate) fn sign_certificate(
        &self,
        request: &cluster_v1::SignCertRequest,
        caller: Caller,
    ) -> Result<Signed, AdmitError> {
        self.refuse_as_worker()?;
        let unknown = || AdmitError::InvalidToken(Reason::Unknown.into());
        // Without a token, no signature is verified.
        if !self.tokens.gives_certificates(&request.token)? {
            return Err(unknown());
        }
        if self.is_own_address(caller) {
            return Err(AdmitError::SameAddress(caller.remote));
        }
        let parsed = ParsedRequest::from_pem(&request.request).map_err(AdmitError::Unsignable)?;
        let claimed = csr_policy::claimed_node(&parsed);
        let claimed = claimed.as_ref().map(NodeName::as_str);
        let right = self
            .tokens
            .certificate_request(&request.token, caller.remote, claimed)?
            .ok_or_else(unknown)?;
        let judge =
            |expected: &Expected| csr_policy::judge(&parsed, expected).map_err(AdmitError::Policy);
        let approved = match right.purpose {
            CertificatePurpose::Proxy => judge(&Expected::Proxy)?,
            CertificatePurpose::Etcd => judge(&Expected::Etcd)?,
            CertificatePurpose::Kubelet => {
                let node = right.node.as_ref();
                let name = node.map(|node| node.name.as_str()).or(claimed);
                let joining = JoiningNode {
                    name: name.unwrap_or_default().to_owned(),
                    address: node.map_or(caller.remote, |node| node.address),
                };
                let node = node.map(|node| NodeName::parse(&node.name));
                let node = node.transpose().map_err(|_| unknown())?;
                let asked = csr_policy::claimed_addresses(&parsed).map_err(AdmitError::Policy)?;
                let known = self.ask_kubernetes();
                if node.is_none() {
                    // Whether the name is free was seen when the node was admitted, unless MicroK8s's
                    // agent did that.
                    self.holder(&joining, Role::Worker, &known)?;
                }
                judge(&Expected::Kubelet {
                    node,
                    address: joining.address,
                    reserved: self.reserved(&joining, &asked, &known, caller)?,
                })?
            }
        };
        let layout = &self.node.layout;
        let certificate = layout
            .parsed(&layout.cert("ca.crt"), |pem: &[u8]| ca::parse(pem))
            .map_err(unsignable)?;
        let key = layout
            .parsed(&layout.cert("ca.key"), PrivateKey::from_pem_bytes)
            .map_err(unsignable)?;
        let certificate = certificate
            .and_then(|certificate| Ca::new(certificate, key?))
            .and_then(|ca| ca.issue_approved(&approved))
            .map_err(AdmitError::Unsignable)?;
        if !self.tokens.certificate_signed(&request.token, &right)? {
            // Another request with this token came first.
            return Err(AdmitError::InvalidToken(Reason::Used.into()));
        }
        Ok(Signed {
            subject: approved.subject().to_string(),
            certificate,
        })
    }

    /// What a joining node may not pose as, of the addresses that it asks for.
    fn reserved(
        &self,
        node: &JoiningNode,
        asked: &[IpAddr],
        known: &Known,
        caller: Caller,
    ) -> Result<ReservedIdentity, AdmitError> {
        let mut reserved = ReservedIdentity {
            names: self.own_names(),
            addresses: vec![caller.local],
            networks: service_networks(&self.node),
            left_out: self.own_addresses(),
            is_unknown: matches!(known, Known::Silent(_)),
        };
        for member in first_join::datastore_members(&self.node).unwrap_or_default() {
            reserved.addresses.extend(member.ip());
        }
        if let Some(registry) = known.registry() {
            let is_others =
                |ip: &&IpAddr| registry.is_address_of_other(**ip, &node.name, node.address);
            reserved.addresses.extend(asked.iter().filter(is_others));
        }
        // Here the node's own are left out, wherever else they are listed.
        let own =
            |address: &IpAddr| reserved.left_out.contains(address) && *address != caller.local;
        reserved.addresses.retain(|address| !own(address));
        let admissions = self.tokens.admissions();
        for address in asked {
            if admissions.is_address_of_other(*address, &node.name)? {
                reserved.addresses.push(*address);
            }
        }
        Ok(reserved)
    }

    /// The addresses of this node: those of its interfaces, and those that its certificate names.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let served = self.served_names();
        let served = served.iter().filter_map(|name| match name {
            AltName::Ip(ip) => Some(endpoint::plain(*ip)),
            AltName::Dns(_) => None,
        });
        let interfaces = self.node.platform.interfaces().unwrap_or_default();
        served
            .chain(interfaces.iter().map(|own| endpoint::plain(own.address)))
            .collect()
    }
}

/// MicroK8s's helper tells no more than that it failed; the log has the file.
fn unsignable(error: ReadError) -> AdmitError {
    AdmitError::Unsignable(PkiError::malformed("certificate authority", error))
}

/// The networks of Kubernetes's services; MicroK8s's own where the arguments do not say.
fn service_networks(node: &Node) -> Vec<(IpAddr, u8)> {
    let arguments = node.arguments("kube-apiserver").ok();
    arguments
        .as_ref()
        .and_then(|arguments| arguments.get("--service-cluster-ip-range"))
        .unwrap_or("10.152.183.0/24")
        .split(',')
        .filter_map(|network| {
            let (base, prefix) = network.trim().split_once('/')?;
            Some((base.parse().ok()?, prefix.parse().ok()?))
        })
        .collect()
}
