//! Secrets of one type in one namespace of the cluster's API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyper::Method;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::kubernetes::{Call, Kubernetes, KubernetesError};

/// How many Secrets a page of a list has. The API server takes 500 at once for its own lists.
const PAGE: usize = 500;
/// Which Secrets.
pub(crate) struct Kind {
    pub(crate) namespace: &'static str,
    pub(crate) secret_type: &'static str,
    pub(crate) label: (&'static str, &'static str),
}

/// The Secrets of a kind.
pub(crate) struct Secrets {
    server: Kubernetes,
    kind: Kind,
}

/// A Secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct SecretObject {
    metadata: Metadata,
    /// Values in base64.
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
}

/// Some of the Secrets.
#[derive(Deserialize)]
pub(crate) struct Page {
    metadata: PageMetadata,
    /// They.
    pub(crate) items: Vec<SecretObject>,
}

impl Page {
    /// Where the next page begins; nothing after the last one.
    pub(crate) fn next(&self) -> Option<String> {
        Some(self.metadata.next.clone()).filter(|next| !next.is_empty())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl SecretObject {
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Changes with each change of the Secret.
    pub(crate) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// A value, in base64.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str)
    }
}

impl Secrets {
    /// Those that this kubeconfig's user sees.
    pub(crate) fn new(kubeconfig: PathBuf, kind: Kind) -> Self {
        Self {
            server: Kubernetes::new(kubeconfig),
            kind,
        }
    }

    /// The Secret of this name.
    pub(crate) fn get(&self, name: &str) -> Result<Option<SecretObject>, KubernetesError> {
        let found = self.ask(Method::GET, &self.path(name), &Value::Null);
        none_for(404, found)
    }

    /// Creates a Secret with these values (base64), unless there is one of this name.
    pub(crate) fn create(
        &self,
        name: &str,
        data: &[(&str, String)],
    ) -> Result<Option<SecretObject>, KubernetesError> {
        let created = self.ask(Method::POST, &self.path(""), &self.object(name, None, data));
        none_for(409, created)
    }

    /// Replaces the values of a Secret that is still at this version.
    pub(crate) fn replace(
        &self,
        name: &str,
        version: &str,
        data: &[(&str, String)],
    ) -> Result<Option<SecretObject>, KubernetesError> {
        let object = self.object(name, Some(version), data);
        let replaced = self.ask(Method::PUT, &self.path(name), &object);
        Ok(none_for(404, none_for(409, replaced))?.flatten())
    }

    /// Deletes a Secret that is still at this version; says whether it was.
    pub(crate) fn delete(&self, name: &str, version: &str) -> Result<bool, KubernetesError> {
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": version},
        });
        let deleted = self.ask::<Value>(Method::DELETE, &self.path(name), &options);
        Ok(none_for(404, none_for(409, deleted))?.flatten().is_some())
    }

    /// Gives each Secret to `each`, until that wants no more. One page is in memory at a time.
    pub(crate) fn list(
        &self,
        each: &mut dyn FnMut(SecretObject) -> bool,
    ) -> Result<(), KubernetesError> {
        let mut next = Some(String::new());
        while let Some(position) = next {
            let page = self.page(&position)?;
            next = page.next();
            if !page.items.into_iter().all(&mut *each) {
                break;
            }
        }
        Ok(())
    }

    /// The page of the list that begins there; the first one for the empty text.
    pub(crate) fn page(&self, position: &str) -> Result<Page, KubernetesError> {
        let first = format!("{}&limit={PAGE}", self.selection());
        let at = |position: &str| match position {
            "" => first.clone(),
            position => format!("{first}&continue={position}"),
        };
        match self.ask(Method::GET, &at(position), &Value::Null) {
            // The list took so long that its version is gone: it goes on at a later one.
            Err(KubernetesError::Refused {
                status: 410,
                next: Some(next),
                ..
            }) => self.ask(Method::GET, &at(&next), &Value::Null),
            page => page,
        }
    }

    /// The version of the whole API: it grows with each change of any object.
    pub(crate) fn version(&self) -> Result<String, KubernetesError> {
        let path = format!("{}&limit=1", self.selection());
        let page: Page = self.ask(Method::GET, &path, &Value::Null)?;
        Ok(page.metadata.resource_version)
    }

    fn path(&self, name: &str) -> String {
        let separator = if name.is_empty() { "" } else { "/" };
        let namespace = self.kind.namespace;
        format!("/api/v1/namespaces/{namespace}/secrets{separator}{name}")
    }

    /// The type cannot be changed by hand, the label can.
    fn selection(&self) -> String {
        let secret_type = self.kind.secret_type.replace('/', "%2F");
        format!("{}?fieldSelector=type%3D{secret_type}", self.path(""))
    }

    fn object(&self, name: &str, version: Option<&str>, data: &[(&str, String)]) -> Value {
        let (label, value) = self.kind.label;
        let data: BTreeMap<_, _> = data.iter().cloned().collect();
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": self.kind.namespace,
                "labels": {label: value},
                "resourceVersion": version,
            },
            "type": self.kind.secret_type,
            "data": data,
        })
    }

    fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, KubernetesError> {
        let body = match body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };
        self.server.ask(&Call { method, path, body })
    }
}

/// Nothing in place of an answer of this status.
fn none_for<T>(
    status: u16,
    answer: Result<T, KubernetesError>,
) -> Result<Option<T>, KubernetesError> {
    match answer {
        Err(error) if error.has_status(status) => Ok(None),
        answer => answer.map(Some),
    }
}
