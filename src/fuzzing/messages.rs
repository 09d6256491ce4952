//! What people type, and what travels between nodes, and between a command and its agent.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::secret::Secret;
use crate::model::endpoint;
use crate::model::join_url::{self, JoinUrl, PrintedUrl};
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token_record::{CertificatePurpose, JoinRequest, RETRY_WINDOW, TokenRecord};
use crate::store::admissions::AdmittedNode;
use crate::wire::error_body::ErrorBody;
use crate::wire::{cluster_v1, cluster_v2, local_v1, operation, preflight_v1};

/// A connection string that is understood is understood again as it is printed, and without its
/// token where that comes another way.
pub(super) fn join_string(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let inner = join_url::without_wrapping(text);
    assert_eq!(join_url::without_wrapping(inner), inner);
    let _ = JoinUrl::parse_with_token(text, &Secret::new("0123456789abcdef0123456789abcdef"));
    let Ok(url) = JoinUrl::parse(text) else {
        return;
    };
    let parts: Vec<&str> = text.split('/').collect();
    let endpoint = endpoint::join(url.address, url.port);
    let printed = match parts.get(2) {
        Some(fingerprint) => PrintedUrl {
            address: url.address,
            port: url.port,
            token: &url.token,
            fingerprint,
        }
        .to_string(),
        None => format!("{endpoint}/{}", url.token.expose()),
    };
    assert_eq!(JoinUrl::parse(&printed).as_ref(), Ok(&url));
    is_kept::<JoinUrl>(&serde_json::to_vec(&url).expect("a value of ours"));
    let apart = [&[endpoint.as_str()], &parts[2..]].concat().join("/");
    let token = Secret::new(url.token.expose());
    if let Ok(found) = JoinUrl::parse_with_token(&apart, &token) {
        assert_eq!(found, url);
    }
}

/// What is read of a body is the same once it was written and read again.
pub(super) fn json(body: &[u8]) {
    let _ = cluster_v1::ConfigureRequest::read(body);
    let _ = cluster_v1::UpgradeRequest::read(body);
    let _ = cluster_v1::SignCertRequest::read(body);
    let _ = cluster_v2::RemoveRequest::read(body);
    is_read_again(body, cluster_v1::JoinRequest::read);
    is_read_again(body, cluster_v2::JoinRequest::read);
    is_read_again(body, cluster_v2::JoinOutcome::read);
    is_kept::<cluster_v1::JoinResponse>(body);
    is_kept::<cluster_v1::SignCertResponse>(body);
    is_kept::<cluster_v2::JoinResponse>(body);
    is_kept::<ErrorBody>(body);
    is_kept::<preflight_v1::JoinCheck>(body);
    is_kept::<local_v1::Hello>(body);
    is_kept::<local_v1::AddTokenRequest>(body);
    is_kept::<local_v1::IssuedToken>(body);
    is_kept::<local_v1::TokenSelection>(body);
    is_kept::<local_v1::TokenLine>(body);
    is_kept::<local_v1::PruneRequest>(body);
    is_kept::<local_v1::Pruned>(body);
    is_kept::<local_v1::NodeList>(body);
    is_kept::<local_v1::ClusterHealth>(body);
    is_kept::<operation::Operation>(body);
    is_kept::<operation::Event>(body);
}

fn is_kept<T: Serialize + DeserializeOwned>(body: &[u8]) {
    is_read_again(body, |body: &[u8]| serde_json::from_slice::<T>(body));
}

fn is_read_again<T: Serialize, E: std::fmt::Debug>(
    body: &[u8],
    read: impl Fn(&[u8]) -> Result<T, E>,
) {
    let Ok(value) = read(body) else { return };
    let written = serde_json::to_vec(&value).expect("a value that was read");
    let again = read(&written).expect("a value that was written");
    let again = serde_json::to_vec(&again).expect("a value that was read");
    assert_eq!(
        String::from_utf8_lossy(&again),
        String::from_utf8_lossy(&written)
    );
}

/// A record from the database or from a Secret of the cluster, whatever times and counts it has: a
/// token that is over admits no node, and one that admits none is not used.
pub(super) fn token_record(row: &[u8]) {
    const NOW: i64 = 1_790_000_000;
    is_kept::<AdmittedNode>(row);
    is_kept::<TokenRecord>(row);
    let Ok(mut record) = serde_json::from_slice::<TokenRecord>(row) else {
        return;
    };
    record.reconcile(NOW, RETRY_WINDOW, |_| None);
    record.next_change(NOW, RETRY_WINDOW, 30 * 86_400);
    let claim = |role| JoinRequest {
        node: JoiningNode {
            name: "n2".to_owned(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
        },
        role,
        join_id: None,
    };
    for role in [Role::Worker, Role::ControlPlane] {
        let state = record.state(NOW);
        let left = record.uses_left(NOW);
        let claim = claim(role);
        let Ok(grant) = record.judge(&claim, &[], NOW, RETRY_WINDOW) else {
            continue;
        };
        assert!(!state.is_over() || record.has_use(&claim.node), "{state:?}");
        let held = record.has_use(&claim.node);
        record.admit(&claim, grant, &CertificatePurpose::ALL, false, NOW);
        let after = record.uses_left(NOW);
        assert!(after <= left || held, "{left:?} {after:?}");
        record.fail(&claim.node);
        record.reconcile(NOW + RETRY_WINDOW, RETRY_WINDOW, |_| None);
    }
    record.revoke(NOW, 0);
    assert!(record.state(NOW).is_over());
    assert!(
        record
            .judge(&claim(Role::Worker), &[], NOW, RETRY_WINDOW)
            .is_err()
    );
}
