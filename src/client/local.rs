//! Requests to the node's own agent, over its socket.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::mutex::lock;
use crate::client::connection;
use crate::wire::error_body::ErrorBody;
use crate::wire::local_v1::{
    AddTokenRequest, ClusterHealth, Hello, IssuedToken, NodeDirectory, NodeList, PROTOCOL,
    PruneRequest, Pruned, TokenEntry, TokenLine, TokenListEnd, TokenSelection,
};
use crate::wire::operation::{Event, Operation};
use crate::wire::routes;

/// What is behind a socket.
#[derive(Debug)]
pub enum Probe {
    /// An agent that understands us.
    Ready(LocalAgent),
    /// No agent listens.
    NotRunning,
    /// An agent, and the user may not talk to it.
    NoPermission,
    /// An agent of another version of the protocol.
    OtherProtocol {
        /// Its protocol.
        agent: u32,
    },
}

/// The node's own agent.
#[derive(Debug)]
pub struct LocalAgent {
    socket: PathBuf,
    /// A connection on which the last answer was read to its end.
    kept: Mutex<Option<Connection>>,
    /// The node directory that it works in, where it says so.
    pub(crate) directory: Option<NodeDirectory>,
}

type Connection = SendRequest<Full<Bytes>>;

/// Why the agent did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The connection failed.
    #[error("the agent at `{}` did not answer: {}", socket.display(), root_cause(.source))]
    NoAnswer {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
    /// The agent said something that is not understood.
    #[error("the agent at `{}` gave an answer that is not understood", .0.display())]
    NotUnderstood(PathBuf),
    /// The agent ended before what it was asked for did.
    #[error("the agent stopped before it was done")]
    Interrupted,
}

fn root_cause(error: &io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Looks who is behind the socket.
pub async fn probe(socket: &Path) -> Result<Probe, LocalError> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Probe::NoPermission);
        }
        Err(_) => return Ok(Probe::NotRunning),
    };
    let mut agent = LocalAgent {
        socket: socket.to_owned(),
        kept: Mutex::default(),
        directory: None,
    };
    let connection = over(stream).await;
    agent.keep(connection.map_err(|error| agent.no_answer(error))?);
    let hello: Hello = agent.get(routes::LOCAL_HELLO).await?;
    if hello.protocol != PROTOCOL {
        return Ok(Probe::OtherProtocol {
            agent: hello.protocol,
        });
    }
    agent.directory = hello.directory;
    Ok(Probe::Ready(agent))
}

impl LocalAgent {
    /// Issues a token.
    pub async fn add_token(&self, request: &AddTokenRequest) -> Result<IssuedToken, LocalError> {
        self.post(routes::LOCAL_TOKENS, request).await
    }

    /// Looks tokens up; `take` is given each as it comes, and may break off.
    pub(crate) async fn find_tokens(
        &self,
        which: &TokenSelection,
        take: impl FnMut(TokenEntry) -> ControlFlow<()>,
    ) -> Result<TokenListEnd, LocalError> {
        self.tokens(routes::LOCAL_TOKENS_FIND, which, take).await
    }

    /// Revokes tokens; `take` is given those that were still usable.
    pub(crate) async fn revoke_tokens(
        &self,
        which: &TokenSelection,
        take: impl FnMut(TokenEntry) -> ControlFlow<()>,
    ) -> Result<TokenListEnd, LocalError> {
        self.tokens(routes::LOCAL_TOKENS_REVOKE, which, take).await
    }

    async fn tokens(
        &self,
        path: &str,
        which: &TokenSelection,
        mut take: impl FnMut(TokenEntry) -> ControlFlow<()>,
    ) -> Result<TokenListEnd, LocalError> {
        let mut ended = Err(LocalError::Interrupted);
        self.lines(path, which, |line| match line {
            TokenLine::Token(token) => {
                let flow = take(*token);
                if flow.is_break() {
                    ended = Ok(TokenListEnd::default());
                }
                flow
            }
            TokenLine::End(end) => {
                ended = Ok(end);
                ControlFlow::Continue(())
            }
            TokenLine::Failed(why) => {
                ended = Err(LocalError::Refused(why));
                ControlFlow::Continue(())
            }
        })
        .await?;
        ended
    }

