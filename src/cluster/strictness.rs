//! Whether a node's API server would admit more than another one of its cluster.
//!
//! A join takes the authorization mode over, and leaves the other arguments of the joining node's API
//! server as they are. Each API server of a cluster decides for itself: what one of them refuses a
//! worker, the worker asks of the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::sanitize;
use crate::store::args_file::ArgsFile;

const ENABLED: &str = "--enable-admission-plugins";
const DISABLED: &str = "--disable-admission-plugins";
/// What a fresh node enables, and is therefore left out of the warning.
const ENABLED_AT_FIRST: &str = "EventRateLimit";
/// What is allowed unless an argument says `false`.
const ALLOWED: [(&str, &str); 2] = [
    ("--anonymous-auth", "requests without credentials"),
    ("--allow-privileged", "privileged containers"),
];
/// Files that make an API server refuse what others would not.
const FILES: [&str; 5] = [
    "--admission-control-config-file",
    "--authorization-config",
    "--authorization-policy-file",
    "--authorization-webhook-config-file",
    "--encryption-provider-config",
];
/// Where a fresh node has such a file.
const FILE_AT_FIRST: &str = "${SNAP_DATA}/args/admission-control-config-file.yaml";
/// How much of another node's text is shown.
const SHOWN: usize = 200;

/// By what an API server with these arguments differs from that of a fresh node. Of files it is said
/// that they are there, and not where.
pub(crate) fn of(arguments: &ArgsFile) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (key, at_first) in [(ENABLED, ENABLED_AT_FIRST), (DISABLED, "")] {
        let list = arguments.get_all(key).join(",");
        if list != at_first {
            found.insert(key.to_owned(), list);
        }
    }
    for (key, _) in ALLOWED {
        if is_forbidden(arguments.get(key)) {
            found.insert(key.to_owned(), "false".to_owned());
        }
    }
    for key in FILES {
        let file = arguments.get(key).unwrap_or_default();
        if !file.is_empty() && file != FILE_AT_FIRST {
            found.insert(key.to_owned(), "set".to_owned());
        }
    }
    found
}

/// What an API server with these arguments of its own admits, and the other one of the cluster does
/// not; nothing where it is as strict.
pub(crate) fn looser(own: &ArgsFile, theirs: &BTreeMap<String, String>) -> Option<String> {
    let their = |key: &str| theirs.get(key).map(String::as_str);
    let own_list = |key| own.get_all(key).join(",");
    let mut reasons = Vec::new();
    let missing = without(their(ENABLED).unwrap_or_default(), &own_list(ENABLED));
    if !missing.is_empty() {
        reasons.push(format!("`{ENABLED}` lacks {missing}"));
    }
    let disabled = without(&own_list(DISABLED), their(DISABLED).unwrap_or_default());
    if !disabled.is_empty() {
        reasons.push(format!("`{DISABLED}` has {disabled}"));
    }
    for (key, what) in ALLOWED {
        if is_forbidden(their(key)) && !is_forbidden(own.get(key)) {
            reasons.push(format!("{what} are allowed, for want of `{key}=false`"));
        }
    }
    for key in FILES {
        if their(key).is_some() && own.get(key).unwrap_or_default().is_empty() {
            reasons.push(format!("`{key}` is not set"));
        }
    }
    let reasons = reasons.join("; ");
    (!reasons.is_empty()).then(|| sanitize::for_log(&reasons, SHOWN))
}

/// The words of a list that another list lacks.
fn without(list: &str, other: &str) -> String {
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    let missing: Vec<String> = words(list).difference(&words(other)).cloned().collect();
    missing.join(", ")
}

/// Whether an argument says no, as Go reads it.
fn is_forbidden(value: Option<&str>) -> bool {
    value.is_some_and(|value| ["0", "f", "F", "false", "FALSE", "False"].contains(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(own: &str, theirs: &str) -> Option<String> {
        looser(&ArgsFile::parse(own), &of(&ArgsFile::parse(theirs)))
    }

    #[test]
    fn what_a_fresh_node_has_is_not_worth_a_word() {
        let fresh = format!(
            "{ENABLED}={ENABLED_AT_FIRST}\n{}={FILE_AT_FIRST}\n",
            FILES[0]
        );
        assert_eq!(of(&ArgsFile::parse(&fresh)), BTreeMap::new());
        assert_eq!(compare(&fresh, &fresh), None);
    }

    #[test]
    fn an_api_server_that_is_less_strict_in_any_way_is_found() {
        let plugins = "--enable-admission-plugins=EventRateLimit,NodeRestriction\n";
        for (own, theirs, said) in [
            (
                "--enable-admission-plugins=EventRateLimit\n",
                plugins,
                Some("lacks NodeRestriction"),
            ),
            ("", plugins, Some("lacks EventRateLimit, NodeRestriction")),
            (
                "--enable-admission-plugins NodeRestriction\n--enable-admission-plugins=EventRateLimit\n",
                plugins,
                None,
            ),
            (plugins, "--enable-admission-plugins=EventRateLimit\n", None),
            (
                "--disable-admission-plugins=ServiceAccount\n",
                "",
                Some("has ServiceAccount"),
            ),
            (
                "--disable-admission-plugins=A\n",
                "--disable-admission-plugins=A,B\n",
                None,
            ),
            (
                "",
                "--anonymous-auth=false\n",
                Some("requests without credentials"),
            ),
            (
                "--anonymous-auth=true\n",
                "--anonymous-auth=F\n",
                Some("requests without credentials"),
            ),
            ("--anonymous-auth=0\n", "--anonymous-auth=false\n", None),
            (
                "",
                "--allow-privileged=false\n",
                Some("privileged containers"),
            ),
            (
                "",
                "--authorization-config=/x\n",
                Some("`--authorization-config` is not set"),
            ),
            (
                "--authorization-config=/y\n",
                "--authorization-config=/x\n",
                None,
            ),
            (
                "# --anonymous-auth=false\n",
                "#--anonymous-auth=false\n",
                None,
            ),
        ] {
            let found = compare(own, theirs);
            match said {
                None => assert_eq!(found, None, "{own} {theirs}"),
                Some(said) => assert!(
                    found.as_ref().is_some_and(|text| text.contains(said)),
                    "{found:?} {said}"
                ),
            }
        }
    }

    #[test]
    fn no_path_leaves_the_node() {
        let found = of(&ArgsFile::parse("--authorization-config=/secret/place\n"));
        assert_eq!(found["--authorization-config"], "set");
    }
}
