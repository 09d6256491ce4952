//! The spinner of a join on a terminal: where the join is, and for how long. It is on standard
//! error, and nothing of it is left on the screen.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::exit_status::ExitStatus;
use crate::cli::join_text::Teller;
use crate::cli::output::{OutputLost, Printer};
use crate::model::join_stage::JoinStage;
use crate::wire::local_v1::JoinEvent;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(100);
/// ASCII and no colour: every terminal has it, and `NO_COLOR` asks for no less.
const FRAMES: &str = "|/-\\ ";

/// Tells a join as another teller does, with a spinner below.
pub struct Spinner<'a> {
    teller: &'a mut dyn Teller,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl<'a> Spinner<'a> {
    /// Nothing is shown before the first event.
    pub fn new(teller: &'a mut dyn Teller) -> Self {
        Self {
            teller,
            bar: None,
            began: Instant::now(),
        }
    }

    fn show(&mut self, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message);
            return;
        }
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_style(style.tick_chars(FRAMES))
            .with_elapsed(self.began.elapsed())
            .with_message(message);
        bar.enable_steady_tick(TICK);
        self.bar = Some(bar);
    }

    /// Takes it off the screen.
    fn hide(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Runs what prints, with the spinner out of its way.
    fn aside<T>(&mut self, print: impl FnOnce(&mut dyn Teller) -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(|| print(self.teller)),
            None => print(self.teller),
        }
    }
}

impl Printer for Spinner<'_> {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        self.aside(|teller| teller.out(text))
    }

    fn err(&mut self, line: &str) {
        self.aside(|teller| teller.err(line));
    }

    fn has_reader(&self) -> bool {
        self.teller.has_reader()
    }
}

impl Teller for Spinner<'_> {
    fn tell(&mut self, event: &JoinEvent) {
        // MicroK8s's dots are on the line on which the spinner would be, and say as much.
        let has_dots = self.teller.has_reader();
        match event {
            JoinEvent::Waiting if has_dots => self.hide(),
            JoinEvent::Joined { .. } | JoinEvent::AlreadyMember { .. } | JoinEvent::Failed(_) => {
                self.hide();
            }
            JoinEvent::Contacting { .. }
            | JoinEvent::Stage { .. }
            | JoinEvent::Warning { .. }
            | JoinEvent::Waiting
            | JoinEvent::NotListed
            | JoinEvent::NotAnswering
            | JoinEvent::WaitingDone => {}
        }
        self.aside(|teller| teller.tell(event));
        match event {
            JoinEvent::Contacting { address, .. } => {
                self.show(format!("joining through {address}"));
            }
            JoinEvent::Stage { stage } => self.show(stage.doing().to_owned()),
            JoinEvent::Waiting if !has_dots => self.show(JoinStage::Datastore.doing().to_owned()),
            JoinEvent::WaitingDone => self.show("finishing".to_owned()),
            JoinEvent::Waiting
            | JoinEvent::Warning { .. }
            | JoinEvent::NotListed
            | JoinEvent::NotAnswering
            | JoinEvent::Joined { .. }
            | JoinEvent::AlreadyMember { .. }
            | JoinEvent::Failed(_) => {}
        }
    }

    fn status(&self) -> ExitStatus {
        self.teller.status()
    }
}

/// A join that ends without a last event leaves no spinner behind either.
impl Drop for Spinner<'_> {
    fn drop(&mut self) {
        self.hide();
    }
}
