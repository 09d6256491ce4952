//! Whether the versions of MicroK8s, which are those of Kubernetes, fit together.
//!
//! Kubernetes's rules: a kubelet is no newer than the API server, and at most three minor versions
//! older; two API servers of a cluster differ by at most one.
//! <https://kubernetes.io/releases/version-skew-policy/>

use crate::model::role::Role;
use crate::wire::preflight_v1::Finding;
use crate::wire::preflight_v1::Machine::JoiningNode;

const CHECK: &str = "version";

/// How a node of this version fits to a contacted node of that one.
pub(crate) fn judge(own: Option<&str>, theirs: Option<&str>, role: Role) -> Finding {
    let unknown =
        |whose: &str| Finding::unchecked(CHECK, format!("the version of {whose} is not known"));
    let (Some(own), Some(theirs)) = (own, theirs) else {
        return unknown(match theirs {
            None => "MicroK8s on the contacted node",
            Some(_) => "MicroK8s on this node",
        });
    };
    let (Some((own_major, own_minor)), Some((major, minor))) = (parse(own), parse(theirs)) else {
        return Finding::unchecked(
            CHECK,
            format!("`{own}` here and `{theirs}` there cannot be compared"),
        );
    };
    let older = i64::from(minor) - i64::from(own_minor);
    let why = match role {
        _ if own_major != major => "these do not work together",
        Role::Worker if older < 0 => "a worker must not be newer than the control plane",
        Role::Worker if older > 3 => {
            "a worker must not be more than three minor versions older than the control plane"
        }
        Role::ControlPlane if older.abs() > 1 => {
            "control plane nodes must not be more than one minor version apart"
        }
        Role::Worker | Role::ControlPlane => {
            return Finding::ok(CHECK, format!("{own} here, {theirs} there"));
        }
    };
    Finding::warning(CHECK, format!("{own} here, {theirs} there: {why}")).with_remedy(
        JoiningNode,
        format!("run `snap refresh microk8s --channel={major}.{minor}`"),
    )
}

/// The first two numbers of `v1.28.7`.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::preflight_v1::Severity::{self, Ok, Unchecked, Warning};

    fn severity(own: &'static str, theirs: &'static str, role: Role) -> Severity {
        let known = |text: &'static str| Some(text).filter(|text| !text.is_empty());
        judge(known(own), known(theirs), role).severity
    }

    #[test]
    fn versions_fit_as_kubernetes_says() {
        for (own, theirs, worker, control_plane) in [
            ("v1.28.7", "v1.28.3", Ok, Ok),
            ("v1.28.7", "v1.29.0", Ok, Ok),
            ("v1.29.0", "v1.28.7", Warning, Ok),
            ("v1.26.1", "v1.29.0", Ok, Warning),
            ("v1.25.1", "v1.29.0", Warning, Warning),
            ("v2.28.0", "v1.28.0", Warning, Warning),
            ("1.28", "v1.28.0-rc.1", Ok, Ok),
            ("", "v1.28.0", Unchecked, Unchecked),
            ("v1.28.0", "", Unchecked, Unchecked),
            ("latest", "v1.28.0", Unchecked, Unchecked),
        ] {
            assert_eq!(
                severity(own, theirs, Role::Worker),
                worker,
                "{own} {theirs}"
            );
            assert_eq!(
                severity(own, theirs, Role::ControlPlane),
                control_plane,
                "{own} {theirs}"
            );
        }
    }
}
