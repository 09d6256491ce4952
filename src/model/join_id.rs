//! Which of its joins a node speaks of, when it says late how one ended.

use serde::{Deserialize, Serialize};

/// The name that a node makes up for one join: letters and digits. It opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct JoinId(String);

impl JoinId {
    /// How many characters one has.
    pub const LENGTH: usize = 16;

    /// Takes the text of one; `None` for any other text.
    pub fn read(text: &str) -> Option<Self> {
        let is_one = text.len() == Self::LENGTH && text.bytes().all(|b| b.is_ascii_alphanumeric());
        is_one.then(|| Self(text.to_owned()))
    }

    /// Whether both are known, and are not the same.
    pub(crate) fn differ(one: Option<&Self>, other: Option<&Self>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one != other)
    }
}

impl TryFrom<String> for JoinId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::read(&text).ok_or("not the id of a join")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_letters_and_digits_and_differs_from_no_unknown_one() {
        let one = JoinId::read("0123456789abcDEF");
        let other = JoinId::read("0123456789abcDE0");
        assert!(one.is_some() && JoinId::differ(one.as_ref(), other.as_ref()));
        for same in [&one, &None] {
            assert!(!JoinId::differ(one.as_ref(), same.as_ref()));
        }
        for bad in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789abcde\u{e9}",
        ] {
            assert_eq!(JoinId::read(bad), None, "{bad}");
        }
    }
}
