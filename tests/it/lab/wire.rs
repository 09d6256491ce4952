//! A wire between a program and a server on the loopback, which a test slows down or cuts.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It carries everything at once.
    Open,
    /// What goes to the server takes this long.
    Slow(Duration),
    /// It carries nothing, in no direction, and takes connections.
    Silent,
    /// It carries requests, and no answers from the first request on that has so many bytes.
    DeafAfter(usize),
    /// It carries requests, and answers up to so many bytes in all.
    MuteAfter(usize),
    /// It carries requests, and no answers.
    Deaf,
}

/// The wire. Connections that carried nothing for a while are closed when it is opened again.
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    mode: Mutex<Mode>,
    changed: Condvar,
}

impl Wire {
    /// A wire from a free port at this address to a server.
    pub fn new(at: IpAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((at, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            mode: Mutex::new(Mode::Open),
            changed: Condvar::new(),
        });
        let shared = state.clone();
        // It ends with the process of the tests.
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let state = shared.clone();
                thread::spawn(move || state.carry(&near, server));
            }
        });
        Self { address, state }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does.
    pub fn mode(&self) -> Mode {
        *self.state.mode.lock().unwrap()
    }

    /// From now on it does this.
    pub fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        self.state.changed.notify_all();
    }
}

impl State {
    fn carry(&self, near: &TcpStream, server: SocketAddr) {
        let Ok(far) = TcpStream::connect(server) else {
            return;
        };
        // A wire holds no packet back until the one before is confirmed.
        for end in [near, &far] {
            end.set_nodelay(true).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| self.copy(near, &far, true));
            scope.spawn(|| self.copy(&far, near, false));
        });
    }

    fn copy(&self, mut from: &TcpStream, mut into: &TcpStream, is_request: bool) {
        let mut buffer = [0; 1 << 16];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if read == 0 || !self.lets_pass(is_request, read) {
                break;
            }
            if into.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        for stream in [from, into] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether what was read may go on; not where it was held until the mode changed.
    #[expect(clippy::disallowed_methods, reason = "a slow wire takes time")]
    fn lets_pass(&self, is_request: bool, bytes: usize) -> bool {
        let mode = self.next_mode(is_request, bytes);
        match mode {
            Mode::Open | Mode::DeafAfter(_) | Mode::MuteAfter(_) => return true,
            Mode::Deaf if is_request => return true,
            Mode::Slow(delay) => {
                if is_request {
                    thread::sleep(delay);
                }
                return true;
            }
            Mode::Silent | Mode::Deaf => {}
        }
        let held = self.mode.lock().unwrap();
        drop(self.changed.wait_while(held, |now| *now == mode).unwrap());
        false
    }

    /// What the wire does with what was read; it changes after that where it does so by itself.
    fn next_mode(&self, is_request: bool, bytes: usize) -> Mode {
        let mut mode = self.mode.lock().unwrap();
        let now = *mode;
        match now {
            Mode::DeafAfter(size) if is_request && bytes >= size => *mode = Mode::Deaf,
            Mode::MuteAfter(left) if !is_request && bytes <= left => {
                *mode = Mode::MuteAfter(left - bytes);
            }
            Mode::MuteAfter(_) if !is_request => {
                *mode = Mode::Deaf;
                return Mode::Deaf;
            }
            _ => {}
        }
        now
    }
}
