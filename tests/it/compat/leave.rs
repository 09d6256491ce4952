//! `leave` on a node that is in no cluster, recording by recording.

crate::compat::recorded!(crate::compat::scenario::leave:
    leave_not_in_cluster,
    leave_help_not_in_cluster,
);

#[test]
fn every_recording_has_a_test() {
    assert_eq!(super::without_a_test("leave-", NAMES), [""; 0]);
}
