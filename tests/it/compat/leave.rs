//! `leave`, recording by recording.

/// Calls a macro with all recordings of `leave`.
macro_rules! all_recordings {
    ($run:path) => {
        crate::compat::recorded!($run:
            leave_alone,
            leave_controlplane,
            leave_dqlite_remove_fails,
            leave_extra_argument,
            leave_formed_cluster,
            leave_help,
            leave_help_not_in_cluster,
            leave_kubectl_fails,
            leave_not_in_cluster,
            leave_only_voter,
            leave_stopped,
            leave_worker,
            leave_worker_lock_missing,
        );
    };
}

/// With no agent of ours on the node.
mod in_process {
    all_recordings!(crate::compat::scenario::leave_in_process);

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(crate::compat::without_a_test("leave-", NAMES), [""; 0]);
    }
}

/// Through our agent.
mod through_agent {
    all_recordings!(crate::compat::scenario::leave_through_agent);

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(crate::compat::without_a_test("leave-", NAMES), [""; 0]);
    }
}
