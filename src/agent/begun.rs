//! A stream of which a part was read to see that something is asked.
//!
//! What serves HTTP takes some twenty kilobytes for a connection as soon as it is made. A client
//! that says nothing after the handshake, or sends the head of a request byte by byte, is not worth
//! them. The same stream says whether all that was written has gone out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// How much of a head is waited for here, in bytes. One that is longer shows by that that it does
/// not come byte by byte, and goes on as it is.
const HEAD: usize = 8 << 10;

/// A stream with what was read of it.
pub struct Begun<S> {
    /// What is read again before anything else of the stream.
    read: Vec<u8>,
    /// Whether something was written, or was to be, and has not gone out.
    unsent: watch::Sender<bool>,
    stream: S,
}

impl<S> Begun<S> {
    /// A stream of which nothing was read.
    pub fn new(stream: S) -> Self {
        Self {
            read: Vec::new(),
            unsent: watch::Sender::new(false),
            stream,
        }
    }

    /// Whether something that was written has not gone out.
    pub fn unsent(&self) -> watch::Receiver<bool> {
        self.unsent.subscribe()
    }

    fn set_unsent(&self, unsent: bool) {
        self.unsent
            .send_if_modified(|before| std::mem::replace(before, unsent) != unsent);
    }

    /// The stream behind something that was read of it and not used.
    pub fn behind(self, unused: &[u8]) -> Self {
        let read = [unused, &self.read].concat();
        Self { read, ..self }
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Waits until there is something; `false` when the stream ends without it.
    pub async fn something(&mut self) -> io::Result<bool> {
        Ok(!self.read.is_empty() || self.more().await?)
    }

    /// Waits until the head of a request is there as a whole; `false` when the stream ends before.
    ///
    /// Whether it is one is not looked at: it ends with the first empty line.
    pub async fn head(&mut self) -> io::Result<bool> {
        let mut looked_at = 0;
        while !has_empty_line(&self.read[looked_at..]) && self.read.len() < HEAD {
            looked_at = self.read.len().saturating_sub(2);
            if !self.more().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }
}

/// Whether a line ends in this and an empty one follows it. A carriage return before the end of a
/// line is not needed (RFC 9112, section 2.2).
fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        if count == self.read.len() {
            // Its memory is not needed any more.
            self.read = Vec::new();
        } else {
            self.read.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.set_unsent(true);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.set_unsent(true);
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.set_unsent(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(test)
    }

    fn is_there(begun: &mut Begun<DuplexStream>) -> bool {
        let mut head = std::pin::pin!(begun.head());
        let polled = head.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(Ok(true)))
    }

    #[test]
    fn a_head_is_there_when_its_last_byte_is_and_everything_is_read_again() {
        for request in [
            "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /health HTTP/1.1\nHost: a\n\n",
            "GET /health HTTP/1.0\r\n\n",
            "GET /health HTTP/1.0\n\r\n",
        ] {
            run(async {
                let (mut client, server) = duplex(1024);
                let mut begun = Begun::new(server);
                for byte in request.as_bytes() {
                    assert!(!is_there(&mut begun), "{request:?}");
                    client.write_all(&[*byte]).await.unwrap();
                }
                assert!(is_there(&mut begun), "{request:?}");
                client.write_all(b"body").await.unwrap();
                drop(client);
                // In pieces smaller than what was read ahead.
                let mut pieces = Vec::new();
                let mut piece = [0; 5];
                loop {
                    match begun.read(&mut piece).await.unwrap() {
                        0 => break,
                        count => pieces.extend_from_slice(&piece[..count]),
                    }
                }
                assert_eq!(pieces, [request.as_bytes(), b"body"].concat());
            });
        }
    }

    #[test]
    fn what_was_not_used_comes_first_again_and_counts() {
        run(async {
            let (_client, server) = duplex(1024);
            let begun = Begun::new(server).behind(b"\r\nrest");
            let mut begun = begun.behind(b"GET / HTTP/1.0\r\n");
            assert!(begun.something().await.unwrap());
            assert!(is_there(&mut begun));
            let mut all = [0; 22];
            begun.read_exact(&mut all).await.unwrap();
            assert_eq!(&all, b"GET / HTTP/1.0\r\n\r\nrest");
        });
    }

    #[test]
    fn a_stream_that_ends_before_the_head_does_asks_nothing_and_a_long_head_is_let_go_on() {
        run(async {
            let (mut client, server) = duplex(HEAD);
            let mut begun = Begun::new(server);
            client.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
            drop(client);
            assert!(!begun.head().await.unwrap());

            let (mut client, server) = duplex(HEAD);
            let mut begun = Begun::new(server);
            assert!(!is_there(&mut begun));
            client.write_all(&[b'a'; HEAD]).await.unwrap();
            assert!(is_there(&mut begun));
        });
    }
}
