//! Kubeconfigs, in the form of MicroK8s's (recordings `fresh-node.json`, `join-worker-ok`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::base::secret::Secret;

/// How a user authenticates.
#[derive(Debug)]
pub(crate) enum Identity<'a> {
    /// A client certificate and its key, PEM.
    Certificate {
        /// The certificate.
        certificate: &'a str,
        /// Its key.
        key: &'a Secret,
    },
    /// A token.
    Token(&'a Secret),
}

/// The text of a kubeconfig.
pub(crate) fn text(ca: &str, server: &str, user: &str, identity: &Identity<'_>) -> Secret {
    let encode = |text: &str| STANDARD.encode(text);
    let identity = match identity {
        Identity::Certificate { certificate, key } => format!(
            "    client-certificate-data: {}\n    client-key-data: {}\n",
            encode(certificate),
            encode(key.expose())
        ),
        Identity::Token(token) => format!("    token: {}\n", token.expose()),
    };
    Secret::new(format!(
        "apiVersion: v1\n\
         clusters:\n\
         - cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: microk8s-cluster\n\
         contexts:\n\
         - context:\n    cluster: microk8s-cluster\n    user: {user}\n  name: microk8s\n\
         current-context: microk8s\n\
         kind: Config\n\
         preferences: {{}}\n\
         users:\n\
         - name: {user}\n  user:\n{identity}",
        encode(ca)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_is_yaml_with_everything_in_its_place() {
        let key = Secret::new("KEY");
        let identity = Identity::Certificate {
            certificate: "CERT",
            key: &key,
        };
        let text = text("CA", "https://127.0.0.1:16443", "system:node:n2", &identity);
        let value: serde_json::Value = serde_saphyr::from_str(text.expose()).unwrap();
        assert_eq!(
            value["clusters"][0]["cluster"]["server"],
            "https://127.0.0.1:16443"
        );
        assert_eq!(value["contexts"][0]["context"]["user"], "system:node:n2");
        assert_eq!(
            value["users"][0]["user"]["client-key-data"],
            STANDARD.encode("KEY")
        );
        assert!(!format!("{text:?}").contains("KEY"));
    }
}
