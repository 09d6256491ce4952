//! Which certificates a node may have signed with the token that admitted it.

use std::net::IpAddr;

use crate::model::node::JoiningNode;
use crate::model::token::{Token, TokenDigest};
use crate::model::token_record::{CertificatePurpose, TokenRecord};
use crate::store::database::{Flush, StoreError};
use crate::store::token_files::Listed;
use crate::store::tokens::Tokens;

/// A certificate that a node may have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateRequest {
    /// What for.
    pub(crate) purpose: CertificatePurpose,
    /// Who; not known for a token that Canonical's agent issued.
    pub(crate) node: Option<JoiningNode>,
    /// The join token; not known for a token that Canonical's agent issued.
    join: Option<TokenDigest>,
}

impl Tokens {
    /// Whether a token gives any right to a certificate at all.
    pub(crate) fn gives_certificates(&self, token: &Token) -> Result<bool, StoreError> {
        for (_, join) in join_tokens(token) {
            let gives = |record: &TokenRecord| record.gives_certificates(self.now()).then_some(());
            if self.find_settled(&join.digest(), gives)?.is_some() {
                return Ok(true);
            }
        }
        Ok(self.right_in_file(token)?.is_some())
    }

    /// Finds the right to a certificate that this token gives to the node at `address`, without
    /// using it up. No other node's right counts. `name` is the one in the request.
    pub(crate) fn certificate_request(
        &self,
        token: &Token,
        address: IpAddr,
        name: Option<&str>,
    ) -> Result<Option<CertificateRequest>, StoreError> {
        for (purpose, join) in join_tokens(token) {
            let join = join.digest();
            let node = self.find_settled(&join, |record| {
                let node = record.certificate_for(purpose, address, name, self.now());
                node.cloned()
            })?;
            if node.is_some() {
                return Ok(Some(CertificateRequest {
                    purpose,
                    node,
                    join: Some(join),
                }));
            }
        }
        self.right_in_file(token)
    }

    /// What is found in the record of a token as it is by now.
    fn find_settled<T>(
        &self,
        join: &TokenDigest,
        find: impl Fn(&TokenRecord) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let moment = self.moment();
        self.records.find(join, |mut record| {
            moment.reconcile(&mut record, |_| None);
            find(&record)
        })
    }

    /// The right that a line of Canonical's agent gives.
    fn right_in_file(&self, token: &Token) -> Result<Option<CertificateRequest>, StoreError> {
        if !token.is_well_formed() {
            return Ok(None);
        }
        let listed = self.certificate_file.look_up(token, self.now())?;
        let purpose = CertificatePurpose::ALL
            .into_iter()
            .find(|purpose| token.expose().ends_with(purpose.suffix()));
        Ok(match (listed, purpose) {
            (Listed::Open | Listed::Until(_), Some(purpose)) => Some(CertificateRequest {
                purpose,
                node: None,
                join: None,
            }),
            _ => None,
        })
    }

    /// Uses the right up: the certificate is signed and may leave when this has returned `true`.
    /// The last one that the node needs completes its join.
    ///
    /// The right was on the disk before, so this waits for no flush. A crash within a second can give
    /// the right back: to that node alone, and for no longer than it was given. A token whose node
    /// does not say how its join ended is free again after that time.
    pub(crate) fn certificate_signed(
        &self,
        token: &Token,
        request: &CertificateRequest,
    ) -> Result<bool, StoreError> {
        let (Some(node), Some(join)) = (&request.node, &request.join) else {
            return self.certificate_file.consume(token);
        };
        let (moment, purpose, by) = (self.moment(), request.purpose, node.clone());
        let (events, served) = self.records.edit(Flush::Soon, join, move |record| {
            let Some(record) = record else {
                return (Vec::new(), None);
            };
            let events = moment.reconcile(record, |_| None);
            (events, record.hand_out(&by, purpose, moment.now))
        })?;
        self.note(join, &events)?;
        let Some(served) = served else {
            return Ok(false);
        };
        if served.has_all {
            self.admissions.set_complete(join, &served.node)?;
            if served.is_counted {
                self.audit_join("used", join, &served.node, "its certificates are signed");
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
