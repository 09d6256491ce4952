//! The paths of the two protocols, in one place for both ends.

/// `GET`: is the agent alive.
pub const HEALTH: &str = "/health";
/// `POST`: join a cluster on etcd.
pub const V1_JOIN: &str = "/cluster/api/v1.0/join";
/// `POST`: have a certificate signed.
pub const V1_SIGN_CERT: &str = "/cluster/api/v1.0/sign-cert";
/// `POST`: join a cluster on dqlite.
pub const V2_JOIN: &str = "/cluster/api/v2.0/join";

/// `GET`, on the socket: which protocol the agent speaks.
pub const LOCAL_HELLO: &str = "/local/hello";
/// `POST`, on the socket: issue a token.
pub const LOCAL_TOKENS: &str = "/local/v1/tokens";
/// `POST`, on the socket: join a cluster; answers with one event a line.
pub const LOCAL_JOIN: &str = "/local/v1/join";
/// `POST`, on the socket: leave the cluster; answers with one event a line.
pub const LOCAL_LEAVE: &str = "/local/v1/leave";
/// `POST`, on the socket: remove a node from the cluster; answers with one event a line.
pub const LOCAL_REMOVE_NODE: &str = "/local/v1/remove-node";
/// `GET`, on the socket: the nodes of the cluster.
pub const LOCAL_NODES: &str = "/local/v1/nodes";
