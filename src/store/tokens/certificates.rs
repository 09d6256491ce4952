//! Which certificates a node may have signed with the token that admitted it.

use std::net::IpAddr;

use crate::model::node::JoiningNode;
use crate::model::token::{Token, TokenDigest};
use crate::store::admissions::{CertificateGrant, CertificatePurpose};
use crate::store::database::StoreError;
use crate::store::token_files::Listed;
use crate::store::tokens::{Tokens, look_up, with_file};

/// A certificate that a node may have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateRequest {
    /// What for.
    pub(crate) purpose: CertificatePurpose,
    /// Who; not known for a token that Canonical's agent issued.
    pub(crate) node: Option<JoiningNode>,
    /// The join token; not known for a token that Canonical's agent issued.
    join: Option<TokenDigest>,
    /// It came with a counted use of the join token.
    is_counted: bool,
}

impl Tokens {
    /// Whether a token gives any right to a certificate at all.
    pub(crate) fn gives_certificates(&self, token: &Token) -> Result<bool, StoreError> {
        let now = self.now();
        for (_, join) in join_tokens(token) {
            if self.admissions.has_right(&join.digest(), now)? {
                return Ok(true);
            }
        }
        Ok(self.right_in_file(token)?.is_some())
    }

    /// Finds the right to a certificate that this token gives to the node at `address`, without
    /// using it up. No other node's right counts.
    ///
    /// Several nodes may be joining with one token from one address: the one with the name in
    /// the request comes first. The request of a kube-proxy names no node; then a node without a
    /// kubelet's certificate comes first.
    pub(crate) fn certificate_request(
        &self,
        token: &Token,
        address: IpAddr,
        name: Option<&str>,
    ) -> Result<Option<CertificateRequest>, StoreError> {
        let now = self.now();
        for (purpose, join) in join_tokens(token) {
            let join = join.digest();
            let found = self
                .admissions
                .rights(&join, address, now)?
                .into_iter()
                .filter(|right| right.purposes.contains(&purpose))
                .min_by_key(|right: &CertificateGrant| {
                    let is_named = name == Some(right.node.name.as_str());
                    (
                        !is_named,
                        !right.purposes.contains(&CertificatePurpose::Kubelet),
                    )
                });
            if let Some(right) = found {
                return Ok(Some(CertificateRequest {
                    purpose,
                    node: Some(right.node),
                    join: Some(join),
                    is_counted: right.is_counted,
                }));
            }
        }
        self.right_in_file(token)
    }

    /// The right that a line of Canonical's agent gives.
    fn right_in_file(&self, token: &Token) -> Result<Option<CertificateRequest>, StoreError> {
        if !token.is_well_formed() {
            return Ok(None);
        }
        let listed = look_up(&self.certificate_file, token, self.now())?;
        let purpose = CertificatePurpose::ALL
            .into_iter()
            .find(|purpose| token.expose().ends_with(purpose.suffix()));
        Ok(match (listed, purpose) {
            (Listed::Open | Listed::Until(_), Some(purpose)) => Some(CertificateRequest {
                purpose,
                node: None,
                join: None,
                is_counted: false,
            }),
            _ => None,
        })
    }

    /// Uses the right up: the certificate is signed and may leave when this has returned `true`.
    /// The last one that the node needs completes its join.
    ///
    /// A kube-proxy's certificate names no node, so that requests of several nodes behind one
    /// address may all have found the right of one of them. The later ones use up another right of
    /// that address, if there is one: no more certificates leave than nodes were admitted.
    pub(crate) fn certificate_signed(
        &self,
        token: &Token,
        request: &CertificateRequest,
    ) -> Result<bool, StoreError> {
        let (Some(node), Some(join)) = (&request.node, &request.join) else {
            return with_file(&self.certificate_file, |file| file.consume(token));
        };
        if self.use_up(join, node, request.purpose, request.is_counted)? {
            return Ok(true);
        }
        if request.purpose != CertificatePurpose::Proxy {
            return Ok(false);
        }
        for right in self.admissions.rights(join, node.address, self.now())? {
            if right.purposes.contains(&CertificatePurpose::Proxy)
                && right.node != *node
                && self.use_up(join, &right.node, request.purpose, right.is_counted)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Uses up the right of this node.
    fn use_up(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        purpose: CertificatePurpose,
        is_counted: bool,
    ) -> Result<bool, StoreError> {
        // First the use is marked as one that handed something out, and can then no longer be
        // released; then the right is used up, which only one request can do.
        let moment = self.moment();
        if let Some(mut record) = self.records.read(join)? {
            moment.reconcile(&mut record, |_| None);
            if record.revoked().is_some() || record.void(moment.now).is_some() {
                return Ok(false);
            }
        }
        let by = node.clone();
        if is_counted
            && self
                .change_try(join, node, move |record| record.hand_out(&by))?
                .is_none()
        {
            return Ok(false);
        }
        let Some(left) = self.admissions.use_up(join, node, purpose, self.now())? else {
            return Ok(false);
        };
        if left == 0 {
            let by = node.clone();
            let used = self.change_try(join, node, move |record| record.serve(&by))?;
            self.admissions.set_complete(join, node)?;
            if used == Some(true) {
                self.audit_join("used", join, node, "its certificates are signed");
            }
        }
        Ok(true)
    }
}

/// The join tokens to which this may be the token for a certificate.
fn join_tokens(token: &Token) -> impl Iterator<Item = (CertificatePurpose, Token)> {
    CertificatePurpose::ALL.into_iter().filter_map(|purpose| {
        let join = token
            .is_well_formed()
            .then(|| token.expose())?
            .strip_suffix(purpose.suffix())?;
        Some((purpose, Token::presented(join)))
    })
}
