//! HTTP/1.1 on a connection that stands.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends requests on this stream, which is closed when the sender is dropped.
pub(crate) async fn over<S>(stream: S) -> hyper::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach the sender too.
    tokio::spawn(async { drop(driver.await) });
    Ok(sender)
}
