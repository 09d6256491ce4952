//! JSON objects, read the way MicroK8s's agent reads them.
//!
//! Field names match in any case, unknown fields do not matter, `null` counts as missing, and
//! a field of the wrong type is an error that names it (recordings
//! `http-join-case-keys`, `http-malformed-json`).

use serde_json::{Map, Value};

/// Why a body was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Empty, or cut off.
    #[error("Unexpected end of JSON input")]
    CutOff,
    /// Not JSON at all.
    #[error("Invalid JSON: {0}")]
    Syntax(String),
    /// JSON, but no object.
    #[error("Json: cannot unmarshal {found} into Go value of type {wanted}")]
    NoObject {
        /// What it is.
        found: &'static str,
        /// What was expected, by MicroK8s's name for it.
        wanted: &'static str,
    },
    /// A field of the wrong type.
    #[error("Json: cannot unmarshal {found} into Go struct field {field} of type {wanted}")]
    Field {
        /// What it is.
        found: &'static str,
        /// The field, with the name of its object in front.
        field: String,
        /// The type it should have.
        wanted: &'static str,
    },
}

/// The fields of one object.
#[derive(Debug)]
pub(crate) struct Fields {
    object: &'static str,
    fields: Map<String, Value>,
}

impl Fields {
    /// Reads an object; `name` is MicroK8s's name for it with that of its package, for error texts.
    pub(crate) fn read(body: &[u8], name: &'static str) -> Result<Self, DecodeError> {
        let value: Value =
            serde_json::from_slice(body).map_err(|error| match error.classify() {
                serde_json::error::Category::Eof => DecodeError::CutOff,
                _ => DecodeError::Syntax(error.to_string()),
            })?;
        let (_, object) = name.split_once('.').unwrap_or(("", name));
        Self::of(object, value).map_err(|other| DecodeError::NoObject {
            found: type_of(&other),
            wanted: name,
        })
    }

    /// The fields of a value, or the value that has none.
    fn of(object: &'static str, value: Value) -> Result<Self, Value> {
        let fields = match value {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            other => return Err(other),
        };
        Ok(Self { object, fields })
    }

    /// A list of objects, empty when missing; `object` is MicroK8s's name for one of them.
    pub(crate) fn objects(
        &self,
        name: &str,
        object: &'static str,
    ) -> Result<Vec<Self>, DecodeError> {
        let items = self.list(name)?.iter().cloned();
        let read =
            |item| Self::of(object, item).map_err(|other| self.wrong_type(name, &other, object));
        items.map(read).collect()
    }

    /// A list of texts, empty when missing.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, DecodeError> {
        self.list(name)?
            .iter()
            .map(|item| self.as_text(name, item).map(str::to_owned))
            .collect()
    }

    /// Names and texts from a list of objects, in their order; empty when missing.
    pub(crate) fn text_pairs(&self, name: &str) -> Result<Vec<(String, String)>, DecodeError> {
        let mut pairs = Vec::new();
        for item in self.list(name)? {
            match item {
                Value::Object(fields) => {
                    for (key, value) in fields {
                        pairs.push((key.clone(), self.as_text(name, value)?.to_owned()));
                    }
                }
                Value::Null => {}
                other => return Err(self.wrong_type(name, other, "map[string]string")),
            }
        }
        Ok(pairs)
    }

    fn as_text<'a>(&self, name: &str, value: &'a Value) -> Result<&'a str, DecodeError> {
        match value {
            Value::Null => Ok(""),
            Value::String(text) => Ok(text),
            other => Err(self.wrong_type(name, other, "string")),
        }
    }

    fn list(&self, name: &str) -> Result<&[Value], DecodeError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.wrong_type(name, other, "slice")),
        }
    }

    /// The last field of this name, in any case; `None` when missing or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next_back()
            .filter(|value| !value.is_null())
    }

    /// A text, empty when missing.
    pub(crate) fn text(&self, name: &str) -> Result<&str, DecodeError> {
        self.as_text(name, self.get(name).unwrap_or(&Value::Null))
    }

    /// A truth value, false when missing.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, DecodeError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong_type(name, other, "bool")),
        }
    }

    fn wrong_type(&self, name: &str, found: &Value, wanted: &'static str) -> DecodeError {
        DecodeError::Field {
            found: type_of(found),
            field: format!("{}.{name}", self.object),
            wanted,
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Fields, DecodeError> {
        Fields::read(body.as_bytes(), "v2.JoinRequest")
    }

    #[test]
    fn names_match_in_any_case_and_the_last_one_counts() {
        let fields = read(r#"{"TOKEN": "a", "token": "b", "other": [1], "port": null}"#).unwrap();
        assert_eq!(fields.text("token"), Ok("b"));
        assert_eq!(fields.text("port"), Ok(""));
        assert_eq!(fields.flag("missing"), Ok(false));
    }

    #[test]
    fn errors_read_as_recorded() {
        for (body, text) in [
            ("", "Unexpected end of JSON input"),
            ("{\"token\": \"a", "Unexpected end of JSON input"),
            (
                "[]",
                "Json: cannot unmarshal array into Go value of type v2.JoinRequest",
            ),
        ] {
            assert_eq!(read(body).unwrap_err().to_string(), text);
        }
        assert_eq!(
            read("{\"token\": 5}")
                .unwrap()
                .text("token")
                .unwrap_err()
                .to_string(),
            "Json: cannot unmarshal number into Go struct field JoinRequest.token of type string"
        );
        assert!(matches!(
            read("{\"token\":\"a\"} x"),
            Err(DecodeError::Syntax(_))
        ));
    }

    #[test]
    fn lists_are_read_and_what_is_none_is_named() {
        let fields = read(
            r#"{"service": [{"name": "a", "update": [{"--x": "1"}, {"--y": "2"}]}, null], "remove": ["--z"], "n": 5}"#,
        )
        .unwrap();
        let services = fields.objects("service", "Service").unwrap();
        assert_eq!(services[0].text("name"), Ok("a"));
        assert_eq!(services[1].text("name"), Ok(""));
        let pairs = [("--x", "1"), ("--y", "2")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(services[0].text_pairs("update"), Ok(pairs.to_vec()));
        assert_eq!(fields.texts("remove"), Ok(vec!["--z".to_owned()]));
        assert_eq!(fields.texts("missing"), Ok(vec![]));
        let wrong =
            "Json: cannot unmarshal number into Go struct field JoinRequest.n of type slice";
        assert_eq!(fields.texts("n").unwrap_err().to_string(), wrong);
        assert!(fields.text_pairs("remove").is_err());
        assert!(fields.objects("remove", "Service").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Fields::read(&body, "v2.JoinRequest");
        }
    }
}
