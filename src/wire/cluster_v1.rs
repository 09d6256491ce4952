//! Version 1 of MicroK8s's cluster API: joining a cluster on etcd, signing certificates, and what
//! the control plane has other nodes do.
//!
//! `sign-cert` is recorded in `http-sign-cert`, the rest in `http-configure-*` and `http-upgrade`;
//! the answer to a join is in recording `v1-join`.

use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::model::join_id::JoinId;
use crate::model::token::Token;
use crate::wire::cluster_v2::join_id;
use crate::wire::lenient::{DecodeError, Fields};

/// `POST /cluster/api/v1.0/join`.
#[derive(Debug, Clone, Serialize)]
pub struct JoinRequest {
    /// The token of the connection string.
    pub token: Token,
    /// The joining node's host name.
    pub hostname: String,
    /// The port of the joining node's agent, as text.
    pub port: String,
    /// What the contacted node's agent is to show when it calls the joining node's.
    pub callback: Secret,
    /// The node makes its own client certificates.
    pub can_handle_x509_auth: bool,
    /// How the node names this join, for its report of how it ended. MicroK8s knows no such field, and
    /// ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_id: Option<JoinId>,
}

impl JoinRequest {
    /// Reads a request as MicroK8s's agent does.
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v1.JoinRequest")?;
        Ok(Self {
            token: Token::presented(fields.text("token")?),
            hostname: fields.text("hostname")?.to_owned(),
            port: fields.text("port")?.to_owned(),
            callback: Secret::new(fields.text("callback")?),
            can_handle_x509_auth: fields.flag("can_handle_x509_auth")?,
            join_id: join_id(&fields),
        })
    }
}

/// What a node that joins a cluster on etcd is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinResponse {
    /// The cluster's CA certificate, PEM.
    pub ca: Option<String>,
    /// Where etcd listens; `0.0.0.0` stands for the contacted address.
    pub etcd: Option<String>,
    /// How the node's services authenticate: `Cert` or `Token`.
    pub api_authn_mode: Option<String>,
    /// The port of the API server.
    pub apiport: Option<String>,
    /// kube-proxy's token, or the token with which its certificate is signed.
    pub kubeproxy: Option<Token>,
    /// The kubelet's token, or the token with which its certificate is signed.
    pub kubelet: Option<Token>,
    /// The arguments of the contacted node's kubelet.
    pub kubelet_args: Option<String>,
    /// The joining node's name or address, as the contacted node sees it.
    pub hostname_override: Option<String>,
    /// The cluster's pod network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_cidr: Option<String>,
}

/// `POST /cluster/api/v1.0/sign-cert`.
#[derive(Debug, Clone, Serialize)]
pub struct SignCertRequest {
    /// The join token, with `-kubelet` or `-proxy` behind it.
    pub token: Token,
    /// The certificate signing request, PEM.
    pub request: String,
}

impl SignCertRequest {
    /// Reads a request as MicroK8s's agent does.
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v1.SignCertRequest")?;
        Ok(Self {
            token: Token::presented(fields.text("token")?),
            request: fields.text("request")?.to_owned(),
        })
    }
}

/// A signed certificate.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SignCertResponse {
    /// The certificate, PEM.
    pub(crate) certificate: Option<String>,
}

/// `POST /cluster/api/v1.0/configure`: other arguments for services, and add-ons on or off.
#[derive(Debug, Clone)]
pub(crate) struct ConfigureRequest {
    /// The callback token.
    pub(crate) callback: Token,
    /// What becomes of which service, in this order.
    pub(crate) services: Vec<ServiceChange>,
    /// What becomes of which add-on, after the services.
    pub(crate) addons: Vec<AddonChange>,
}

/// What becomes of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceChange {
    /// The service, as the caller names it.
    pub(crate) name: String,
    /// Arguments, with their dashes, and their new values.
    pub(crate) update: Vec<(String, String)>,
    /// Arguments that go. One that is updated as well stays.
    pub(crate) remove: Vec<String>,
    /// Whether the service is started anew.
    pub(crate) restart: bool,
}

