//! Requests to the node's own agent, over its socket.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use reqwest::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;

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
    client: reqwest::Client,
    socket: PathBuf,
    /// The node directory that it works in, where it says so.
    pub(crate) directory: Option<NodeDirectory>,
}

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
        source: reqwest::Error,
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

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Looks who is behind the socket.
pub async fn probe(socket: &Path) -> Result<Probe, LocalError> {
    match UnixStream::connect(socket) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Probe::NoPermission);
        }
        Err(_) => return Ok(Probe::NotRunning),
    }
    let no_answer = |source| LocalError::NoAnswer {
        socket: socket.to_owned(),
        source,
    };
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .no_proxy()
        .build()
        .map_err(no_answer)?;
    let mut agent = LocalAgent {
        client,
        socket: socket.to_owned(),
        directory: None,
    };
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
        let request = self.client.post(url(path)).json(which);
        self.lines(request, |line| match line {
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
        let request = self.client.post(url(routes::LOCAL_OPERATION));
        let mut ended = false;
        self.lines(request.json(operation), |event| {
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
        request: reqwest::RequestBuilder,
        mut take: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), LocalError> {
        let mut response = self.send(request).await?;
        let mut buffer = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|_| LocalError::Interrupted)?
        {
            buffer.extend_from_slice(&chunk);
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
        let response = self.send(self.client.get(url(path))).await?;
        self.read(response).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, LocalError> {
        let response = self.send(self.client.post(url(path)).json(body)).await?;
        self.read(response).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, LocalError> {
        let response = request
            .send()
            .await
            .map_err(|source| LocalError::NoAnswer {
                socket: self.socket.clone(),
                source,
            })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body: ErrorBody = self.read(response).await?;
        Err(LocalError::Refused(body.error))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, LocalError> {
        response
            .json()
            .await
            .map_err(|_| LocalError::NotUnderstood(self.socket.clone()))
    }
}

/// The host name in the URL is not looked at: the socket says where to go.
fn url(path: &str) -> String {
    format!("http://agent{path}")
}
