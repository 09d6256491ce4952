//! The API server proxy in front of three real API servers.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use microk8s::base::wait;

use crate::apiserver_proxy::lab::list;
use crate::lab::agent::Agent;
use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::{Host, Lab, STALL_TIMEOUT, network};

/// Where the proxy listens, beside the API server of its host.
const PROXY: &str = "127.0.0.1:6443";
const LIST: &str = "args/traefik/provider.yaml";

fn until<T>(limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait::until(limit, Duration::from_millis(20), look).expect("it does not happen")
}

/// Writes the list as a join does: at once or not at all.
fn write_list(host: &Host, servers: &[&str]) {
    let new = format!("{LIST}.new");
    host.write(&new, &list(servers), 0o640);
    fs::rename(host.path(&new), host.path(LIST)).unwrap();
}

fn start(host: &Host, words: &[&str]) -> Agent {
    let configuration = host.read("args/traefik/traefik-template.yaml");
    let configuration = configuration.replace(":16443", PROXY);
    host.write("args/traefik/traefik.yaml", &configuration, 0o644);
    let kubeconfig = host.read("credentials/kubelet.config");
    let kubeconfig = kubeconfig.replace("127.0.0.1:16443", PROXY);
    host.write("credentials/proxied.config", &kubeconfig, 0o600);
    let kubeconfig = host.path("credentials/proxied.config");
    let fixed = ["microk8s", "apiserver-proxy", "--kubeconfig"];
    let words = [&fixed[..], &[kubeconfig.to_str().unwrap()], words].concat();
    let proxy = Agent::of(&mut host.command(&words));
    proxy.wait_for("listening on");
    proxy
}

#[test]
fn a_watch_goes_on_while_the_list_changes_and_another_api_server_dies_and_one_that_is_back_is_used()
{
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    for host in [n2, n3] {
        host.shell(&n1.join_line()).ok();
        kubernetes.add(host);
    }

    // What Kubernetes lists is written into the file, which stays as private as it was.
    write_list(n1, &["10.99.0.11:16443"]);
    let proxy = start(n1, &["--refresh-interval", "1s"]);
    until(STALL_TIMEOUT, || {
        let list = n1.read(LIST);
        ["11", "12", "13"]
            .iter()
            .all(|last| list.contains(&format!("- address: 10.99.0.{last}:16443\n")))
            .then_some(())
    });
    let mode = fs::metadata(n1.path(LIST)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(!proxy.log().contains("is not refreshed"), "{}", proxy.log());
    drop(proxy);

    write_list(n1, &["10.99.0.12:16443"]);
    let proxy = start(n1, &["--refresh-interval", "0"]);
    let server = format!("--server=https://{PROXY}");
    let admin = n1.path("credentials/client.config");
    let kubectl = [
        "/usr/bin/kubectl",
        "--kubeconfig",
        admin.to_str().unwrap(),
        &server,
    ];
    let asks = |words: &[&str]| n1.run(&[&kubectl[..], words].concat());
    let watch = ["get", "configmaps", "--watch", "-o", "name"];
    let mut watch = n1
        .command(&[&kubectl[..], &watch].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (seen, sees) = mpsc::channel();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .for_each(|line| drop(seen.send(line)));
    });
    let sees_new = |name: &str| {
        asks(&["create", "configmap", name]).ok();
        let wanted = format!("configmap/{name}");
        let mut lines = Vec::new();
        while lines.last() != Some(&wanted) {
            lines.push(sees.recv_timeout(STALL_TIMEOUT).unwrap_or_else(|_| {
                panic!(
                    "the watch has seen no {name}, but {lines:?}\n{}",
                    proxy.log()
                )
            }));
        }
    };
    sees_new("before");
    // The one that the watch goes to is in the list no more.
    write_list(n1, &["10.99.0.11:16443", "10.99.0.13:16443"]);
    proxy.wait_for("the API servers are 10.99.0.11:16443, 10.99.0.13:16443");
    sees_new("other-list");

    let thousand: Vec<TcpStream> = network::inside(n1.namespace(), || {
        let open = || TcpStream::connect(PROXY).unwrap();
        (0..1000).map(|_| open()).collect()
    });
    asks(&["get", "nodes"]).ok();
    kubernetes.end(n3);
    sees_new("one-died");
    let began = Instant::now();
    (0..5).for_each(|_| drop(asks(&["get", "namespaces"]).ok()));
    assert!(began.elapsed() < STALL_TIMEOUT);
    // As long as both have as many connections, either may be tried first.
    until(STALL_TIMEOUT, || {
        let text = "the API server at 10.99.0.13:16443 does not answer";
        asks(&["get", "namespaces"]).ok();
        proxy.log().contains(text).then_some(())
    });
    // Those that went to the one that died have ended, and only those.
    let is_open = |connection: &TcpStream| {
        connection.set_nonblocking(true).unwrap();
        let mut connection = connection;
        connection
            .read(&mut [0])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let open = thousand
        .iter()
        .filter(|connection| is_open(connection))
        .count();
    assert!((400..600).contains(&open), "{open}");
    drop(thousand);

    kubernetes.add(n3);
    let back = Instant::now();
    proxy.wait_for("the API server at 10.99.0.13:16443 answers again");
    assert!(
        back.elapsed() < Duration::from_secs(10),
        "{:?}",
        back.elapsed()
    );
    kubernetes.end(n1);
    sees_new("the-other-one-died");
    watch.kill().unwrap();
    watch.wait().unwrap();
}