/// What becomes of an add-on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddonChange {
    /// The add-on, as the caller names it.
    pub(crate) name: String,
    /// On, off, or as it is.
    pub(crate) to: Option<Switch>,
}

/// Whether an add-on runs from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    /// It does.
    On,
    /// It does not.
    Off,
}

impl ConfigureRequest {
    /// Reads a request as MicroK8s's agent does: `restart` is meant when it is exactly `true` or
    /// `"yes"`, and `enable` wins over `disable` (recordings `http-configure-restart`,
    /// `http-configure-addon`).
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v1.ConfigureRequest")?;
        let services = fields.objects("service", "ConfigureServiceRequest")?;
        let addons = fields.objects("addon", "ConfigureAddonRequest")?;
        let service = |fields: &Fields| {
            Ok(ServiceChange {
                name: fields.text("name")?.to_owned(),
                update: fields.text_pairs("arguments_update")?,
                remove: fields.texts("arguments_remove")?,
                restart: fields
                    .get("restart")
                    .is_some_and(|value| *value == true || *value == "yes"),
            })
        };
        let addon = |fields: &Fields| {
            let (on, off) = (fields.flag("enable")?, fields.flag("disable")?);
            Ok(AddonChange {
                name: fields.text("name")?.to_owned(),
                to: on
                    .then_some(Switch::On)
                    .or_else(|| off.then_some(Switch::Off)),
            })
        };
        Ok(Self {
            callback: Token::presented(fields.text("callback")?),
            services: services.iter().map(service).collect::<Result<_, _>>()?,
            addons: addons.iter().map(addon).collect::<Result<_, _>>()?,
        })
    }
}

/// `POST /cluster/api/v1.0/upgrade`: a phase of one of MicroK8s's supervised upgrades.
#[derive(Debug, Clone)]
pub(crate) struct UpgradeRequest {
    /// The callback token.
    pub(crate) callback: Token,
    /// The upgrade, by the name of its folder.
    pub(crate) upgrade: String,
    /// How far the upgrade is to go: `prepare`, `commit` or `rollback`.
    pub(crate) phase: String,
}

impl UpgradeRequest {
    /// Reads a request as MicroK8s's agent does.
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v1.UpgradeRequest")?;
        Ok(Self {
            callback: Token::presented(fields.text("callback")?),
            upgrade: fields.text("upgrade")?.to_owned(),
            phase: fields.text("phase")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_true_and_yes_restart_a_service() {
        for (value, restart) in [
            ("true", true),
            ("\"yes\"", true),
            ("\"true\"", false),
            ("\"True\"", false),
            ("1", false),
            ("false", false),
            ("null", false),
        ] {
            let body = format!(r#"{{"service": [{{"name": "kubelet", "restart": {value}}}]}}"#);
            let request = ConfigureRequest::read(body.as_bytes()).unwrap();
            assert_eq!(request.services[0].restart, restart, "{value}");
        }
    }

    #[test]
    fn an_addon_that_is_both_enabled_and_disabled_is_enabled() {
        for (fields, to) in [
            (r#""enable": true, "disable": true"#, Some(Switch::On)),
            (r#""disable": true"#, Some(Switch::Off)),
            (r#""enable": false"#, None),
        ] {
            let body = format!(r#"{{"addon": [{{"name": "dns", {fields}}}]}}"#);
            let request = ConfigureRequest::read(body.as_bytes()).unwrap();
            assert_eq!(request.addons[0].to, to, "{fields}");
        }
        let body = r#"{"addon": [{"name": "dns", "enable": "true"}]}"#;
        assert!(ConfigureRequest::read(body.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_a_reader_panic(body in r#"[\[\]{}:,"a-z_ 0-9]{0,80}"#) {
            let _ = ConfigureRequest::read(body.as_bytes());
            let _ = UpgradeRequest::read(body.as_bytes());
        }
    }
}
