//! A peer that answers as it is told to: the other end of a join, for what a real agent never says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::socket;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::{Host, STALL_TIMEOUT, network};

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What the peer does with a request.
pub enum Reply {
    /// These bytes as they are, then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, then the connection breaks off without the goodbye that TLS asks for.
    Cut(Vec<u8>),
    /// A proper answer; the connection stays open for more.
    Json(u16, String),
    /// Closes the connection.
    Close,
    /// Says nothing until the peer goes away.
    Silence,
    /// These bytes, and then a few more now and then, for as long as anything reads them.
    Drip(Vec<u8>, &'static [u8]),
}

/// What the peer speaks on a new connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// TLS with the host's `certs/server.crt`.
    Tls,
    /// The same on the first connection; on later ones TLS with another of the host's
    /// certificates, as if somebody had come between.
    TlsAndThenAnother,
    /// HTTP without TLS.
    PlainHttp,
    /// Nothing at all: the connection is taken and left alone.
    Nothing,
}

/// A listener on a host, with a thread a connection.
pub struct Peer {
    state: Arc<State>,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

/// How the peer answers when it is asked without a token whether it is alive: with the time where this
/// is set, this many seconds from now. Not kept among the requests.
type ClockOffset = Option<i64>;

struct State {
    clock: ClockOffset,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
    arrived: Condvar,
}

impl State {
    /// Also where a test has failed while it held them.
    fn connections(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        let connections = self.connections.lock();
        connections.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Listens on port 25000 of every address of the host.
    pub fn start(
        host: &Host,
        speaks: Speaks,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let configs = [
            tls(host, "certs/server", None),
            tls(host, "certs/front-proxy-client", None),
        ];
        Self::listen(host, ([0, 0, 0, 0], 25000), configs, speaks, None, answer)
    }

    /// Several nodes behind this port of a host: a connection leads to the first of them, and each
    /// later one to the second, with the certificates that they serve now.
    pub fn in_front_of(
        (host, port): (&Host, u16),
        nodes: [&Host; 2],
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let pair = |node: &Host| {
            let read = |name| node.read(&format!("certs/server.{name}")).into_bytes();
            tls_of(&read("crt"), &read("key"), None)
        };
        let (address, speaks) = (([0, 0, 0, 0], port), Speaks::TlsAndThenAnother);
        Self::listen(host, address, nodes.map(pair), speaks, None, answer)
    }

    /// The same, where the peer tells the time: this many seconds from now.
    pub fn with_clock(
        host: &Host,
        seconds: i64,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let config = tls(host, "certs/server", None);
        let (configs, clock) = ([config.clone(), config], Some(seconds));
        Self::listen(
            host,
            ([0, 0, 0, 0], 25000),
            configs,
            Speaks::Tls,
            clock,
            answer,
        )
    }

    /// What a worker finds behind its proxy: the API server of a cluster, with the server
    /// certificate of the node `of`. It takes nobody without a client certificate of the authority
    /// of the node `knows`.
    pub fn api_server(
        host: &Host,
        of: &Host,
        knows: &Host,
        speaks: Speaks,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let config = tls(of, "certs/server", Some(&knows.fresh("certs/ca.crt")));
        let configs = [config.clone(), config];
        Self::listen(host, ([127, 0, 0, 1], 16443), configs, speaks, None, answer)
    }

    fn listen(
        host: &Host,
        address: ([u8; 4], u16),
        configs: [Arc<ServerConfig>; 2],
        speaks: Speaks,
        clock: ClockOffset,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(network::listen(host.namespace(), SocketAddr::from(address)));
        let state = Arc::new(State {
            clock,
            requests: Mutex::default(),
            connections: Mutex::default(),
            arrived: Condvar::new(),
        });
        let (shared, accepting) = (Arc::clone(&state), Arc::clone(&listener));
        let thread = thread::spawn(move || accept(&accepting, speaks, &configs, &shared, &answer));
        Self {
            state,
            listener,
            thread: Some(thread),
        }
    }

    /// A peer that gives the same bytes to every request.
    pub fn canned(host: &Host, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(host, Speaks::Tls, move |_| Reply::Bytes(answer.clone()))
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.connections().len()
    }

    /// Waits until there was a connection, whether or not anything was said on it.
    pub fn wait_for_connection(&self) {
        let connections = self.state.connections();
        let (connections, _) = self
            .state
            .arrived
            .wait_timeout_while(connections, STALL_TIMEOUT, |list| list.is_empty())
            .unwrap();
        assert!(!connections.is_empty(), "nobody connects");
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // From now on it accepts no connection, and the thread that does ends with those that there are.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        let Some(thread) = self.thread.take() else {
            return;
        };
        let _ = wait::until(STALL_TIMEOUT, Duration::from_millis(1), || {
            for connection in self.state.connections().drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
            thread.is_finished().then_some(())
        });
    }
}

fn tls(host: &Host, pair: &str, clients: Option<&[u8]>) -> Arc<ServerConfig> {
    let read = |name| host.fresh(&format!("{pair}.{name}"));
    tls_of(&read("crt"), &read("key"), clients)
}

fn tls_of(certificate: &[u8], key: &[u8], clients: Option<&[u8]>) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let authority = CertificateDer::from_pem_slice(authority).unwrap();
            roots.add(authority).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

fn accept(
    listener: &TcpListener,
    speaks: Speaks,
    configs: &[Arc<ServerConfig>; 2],
    state: &Arc<State>,
    answer: &(impl Fn(&Request) -> Reply + Send + Sync),
) {
    thread::scope(|scope| {
        while let Ok((stream, _)) = listener.accept() {
            let is_first = {
                let mut connections = state.connections();
                connections.push(stream.try_clone().unwrap());
                state.arrived.notify_all();
                connections.len() == 1
            };
            let config = match speaks {
                Speaks::TlsAndThenAnother if !is_first => &configs[1],
                _ => &configs[0],
            };
            scope.spawn(move || {
                // The list of connections holds a copy, which alone would keep this one open.
                let copy = stream.try_clone().unwrap();
                match speaks {
                    Speaks::Nothing => hold(stream),
                    Speaks::PlainHttp => refuse_tls(stream),
                    Speaks::Tls | Speaks::TlsAndThenAnother => {
                        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                        serve(StreamOwned::new(connection, stream), goodbye, state, answer);
                    }
                }
                let _ = copy.shutdown(Shutdown::Both);
            });
        }
    });
}

/// What a web server without TLS makes of the first bytes of a handshake.
fn refuse_tls(mut stream: impl Read + Write) {
    let mut hello = [0; 4096];
    let _ = stream.read(&mut hello);
    let _ = stream.write_all(http("400 Bad Request", "").as_bytes());
}

/// Reads until the other side, or the end of the test, closes the connection.
fn hold(mut stream: impl Read) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// Writes until the other side, or the end of the test, closes the connection.
fn drip(out: &mut impl Write, first: &[u8], more: &[u8]) {
    let mut wrote = out.write_all(first).and_then(|()| out.flush());
    while wrote.is_ok() {
        wait::between_looks(Duration::from_millis(100));
        wrote = out.write_all(more).and_then(|()| out.flush());
    }
}

fn goodbye(stream: &mut StreamOwned<ServerConnection, TcpStream>) {
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn serve<S: Read + Write>(
    stream: S,
    goodbye: fn(&mut S),
    state: &State,
    answer: &(impl Fn(&Request) -> Reply + Send + Sync),
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream) {
        let out = stream.get_mut();
        if request.path == "/health" {
            let date = state.clock.map_or_else(String::new, date);
            let head = format!("HTTP/1.1 200 OK\r\n{date}Content-Length: 15\r\n\r\n");
            let answer = head + r#"{"status":"OK"}"#;
            if out
                .write_all(answer.as_bytes())
                .and_then(|()| out.flush())
                .is_err()
            {
                return;
            }
            continue;
        }
        state.requests.lock().unwrap().push(request.clone());
        match answer(&request) {
            Reply::Json(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} Status\r\nContent-Type: text/plain; charset=utf-8\r\n\
                     Content-Length: {}\r\n\r\n",
                    body.len()
                );
                if out
                    .write_all((head + &body).as_bytes())
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    return;
                }
            }
            Reply::Bytes(bytes) => {
                let _ = out.write_all(&bytes).and_then(|()| out.flush());
                return goodbye(out);
            }
            Reply::Cut(bytes) => {
                let _ = out.write_all(&bytes).and_then(|()| out.flush());
                return;
            }
            Reply::Close => return goodbye(out),
            Reply::Silence => return hold(stream),
            Reply::Drip(first, more) => return drip(out, &first, more),
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}

/// A header with the time, this many seconds from now.
fn date(seconds: i64) -> String {
    let unix = i64::try_from(super::now()).unwrap() + seconds;
    let date = jiff::Timestamp::from_second(unix).unwrap();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date);
    format!("Date: {}\r\n", date.unwrap())
}

/// A complete HTTP answer, after which the connection is closed.
pub fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_request_is_read_with_its_headers_and_its_body() {
    let mut bytes = &b"POST /x HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\n{} rest"[..];
    let request = read_request(&mut bytes).unwrap();
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/x")
    );
    assert_eq!(request.headers["host"], "a:1");
    assert_eq!(request.body, b"{} ");
    assert!(read_request(&mut &b""[..]).is_none());
}
