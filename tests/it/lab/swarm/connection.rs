//! A node's connection to an agent: one for all of its requests.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::STALL_TIMEOUT;

/// A connection that stands.
pub struct Connection {
    agent: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects, from this address where given. What goes wrong is told as text.
    pub async fn open(
        agent: SocketAddr,
        from: Option<IpAddr>,
        tls: &TlsConnector,
    ) -> Result<Self, String> {
        in_time(Self::try_open(agent, from, tls)).await
    }

    async fn try_open(
        agent: SocketAddr,
        from: Option<IpAddr>,
        tls: &TlsConnector,
    ) -> Result<Self, String> {
        let socket = match agent {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(text)?;
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0)).map_err(text)?;
        }
        let stream = socket.connect(agent).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let name = ServerName::IpAddress(agent.ip().into());
        let stream = tls.connect(name, stream).await.map_err(text)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(async move {
            // Its errors reach the sender too.
            let _ = driver.await;
        });
        Ok(Self { agent, sender })
    }

    /// Status and body of the answer to a request.
    pub async fn post(&mut self, path: &str, body: &Value) -> Result<(u16, Bytes), String> {
        in_time(self.try_post(path, body)).await
    }

    async fn try_post(&mut self, path: &str, body: &Value) -> Result<(u16, Bytes), String> {
        self.send(Request::post(path), body).await
    }

    /// Status and body of the answer to this request with this body.
    pub async fn send(&mut self, request: Builder, body: &Value) -> Result<(u16, Bytes), String> {
        let request = request
            .header(HOST, self.agent.to_string())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(text)?;
        self.sender.ready().await.map_err(text)?;
        let answer = self.sender.send_request(request).await.map_err(text)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(text)?;
        Ok((status, body.to_bytes()))
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("nothing for {} seconds", STALL_TIMEOUT.as_secs()));
    timeout(STALL_TIMEOUT, work).await.unwrap_or_else(late)
}

fn text(error: impl Display) -> String {
    error.to_string()
}
