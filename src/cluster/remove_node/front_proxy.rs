//! Taking the authority of a removed node's front proxy out of what the cluster trusts.
//!
//! Each API server adds the authority of its own front proxy to a ConfigMap, where servers behind it
//! look up whose word on a user counts, and none takes one out. Which one a node had is written nowhere.
//! So all go but this node's: API servers that run add theirs again as soon as the ConfigMap changes.

use crate::cluster::node::Node;
use crate::pki::ca;
use crate::platform::CommandError;

const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
const KEY: &str = "requestheader-client-ca-file";
const END: &str = "-----END CERTIFICATE-----";

/// Leaves this node's own authority alone. Nothing changes where it is not among those that are trusted.
pub(super) fn distrust_others(node: &Node) -> Result<(), CommandError> {
    let Ok(own) = node.layout.read(&node.layout.cert("front-proxy-ca.crt")) else {
        return Ok(());
    };
    let get = [
        "-n",
        NAMESPACE,
        "get",
        "configmap",
        CONFIG_MAP,
        "-o",
        "json",
    ];
    let Some(found) = node.platform.kubectl(&get)? else {
        return Ok(());
    };
    let found: serde_json::Value = serde_json::from_str(&found).unwrap_or_default();
    let trusted = found["data"][KEY].as_str().unwrap_or_default();
    let Some(left) = only_own(trusted, &own) else {
        return Ok(());
    };
    let patch = serde_json::json!({"data": {KEY: left}}).to_string();
    let patch = [
        "-n",
        NAMESPACE,
        "patch",
        "configmap",
        CONFIG_MAP,
        "--type=merge",
        "-p",
        &patch,
    ];
    node.platform.kubectl(&patch).map(drop)
}

/// The trusted authorities without those of others, where there are any beside this node's.
fn only_own(trusted: &str, own: &str) -> Option<String> {
    let own = ca::certificate_der(own).ok()?;
    let all: Vec<&str> = trusted
        .split_inclusive(END)
        .filter(|part| part.contains(END))
        .collect();
    let is_own = |pem: &&&str| ca::certificate_der(pem).is_ok_and(|der| der == own);
    let kept = all.iter().find(is_own)?;
    (all.len() > 1).then(|| format!("{}\n", kept.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fresh_node::front_proxy_authority;
    use crate::pki::key::{Bits, PrivateKey};

    #[test]
    fn the_own_authority_stays_and_alone_nothing_changes() {
        let new = || {
            let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
            front_proxy_authority(key).unwrap().1
        };
        let (own, other, third) = (new(), new(), new());
        assert_eq!(
            only_own(&format!("{other}{own}{third}"), &own),
            Some(own.clone())
        );
        assert_eq!(only_own(&own, &own), None);
        assert_eq!(only_own(&other, &own), None);
        assert_eq!(only_own("", &own), None);
    }
}
