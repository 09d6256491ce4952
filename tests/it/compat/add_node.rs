//! `add-node`, recording by recording.

/// Calls a macro with the recordings of `add-node` that make sense in every way of running it.
macro_rules! recordings {
    ($run:path $(, $only:ident)*) => {
        crate::compat::recorded!($run:
            add_node_bad_format,
            add_node_bad_option,
            add_node_bind_25001,
            add_node_ca_127,
            add_node_clustered_lock,
            add_node_clustered_lock_help,
            add_node_cni_ip,
            add_node_existing_tokens,
            add_node_format_pretty,
            add_node_h,
            add_node_help,
            add_node_help_word,
            add_node_json,
            add_node_no_kubeconfig,
            add_node_not_ha,
            add_node_pretty,
            add_node_short,
            add_node_stopped_lock,
            add_node_token,
            add_node_token_check,
            add_node_token_empty,
            add_node_token_given,
            add_node_token_given_ttl,
            add_node_token_given_twice,
            add_node_token_short,
            add_node_ttl_0,
            add_node_ttl_3600,
            add_node_ttl_minus_5,
            add_node_ttl_text,
            add_node_two_ips_json,
            add_node_two_ips_pretty,
            add_node_two_ips_short,
            add_node_two_ips_yaml,
            add_node_yaml,
            $($only,)*
        );
    };
}

/// With no agent of ours on the node: the token goes where MicroK8s's agent looks for it.
mod alone {
    // No agent of ours starts without `certs/server.crt`.
    recordings!(
        crate::compat::scenario::add_node_alone,
        add_node_no_server_cert
    );

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(crate::compat::without_a_test("add-node-", NAMES), [""; 0]);
    }
}

/// Through our agent: the same on the screen.
mod through_agent {
    recordings!(crate::compat::scenario::add_node_through_agent);

    #[test]
    fn every_recording_has_a_test() {
        let missing = crate::compat::without_a_test("add-node-", NAMES);
        assert_eq!(missing, ["add-node-no-server-cert"]);
    }
}
