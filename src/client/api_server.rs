//! Asking a cluster's API server whether it answers, as a kubelet would reach it.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::base::runtime;
use crate::base::secret::Secret;
use crate::client::{connection, pinned_tls};
use crate::model::endpoint;

/// Every API server answers this path, without authorization too.
const PATH: &str = "/readyz";

/// An API server, and whose client certificate is shown to it.
pub(crate) struct ApiServer {
    config: ClientConfig,
    host: String,
    port: u16,
    /// The name in its certificate.
    name: String,
}

/// Why an API server did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiServerError {
    /// Nothing listens there.
    #[error("nothing listens at {0}")]
    NothingListens(String),
    /// No connection, no TLS with the expected certificate, or no answer of HTTP.
    #[error("{0}")]
    NoAnswer(String),
    /// It took too long.
    #[error("{0} did not answer in time")]
    TimedOut(String),
    /// The certificates, or the program's own TLS or runtime, are of no use.
    #[error("cannot set up a client: {0}")]
    SetUp(String),
}

impl ApiServerError {
    pub(super) fn no_http(address: &str, error: &hyper::Error) -> Self {
        Self::NoAnswer(format!("{address} gave no answer of HTTP: {error}"))
    }
}

impl ApiServer {
    /// The API server at this host and port, under this authority (PEM); a client certificate (PEM) and
    /// its key (PEM) are shown where given.
    pub(crate) fn new(
        host: &str,
        port: u16,
        authority: &str,
        client: Option<(&str, &Secret)>,
    ) -> Result<Self, ApiServerError> {
        let identity = client.map(|(certificate, key)| identity(certificate, key));
        let identity = identity.transpose()?;
        let roots = pinned_tls::roots(authority).map_err(set_up)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(set_up)?
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
            None => builder.with_no_client_auth(),
        };
        Ok(Self {
            config,
            host: host.to_owned(),
            port,
            name: host.to_owned(),
        })
    }

    /// Expects a certificate for this name instead of the host's.
    #[must_use]
    pub(crate) fn known_as(self, name: &str) -> Self {
        let name = name.to_owned();
        Self { name, ..self }
    }

    /// The status with which it answers, within this time.
    pub(crate) fn ask(&self, limit: Duration) -> Result<u16, ApiServerError> {
        self.ask_for(PATH, limit)
    }

    /// The status with which it answers when it is asked for this path, within this time.
    pub(crate) fn ask_for(&self, path: &str, limit: Duration) -> Result<u16, ApiServerError> {
        runtime::block_on(async { timeout(limit, self.exchange(path)).await })
            .map_err(set_up)?
            .unwrap_or_else(|_| Err(ApiServerError::TimedOut(self.address())))
    }

    /// Its host and port.
    pub(crate) fn address(&self) -> String {
        match self.host.parse() {
            Ok(address) => endpoint::join(address, self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    async fn exchange(&self, path: &str) -> Result<u16, ApiServerError> {
        let tls = self.connect(&[]).await?;
        let address = self.address();
        let http = |error| ApiServerError::no_http(&address, &error);
        let mut sender = connection::over(tls).await.map_err(http)?;
        let request = Request::get(path)
            .header(HOST, &address)
            .body(Full::default())
            .map_err(set_up)?;
        let response = sender.send_request(request).await.map_err(http)?;
        Ok(response.status().as_u16())
    }

    /// A connection on which TLS is set up, for one of these protocols (ALPN).
    pub(crate) async fn connect(
        &self,
        protocols: &[&[u8]],
    ) -> Result<TlsStream<TcpStream>, ApiServerError> {
        let address = self.address();
        let open = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            // The body of a request is another packet than its head, and waits for no answer to that.
            tcp.set_nodelay(true)?;
            Ok(tcp)
        };
        let tcp = open
            .await
            .map_err(|source: io::Error| match source.kind() {
                io::ErrorKind::ConnectionRefused => ApiServerError::NothingListens(address.clone()),
                _ => ApiServerError::NoAnswer(format!("{address}: {source}")),
            })?;
        let name = ServerName::try_from(self.name.clone()).map_err(set_up)?;
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|error| {
                ApiServerError::NoAnswer(format!("TLS with {address} failed: {error}"))
            })
    }
}

fn set_up(error: impl Display) -> ApiServerError {
    ApiServerError::SetUp(error.to_string())
}

fn identity(certificate: &str, key: &Secret) -> Result<SingleCertAndKey, ApiServerError> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(set_up)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(set_up)?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(set_up)?;
    Ok(CertifiedKey::new(chain, key).into())
}
