//! What the contacted node answered, and what of it is of use.
//!
//! Everything here came from another machine: each text and list has its bounds, and nothing reaches
//! an argument file that MicroK8s's wrappers, which are shell scripts, would evaluate.

use std::collections::HashSet;
use std::fmt::Display;

use crate::base::secret::Secret;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::Wanted;
use crate::model::token::Token;
use crate::pki::ca;
use crate::wire::{cluster_v1, cluster_v2};

/// How many entries a list may have: no cluster has as many control plane nodes.
const LIST_LENGTH: usize = 256;
/// How long an entry of a list may be: an address of IPv6 with a port takes 47 bytes.
const ENTRY_LENGTH: usize = 64;
/// How long a single word may be.
const WORD_LENGTH: usize = 4096;
/// How long a certificate, a key, or the arguments of a service may be.
const TEXT_LENGTH: usize = 128 * 1024;

/// An answer, and whose it is.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    from: String,
    fields: T,
}

impl<T> Answer<T> {
    /// The answer of the node at `from`.
    pub(crate) fn new(from: String, fields: T) -> Self {
        Self { from, fields }
    }

    /// A field that the join needs.
    pub(crate) fn need<V>(&self, field: &'static str, value: Option<V>) -> Result<V, JoinError> {
        value.ok_or_else(|| self.of_no_use(format!("has no field `{field}`")))
    }

    /// Says that a field is of no use.
    pub(crate) fn bad(&self, field: &'static str, why: impl Display) -> JoinError {
        self.of_no_use(format!("has a field `{field}` that cannot be used: {why}"))
    }

    fn of_no_use(&self, why: String) -> JoinError {
        let from = self.from.clone();
        JoinError::BadAnswer { from, why }
    }

    /// Fields that become parts of argument files, kubeconfigs and messages: each a single word
    /// that brings no line, quote, escape sequence or shell syntax of its own.
    fn words(&self, fields: &[(&'static str, Option<&str>)]) -> Result<(), JoinError> {
        let strange =
            |c: char| c.is_whitespace() || c.is_control() || "\"'`\\#$;&|<>(){}*?!~".contains(c);
        for (field, value) in fields {
            if value.is_some_and(|value| value.len() > WORD_LENGTH) {
                return Err(self.bad(field, format!("it has more than {WORD_LENGTH} bytes")));
            }
            if value.is_some_and(|value| value.contains(strange)) {
                return Err(self.bad(field, "it is not a single word"));
            }
        }
        Ok(())
    }

    /// Fields with certificates, keys and arguments.
    fn texts(&self, fields: &[(&'static str, Option<&str>)]) -> Result<(), JoinError> {
        for (field, value) in fields {
            if value.is_some_and(|value| value.len() > TEXT_LENGTH) {
                return Err(self.bad(field, format!("it has more than {TEXT_LENGTH} bytes")));
            }
        }
        Ok(())
    }

    /// The arguments of the contacted node's kubelet: lines, as they stand there in its file.
    fn arguments(&self, value: Option<&str>) -> Result<(), JoinError> {
        let field = "kubelet_args";
        self.texts(&[(field, value)])?;
        match value.and_then(evaluated) {
            Some(what) => Err(self.bad(field, format!("a shell would evaluate its {what}"))),
            None => Ok(()),
        }
    }

    /// The entries of a list, each once.
    pub(crate) fn list<'a>(
        &self,
        field: &'static str,
        list: impl IntoIterator<Item = &'a String>,
    ) -> Result<Vec<&'a str>, JoinError> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for entry in list {
            if entry.len() > ENTRY_LENGTH {
                return Err(self.bad(
                    field,
                    format!("an entry has more than {ENTRY_LENGTH} bytes"),
                ));
            }
            if seen.insert(entry) {
                entries.push(entry.as_str());
            }
            if entries.len() > LIST_LENGTH {
                return Err(self.bad(field, format!("it has more than {LIST_LENGTH} entries")));
            }
        }
        Ok(entries)
    }

    fn port(&self, value: Option<&str>) -> Result<(), JoinError> {
        let is_port = |port: &str| {
            port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0)
        };
        match value.filter(|port| !port.is_empty()) {
            Some(port) if !is_port(port) => Err(self.bad("apiport", "it is not a port")),
            _ => Ok(()),
        }
    }
}

/// What of a text a shell would evaluate, beyond variables that it knows by name.
fn evaluated(text: &str) -> Option<&'static str> {
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        return Some("control characters");
    }
    for (syntax, what) in [("`", "backticks"), ("<(", "`<(`"), (">(", "`>(`")] {
        if text.contains(syntax) {
            return Some(what);
        }
    }
    // The text after each dollar sign.
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
    };
    let is_evaluated = text
        .split('$')
        .skip(1)
        .any(|rest| match rest.chars().next() {
            Some('{') => !rest[1..]
                .split_once('}')
                .is_some_and(|(name, _)| is_name(name)),
            Some('(' | '[' | '\'') => true,
            _ => false,
        });
    is_evaluated.then_some("`$`")
}

