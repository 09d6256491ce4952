//! How the pod network finds a node's own address.
//!
//! A single node takes the first address that it finds. In a cluster that may be one that the
//! others cannot reach, so the address that leads to another node is taken.

use std::net::IpAddr;

/// The manifest with the autodetection of addresses set to lead to `other`, or `None` when
/// there is nothing to change.
///
/// Only the autodetection's own value changes, on its line or the one below; MicroK8s's client
/// rewrites every line that has `first-found` in it.
pub(crate) fn reach(manifest: &str, other: IpAddr) -> Option<String> {
    const FIRST_FOUND: &str = "first-found";
    if !manifest.contains(FIRST_FOUND) {
        return None;
    }
    let variable = if other.is_ipv6() {
        "IP6_AUTODETECTION_METHOD"
    } else {
        "IP_AUTODETECTION_METHOD"
    };
    let value = format!("can-reach={other}");
    let mut lines: Vec<String> = manifest.split('\n').map(str::to_owned).collect();
    let mut changed = false;
    for place in 0..lines.len() {
        let Some(at) = lines[place].find(variable) else {
            continue;
        };
        if lines[place].trim_start().starts_with('#') {
            continue;
        }
        let behind = at + variable.len();
        if let Some(found) = lines[place][behind..].find(FIRST_FOUND) {
            lines[place].replace_range(behind + found..behind + found + FIRST_FOUND.len(), &value);
            changed = true;
        } else if let Some(next) = lines
            .get_mut(place + 1)
            .filter(|next| next.contains(FIRST_FOUND))
        {
            *next = next.replacen(FIRST_FOUND, &value, 1);
            changed = true;
        }
    }
    changed.then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "kind: DaemonSet\n  - name: IP_AUTODETECTION_METHOD\n    value: \"first-found\"\n  - name: IP6_AUTODETECTION_METHOD\n    value: \"first-found\"\n  - name: OTHER\n    value: \"first-found\"\n";

    #[test]
    fn only_the_autodetection_of_the_addresss_kind_changes() {
        let v4 = reach(MANIFEST, "10.99.0.12".parse().unwrap()).unwrap();
        assert_eq!(
            v4,
            MANIFEST.replacen("first-found", "can-reach=10.99.0.12", 1)
        );
        let v6 = reach(MANIFEST, "fd00::2".parse().unwrap()).unwrap();
        assert!(v6.contains("IP6_AUTODETECTION_METHOD\n    value: \"can-reach=fd00::2\""));
        assert_eq!(v6.matches("first-found").count(), 2);
    }

    #[test]
    fn a_manifest_that_is_set_already_stays() {
        let set = reach(MANIFEST, "10.99.0.12".parse().unwrap()).unwrap();
        assert_eq!(reach(&set, "10.99.0.13".parse().unwrap()), None);
        assert_eq!(reach("", "10.99.0.13".parse().unwrap()), None);
    }
}
