//! The API server proxy between clients and servers that are simple and exact: what passes through it,
//! which server a connection goes to, and how it starts and ends.

pub mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use microk8s::base::wait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};

use crate::lab::Output;
use crate::lab::agent::Agent;
use crate::stopping::HAS_WAITED;

use lab::{Proxy, STALL_TIMEOUT, Server, list, until};

/// For how long nothing happens before a test takes it that nothing will.
const SOON: Duration = Duration::from_secs(1);
/// How long an API server may take to answer before another one is tried.
const PATIENCE: Duration = Duration::from_millis(500);
/// Less than the ten seconds that a connection to a silent API server may take.
const ONE_ANSWER: Duration = Duration::from_secs(8);
/// Within this time an API server that is back must be used: it is tried every second, and machines that
/// run tests are busy.
const BACK: Duration = Duration::from_secs(8);

#[test]
fn a_side_that_has_said_all_still_hears_the_other_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&[&listener.local_addr().unwrap().to_string()]);
    let hears_all = |from: &mut TcpStream, to: &mut TcpStream| {
        from.write_all(b"question").unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        to.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "question");
        // The other direction is open for as long as it takes.
        for word in ["a", "long", "answer"] {
            to.write_all(word.as_bytes()).unwrap();
            let mut heard = vec![0; word.len()];
            from.read_exact(&mut heard).unwrap();
            assert_eq!(heard, word.as_bytes());
        }
        to.shutdown(Shutdown::Write).unwrap();
        assert_eq!(from.read(&mut [0]).unwrap(), 0);
    };
    let mut client = proxy.connect();
    let (mut server, _) = listener.accept().unwrap();
    hears_all(&mut client, &mut server);
    let mut client = proxy.connect();
    let (mut server, _) = listener.accept().unwrap();
    hears_all(&mut server, &mut client);
}

#[test]
fn a_side_that_is_reset_resets_the_other_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&[&listener.local_addr().unwrap().to_string()]);
    let reset = |side: TcpStream| {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        socket::setsockopt(&side, socket::sockopt::Linger, &linger).unwrap();
    };
    let is_reset = |mut side: TcpStream| side.read(&mut [0]).unwrap_err().kind();
    let client = proxy.connect();
    let (server, _) = listener.accept().unwrap();
    reset(server);
    assert_eq!(is_reset(client), ErrorKind::ConnectionReset);
    let client = proxy.connect();
    let (server, _) = listener.accept().unwrap();
    reset(client);
    assert_eq!(is_reset(server), ErrorKind::ConnectionReset);
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_gets_every_byte_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&[&listener.local_addr().unwrap().to_string()]);
    let mut client = proxy.connect();
    let (mut server, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    let block: Vec<u8> = (0..=250).cycle().take(251 << 10).collect();
    let mut sent = 0;
    // Nothing moves any more for as long as nothing is read.
    let mut last_move = Instant::now();
    while last_move.elapsed() < SOON {
        match client.write(&block[sent % block.len()..]) {
            Ok(count) => {
                sent += count;
                last_move = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent < 256 << 20, "the writer is not held back");
        wait::between_looks(Duration::from_millis(1));
    }
    assert!(proxy.memory() < 64 << 10, "{} KiB", proxy.memory());
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), sent);
    let mut expected = block.iter().cycle();
    assert!(heard.iter().all(|byte| Some(byte) == expected.next()));
}

#[test]
fn an_api_server_that_refuses_or_is_silent_is_left_out_and_used_again_when_it_is_back() {
    let well = Server::start("127.88.1.1:0", "well");
    let refusing = Server::start("127.88.1.2:0", "back");
    let refused = refusing.address().to_owned();
    refusing.stop();
    // The kernel leaves requests for more connections than these without an answer.
    let silent = listen_with_a_full_queue("127.88.1.3");
    let silent_at = silent.0.local_addr().unwrap().to_string();
    let proxy = Proxy::start(&[well.address(), &refused, &silent_at]);
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(proxy.name(), "well");
        assert!(began.elapsed() < ONE_ANSWER, "{:?}", began.elapsed());
    }
    proxy.wait_for(&format!(
        "the API server at {refused} does not answer: Connection refused"
    ));
    proxy.wait_for(&format!(
        "the API server at {silent_at} does not answer: timed out"
    ));
    // With half a second for the silent one in every third they would take longer.
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(proxy.name(), "well");
    }
    assert!(
        began.elapsed() < 100 * PATIENCE / 3,
        "no connection waits for the others"
    );
    assert_eq!(
        proxy.log().matches("does not answer").count(),
        2,
        "said once"
    );

    let back = Server::start(&refused, "back");
    until(BACK, || (proxy.name() == "back").then_some(()));
    let (listener, waiting) = silent;
    drop(waiting);
    socket::listen(&listener, Backlog::new(128).unwrap()).unwrap();
    let awake = Server::of(listener, "awake");
    until(BACK, || (proxy.name() == "awake").then_some(()));
    // All of them are gone: a client is told at once, and the proxy goes on.
    for server in [well, back, awake] {
        server.stop();
    }
    let error = proxy.connect().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let _back = Server::start(&refused, "back");
    until(BACK, || (proxy.try_name()? == "back").then_some(()));
}