impl Answer<cluster_v1::SignCertResponse> {
    /// Makes sure that a signed certificate is the one that was asked for.
    pub(crate) fn check_signed(
        &self,
        signed: &str,
        wanted: &Wanted<'_>,
        authority: &str,
    ) -> Result<(), JoinError> {
        const FIELD: &str = "certificate";
        self.texts(&[(FIELD, Some(signed))])?;
        ca::check_pair(signed, wanted.key.pem.expose()).map_err(|error| self.bad(FIELD, error))?;
        ca::check_issued(signed, wanted.subject, wanted.names)
            .map_err(|error| self.bad(FIELD, error))?;
        if !ca::is_signed_by(&ca::certificate_der(signed)?, authority) {
            return Err(self.bad(FIELD, "the cluster's authority did not sign it"));
        }
        if !ca::is_valid_now(signed)? {
            return Err(self.bad(FIELD, "it is not valid now, by the clock of this node"));
        }
        Ok(())
    }
}

impl Answer<cluster_v1::JoinResponse> {
    /// Makes sure that every field is in its bounds, and that nothing but words arrives where words
    /// are expected.
    pub(crate) fn check(&self) -> Result<(), JoinError> {
        self.port(self.apiport.as_deref())?;
        self.texts(&[("ca", self.ca.as_deref())])?;
        self.arguments(self.kubelet_args.as_deref())?;
        self.words(&[
            ("etcd", self.etcd.as_deref()),
            ("kubeproxy", self.kubeproxy.as_ref().map(Token::expose)),
            ("kubelet", self.kubelet.as_ref().map(Token::expose)),
            ("hostname_override", self.hostname_override.as_deref()),
            ("cluster_cidr", self.cluster_cidr.as_deref()),
        ])
    }
}

impl Answer<cluster_v2::JoinResponse> {
    /// Makes sure that every field is in its bounds, and that nothing but words arrives where words
    /// are expected.
    pub(crate) fn check(&self) -> Result<(), JoinError> {
        self.port(self.apiport.as_deref())?;
        fn key(key: &Option<Secret>) -> Option<&str> {
            key.as_ref().map(Secret::expose)
        }
        self.texts(&[
            ("service_account_key", key(&self.service_account_key)),
            ("ca_key", key(&self.ca_key)),
            ("cluster_key", key(&self.cluster_key)),
            ("etcd_key", key(&self.etcd_key)),
            ("ca", self.ca.as_deref()),
            ("cluster_cert", self.cluster_cert.as_deref()),
            ("etcd_ca", self.etcd_ca.as_deref()),
            ("etcd_cert", self.etcd_cert.as_deref()),
        ])?;
        self.arguments(self.kubelet_args.as_deref())?;
        self.words(&[
            ("api_authz_mode", self.api_authz_mode.as_deref()),
            ("cluster_cidr", self.cluster_cidr.as_deref()),
            ("admin_token", self.admin_token.as_ref().map(Secret::expose)),
            ("etcd_servers", self.etcd_servers.as_deref()),
        ])
    }

    /// The token with which the cluster's agents are called: one line that is not empty.
    pub(crate) fn need_callback_token(&self) -> Result<(), JoinError> {
        let token = self.need("callback_token", self.callback_token.as_ref())?;
        let text = token.expose();
        if token.is_empty() || text.len() > WORD_LENGTH || text.contains(char::is_whitespace) {
            return Err(self.bad("callback_token", "it is not a single word"));
        }
        Ok(())
    }
}

impl<T> std::ops::Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_a_shell_would_evaluate_are_noticed_and_others_are_not() {
        for harmless in [
            "--cert-dir=${SNAP_DATA}/certs\n--root-dir=$SNAP_COMMON/var\n",
            "--eviction-hard=\"memory.available<100Mi,nodefs.available<1Gi\"\n",
            "# it's a comment (of a user)\n--x=a;b\r\n",
            "--pattern=^a$\n",
            "",
        ] {
            assert_eq!(evaluated(harmless), None, "{harmless}");
        }
        for evil in [
            "--x=$(reboot)",
            "--x=\"$(reboot)\"",
            "--x=`reboot`",
            "--x=${SNAP_DATA:-$(reboot)}",
            "--x=${SNAP_DATA",
            "--x=${!SNAP}",
            "--x=${PS1@P}",
            "--x=$((1+1))",
            "--x=$[1+1]",
            "--x=$'a'",
            "--x=<(reboot)",
            "--x=>(reboot)",
            "--x=a\0b",
            "# $(reboot)",
        ] {
            assert!(evaluated(evil).is_some(), "{evil}");
        }
    }

    #[test]
    fn words_and_lists_have_bounds() {
        let answer = Answer::new("10.99.0.11:25000".to_owned(), ());
        for word in [
            "a b",
            "$(x)",
            "a\nb",
            "`x`",
            "a;b",
            "a'b",
            "${SNAP}",
            &"x".repeat(5000),
        ] {
            assert!(answer.words(&[("etcd", Some(word))]).is_err(), "{word}");
        }
        for word in [
            "https://10.99.0.11:12379,https://[fd00::1]:2379",
            "10.1.0.0/16",
            "Node,RBAC",
        ] {
            answer.words(&[("etcd", Some(word))]).unwrap();
        }
        for port in ["0", "65536", "+1", "-1", "1 ", "16443;x"] {
            assert!(answer.port(Some(port)).is_err(), "{port}");
        }
        let twice: Vec<String> = (0..1000).map(|n| format!("10.0.0.{}", n % 3)).collect();
        assert_eq!(
            answer.list("voters", &twice).unwrap(),
            ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
        );
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert!(answer.list("voters", &many).is_err());
        assert!(answer.list("voters", &["x".repeat(65)]).is_err());
    }
}
