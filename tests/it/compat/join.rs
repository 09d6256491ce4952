//! `join`, recording by recording, in each way in which it can meet the other side.

use super::recording::Recording;

/// The recordings of `join`, the older flow's included, that have no test in this list.
fn without_a_test(tests: &[&str]) -> Vec<String> {
    ["join-", "v1-"]
        .iter()
        .flat_map(|prefix| super::without_a_test(prefix, tests))
        .collect()
}

/// Calls a macro with all recordings of `join`.
macro_rules! all_recordings {
    ($run:path) => {
        crate::compat::recorded!($run:
            join_already_in_dqlite,
            join_already_in_dqlite_worker,
            join_cis_hardening,
            join_controlplane_flag,
            join_controlplane_ok,
            join_dqlite_never_lists,
            join_dqlite_shell_fails,
            join_fingerprint_empty,
            join_fingerprint_full,
            join_fingerprint_short,
            join_fingerprint_upper,
            join_guard,
            join_guard_controlplane_flag,
            join_guard_disable,
            join_guard_disable_malformed,
            join_guard_disable_worker,
            join_guard_worker,
            join_help,
            join_help_h,
            join_hostname_other_ip,
            join_hostname_preferred_first,
            join_hostname_preferred_resolves,
            join_hostname_unresolvable,
            join_hostpath_warning,
            join_malformed_dns_name,
            join_malformed_dns_name_n1,
            join_malformed_empty,
            join_malformed_four_parts,
            join_malformed_ip_bad,
            join_malformed_ip_octal,
            join_malformed_ipv6_bracketed,
            join_malformed_ipv6_plain,
            join_malformed_missing_token,
            join_malformed_port_0,
            join_malformed_port_70000,
            join_malformed_port_empty,
            join_malformed_port_missing,
            join_malformed_port_space,
            join_malformed_port_text,
            join_malformed_port_underscore,
            join_malformed_short_token,
            join_malformed_url,
            join_missing_argument,
            join_no_cni_yaml,
            join_no_fingerprint,
            join_no_kubeconfig,
            join_not_ha,
            join_one_time_token_twice,
            join_peer_200_empty_object,
            join_peer_200_not_json,
            join_peer_201,
            join_peer_404_html,
            join_peer_500_empty,
            join_peer_500_no_error,
            join_peer_closes,
            join_peer_garbage,
            join_plain_http,
            join_port_mismatch,
            join_refused,
            join_refused_worker,
            join_same_ip,
            join_same_ip_worker,
            join_service_restart_fails,
            join_sign_fails,
            join_skip_verify_short,
            join_skip_verify_wrong,
            join_stopped_lock,
            join_third_voter,
            join_ttl_expired,
            join_ttl_two_nodes,
            join_two_arguments,
            join_unknown_option,
            join_unknown_option_after,
            join_unknown_token,
            join_via_virtual_ip,
            join_worker_after_controlplane,
            join_worker_control_plane_list,
            join_worker_no_keys,
            join_worker_ok,
            join_wrong_fingerprint,
            join_wrong_fingerprint_worker,
            v1_join,
            v1_join_unknown_token,
        );
    };
}

/// Calls a macro with the recordings of `join` that have requests in them, and with a few more.
macro_rules! recordings_with_requests {
    ($run:path $(, $more:ident)*) => {
        crate::compat::recorded!($run:
            join_already_in_dqlite,
            join_already_in_dqlite_worker,
            join_cis_hardening,
            join_controlplane_flag,
            join_controlplane_ok,
            join_dqlite_never_lists,
            join_dqlite_shell_fails,
            join_fingerprint_full,
            join_guard_disable,
            join_guard_disable_worker,
            join_guard_worker,
            join_hostname_other_ip,
            join_hostname_preferred_first,
            join_hostname_preferred_resolves,
            join_hostname_unresolvable,
            join_hostpath_warning,
            join_no_cni_yaml,
            join_no_fingerprint,
            join_not_ha,
            join_one_time_token_twice,
            join_port_mismatch,
            join_same_ip,
            join_same_ip_worker,
            join_sign_fails,
            join_skip_verify_wrong,
            join_stopped_lock,
            join_third_voter,
            join_ttl_expired,
            join_ttl_two_nodes,
            join_unknown_token,
            join_via_virtual_ip,
            join_worker_after_controlplane,
            join_worker_control_plane_list,
            join_worker_no_keys,
            join_worker_ok,
            v1_join,
            v1_join_unknown_token,
            $($more,)*
        );
    };
}

/// No agent of ours runs on the joining node, ours on the contacted one.
mod in_process {
    all_recordings!(crate::compat::scenario::join_in_process);

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(crate::compat::join::without_a_test(NAMES), [""; 0]);
    }
}

/// Our agent runs on both nodes.
mod through_agent {
    all_recordings!(crate::compat::scenario::join_through_agent);

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(crate::compat::join::without_a_test(NAMES), [""; 0]);
    }
}

/// MicroK8s's agent, as it was recorded, runs on the contacted node.
mod against_recorded_agent {
    use super::Recording;

    recordings_with_requests!(crate::compat::scenario::join_against_recorded_agent);

    #[test]
    fn every_recording_with_requests_has_a_test() {
        let mut missing = crate::compat::join::without_a_test(NAMES);
        missing.retain(|name| !Recording::load(name).wire().is_empty());
        // Our own `join` does not walk past the guard, so it sends nothing.
        // And it asks for the certificates before it touches a service, so that it meets an answer
        // which the recording does not hold.
        assert_eq!(
            missing,
            ["join-guard-controlplane-flag", "join-service-restart-fails"]
        );
    }
}

/// MicroK8s's `join`, as it was recorded, meets our agent.
mod by_recorded_client {
    use super::Recording;

    recordings_with_requests!(
        crate::compat::requests::replay_join,
        join_guard_controlplane_flag,
        join_service_restart_fails
    );

    #[test]
    fn every_recording_with_requests_has_a_test() {
        let mut missing = crate::compat::join::without_a_test(NAMES);
        missing.retain(|name| !Recording::load(name).wire().is_empty());
        assert_eq!(missing, [""; 0]);
    }
}