/// A listener that accepts nothing, and what waits there.
fn listen_with_a_full_queue(address: &str) -> (TcpListener, Vec<TcpStream>) {
    let listener = socket::socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let address: std::net::SocketAddrV4 = format!("{address}:0").parse().unwrap();
    socket::bind(
        std::os::fd::AsRawFd::as_raw_fd(&listener),
        &SockaddrIn::from(address),
    )
    .unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let listener = TcpListener::from(listener);
    let at = listener.local_addr().unwrap();
    let attempts = (0..2).map(|_| TcpStream::connect_timeout(&at, Duration::from_millis(200)));
    let waiting = attempts.flatten().collect();
    (listener, waiting)
}

#[test]
fn connections_go_on_when_the_list_changes_and_new_ones_go_where_it_says() {
    let (old, new) = (
        Server::start("127.88.2.1:0", "old"),
        Server::start("127.88.2.2:0", "new"),
    );
    let proxy = Proxy::start(&[old.address()]);
    let (mut connection, name) = proxy.open();
    assert_eq!(name, "old");
    let mut goes_on = || {
        connection.write_all(b"still here").unwrap();
        let mut heard = [0; 10];
        connection.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
    };
    proxy.write_list(&list(&[new.address()]));
    until(STALL_TIMEOUT, || (proxy.name() == "new").then_some(()));
    goes_on();
    // A list that is of no use is no list.
    for useless in ["", "tcp: [", &list(&[])] {
        let lines = proxy
            .log()
            .matches("the API servers stay as they are")
            .count();
        proxy.write_list(useless);
        until(STALL_TIMEOUT, || {
            let said = proxy
                .log()
                .matches("the API servers stay as they are")
                .count();
            (said > lines).then_some(())
        });
        assert_eq!(proxy.name(), "new", "{useless}");
    }
    proxy.remove_list();
    proxy.wait_for("No such file");
    assert_eq!(proxy.name(), "new");
    proxy.write_list(&list(&[old.address()]));
    until(STALL_TIMEOUT, || (proxy.name() == "old").then_some(()));
    goes_on();
}

#[test]
fn a_thousand_connections_at_once_are_spread_evenly() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let servers = [1, 2, 3].map(|number| {
        let (address, name) = (format!("127.88.3.{number}:0"), format!("s{number}"));
        Server::start(&address, &name)
    });
    let addresses: Vec<&str> = servers.iter().map(Server::address).collect();
    let proxy = Proxy::start(&addresses);
    let open: Vec<TcpStream> = (0..1000).map(|_| proxy.connect()).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for connection in &open {
        *counts.entry(lab::name(connection).unwrap()).or_default() += 1;
    }
    // A server that is slow to accept on a busy machine is left out for a second, perhaps the last one.
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(
        counts.values().all(|count| (100..600).contains(count)),
        "{counts:?}"
    );
    for mut connection in &open {
        connection.write_all(b"x").unwrap();
    }
    for mut connection in &open {
        connection.read_exact(&mut [0]).unwrap();
    }
}

/// A client waits in the kernel until there is room, and nothing is refused.
#[test]
fn connections_that_are_too_many_wait_and_a_lack_of_files_keeps_no_processor_busy() {
    let server = Server::start("127.88.4.1:0", "s");
    let limits = |command: &mut std::process::Command| {
        let limit = || Ok(setrlimit(Resource::RLIMIT_NOFILE, 76, 76)?);
        #[expect(
            unsafe_code,
            reason = "what runs between fork and exec is one system call"
        )]
        unsafe {
            command.pre_exec(limit)
        };
    };
    let proxy = Proxy::start_with(&[server.address()], "127.0.0.1:0", limits);
    let (first, _) = proxy.open();
    let rest: Vec<TcpStream> = (0..3).map(|_| proxy.open().0).collect();
    let waiting = proxy.connect();
    waiting
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert_eq!(lab::name(&waiting), None, "four have the files");
    proxy.wait_for("4 connections are open: further ones wait");
    drop(first);
    waiting.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    assert_eq!(lab::name(&waiting).as_deref(), Some("s"));
    drop((waiting, rest));
    until(STALL_TIMEOUT, || (server.connections() == 0).then_some(()));

    // Fewer files than it has open.
    proxy.limit_files(5);
    let began = Instant::now();
    let late = proxy.connect();
    proxy.wait_for("cannot accept a connection");
    late.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(lab::name(&late), None);
    let tries = proxy.log().matches("cannot accept a connection").count();
    let most = began.elapsed().as_millis() / 50 + 2;
    assert!(tries as u128 <= most, "{tries} tries, more than {most}");
    proxy.limit_files(76);
    late.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    assert_eq!(lab::name(&late).as_deref(), Some("s"));
}

