//! A launch configuration: what a node is to be, as one or more YAML documents.
//!
//! Its fields are those of versions 0.1.0 to 0.2.0 of MicroK8s's (`docs/launch-configurations.md`).
//! What is read here is right by itself; whether a node can be that, the node decides. Errors name
//! the line and never a value, which may be a secret.

mod texts;

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::model::join_url::JoinUrl;
use crate::model::token::Token;

pub(crate) use texts::addon;
use texts::{
    List, Map, Text, argument, contents, file_name, flag, line, path_below, san, token, url,
    variable, version, word,
};

/// The most bytes of a configuration.
pub(crate) const MAX_BYTES: usize = 512 << 10;

/// The fields with the arguments and environment variables of services, and the files below `args`
/// that hold them.
pub(crate) const SETTINGS: [(&str, &str); 20] = [
    ("extraKubeAPIServerArgs", "kube-apiserver"),
    ("extraKubeletArgs", "kubelet"),
    ("extraKubeProxyArgs", "kube-proxy"),
    ("extraKubeControllerManagerArgs", "kube-controller-manager"),
    ("extraKubeSchedulerArgs", "kube-scheduler"),
    ("extraKubeliteEnv", "kubelite-env"),
    ("extraContainerdArgs", "containerd"),
    ("extraContainerdEnv", "containerd-env"),
    ("extraDqliteArgs", "k8s-dqlite"),
    ("extraDqliteEnv", "k8s-dqlite-env"),
    ("extraMicroK8sClusterAgentArgs", "cluster-agent"),
    ("extraMicroK8sClusterAgentEnv", "cluster-agent-env"),
    ("extraMicroK8sAPIServerProxyArgs", "apiserver-proxy"),
    ("extraMicroK8sAPIServerProxyEnv", "apiserver-proxy-env"),
    ("extraEtcdArgs", "etcd"),
    ("extraEtcdEnv", "etcd-env"),
    ("extraFlanneldArgs", "flanneld"),
    ("extraFlanneldEnv", "flanneld-env"),
    ("extraCNIEnv", "cni-env"),
    ("extraFIPSEnv", "fips-env"),
];

/// Names and values in the order of the file; a name without a value is to go.
pub(crate) type Values = Vec<(String, Option<String>)>;

/// A configuration that was understood.
#[derive(Default)]
pub(crate) struct LaunchConfiguration {
    /// To be applied in this order.
    pub(crate) parts: Vec<Part>,
    /// Fields that are not known, each once.
    pub(crate) unknown: Vec<String>,
}

/// One document.
#[derive(Default)]
pub(crate) struct Part {
    has_version: bool,
    has_fields: bool,
    /// Names in the objects below it that are not known.
    unknown: Vec<String>,
    /// Admits any number of nodes to the cluster.
    pub(crate) persistent_token: Option<Token>,
    /// The cluster to join.
    pub(crate) join: Option<Join>,
    /// Further names and addresses of the API server; `None` leaves them as they are.
    pub(crate) extra_sans: Option<Vec<String>>,
    /// Files below `args`.
    pub(crate) config_files: Vec<(String, String)>,
    /// Arguments and variables by the file below `args`.
    pub(crate) settings: Vec<(&'static str, Values)>,
    /// What containerd is told of a registry.
    pub(crate) registries: Vec<(String, String)>,
    /// Where add-ons come from.
    pub(crate) repositories: Vec<Repository>,
    /// Add-ons to be enabled or disabled.
    pub(crate) addons: Vec<Addon>,
}

/// A cluster to join.
#[derive(Default)]
pub(crate) struct Join {
    /// By which node, and with what.
    pub(crate) url: Option<JoinUrl>,
    /// As a worker.
    pub(crate) worker: bool,
}

/// A repository of add-ons.
#[derive(Default)]
pub(crate) struct Repository {
    /// Its name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) url: String,
    /// The branch or tag.
    pub(crate) reference: Option<String>,
}

/// An add-on.
#[derive(Default)]
pub(crate) struct Addon {
    /// Its name, perhaps with its repository's before it.
    pub(crate) name: String,
    /// Whether it is to be disabled.
    pub(crate) disable: bool,
    /// Arguments for it.
    pub(crate) arguments: Vec<String>,
}

/// Why a configuration cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidLaunchConfiguration {
    /// More than any configuration needs.
    #[error("it has more than {} KiB", MAX_BYTES >> 10)]
    TooLarge,
    /// Not UTF-8.
    #[error("line {line} holds a byte that is not UTF-8")]
    NotText {
        /// Which line.
        line: usize,
    },
    /// Not YAML, or not what the schema has.
    #[error("{0}")]
    Yaml(String),
    /// No version says what the fields mean.
    #[error("document {document} has no `version`")]
    NoVersion {
        /// Counted from one, without empty ones.
        document: usize,
    },
    /// A node joins one cluster.
    #[error("`join` stands in more than one document")]
    JoinedTwice,
}

