//! Reading a kubeconfig: which API server, and as whom.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::base::secret::Secret;
use crate::client::api_server::ApiServer;
use crate::model::endpoint;

/// The API server that a kubeconfig leads to.
pub(crate) struct Access {
    pub(crate) server: ApiServer,
    /// In place of a client certificate.
    pub(crate) token: Option<Secret>,
}

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{}`: {why}", path.display())]
pub(crate) struct KubeconfigError {
    path: PathBuf,
    why: String,
}

/// Reads the current context of this kubeconfig.
pub(crate) fn read(path: &Path) -> Result<Access, KubeconfigError> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| access(&Secret::new(text), path))
        .map_err(|why| KubeconfigError {
            path: path.to_owned(),
            why,
        })
}

pub(crate) fn access(text: &Secret, path: &Path) -> Result<Access, String> {
    let config: Value =
        serde_saphyr::from_str(text.expose()).map_err(|_| "it is not YAML".to_owned())?;
    let context = named(&config, "context", &config["current-context"])?;
    let cluster = named(&config, "cluster", &context["cluster"])?;
    let user = named(&config, "user", &context["user"])?;
    let server = cluster["server"].as_str().unwrap_or_default();
    let (host, port) = server
        .strip_prefix("https://")
        .map(|rest| rest.trim_end_matches('/'))
        .and_then(endpoint::split)
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| format!("`{server}` is not `https://HOST:PORT`"))?;
    let pem = |of: &Value, name| material(of, name, path);
    let authority = pem(cluster, "certificate-authority")?;
    let authority = authority.ok_or("it names no authority for the server's certificate")?;
    let key = pem(user, "client-key")?;
    let client = pem(user, "client-certificate")?.zip(key);
    let token = user["token"].as_str().filter(|_| client.is_none());
    if client.is_none() && token.is_none() {
        return Err("it holds neither a client certificate with its key nor a token".to_owned());
    }
    let client = client.as_ref();
    let client = client.map(|(certificate, key)| (certificate.expose(), key));
    let server = ApiServer::new(host, port, authority.expose(), client);
    Ok(Access {
        server: server.map_err(|error| error.to_string())?,
        token: token.map(Secret::new),
    })
}

/// The context, cluster or user of this name.
fn named<'a>(config: &'a Value, kind: &str, name: &Value) -> Result<&'a Value, String> {
    if name.is_null() {
        return Err(format!("it names no {kind}"));
    }
    let mut all = config[format!("{kind}s")].as_array().into_iter().flatten();
    all.find(|entry| entry["name"] == *name)
        .map(|entry| &entry[kind])
        .ok_or_else(|| format!("it has no {kind} {name}"))
}

/// What stands in the file itself (`NAME-data`), or in a file that it names.
fn material(of: &Value, name: &str, kubeconfig: &Path) -> Result<Option<Secret>, String> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        let bytes = STANDARD.decode(data).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| format!("`{name}-data` is not PEM in base64"))?;
        return Ok(Some(Secret::new(text)));
    }
    let Some(file) = of[name].as_str() else {
        return Ok(None);
    };
    let folder = kubeconfig.parent().unwrap_or(Path::new(""));
    let text = fs::read_to_string(folder.join(file)).map_err(|error| format!("`{file}`: {error}"));
    text.map(|text| Some(Secret::new(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_a_kubeconfig_is_named_and_nothing_secret_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.config");
        let config = "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n";
        let cluster =
            |fields: &str| format!("{config}clusters: [{{name: k, cluster: {{{fields}}}}}]\n");
        let user = |fields: &str| format!("users: [{{name: u, user: {{{fields}}}}}]\n");
        let server = "server: 'https://127.0.0.1:16443'";
        for (text, why) in [
            ("{".to_owned(), "not YAML"),
            ("- 1".to_owned(), "it names no context"),
            (config.to_owned(), "no cluster \"k\""),
            (cluster(server), "no user \"u\""),
            (
                cluster("server: http://x:1") + &user(""),
                "`http://x:1` is not `https://HOST:PORT`",
            ),
            (cluster(server) + &user("token: SECRET"), "no authority"),
            (
                cluster(&format!("{server}, certificate-authority-data: '%'")) + &user(""),
                "`certificate-authority-data` is not PEM in base64",
            ),
            (
                cluster(&format!("{server}, certificate-authority: ca.crt")) + &user(""),
                "`ca.crt`: No such file",
            ),
            (
                cluster(&format!("{server}, certificate-authority-data: ''")) + &user(""),
                "neither a client certificate with its key nor a token",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).err().unwrap().to_string();
            assert!(
                error.contains(why) && error.contains("client.config"),
                "{error}"
            );
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
