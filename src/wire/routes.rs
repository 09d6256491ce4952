//! The paths of the two protocols, in one place for both ends.

/// `GET`: is the agent alive.
pub(crate) const HEALTH: &str = "/health";
/// The header of the answer to [`HEALTH`] that names the address from which the agent sees the caller.
pub(crate) const CALLER: &str = "microk8s-caller";
/// `POST`: join a cluster on etcd.
pub(crate) const V1_JOIN: &str = "/cluster/api/v1.0/join";
/// `POST`: have a certificate signed.
pub const V1_SIGN_CERT: &str = "/cluster/api/v1.0/sign-cert";
/// `POST`: other arguments for services, and add-ons on or off.
pub(crate) const V1_CONFIGURE: &str = "/cluster/api/v1.0/configure";
/// `POST`: a phase of a supervised upgrade.
pub(crate) const V1_UPGRADE: &str = "/cluster/api/v1.0/upgrade";
/// `POST`: an image for the container runtime; the body is the archive.
pub(crate) const V2_IMAGE_IMPORT: &str = "/cluster/api/v2.0/image/import";
/// `POST`: the datastore is to forget a member.
pub(crate) const V2_DQLITE_REMOVE: &str = "/cluster/api/v2.0/dqlite/remove";
/// The header with the callback token of [`V2_IMAGE_IMPORT`].
pub(crate) const CALLBACK_TOKEN: &str = "x-microk8s-callback-token";
/// The header with the token of [`V2_DQLITE_REMOVE`], which Cluster API has.
pub(crate) const CAPI_TOKEN: &str = "capi-auth-token";
/// `POST`: join a cluster on dqlite.
pub const V2_JOIN: &str = "/cluster/api/v2.0/join";
/// `POST`: check whether a join on etcd would be admitted.
pub(crate) const V1_JOIN_CHECK: &str = "/cluster/api/v1.0/join/check";
/// `POST`: check whether a join on dqlite would be admitted.
pub(crate) const V2_JOIN_CHECK: &str = "/cluster/api/v2.0/join/check";
/// `POST`: say how a join ended.
pub(crate) const V2_JOIN_OUTCOME: &str = "/cluster/api/v2.0/join/outcome";
/// The header of an answer to a join that says that the agent takes outcomes.
pub(crate) const TAKES_OUTCOME: &str = "microk8s-takes-outcome";
/// The header that names the node which has a token, or which it is for.
pub(crate) const REASON_NODE: &str = "microk8s-reason-node";
/// The header that says how many seconds ago a token came to be of no use.
pub(crate) const REASON_SECONDS: &str = "microk8s-reason-seconds";
/// The header of an answer with the id that the request has in the agent's log.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// `GET`: what the agent counts, where it runs with `--enable-metrics`.
pub(crate) const METRICS: &str = "/metrics";

/// `GET`, on the socket: which protocol the agent speaks.
pub(crate) const LOCAL_HELLO: &str = "/local/hello";
/// `POST`, on the socket: issue a token.
pub(crate) const LOCAL_TOKENS: &str = "/local/v1/tokens";
/// `POST`, on the socket: list tokens, or some of them.
pub(crate) const LOCAL_TOKENS_FIND: &str = "/local/v1/tokens/find";
/// `POST`, on the socket: take tokens back.
pub(crate) const LOCAL_TOKENS_REVOKE: &str = "/local/v1/tokens/revoke";
/// `POST`, on the socket: forget tokens that are over.
pub(crate) const LOCAL_TOKENS_PRUNE: &str = "/local/v1/tokens/prune";
/// `POST`, on the socket: join, leave, remove a node, or a dry run; answers with one event a line.
pub(crate) const LOCAL_OPERATION: &str = "/local/v1/operation";
/// `GET`, on the socket: the nodes of the cluster.
pub(crate) const LOCAL_NODES: &str = "/local/v1/nodes";
/// `GET`, on the socket: the nodes of the cluster, each of them checked.
pub(crate) const LOCAL_NODES_CHECK: &str = "/local/v1/nodes/check";
