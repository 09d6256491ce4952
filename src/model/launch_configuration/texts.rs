//! The texts of a launch configuration, each with the check that its place asks for.

use std::fmt;
use std::net::IpAddr;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::model::join_url::JoinUrl;
use crate::model::launch_configuration::Values;
use crate::model::token::{MIN_LEN, is_token_text};

/// Says what is wrong with a text.
type Check = fn(&str) -> Result<(), &'static str>;

/// A text as it stands in the file, whatever YAML would make of it; nothing for null.
#[derive(Clone, Copy)]
pub(super) struct Text(pub(super) Check);

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        match text.as_deref().map(self.0) {
            Some(Err(why)) => Err(D::Error::custom(why)),
            Some(Ok(())) | None => Ok(text),
        }
    }
}

/// A list of texts; nothing for null.
pub(super) struct List(pub(super) Check);

impl<'de> DeserializeSeed<'de> for List {
    type Value = Option<Vec<String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for List {
    type Value = Option<Vec<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut texts: S) -> Result<Self::Value, S::Error> {
        let mut list = Vec::new();
        while let Some(text) = texts.next_element_seed(Text(self.0))? {
            list.extend(text);
        }
        Ok(Some(list))
    }
}

/// Names with a text each, or with null.
pub(super) struct Map(pub(super) Check, pub(super) Check);

impl<'de> DeserializeSeed<'de> for Map {
    type Value = Values;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Values, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Map {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with a text each")
    }

    fn visit_none<E: Error>(self) -> Result<Values, E> {
        Ok(Vec::new())
    }

    fn visit_unit<E: Error>(self) -> Result<Values, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Values, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Values, M::Error> {
        let mut values = Vec::new();
        while let Some(name) = map.next_key_seed(Text(self.0))? {
            values.push((name.unwrap_or_default(), map.next_value_seed(Text(self.1))?));
        }
        Ok(values)
    }
}

/// Names of files with their contents.
pub(super) fn contents<'de, M: MapAccess<'de>>(
    map: &mut M,
    name: Check,
) -> Result<Vec<(String, String)>, M::Error> {
    let files = map.next_value_seed(Map(name, |_| Ok(())))?.into_iter();
    let files = files.map(|(name, content)| (name, content.unwrap_or_default()));
    Ok(files.collect())
}

/// Three numbers, from 0.1.0 to 0.2.0.
pub(super) fn version(text: &str) -> Result<(), &'static str> {
    let numbers = text
        .strip_prefix('v')
        .unwrap_or(text)
        .split('.')
        .map(str::parse);
    match numbers.collect::<Result<Vec<u32>, _>>().as_deref() {
        Ok(known @ [_, _, _]) if (&[0, 1, 0][..]..=&[0, 2, 0]).contains(&known) => Ok(()),
        _ => Err("this version of launch configurations is not known; 0.1.0 to 0.2.0 are"),
    }
}

pub(super) fn token(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Ok(()),
        _ if text.len() < MIN_LEN => Err("a token has at least 32 characters"),
        _ if !is_token_text(text) || text.contains('|') => {
            Err("the token holds a character that no token has")
        }
        _ => Ok(()),
    }
}

pub(super) fn url(text: &str) -> Result<(), &'static str> {
    match JoinUrl::parse(text) {
        Err(_) if !text.is_empty() => Err(
            "this is not a connection string: <address>:<port>/<token>[/<fingerprint>], with a token of at least 32 characters",
        ),
        _ => Ok(()),
    }
}

pub(super) fn boolean(text: &str) -> Result<(), &'static str> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "on" | "false" | "no" | "off" => Ok(()),
        _ => Err("give true or false"),
    }
}

/// A value that is true or false; null is false.
pub(super) fn flag<'de, M: MapAccess<'de>>(map: &mut M) -> Result<bool, M::Error> {
    let text = map.next_value_seed(Text(boolean))?.unwrap_or_default();
    Ok(["true", "yes", "on"].contains(&text.to_lowercase().as_str()))
}

/// A name or an address for a certificate.
pub(super) fn san(text: &str) -> Result<(), &'static str> {
    let is_label = |label: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(is_plain)
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    if text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && name.split('.').all(is_label)) {
        Ok(())
    } else {
        Err("this is neither a host name nor an address")
    }
}

/// A name that leads out of no folder.
pub(super) fn file_name(text: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| !c.is_control() && !['/', '\\'].contains(&c);
    if (1..=200).contains(&text.len()) && !text.starts_with('.') && text.chars().all(is_plain) {
        Ok(())
    } else {
        Err("a name of a file has no `/`, and does not begin with a dot")
    }
}

/// A path that stays below its folder.
pub(super) fn path_below(text: &str) -> Result<(), &'static str> {
    text.split('/')
        .try_for_each(file_name)
        .map_err(|_| "this path would leave `args`, or names no file")
}

pub(super) fn argument(text: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '=';
    if text.trim_start_matches('-').is_empty()
        || !text.starts_with('-')
        || !text.chars().all(is_plain)
    {
        return Err("an argument is a word that begins with a dash");
    }
    Ok(())
}

pub(super) fn variable(text: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.is_empty()
        || text.starts_with(|c: char| c.is_ascii_digit())
        || !text.chars().all(is_plain)
    {
        return Err("the name of a variable has letters, digits and `_`");
    }
    Ok(())
}

/// A value that is one line of a file.
pub(super) fn line(text: &str) -> Result<(), &'static str> {
    match text.contains(char::is_control) {
        true => Err("this value holds a line end or another control character"),
        false => Ok(()),
    }
}

/// A word that no program takes for an option.
pub(super) fn word(text: &str) -> Result<(), &'static str> {
    match text.starts_with('-') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err("this is not a word, or begins with a dash"),
        false => Ok(()),
    }
}

/// A name, perhaps with a repository's before it, and with what the add-on is to be told behind a
/// colon: `dns`, `community/istio`, `dns:1.1.1.1,8.8.8.8`.
pub(crate) fn addon(text: &str) -> Result<(), &'static str> {
    let (path, told) = text.split_once(':').unwrap_or((text, ""));
    let is_word = |word: &str| {
        let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(rest)
    };
    if path.split('/').count() <= 2
        && path.split('/').all(is_word)
        && !told.contains(char::is_control)
    {
        Ok(())
    } else {
        Err("this is not the name of an addon")
    }
}
