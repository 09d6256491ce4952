//! Applies a launch configuration to this node.
//!
//! All documents are one change. First the files change, through the journal; then the node joins,
//! in the same journal; then each service whose files changed restarts, unless the join has done
//! that, and all of it becomes final at once. Any failure undoes all of it. Add-ons come after that:
//! they are MicroK8s's own commands, which cannot be undone.

pub(crate) mod applied;
mod error;
pub(crate) mod file;
mod plan;

use std::time::Duration;

use crate::base::{sanitize, wait};
use crate::cluster::configure::Configured;
use crate::cluster::join::{self, Change, JoinError, Staged};
use crate::cluster::node::Node;
use crate::cluster::node_lock;
use crate::cluster::operation::{Progress, RunsIn};
use crate::model::join_stage::JoinStage;
use crate::model::join_url::JoinUrl;
use crate::model::launch_configuration::{LaunchConfiguration, Part};
use crate::model::role::Role;
use crate::store::layout::Lock;
use crate::wire::operation::{End, Event, JoinOrder, LaunchOrder};

use error::LaunchError;
use plan::Plan;

/// How long the join may take, as that of the command.
const JOIN_LIMIT: Duration = Duration::from_secs(180);
/// How long an add-on may take.
const ADDON_LIMIT: Duration = Duration::from_secs(900);

/// Applies what an order holds.
pub(super) fn run(
    node: &Node,
    order: &LaunchOrder,
    runs_in: RunsIn,
    progress: &mut dyn Progress,
) -> (End, Configured) {
    let mut staged = Staged::new(progress);
    let mut restarts_agent = false;
    let done = LaunchConfiguration::parse(order.configuration.expose().as_bytes())
        .map_err(LaunchError::from)
        .and_then(|configuration| {
            let launch = Launch {
                node,
                configuration: &configuration,
                pre_init: order.pre_init,
                runs_in,
            };
            restarts_agent = launch.change_node(&mut staged)?;
            launch.switch_addons(&mut staged)
        });
    let end = match done {
        Ok(()) => End::Launched,
        Err(error) => End::Failed(error.outcome(staged.running)),
    };
    (end, Configured { restarts_agent })
}

struct Launch<'a> {
    node: &'a Node,
    configuration: &'a LaunchConfiguration,
    pre_init: bool,
    runs_in: RunsIn,
}

