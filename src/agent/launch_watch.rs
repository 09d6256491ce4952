//! The watch of `$SNAP_COMMON/etc/launcher`: the launch configurations there are applied, each content of
//! a file once. One that fails is tried again, after longer and longer pauses.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::agent::local_events::LogWords;
use crate::agent::{Shared, after_response};
use crate::base::sanitize;
use crate::cluster::launch::applied::{Applied, digest_of};
use crate::cluster::launch::file::LaunchFile;
use crate::cluster::operation::{self, Progress, RunsIn};
use crate::model::launch_configuration::LaunchConfiguration;
use crate::wire::operation::{End, Event};

/// The longest pause between two tries of a file.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A file that changed less long ago may be half of what it is to be.
const SETTLED: Duration = Duration::from_secs(2);

/// A content that could not be applied.
pub(super) struct Failed {
    digest: String,
    why: String,
    pause: Duration,
    next: Instant,
}

/// What failed, by the names of the files.
pub(super) type Failures = HashMap<String, Failed>;

/// Looks into the folder once; called every `interval`.
pub(super) fn look(shared: &Shared, interval: Duration, failures: &mut Failures) {
    let layout = &shared.admission.node().layout;
    let folder = layout.launch_configurations();
    let mut applied = Applied::read(layout);
    let names = names_in(&folder);
    failures.retain(|name, _| names.contains(name));
    if let Err(error) = applied.keep(|name| names.iter().any(|other| other == name)) {
        tracing::debug!(%error, "a launch configuration that is gone is not forgotten");
    }
    for name in &names {
        if shared.is_stopping() {
            return;
        }
        let file = match read(&folder.join(name)) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(error) => {
                let why = format!("it cannot be read: {error}");
                note_failure(name, String::new(), why, interval, failures);
                continue;
            }
        };
        let digest = digest_of(&file.content);
        let failed = failures.get(name).filter(|failed| failed.digest == digest);
        let waits = failed.is_some_and(|failed| Instant::now() < failed.next);
        if waits || applied.has(name, &digest) {
            continue;
        }
        let (done, restarts_agent) = apply(shared, name, &file, failed.is_none());
        let remembered = done.and_then(|()| {
            let noted = applied.remember(name, &digest);
            noted.map_err(|error| format!("it cannot be noted that it is applied: {error}"))
        });
        match remembered {
            Ok(()) => {
                failures.remove(name);
                tracing::info!("the launch configuration `{}` is applied", shown(name));
            }
            // The next agent tries again.
            Err(_) if shared.is_stopping() => return,
            Err(why) => note_failure(name, digest, why, interval, failures),
        }
        if restarts_agent {
            after_response::restart_agent(shared.admission.node());
        }
    }
}

/// The names of the files in the folder, in order.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml") && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// A name as the log has it.
fn shown(name: &str) -> String {
    sanitize::for_log(name, 100)
}

/// The content of a file; nothing where it is none, or perhaps still being written.
fn read(path: &Path) -> io::Result<Option<LaunchFile>> {
    let found = fs::metadata(path)?;
    // A time in the future says nothing.
    let is_fresh = matches!(found.modified()?.elapsed(), Ok(age) if age < SETTLED);
    if !found.is_file() || is_fresh {
        return Ok(None);
    }
    LaunchFile::read(File::open(path)?).map(Some)
}

/// A reason is logged once for a content.
fn note_failure(
    name: &str,
    digest: String,
    why: String,
    interval: Duration,
    failures: &mut Failures,
) {
    let before = failures.get(name).filter(|failed| failed.digest == digest);
    let pause = before.map_or(interval, |failed| (failed.pause * 2).min(LONGEST_PAUSE));
    if before.is_none_or(|failed| failed.why != why) {
        tracing::error!(
            "the launch configuration `{}` is not applied, and is tried again: {why}",
            shown(name)
        );
    }
    let failed = Failed {
        digest,
        why,
        pause,
        next: Instant::now() + pause,
    };
    failures.insert(name.to_owned(), failed);
}

/// Applies a file, or says why nothing, or not all of it, came of that; and whether the agent is to
/// restart.
fn apply(
    shared: &Shared,
    name: &str,
    file: &LaunchFile,
    is_first: bool,
) -> (Result<(), String>, bool) {
    let configuration = match LaunchConfiguration::parse(&file.content) {
        Ok(configuration) => configuration,
        Err(error) => return (Err(error.to_string()), false),
    };
    if is_first {
        let name = shown(name);
        tracing::info!("applying the launch configuration `{name}`");
        if file.is_read_by_all && configuration.holds_token() {
            tracing::warn!(
                "the launch configuration `{name}` holds a token, and every user can read it"
            );
        }
    }
    let operation = file.operation(false);
    let mut progress = Logged {
        shared,
        words: LogWords::of(&operation).filter(|_| is_first),
        failure: None,
    };
    let (node, tokens) = (shared.admission.node(), shared.admission.tokens());
    let done = operation::run(node, Some(tokens), &operation, RunsIn::Agent, &mut progress);
    (progress.failure.map_or(Ok(()), Err), done.restarts_agent)
}

/// What happens is logged the first time; how it failed is for the caller.
struct Logged<'a> {
    shared: &'a Shared,
    words: Option<LogWords>,
    failure: Option<String>,
}

impl Progress for Logged<'_> {
    fn tell(&mut self, event: Event) {
        if let Event::End(End::Failed(failure)) = &event {
            self.failure = Some(sanitize::for_log(&failure.error, 500));
        } else if let Some(words) = &self.words {
            words.log(&event);
        }
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.shared.stopping
    }

    fn is_cancelled(&self) -> bool {
        self.shared.is_stopping()
    }
}
