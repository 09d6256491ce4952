//! `remove-node`, recording by recording.

/// Calls a macro with all recordings of `remove-node`.
macro_rules! all_recordings {
    ($run:path) => {
        crate::compat::recorded!($run:
            remove_node_bad_second,
            remove_node_by_ip,
            remove_node_by_name,
            remove_node_force_first,
            remove_node_ghost,
            remove_node_ghost_force,
            remove_node_help,
            remove_node_in_dqlite,
            remove_node_in_dqlite_force,
            remove_node_in_dqlite_force_ip,
            remove_node_no_argument,
            remove_node_no_callback_file,
            remove_node_no_internal_ip,
            remove_node_not_ha,
            remove_node_on_worker,
            remove_node_remove_fails,
            remove_node_self,
            remove_node_stopped_lock,
            remove_node_three_arguments,
            remove_node_token_auth,
            remove_node_unknown,
            remove_node_unknown_force,
            remove_node_unknown_ip,
        );
    };
}

/// With no agent of ours on the node.
mod in_process {
    all_recordings!(crate::compat::scenario::remove_node_in_process);

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(
            crate::compat::without_a_test("remove-node-", NAMES),
            [""; 0]
        );
    }
}

/// Through our agent.
mod through_agent {
    all_recordings!(crate::compat::scenario::remove_node_through_agent);

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(
            crate::compat::without_a_test("remove-node-", NAMES),
            [""; 0]
        );
    }
}