impl Launch<'_> {
    /// All but the add-ons; says whether the agent is to restart.
    fn change_node(&self, progress: &mut Staged<'_>) -> Result<bool, LaunchError> {
        let node = self.node;
        for name in &self.configuration.unknown {
            let name = sanitize::for_log(name, 80);
            progress.tell(Event::warning(format!("the field `{name}` is not known")));
        }
        self.check_addons()?;
        let join = self.configuration.join().filter(|_| !self.pre_init);
        let order = join.map(|(url, worker)| join_order(url, worker));
        if let Some(order) = &order
            && join::is_guarded(node, order.role, false)
        {
            return Err(LaunchError::Guarded);
        }
        // Free again for an add-on's script, which may itself have this node configured.
        let _lock = node_lock::lock_and_recover::<JoinError>(
            node,
            node_lock::COMMAND_LIMIT,
            join::recover_in_turn,
        )?;
        let plan = Plan::of(node, &self.configuration.parts)?;
        if let Some(warning) = plan.warning(order.is_some()) {
            progress.tell(Event::warning(warning));
        }
        let restarts_agent = plan.restarts_agent() && self.restarts_services();
        self.change(plan, order.as_ref(), progress)?;
        Ok(restarts_agent)
    }

    /// Before the services run, and on a node that was stopped, there is nothing to restart.
    fn restarts_services(&self) -> bool {
        !self.pre_init && !self.node.layout.has(Lock::Stopped)
    }

    /// Changes files and restarts services, with a join in between; all of it, or nothing.
    fn change(
        &self,
        mut plan: Plan<'_>,
        order: Option<&JoinOrder>,
        progress: &mut Staged<'_>,
    ) -> Result<(), LaunchError> {
        let mut change = Change::new(self.node, wait::end_of(JOIN_LIMIT));
        let files = plan.files();
        change.extend(plan.last(self.restarts_services()), plan.kubelet);
        if !files.is_empty() {
            progress.changes_begin();
            join::begin(JoinStage::Apply, progress);
            files.into_iter().for_each(|step| change.steps.push(step));
            if let Err(error) = change.apply(progress) {
                return Err(change.take_back(error).into());
            }
        }
        if let Some((order, urls)) =
            order.and_then(|order| Some((order, order.urls.split_first()?)))
        {
            // What fails from here on is the join's, until its own stages begin.
            progress.running = JoinStage::Preflight;
            join::complete(change, urls, order, self.runs_in, progress)?;
            return Ok(());
        }
        if progress.is_cancelled() {
            return Err(match change.take_back(JoinError::Interrupted) {
                JoinError::Interrupted => LaunchError::Interrupted,
                other => other.into(),
            });
        }
        match change.commit_if_begun(progress) {
            Ok(()) => Ok(()),
            Err(error) => Err(change.take_back(error).into()),
        }
    }

    /// Refuses add-ons that MicroK8s is not there for. A worker has none.
    fn check_addons(&self) -> Result<(), LaunchError> {
        let joins_as_worker = self.configuration.join().is_some_and(|(_, worker)| worker);
        if self.pre_init || joins_as_worker || self.node.is_worker() {
            return Ok(());
        }
        let has = |command| self.node.platform.has_microk8s(command);
        for part in &self.configuration.parts {
            let repositories = part.repositories.iter().map(|one| ("addons", &one.name));
            let addons = part.addons.iter().map(|one| (verb(one.disable), &one.name));
            if let Some((command, name)) = repositories.chain(addons).find(|(need, _)| !has(need)) {
                let name = name.clone();
                return Err(LaunchError::NoMicroK8s { command, name });
            }
        }
        Ok(())
    }

    /// Adds repositories, and switches add-ons.
    fn switch_addons(&self, progress: &mut Staged<'_>) -> Result<(), LaunchError> {
        let has_addons = |part: &Part| !part.addons.is_empty() || !part.repositories.is_empty();
        let mut parts = self.configuration.parts.iter();
        if self.pre_init || !parts.clone().any(has_addons) {
            return Ok(());
        }
        if self.node.is_worker() {
            let text = "add-ons are left as they are: a worker has none";
            progress.tell(Event::warning(text));
            return Ok(());
        }
        parts.try_for_each(|part| self.switch_addons_of(part))
    }

    fn switch_addons_of(&self, part: &Part) -> Result<(), LaunchError> {
        let run = |command, name: &str, arguments: &[&str]| {
            let done = self.node.platform.microk8s(command, arguments, ADDON_LIMIT);
            done.map_err(|source| LaunchError::Addon {
                command,
                name: name.to_owned(),
                source,
            })
        };
        for repository in &part.repositories {
            let mut arguments = vec!["repo", "add", &repository.name, &repository.url];
            if let Some(reference) = &repository.reference {
                arguments.extend(["--reference", reference]);
            }
            arguments.push("--force");
            run("addons", &repository.name, &arguments)?;
        }
        for addon in &part.addons {
            let arguments = addon.arguments.iter().map(String::as_str);
            let words: Vec<&str> = std::iter::once(addon.name.as_str())
                .chain(arguments)
                .collect();
            run(verb(addon.disable), &addon.name, &words)?;
        }
        Ok(())
    }
}

const fn verb(disable: bool) -> &'static str {
    if disable { "disable" } else { "enable" }
}

/// What `microk8s join` would order.
fn join_order(url: &JoinUrl, worker: bool) -> JoinOrder {
    JoinOrder {
        urls: vec![url.clone()],
        dry_run: false,
        role: if worker {
            Role::Worker
        } else {
            Role::ControlPlane
        },
        role_was_named: worker,
        skip_verify: false,
        disable_low_memory_guard: false,
        timeout_seconds: JOIN_LIMIT.as_secs(),
        labels: Vec::new(),
        node_ip: None,
    }
}