    /// Removes the tokens that are over, and unused ones where that is asked for.
    pub(crate) async fn prune_tokens(&self, request: PruneRequest) -> Result<Pruned, LocalError> {
        self.post(routes::LOCAL_TOKENS_PRUNE, &request).await
    }

    /// The nodes of the cluster.
    pub(crate) async fn nodes(&self) -> Result<NodeList, LocalError> {
        self.get(routes::LOCAL_NODES).await
    }

    /// The nodes of the cluster, each of them checked.
    pub(crate) async fn check_nodes(&self) -> Result<ClusterHealth, LocalError> {
        self.get(routes::LOCAL_NODES_CHECK).await
    }

    /// Has an operation done; `on_event` is told what happens. The last event says how it ended.
    pub(crate) async fn run(
        &self,
        operation: &Operation,
        mut on_event: impl FnMut(Event),
    ) -> Result<(), LocalError> {
        let mut ended = false;
        self.lines(routes::LOCAL_OPERATION, operation, |event| {
            ended |= matches!(event, Event::End(_));
            on_event(event);
            ControlFlow::Continue(())
        })
        .await?;
        if ended {
            Ok(())
        } else {
            Err(LocalError::Interrupted)
        }
    }

    /// Gives each line of an answer to `take` when it is there, until that breaks off.
    async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut take: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), LocalError> {
        let (mut response, _connection) = self.send(Method::POST, path, json(body)).await?;
        let mut buffer = Vec::new();
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|_| LocalError::Interrupted)?;
            let Some(chunk) = frame.data_ref() else {
                continue;
            };
            buffer.extend_from_slice(chunk);
            let complete = buffer.iter().rposition(|byte| *byte == b'\n');
            let rest = buffer.split_off(complete.map_or(0, |end| end + 1));
            for line in buffer.split_inclusive(|byte| *byte == b'\n') {
                let line = serde_json::from_slice(line)
                    .map_err(|_| LocalError::NotUnderstood(self.socket.clone()))?;
                if take(line).is_break() {
                    return Ok(());
                }
            }
            buffer = rest;
        }
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, LocalError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, LocalError> {
        self.ask(Method::POST, path, json(body)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, LocalError> {
        let (response, connection) = self.send(method, path, body).await?;
        let answer = self.read(response).await?;
        self.keep(connection);
        Ok(answer)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), LocalError> {
        let sent = async {
            let mut connection = self.connect().await?;
            let response = connection.send_request(request(method, path, body)).await;
            Ok((response.map_err(io::Error::other)?, connection))
        };
        let (response, connection) = sent.await.map_err(|error| self.no_answer(error))?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let body: ErrorBody = self.read(response).await?;
        Err(LocalError::Refused(body.error))
    }

    /// The connection that was kept, where it is still open, or a new one.
    async fn connect(&self) -> io::Result<Connection> {
        let kept = lock(&self.kept).take();
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
        {
            return Ok(kept);
        }
        over(UnixStream::connect(&self.socket)?).await
    }

    fn keep(&self, connection: Connection) {
        *lock(&self.kept) = Some(connection);
    }

    fn no_answer(&self, source: io::Error) -> LocalError {
        let socket = self.socket.clone();
        LocalError::NoAnswer { socket, source }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<T, LocalError> {
        let whole = response.into_body().collect().await.ok();
        whole
            .and_then(|whole| serde_json::from_slice(&whole.to_bytes()).ok())
            .ok_or_else(|| LocalError::NotUnderstood(self.socket.clone()))
    }
}

async fn over(stream: UnixStream) -> io::Result<Connection> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    connection::over(stream).await.map_err(io::Error::other)
}

/// The host name is not looked at: the socket says where to go.
fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("agent"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

fn json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).unwrap_or_default().into()
}
