//! What a person sees: the commands in a terminal, looked at as it shows them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use microk8s::base::wait;

use crate::field_usage::Held;
use crate::lab::{Host, Lab, STALL_TIMEOUT, is_installed};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A terminal on a host. It goes away when it is dropped.
pub struct Terminal<'a> {
    host: &'a Host,
    /// Of its server: one that still ends would take the next terminal along.
    socket: String,
}

impl<'a> Terminal<'a> {
    /// Runs a line of shell in it, with `done` below when the line has ended.
    pub fn run(host: &'a Host, line: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = host.scratch().join(format!("tmux-{number}"));
        let terminal = Self {
            host,
            socket: socket.display().to_string(),
        };
        // Whoever waits for input keeps the terminal open.
        let line = format!("{line}; echo done; exec cat");
        terminal.tmux(&["new-session", "-d", "-x", "100", "-y", "30", &line]);
        terminal
    }

    /// Types a text; a tab or a control character is its key.
    pub fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "0", "-l", "--", text]);
    }

    fn tmux(&self, words: &[&str]) -> String {
        let tmux = ["tmux", "-S", &self.socket, "-f", "/dev/null"];
        self.host.run(&[&tmux, words].concat()).ok()
    }

    /// The lines on the screen, without the empty ones below; colours are escape sequences.
    fn screen(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p", "-e", "-t", "0"]);
        shown.trim_end().to_owned()
    }

    /// The screen, as soon as a text is on it.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        self.await_text(text, || self.screen())
    }

    /// The same without colours.
    #[track_caller]
    pub fn reads(&self, text: &str) -> String {
        self.await_text(text, || self.tmux(&["capture-pane", "-p", "-t", "0"]))
    }

    #[track_caller]
    fn await_text(&self, text: &str, look: impl Fn() -> String) -> String {
        let mut screen = String::new();
        let found = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            screen = look();
            screen.contains(text).then_some(())
        });
        assert!(found.is_some(), "`{text}` is not shown:\n{screen}");
        screen
    }

    /// The screen when the line has ended.
    #[track_caller]
    fn ends(&self) -> String {
        let screen = self.shows("done");
        screen.strip_suffix("done").unwrap().trim_end().to_owned()
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // Where it fails, the server has ended already.
        let end = ["tmux", "-S", &self.socket, "kill-server"];
        let _ = self.host.command(&end).output();
    }
}

fn lab() -> Option<Lab> {
    is_installed("tmux").then(|| Lab::new(&["n1", "n2"]))?
}

/// The spinner, with the stage in which the join is held and how long it has taken.
const SPINS: &str = " restarting the services of the node (";
/// Recording `join-controlplane-ok`.
const JOINED: &str = include_str!("compat/recordings/join-controlplane-ok/stdout.txt");

/// A text as a terminal shows it: blanks at the ends of lines do not show.
fn shown(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[test]
fn a_spinner_is_shown_while_a_join_waits_and_nothing_of_it_is_left() {
    for redirected in [false, true] {
        let Some(lab) = lab() else { return };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = n1.agent();
        let told = n2.scratch().join("told");
        let (into, above, left) = match redirected {
            false => (String::new(), "Contacting cluster at 10.99.0.11\n", JOINED),
            true => (format!(" > {}", told.display()), "", ""),
        };
        let held = Held::at(n2, "stop microk8s.daemon-kubelite");
        let terminal = Terminal::run(n2, &format!("{}{into}", n1.join_line()));
        let screen = terminal.shows(SPINS);
        let spinner = screen.strip_prefix(above).unwrap();
        assert!("|/-\\".contains(&spinner[..1]), "{screen}");
        assert_eq!(spinner.lines().count(), 1, "{screen}");
        let time = |screen: &str| screen.rsplit_once('(').map(|(_, time)| time.to_owned());
        let goes_on = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            (time(&terminal.screen()) != time(&screen)).then_some(())
        });
        assert!(goes_on.is_some(), "{screen}");
        held.release();
        assert_eq!(terminal.ends(), shown(left));
        if redirected {
            assert_eq!(std::fs::read_to_string(&told).unwrap(), JOINED);
        }
    }
}

