//! How a join is told to people. Lines are MicroK8s's (`messages.md`, join).

use crate::base::exit_status::ExitStatus;
use crate::cli::output::{self, OutputLost, Printer};
use crate::wire::local_v1::JoinEvent;

/// What a worker's operator should know (recording `join-worker-ok`).
const WORKER_USAGE: &str = "
The node has joined the cluster and will appear in the nodes list in a few seconds.

This worker node gets automatically configured with the API server endpoints.
If the API servers are behind a loadbalancer please set the '--refresh-interval' to '0s' in:
    /var/snap/microk8s/current/args/apiserver-proxy
and replace the API server endpoints with the one provided by the loadbalancer in:
    /var/snap/microk8s/current/args/traefik/provider.yaml

";

/// Who tells a join, and prints what comes before it.
pub trait Teller: Printer {
    /// Tells one event.
    fn tell(&mut self, event: &JoinEvent);

    /// How the join ended; one that ends without a word failed.
    fn status(&self) -> ExitStatus;
}

/// Prints the progress of a join as MicroK8s does.
pub struct Narrator<'a> {
    printer: &'a mut dyn Printer,
    status: ExitStatus,
}

impl<'a> Narrator<'a> {
    /// Nothing was told yet; a join that ends without a word failed.
    pub fn new(printer: &'a mut dyn Printer) -> Self {
        Self {
            printer,
            status: ExitStatus::Failure,
        }
    }
}

impl Printer for Narrator<'_> {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        self.printer.out(text)
    }

    fn err(&mut self, line: &str) {
        self.printer.err(line);
    }

    fn has_reader(&self) -> bool {
        self.printer.has_reader()
    }
}

impl Teller for Narrator<'_> {
    fn tell(&mut self, event: &JoinEvent) {
        let text = match event {
            JoinEvent::Contacting {
                address,
                from_microk8s: true,
            } => format!("Contacting cluster at {address}\n"),
            JoinEvent::Warning {
                message,
                from_microk8s: true,
            } => format!("{message}\n"),
            JoinEvent::Warning { message, .. } => {
                self.printer.err(&format!("warning: {message}"));
                return;
            }
            // MicroK8s says nothing of it.
            JoinEvent::Stage { .. } | JoinEvent::Contacting { .. } => return,
            JoinEvent::Waiting => {
                "Waiting for this node to finish joining the cluster. ".to_owned()
            }
            JoinEvent::NotListed => ". ".to_owned(),
            JoinEvent::NotAnswering => ".. ".to_owned(),
            JoinEvent::WaitingDone => " \n".to_owned(),
            JoinEvent::Joined { has_api_proxy, .. } => {
                self.status = ExitStatus::Success;
                let usage = if *has_api_proxy { WORKER_USAGE } else { "" };
                format!("{usage}Successfully joined the cluster.\n")
            }
            JoinEvent::AlreadyMember { .. } => {
                self.status = ExitStatus::Success;
                "This node is already a member of the cluster.\n".to_owned()
            }
            JoinEvent::Failed(failure) => {
                self.status = output::failure(self.printer, failure);
                return;
            }
        };
        // The join continues when its output is closed.
        let _ = self.printer.out(&text);
    }

    fn status(&self) -> ExitStatus {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;
    use crate::model::role::Role;

    #[test]
    fn a_join_is_told_as_recorded() {
        let mut printer = Kept::default();
        let mut narrator = Narrator::new(&mut printer);
        for event in [
            JoinEvent::Contacting {
                address: "10.99.0.11".parse().unwrap(),
                from_microk8s: true,
            },
            JoinEvent::Waiting,
            JoinEvent::NotListed,
            JoinEvent::NotAnswering,
            JoinEvent::WaitingDone,
            JoinEvent::Joined {
                role: Role::ControlPlane,
                has_api_proxy: false,
            },
        ] {
            narrator.tell(&event);
        }
        assert_eq!(narrator.status(), ExitStatus::Success);
        assert_eq!(
            printer.out,
            "Contacting cluster at 10.99.0.11\nWaiting for this node to finish joining the cluster. . ..  \nSuccessfully joined the cluster.\n"
        );
    }
}
