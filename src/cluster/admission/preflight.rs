//! The contacted node's part of a dry run: why a join would be refused. It takes no token and
//! changes nothing.
//!
//! The node needs a token that would admit it. The answer holds no secret: no key, no certificate,
//! no token. Unlike the answer to a join it tells how to fix a name: which address the name
//! resolves to here, and which other node has it.

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cluster::admission::checks::{Asked, NODE_NAME};
use crate::cluster::admission::names::Name;
use crate::cluster::admission::{Admission, AdmitError, Caller, voters};
use crate::cluster::first_join;
use crate::cluster::strictness;
use crate::model::endpoint;
use crate::model::role::Role;
use crate::model::token_record::{Reason, Refusal};
use crate::wire::preflight_v1::Machine::{ContactedNode, JoiningNode as Joining};
use crate::wire::preflight_v1::{Finding, JoinCheck, Standing};
use crate::wire::{cluster_v1, cluster_v2};

impl Admission {
    /// Checks a join of a cluster on dqlite, or on an etcd outside.
    pub(crate) fn preflight(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<JoinCheck, AdmitError> {
        self.run_checks(&Asked::v2(request, caller), || {
            self.answer(request, caller).map(drop)
        })
    }

    /// Checks a join of a cluster on MicroK8s's own etcd.
    pub(crate) fn preflight_v1(
        &self,
        request: &cluster_v1::JoinRequest,
        caller: Caller,
    ) -> Result<JoinCheck, AdmitError> {
        self.run_checks(&Asked::v1(request, caller), || {
            self.answer_v1(request, caller).map(drop)
        })
    }

    /// All checks, whether `answer` can be given, and what the joining node compares with what it has
    /// itself.
    fn run_checks(
        &self,
        asked: &Asked<'_>,
        answer: impl FnOnce() -> Result<(), AdmitError>,
    ) -> Result<JoinCheck, AdmitError> {
        let role = asked.claim.role;
        let token = match self.check_token(asked) {
            Ok(()) => Finding::ok("token", format!("the token admits this node as a {role}")),
            // A member may ask with the token that it has used.
            Err(
                error @ AdmitError::InvalidToken(Refusal {
                    reason: Reason::Used,
                    ..
                }),
            ) if self.standing(asked) == Standing::Member => self.refusal("token", &error, asked),
            Err(error) => return Err(error),
        };
        let mut findings = vec![token];
        for (name, check) in asked.checks {
            let checked = check(self, asked);
            // This node's own name and place in the datastore are in no other node's way.
            let is_last = matches!(checked, Err(AdmitError::SameAddress(_)));
            findings.push(match checked {
                Ok(passed) if *name == NODE_NAME => self.namesake(asked, passed),
                Ok(passed) => Finding::ok(name, passed),
                Err(error) => self.refusal(name, &error, asked),
            });
            if is_last {
                break;
            }
        }
        // What keeps this node from giving an answer, or from being made ready.
        let now = self.tokens.now();
        let foretold =
            answer().and_then(|()| Ok(first_join::foretell(&self.node, &asked.needs, now)?));
        if let Err(error) = foretold {
            findings.push(self.refusal("contacted-node", &error, asked));
        }
        let voters = match role == Role::ControlPlane && self.node.uses_dqlite() {
            true => self
                .members(asked.caller.remote)
                .map(|members| voters(&members.list)),
            false => Ok(Vec::new()),
        };
        let argument = |service: &str, key: &str| -> Option<String> {
            let arguments = self.node.arguments(service).ok()?;
            let value = arguments.get(key).filter(|value| !value.is_empty())?;
            Some(value.to_owned())
        };
        Ok(JoinCheck {
            version: self.node.platform.microk8s_version(),
            // A standalone node has no API server.
            apiport: argument("kube-apiserver", "--secure-port")
                .filter(|_| !self.node.is_standalone()),
            api_server_limits: self
                .node
                .arguments("kube-apiserver")
                .map(|arguments| strictness::of(&arguments))
                .unwrap_or_default(),
            cluster_cidr: argument("kube-proxy", "--cluster-cidr"),
            voters: voters.unwrap_or_default(),
            standing: self.standing(asked),
            findings,
        })
    }

    /// What a join would be refused for, and what cures it.
    fn refusal(&self, check: &str, error: &AdmitError, asked: &Asked<'_>) -> Finding {
        let joining = |remedy: &str| (Joining, remedy.to_owned());
        let contacted = |remedy: &str| (ContactedNode, remedy.to_owned());
        let mut message = error.told();
        let (on, remedy) = match error {
            AdmitError::Worker(_) => joining(
                "take a connection string that `microk8s add-node` prints on a control plane node",
            ),
            AdmitError::NoDatastore if self.node.is_standalone() => contacted(
                "run its agent with `--datastore-demo`, or join as a worker with `--worker`",
            ),
            AdmitError::NoDatastore => {
                contacted("start its service k8s-dqlite, or join as a worker with `--worker`")
            }
            AdmitError::NotHa => {
                contacted("run `microk8s enable ha-cluster`, or disable it on the joining node")
            }
            AdmitError::IsHa => joining("run `microk8s enable ha-cluster`"),
            AdmitError::Port(port) => joining(&format!(
                "set the port in `--bind` of `args/cluster-agent` to {port}, and restart the agent"
            )),
            AdmitError::SameAddress(_) => joining(
                "take the connection string of another node: this one leads to the joining node itself",
            ),
            AdmitError::LinkLocal(_) => {
                joining("take a connection string with another address of the contacted node")
            }
            AdmitError::Name { name, address } => {
                let (found, instead) = self.found_at(name);
                message.push_str(&found);
                contacted(&format!(
                    "add the line `{address} {name}` to /etc/hosts{instead}, or correct the DNS"
                ))
            }
            AdmitError::NoName(_) | AdmitError::NameTaken { by: None, .. } => {
                joining("give the machine another name with `hostnamectl set-hostname NAME`")
            }
            AdmitError::NameTaken { name, by: Some(_) } => contacted(&remove_or_rename(name)),
            AdmitError::NotAsked(_) => contacted(
                "make sure that its API server answers: `microk8s kubectl get nodes` asks it",
            ),
            AdmitError::AlreadyKnown { address, .. } => contacted(&format!(
                "run `microk8s remove-node {address} --force`: it forgets the node that had this address"
            )),
            AdmitError::NeedsX509 | AdmitError::NeedsCustomEtcd | AdmitError::Unusable(_) => {
                joining("install the contacted node's version of MicroK8s")
            }
            AdmitError::InvalidToken(_) => {
                contacted("issue another token with `microk8s add-node`")
            }
            AdmitError::Unsignable(_)
            | AdmitError::Policy(_)
            | AdmitError::ControlPlane(_)
            | AdmitError::FirstJoin(_)
            | AdmitError::Read { .. }
            | AdmitError::Store(_)
            | AdmitError::Write { .. }
            | AdmitError::NoKnownToken(_)
            | AdmitError::Service(_)
            | AdmitError::TooManyRestarts(_) => {
                let (address, node) = (asked.caller.remote, sanitize::for_log(asked.hostname, 80));
                let why = sanitize::for_log(&error.to_string(), 500);
                tracing::warn!(%address, node, check, "a join would fail: {why}");
                match error.retry_after() {
                    Some(seconds) => {
                        contacted(&format!("join again in {} minutes", seconds.div_ceil(60)))
                    }
                    None => contacted("read the log of its cluster agent"),
                }
            }
        };
        Finding::error(check, message, ExitStatus::Refused.code()).with_remedy(on, remedy)
    }

    /// Where a name leads on this node, and what a line in /etc/hosts would replace.
    fn found_at(&self, name: &str) -> (String, &'static str) {
        let found = self.node.platform.resolve(name).into_iter();
        let mut found: Vec<String> = found.map(|ip| endpoint::plain(ip).to_string()).collect();
        found.dedup();
        if found.is_empty() {
            return ("; it does not resolve there at all".to_owned(), "");
        }
        let found = format!("; it resolves to {} there", found.join(", "));
        (found, ", in place of what names it now")
    }

    /// Whose place the node would take by its name.
    fn namesake(&self, asked: &Asked<'_>, passed: String) -> Finding {
        let name = &asked.claim.node.name;
        match self.name_of(asked) {
            Err(error) => self.refusal(NODE_NAME, &error, asked),
            Ok(Name::Left(other)) => {
                let message = format!(
                    "a node named {name} was in the cluster with the address {other}, and does not run; this one would take its place"
                );
                Finding::warning(NODE_NAME, message)
                    .with_remedy(ContactedNode, remove_or_rename(name))
            }
            Ok(Name::Free) => Finding::ok(NODE_NAME, passed),
            Ok(Name::Unchecked) => {
                let message = format!(
                    "the contacted node cannot ask Kubernetes whether another node is named {name}"
                );
                Finding::unchecked(NODE_NAME, message)
            }
        }
    }
}

fn remove_or_rename(name: &str) -> String {
    format!(
        "run `microk8s remove-node {name} --force` if that node is gone and will not come back; else give the joining machine another name"
    )
}
