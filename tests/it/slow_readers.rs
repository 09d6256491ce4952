//! Clients that are slow to read their answers, or never do.

use std::net::SocketAddr;
use std::time::Duration;

use microk8s::client::pinned_tls::{self, Identity};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::lab::swarm::agent::StandaloneAgent;
use crate::lab::{STALL_TIMEOUT, scratch};
use crate::stopping::HAS_WAITED;

/// So many answers are more than the kernel keeps for somebody who does not read.
const QUESTIONS: usize = 20;
/// A path of so many letters comes back twice, once with five letters for each.
const PATH: usize = 60_000;
const ENDING: &[u8] = b"</a>.\n\n";

type Stream = TlsStream<TcpStream>;

/// Asks for more than it takes, with this header in the last question.
async fn ask(
    agent: SocketAddr,
    header: &'static str,
) -> (ReadHalf<Stream>, JoinHandle<WriteHalf<Stream>>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let tcp = socket.connect(agent).await.unwrap();
    let tls = TlsConnector::from(pinned_tls::config(Identity::default()).unwrap());
    let name = ServerName::IpAddress(agent.ip().into());
    let (read, mut write) = split(tls.connect(name, tcp).await.unwrap());
    let asking = tokio::spawn(async move {
        let path = "&".repeat(PATH);
        for number in 1..=QUESTIONS {
            let header = if number == QUESTIONS { header } else { "" };
            let question = format!("GET //{path} HTTP/1.1\r\nHost: agent\r\n{header}\r\n");
            // Nobody takes it from one who does not read.
            let _ = write.write_all(question.as_bytes()).await;
            let _ = write.flush().await;
        }
        write
    });
    (read, asking)
}

/// Longer than a connection is taken to be at work when its answer is out.
#[expect(
    clippy::disallowed_methods,
    reason = "to be slow is what is tried here"
)]
async fn be_slow() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

fn count(bytes: &[u8], what: &[u8]) -> usize {
    bytes
        .windows(what.len())
        .filter(|part| *part == what)
        .count()
}

#[test]
fn who_is_slow_to_read_gets_all_of_the_answers() {
    let agent = StandaloneAgent::start(&scratch());
    for header in ["Connection: close\r\n", ""] {
        let (answers, ended) = block_on(async {
            let (mut read, asking) = ask(agent.endpoint(), header).await;
            be_slow().await;
            let (mut answers, mut ended, mut found) = (Vec::new(), false, 0);
            let reading = async {
                while found < QUESTIONS {
                    let looked_at = answers.len().saturating_sub(ENDING.len() - 1);
                    ended = read.read_buf(&mut answers).await.unwrap() == 0;
                    found += count(&answers[looked_at..], ENDING);
                    assert!(!ended, "after {found} answers");
                }
            };
            timeout(STALL_TIMEOUT, reading).await.unwrap();
            let mut write = asking.await.unwrap();
            let mut last = [0; 12];
            if header.is_empty() {
                let again = b"GET /health HTTP/1.1\r\nHost: agent\r\n\r\n";
                write.write_all(again).await.unwrap();
                write.flush().await.unwrap();
                let answered = timeout(STALL_TIMEOUT, read.read_exact(&mut last)).await;
                answered.expect("nobody answers any more").unwrap();
                assert_eq!(&last, b"HTTP/1.1 200");
            } else {
                let closed = timeout(STALL_TIMEOUT, read.read(&mut last)).await;
                ended = closed.expect("it is not closed").unwrap() == 0;
            }
            (answers, ended)
        });
        assert_eq!(ended, !header.is_empty());
        assert_eq!(count(&answers, b"HTTP/1.1 301 "), QUESTIONS);
    }
}

#[test]
fn who_never_reads_does_not_delay_the_end_of_the_agent() {
    let mut agent = StandaloneAgent::start(&scratch());
    block_on(async {
        let mut open = Vec::new();
        for header in ["", "Connection: close\r\n"] {
            open.push(ask(agent.endpoint(), header).await);
        }
        be_slow().await;
        // Whoever can be answered is, meanwhile.
        let (mut read, _asking) = ask(agent.endpoint(), "").await;
        read.read_exact(&mut [0; 12]).await.unwrap();
        agent.terminate();
        assert!(!agent.log().contains(HAS_WAITED), "{}", agent.log());
    });
}
