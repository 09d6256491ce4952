//! A wire between a node and an agent, on the host of the node, that breaks at a chosen byte, and
//! carries no further connection then.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::libc;
use nix::sys::socket::{self, sockopt};

use super::{Host, network};

/// What happens at the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both directions are closed.
    Cut,
    /// Both ends are told that the other one is gone (RST).
    Reset,
    /// A bit of the byte is another one.
    Corrupt,
    /// Nothing is carried any more on this connection, which stays open.
    Stall,
}

/// The direction of the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the node to the agent.
    Request,
    /// From the agent to the node.
    Answer,
}

/// The wire. It carries everything until it is told otherwise, and ends when it is dropped.
pub struct FaultyWire {
    listener: TcpListener,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Where it breaks: after so many bytes of this direction, over all connections.
    plan: Option<(Direction, usize, Fault)>,
    carried: [usize; 2],
    /// How it has broken.
    broken: Option<Fault>,
    /// Both ends of each connection.
    streams: Vec<TcpStream>,
}

impl FaultyWire {
    /// A wire from an address of this host to an agent elsewhere, which sees the host call.
    pub fn start(host: &Host, at: &str, to: &'static str) -> Self {
        let listener = network::listen(host.namespace(), at);
        let state = Arc::<Mutex<State>>::default();
        let (accepting, shared) = (listener.try_clone().unwrap(), state.clone());
        let namespace = host.namespace().to_owned();
        let to: SocketAddr = to.parse().unwrap();
        thread::spawn(move || {
            while let Ok((near, _)) = accepting.accept() {
                let broken = locked(&shared).broken;
                match broken {
                    None => {}
                    Some(Fault::Stall) => {
                        locked(&shared).streams.push(near);
                        continue;
                    }
                    Some(Fault::Cut | Fault::Reset | Fault::Corrupt) => continue,
                }
                let far = network::inside(&namespace, || TcpStream::connect(to));
                let Ok(far) = far else { continue };
                let ends = [&near, &far].map(|end| end.try_clone().unwrap());
                locked(&shared).streams.extend(ends);
                for (direction, from, into) in [
                    (Direction::Request, &near, &far),
                    (Direction::Answer, &far, &near),
                ] {
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let shared = shared.clone();
                    thread::spawn(move || copy(&shared, direction, from, into));
                }
            }
        });
        Self { listener, state }
    }

    /// It is whole, and breaks after so many bytes from now on.
    pub fn breaks(&self, direction: Direction, after: usize, fault: Fault) {
        let mut state = locked(&self.state);
        state.plan = Some((direction, after, fault));
        state.carried = [0; 2];
        state.broken = None;
    }

    /// Whether it has broken as it was told to.
    pub fn has_broken(&self) -> bool {
        locked(&self.state).broken.is_some()
    }
}

impl Drop for FaultyWire {
    fn drop(&mut self) {
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        for stream in locked(&self.state).streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Also where a thread has failed while it held them.
fn locked(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(state: &Mutex<State>, direction: Direction, mut from: TcpStream, mut into: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut bytes = &mut buffer[..read];
        let fault = met(state, direction, read);
        match fault {
            None => {}
            Some((at, Fault::Corrupt)) => bytes[at] ^= 1,
            Some((at, _)) => bytes = &mut bytes[..at],
        }
        let written = into.write_all(bytes);
        match fault {
            Some((_, Fault::Cut)) => break,
            Some((_, Fault::Reset)) => {
                for stream in [&from, &into] {
                    let now = libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    let _ = socket::setsockopt(stream, sockopt::Linger, &now);
                }
                // The reset leaves when the last copy is closed: that of the other direction ends too.
                locked(state).streams.clear();
                for stream in [&from, &into] {
                    let _ = stream.shutdown(Shutdown::Read);
                }
                return;
            }
            // What comes is read and goes nowhere.
            Some((_, Fault::Stall)) => {
                let _ = std::io::copy(&mut from, &mut std::io::sink());
                return;
            }
            _ if written.is_err() => break,
            _ => {}
        }
    }
    if locked(state).broken != Some(Fault::Reset) {
        for stream in [&from, &into] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Where in the bytes that were just read the wire breaks, and how.
fn met(state: &Mutex<State>, direction: Direction, read: usize) -> Option<(usize, Fault)> {
    let mut state = locked(state);
    let carried = &mut state.carried[direction as usize];
    let before = *carried;
    *carried += read;
    let (planned, after, fault) = state.plan?;
    if planned != direction || after >= before + read {
        return None;
    }
    state.plan = None;
    state.broken = Some(fault);
    Some((after - before, fault))
}