impl LaunchConfiguration {
    /// Reads a configuration.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, InvalidLaunchConfiguration> {
        use InvalidLaunchConfiguration as Invalid;
        if content.len() > MAX_BYTES {
            return Err(Invalid::TooLarge);
        }
        let text = std::str::from_utf8(content).map_err(|error| {
            let before = &content[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Invalid::NotText { line }
        })?;
        // A snippet would show values; aliases must not make more of a file than it is.
        let options = serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: 16,
                max_nodes: 50_000,
                max_events: 150_000,
                max_recorded_anchor_bytes: MAX_BYTES,
                max_total_scalar_bytes: 4 * MAX_BYTES,
            },
        };
        let documents: Vec<Object<Part>> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| Invalid::Yaml(in_words(&error)))?;
        let (mut parts, mut unknown) = (Vec::new(), Vec::new());
        for mut document in documents {
            unknown.append(&mut document.unknown);
            unknown.append(&mut document.fields.unknown);
            parts.extend(Some(document.fields).filter(|part| part.has_fields));
        }
        unknown.sort();
        unknown.dedup();
        if let Some(place) = parts.iter().position(|part| !part.has_version) {
            let document = place + 1;
            return Err(Invalid::NoVersion { document });
        }
        if parts.iter().filter(|part| part.join.is_some()).count() > 1 {
            return Err(Invalid::JoinedTwice);
        }
        Ok(Self { parts, unknown })
    }

    /// The cluster to join.
    pub(crate) fn join(&self) -> Option<(&JoinUrl, bool)> {
        let join = self.parts.iter().find_map(|part| part.join.as_ref())?;
        Some((join.url.as_ref()?, join.worker))
    }

    /// Whether it holds a token.
    pub(crate) fn holds_token(&self) -> bool {
        self.join().is_some()
            || self
                .parts
                .iter()
                .any(|part| part.persistent_token.is_some())
    }
}

/// What the library says of a file, for those who wrote that.
fn in_words(error: &serde_saphyr::Error) -> String {
    error
        .to_string()
        .replace(", set DuplicateKeyPolicy in Options if acceptable", "")
        .replace("expected mapping start", "expected names with values")
        .replace("expected string scalar", "expected a text")
        .replace(
            "budget breached",
            "more than a launch configuration may hold",
        )
}

/// Fields that have names.
trait Fields: Default {
    /// Takes the value of a field from the map; says whether there is such a field.
    fn read<'de, M: MapAccess<'de>>(&mut self, name: &str, map: &mut M) -> Result<bool, M::Error>;
    /// What is wrong with the fields together.
    fn fault(&self) -> Option<&'static str> {
        None
    }
}

/// A mapping with such fields.
#[derive(Default)]
struct Object<T> {
    fields: T,
    /// The names of those that are not known.
    unknown: Vec<String>,
}

