//! The spinner of a join on a terminal: where the join is, and for how long. It is on standard
//! error, and nothing of it is left on the screen.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::wire::operation::Event;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(100);
/// ASCII and no colour: every terminal has it, and `NO_COLOR` asks for no less.
const FRAMES: &str = "|/-\\ ";

/// A spinner below what is printed.
pub(crate) struct Spinner {
    is_wanted: bool,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Spinner {
    /// Nothing is shown before the first event, and nothing at all unless it is wanted.
    pub(crate) fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            bar: None,
            began: Instant::now(),
        }
    }

    /// Runs what prints an event, and shows where the join is from then on. MicroK8s's dots, where
    /// they are printed, are on the line on which the spinner would be, and say as much.
    pub(crate) fn around(&mut self, event: &Event, has_dots: bool, print: impl FnOnce()) {
        let now = match event {
            Event::Waiting { .. } if has_dots => {
                self.hide();
                None
            }
            Event::End(_) => {
                self.hide();
                None
            }
            Event::Contacting { address, .. } => Some(format!("joining through {address}")),
            Event::WaitingDone => Some("finishing".to_owned()),
            Event::Waiting { stage, .. } => Some(stage.doing().to_owned()),
            Event::Stage { doing, .. } => Some(doing.clone()),
            Event::Line { .. }
            | Event::Warning { .. }
            | Event::Stderr { .. }
            | Event::NotYet
            | Event::NotAnswering
            | Event::Finding(_) => None,
        };
        self.aside(print);
        if let Some(now) = now {
            self.show(now);
        }
    }

    /// Runs what prints, with the spinner out of its way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn show(&mut self, message: String) {
        if !self.is_wanted {
            return;
        }
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
}

/// A join that ends without a last event leaves no spinner behind either.
impl Drop for Spinner {
    fn drop(&mut self) {
        self.hide();
    }
}