#[test]
fn it_listens_and_connects_over_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return crate::lab::skip("this machine has no IPv6");
    }
    let server = Server::start("[::1]:0", "six");
    let only = Proxy::start_with(&[server.address()], "[::1]:0", |_| {});
    assert_eq!(only.name(), "six");
    // As in MicroK8s, no address means all, of both kinds.
    let all = Proxy::start_with(&[server.address()], ":0", |_| {});
    for address in ["127.0.0.1", "[::1]"] {
        let connection = TcpStream::connect(format!("{address}:{}", all.port())).unwrap();
        assert_eq!(lab::name(&connection).as_deref(), Some("six"), "{address}");
    }
}

#[test]
fn an_address_that_leads_back_to_the_proxy_is_left_out() {
    let server = Server::start("127.88.5.1:0", "s");
    let proxy = Proxy::start_with(&[server.address()], ":0", |_| {});
    let itself = format!("127.0.0.1:{}", proxy.port());
    proxy.write_list(&list(&[&itself]));
    proxy.wait_for(&format!("the API servers are {itself}"));
    let error = proxy.connect().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    proxy.wait_for("it is this proxy itself");
    proxy.write_list(&list(&[&itself, server.address()]));
    until(STALL_TIMEOUT, || (proxy.try_name()? == "s").then_some(()));
}

#[test]
fn open_connections_may_finish_after_sigterm_but_none_begins_and_the_service_manager_hears_of_it() {
    let manager_at = format!("microk8s-it-proxy-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&manager_at).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    let hears = |beginning: &str| {
        let mut message = [0; 256];
        until(STALL_TIMEOUT, || {
            let length = manager.recv(&mut message).unwrap();
            message[..length]
                .starts_with(beginning.as_bytes())
                .then_some(())
        });
    };
    let server = Server::start("127.88.6.1:0", "s");
    let proxy = Proxy::start_with(&[server.address()], "127.0.0.1:0", |command| {
        command
            .env("NOTIFY_SOCKET", format!("@{manager_at}"))
            .env("WATCHDOG_USEC", "200000");
    });
    hears("READY=1\nSTATUS=listening on 127.0.0.1:");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    let (mut connection, _) = proxy.open();
    proxy.signal(Signal::SIGTERM);
    hears("STOPPING=1");
    until(STALL_TIMEOUT, || proxy.try_connect().is_err().then_some(()));
    connection.write_all(b"x").unwrap();
    connection.read_exact(&mut [0]).unwrap();
    drop(connection);
    let (status, log) = proxy.ends();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains(HAS_WAITED), "it ends with the last: {log}");
}

#[test]
fn a_connection_that_does_not_end_is_waited_for_no_longer_than_some_seconds() {
    let server = Server::start("127.88.7.1:0", "s");
    let proxy = Proxy::start(&[server.address()]);
    let (mut connection, _) = proxy.open();
    proxy.signal(Signal::SIGTERM);
    let (status, log) = proxy.ends();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains(HAS_WAITED), "{log}");
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    // Who cannot wait says so twice.
    let proxy = Proxy::start(&[server.address()]);
    let (_connection, _) = proxy.open();
    proxy.signal(Signal::SIGTERM);
    proxy.wait_for("stopping");
    proxy.signal(Signal::SIGTERM);
    let (_, log) = proxy.ends();
    assert!(!log.contains(HAS_WAITED), "{log}");
}