impl<'de, T: Fields> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de, T: Fields> Visitor<'de> for Object<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Self, M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if !self.fields.read(&name, &mut map)? {
                map.next_value::<IgnoredAny>()?;
                self.unknown.push(name);
            }
        }
        match self.fields.fault() {
            None => Ok(self),
            Some(why) => Err(M::Error::custom(why)),
        }
    }
}

impl Fields for Part {
    fn read<'de, M: MapAccess<'de>>(&mut self, name: &str, map: &mut M) -> Result<bool, M::Error> {
        self.has_fields = true;
        match name {
            "version" => self.has_version = map.next_value_seed(Text(version))?.is_some(),
            "persistentClusterToken" => {
                let text = map
                    .next_value_seed(Text(token))?
                    .filter(|text| !text.is_empty());
                self.persistent_token = text.as_deref().map(Token::presented);
            }
            "join" => {
                let join: Option<Object<Join>> = map.next_value()?;
                let join = join.map(|join| self.below(name, join));
                self.join = join.filter(|join| join.url.is_some());
            }
            "extraSANs" => self.extra_sans = map.next_value_seed(List(san))?,
            "extraConfigFiles" => self.config_files = contents(map, path_below)?,
            "containerdRegistryConfigs" => self.registries = contents(map, file_name)?,
            "addonRepositories" => {
                let list: Option<Vec<Object<Repository>>> = map.next_value()?;
                let list = list.into_iter().flatten();
                self.repositories = list.map(|one| self.below(name, one)).collect();
            }
            "addons" => {
                let list: Option<Vec<Object<Addon>>> = map.next_value()?;
                let list = list.into_iter().flatten();
                self.addons = list.map(|one| self.below(name, one)).collect();
            }
            _ => {
                let Some((_, file)) = SETTINGS.iter().find(|(field, _)| *field == name) else {
                    return Ok(false);
                };
                let key = if name.ends_with("Env") {
                    variable
                } else {
                    argument
                };
                self.settings
                    .push((file, map.next_value_seed(Map(key, line))?));
            }
        }
        Ok(true)
    }
}

impl Part {
    /// The fields of an object in the field of this name.
    fn below<T>(&mut self, field: &str, object: Object<T>) -> T {
        let names = object.unknown.iter();
        self.unknown
            .extend(names.map(|name| format!("{field}.{name}")));
        object.fields
    }
}

impl Fields for Join {
    fn read<'de, M: MapAccess<'de>>(&mut self, name: &str, map: &mut M) -> Result<bool, M::Error> {
        match name {
            "url" => {
                let text = map.next_value_seed(Text(url))?;
                self.url = text.and_then(|text| JoinUrl::parse(&text).ok());
            }
            "worker" => self.worker = flag(map)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn fault(&self) -> Option<&'static str> {
        (self.worker && self.url.is_none()).then_some("`join` has no `url`")
    }
}

impl Fields for Repository {
    fn read<'de, M: MapAccess<'de>>(&mut self, name: &str, map: &mut M) -> Result<bool, M::Error> {
        match name {
            "name" => self.name = map.next_value_seed(Text(word))?.unwrap_or_default(),
            "url" => self.url = map.next_value_seed(Text(word))?.unwrap_or_default(),
            "reference" => self.reference = map.next_value_seed(Text(word))?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn fault(&self) -> Option<&'static str> {
        let is_whole = !self.name.is_empty() && !self.url.is_empty();
        (!is_whole).then_some("a repository needs a `name` and a `url`")
    }
}

impl Fields for Addon {
    fn read<'de, M: MapAccess<'de>>(&mut self, name: &str, map: &mut M) -> Result<bool, M::Error> {
        match name {
            "name" => self.name = map.next_value_seed(Text(addon))?.unwrap_or_default(),
            "disable" => self.disable = flag(map)?,
            "args" => self.arguments = map.next_value_seed(List(line))?.unwrap_or_default(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn fault(&self) -> Option<&'static str> {
        self.name.is_empty().then_some("an addon needs a `name`")
    }
}

#[cfg(test)]
mod tests;
