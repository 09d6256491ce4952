//! The body of a request as something to read on another thread, piece by piece.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

/// How many pieces may wait for the reader; the client waits when there are more.
const WAITING: usize = 4;

/// What is left of a body, for a thread that may block.
pub struct BodyReader {
    pieces: Receiver<io::Result<Bytes>>,
    piece: Bytes,
    has_ended: bool,
    count: u64,
}

impl BodyReader {
    /// How many bytes were read.
    pub const fn count(&self) -> u64 {
        self.count
    }
}

/// Moves a body to its reader.
pub struct Pump<'a> {
    body: &'a mut Body,
    idle: Duration,
    pieces: Sender<io::Result<Bytes>>,
}

/// The two ends of a body that may stand still for `idle`.
pub fn channel(body: &mut Body, idle: Duration) -> (BodyReader, Pump<'_>) {
    let (sender, receiver) = bounded(WAITING);
    let reader = BodyReader {
        pieces: receiver,
        piece: Bytes::new(),
        has_ended: false,
        count: 0,
    };
    let pump = Pump {
        body,
        idle,
        pieces: sender,
    };
    (reader, pump)
}

impl Pump<'_> {
    /// Moves the body until the work on it is done.
    pub async fn until<T>(self, mut work: JoinHandle<T>) -> Result<T, JoinError> {
        tokio::select! {
            done = &mut work => return done,
            () = self.run() => {}
        }
        work.await
    }

    async fn run(self) {
        loop {
            let piece = match timeout(self.idle, self.body.frame()).await {
                // An empty piece is the end.
                Ok(None) => Ok(Bytes::new()),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) => Ok(data),
                    Err(_trailers) => continue,
                },
                Ok(Some(Err(error))) => Err(io::Error::other(format!(
                    "the image did not come to its end: {error}"
                ))),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("nothing came for {} seconds", self.idle.as_secs()),
                )),
            };
            let is_last = !piece.as_ref().is_ok_and(|data| !data.is_empty());
            if self.pieces.send(piece).await.is_err() || is_last {
                return;
            }
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.has_ended {
            self.piece = match self.pieces.blocking_recv() {
                Some(piece) => piece?,
                // The request was dropped: its connection is gone, or the agent stops.
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the image did not come to its end",
                    ));
                }
            };
            self.has_ended = self.piece.is_empty();
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        self.count += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of some pieces that then ends, or does not.
    struct Pieces {
        left: Vec<&'static [u8]>,
        ends: bool,
    }

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.pop() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn read(body: Pieces) -> (io::Result<Vec<u8>>, u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut body = Body::new(body);
            let (mut reader, pump) = channel(&mut body, Duration::from_millis(20));
            let work = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                let done = reader.read_to_end(&mut all).map(|_| all);
                (done, reader.count())
            });
            pump.until(work).await.unwrap()
        })
    }

    #[test]
    fn a_body_is_read_to_its_end() {
        let left = vec![b"d", &b""[..], b"c", b"b", b"a", b"xyz"];
        let (all, count) = read(Pieces { left, ends: true });
        assert_eq!((all.unwrap().as_slice(), count), (&b"xyzabcd"[..], 7));
    }

    #[test]
    fn a_body_that_stands_still_has_not_ended() {
        let left = vec![&b"a"[..]];
        let (all, count) = read(Pieces { left, ends: false });
        assert_eq!(all.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(count, 1);
    }

    #[test]
    fn a_body_whose_request_is_gone_has_not_ended() {
        let mut body = Body::empty();
        let (mut reader, pump) = channel(&mut body, Duration::from_secs(1));
        drop(pump);
        let error = reader.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