#[test]
fn what_is_wrong_with_the_configuration_is_named_with_what_to_do() {
    let server = Server::start("127.88.8.1:0", "s");
    let folder = lab::folder(&[server.address()], server.address());
    let fails = |status: i32, words: &[&str], error: &[&str]| {
        let output = Output::of_command(lab::command(&folder).args(words), b"");
        assert_eq!(output.code, Some(status), "{output:?}");
        assert!(
            error.iter().all(|text| output.stderr.contains(text)),
            "{error:?}: {output:?}"
        );
        output.stderr
    };
    // Its own address is taken.
    let said = fails(
        1,
        &[],
        &[
            "cannot listen on 127.88.8.1:",
            "Address already in use",
            "hint: ",
        ],
    );
    assert!(said.contains("another proxy runs here"), "{said}");
    let traefik = folder.path().join("args/traefik");
    let broken = traefik.join("broken.yaml");
    let named = broken.to_str().unwrap();
    let given = ["--traefik-config", named];
    fails(1, &given, &[&format!("cannot read `{named}`"), "hint: "]);
    for (text, lacks) in [
        ("", "entryPoints.apiserver.address"),
        ("entryPoints: [", "entryPoints.apiserver.address"),
        (
            "entryPoints: {apiserver: {address: here}}",
            "entryPoints.apiserver.address",
        ),
        (
            "entryPoints: {apiserver: {address: ':0'}}",
            "providers.file.filename",
        ),
    ] {
        fs::write(&broken, text).unwrap();
        fails(1, &given, &[named, lacks, "hint: "]);
    }
    let listed = folder.path().join("args/traefik/provider.yaml");
    let listed = listed.to_str().unwrap();
    let configuration = format!(
        "entryPoints: {{apiserver: {{address: '127.0.0.1:0'}}}}\nproviders: {{file: {{filename: '{listed}'}}}}\n"
    );
    fs::write(&broken, configuration).unwrap();
    for text in [list(&[]), "tcp: [".to_owned(), String::new()] {
        fs::write(listed, text).unwrap();
        fails(1, &given, &["no API server is known", listed, "hint: "]);
    }
    fs::remove_file(listed).unwrap();
    fails(1, &given, &[listed, "No such file", "hint: "]);
    fails(2, &["--refresh-interval", "soon"], &["--refresh-interval"]);
    let arguments = folder.path().join("args/apiserver-proxy");
    fs::write(&arguments, "--refresh-interval never\n").unwrap();
    let output = Output::of_command(lab::bare_command(&folder).arg("apiserver-proxy"), b"");
    let said = format!("`{}`: invalid value 'never'", arguments.display());
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains(&said), "{output:?}");
}

#[test]
fn it_starts_by_every_name_and_spelling_of_microk8s_and_warns_of_what_it_does_not_know() {
    let server = Server::start("127.88.9.1:0", "s");
    let folder = lab::folder(&[server.address()], "127.0.0.1:0");
    let other = folder.path().join("other.yaml");
    fs::copy(folder.path().join("args/traefik/traefik.yaml"), &other).unwrap();
    let other = other.to_str().unwrap();
    let as_cluster_agent = |command: &mut std::process::Command| {
        command.arg0("/snap/microk8s/current/bin/cluster-agent");
    };
    let nothing = |_: &mut std::process::Command| {};
    type Name = fn(&mut std::process::Command);
    let names: [(&[&str], Name); 3] = [
        (&["apiserver-proxy"], nothing),
        (&["cluster-agent", "apiserver-proxy"], nothing),
        (&["apiserver-proxy"], as_cluster_agent),
    ];
    for (words, name) in names {
        let mut command = lab::bare_command(&folder);
        name(&mut command);
        command.args(words).args([
            &format!("-traefik-config={other}"),
            "--refresh-interval",
            "0",
            "-v=4",
            "--kubeconfig",
            "/nowhere",
        ]);
        let proxy = Agent::of(&mut command);
        proxy.wait_for("listening on");
        assert_eq!(proxy.log().matches("WARN").count(), 1, "{}", proxy.log());
        assert!(
            proxy.log().contains("`--v` is not an option"),
            "{}",
            proxy.log()
        );
    }
    // Without arguments it has those that MicroK8s keeps for it. The file that they name is made by a
    // start script of MicroK8s, from a template.
    let traefik = folder.path().join("args/traefik");
    fs::rename(
        traefik.join("traefik.yaml"),
        traefik.join("traefik-template.yaml"),
    )
    .unwrap();
    fs::write(
        folder.path().join("args/apiserver-proxy"),
        "--traefik-config ${SNAP_DATA}/args/traefik/traefik.yaml\n--kubeconfig ${SNAP_DATA}/nowhere\n--refresh-interval 30s\n",
    )
    .unwrap();
    let proxy = Agent::of(lab::bare_command(&folder).arg("apiserver-proxy"));
    proxy.wait_for("listening on");
    let kubeconfig = folder.path().join("nowhere");
    proxy.wait_for(&format!(
        "is not refreshed: cannot use `{}`",
        kubeconfig.display()
    ));
}