#[test]
fn no_spinner_is_shown_where_none_is_wanted() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let held = Held::at(n2, "stop microk8s.daemon-kubelite");
    let line = format!("{} --no-progress", n1.join_line());
    let terminal = Terminal::run(n2, &line);
    let reached = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
        held.is_reached().then_some(())
    });
    assert!(reached.is_some(), "{}", terminal.screen());
    assert_eq!(terminal.screen(), "Contacting cluster at 10.99.0.11");
    held.release();
    assert_eq!(terminal.ends(), shown(JOINED));
}

#[test]
fn an_agent_on_a_terminal_logs_without_a_complaint_and_says_what_it_does_not_understand() {
    let Some(lab) = lab() else { return };
    let n1 = lab.host("n1");
    let line = "MICROK8S_LOG=nonsense timeout -s INT 2 microk8s agent";
    let screen = Terminal::run(n1, line).ends();
    let lines: Vec<&str> = screen.lines().collect();
    assert!(
        lines[0].contains(" WARN MICROK8S_LOG=`nonsense` is not understood"),
        "{screen}"
    );
    assert!(screen.contains("INFO listening on "), "{screen}");
    assert!(
        !screen.contains("ansi") && !screen.contains('\u{1b}'),
        "{screen}"
    );
}

#[test]
fn add_node_says_on_a_terminal_that_no_agent_listens_or_that_workers_alone_can_join() {
    let Some(lab) = lab() else { return };
    let n1 = lab.host("n1");
    let warning = "warning: no agent listens on port 25000 of this node";
    let screen = Terminal::run(n1, "microk8s add-node --format token").ends();
    assert!(screen.contains(warning), "{screen}");
    let _agent = n1.agent();
    let screen = Terminal::run(n1, "microk8s add-node --format token").ends();
    assert!(!screen.contains("warning:"), "{screen}");
    let screen = Terminal::run(n1, "microk8s add-node --format token --role worker").ends();
    let warning = "warning: this token is for workers only: use it with `--worker`";
    assert!(screen.contains(warning), "{screen}");
}

#[test]
fn a_token_that_is_typed_on_a_terminal_is_not_shown() {
    let Some(lab) = lab() else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let terminal = Terminal::run(n1, "microk8s token show -");
    terminal.shows("it is not shown:");
    terminal.types(&token);
    let screen = terminal.ends();
    assert!(screen.contains("state:       issued"), "{screen}");
    assert!(!screen.contains(token.trim()), "{screen}");
    // After Ctrl-C the terminal shows again what is typed.
    for command in ["token show -", "add-node --token-file -"] {
        let line = format!("trap : INT; microk8s {command}; echo \"code $?\"");
        let terminal = Terminal::run(n1, &line);
        terminal.shows("it is not shown:");
        terminal.types("\u{3}");
        terminal.shows("code 130");
        terminal.types("visible again");
        terminal.shows("visible again");
    }
}

#[test]
fn nothing_is_coloured_where_no_colour_is_wanted() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let joins = n1.join_line();
    let lines = [
        // The log of an agent.
        "timeout 2 microk8s agent",
        // A join that fails, with its hint.
        "microk8s join 10.99.0.11:1/0123456789abcdef0123456789abcdef",
        // What the parser of the command line says, of commands that MicroK8s lacks as well.
        "microk8s join --nonsense",
        "microk8s token --nonsense",
        "microk8s token --help",
        joins.as_str(),
    ];
    for line in lines {
        let terminal = Terminal::run(n2, &format!("export NO_COLOR=1; {line}"));
        let screen = terminal.ends();
        assert!(!screen.is_empty(), "{line}");
        assert!(!screen.contains('\u{1b}'), "{line}: {screen}");
    }
}
