//! Fresh node directories: made once a process, since their keys take seconds, and copied.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::thread;

use microk8s::cluster::fresh_node::{self, FreshNode};
use microk8s::store::layout::Layout;

use super::pem;

/// Every host that a lab can have: name and address.
pub const HOSTS: [(&str, &str); 3] = [
    ("n1", "10.99.0.11"),
    ("n2", "10.99.0.12"),
    ("n3", "10.99.0.13"),
];

/// The address of IPv6 that a host has in a lab with IPv6: it ends like that of IPv4.
pub fn ipv6(host: &str) -> String {
    let (_, address) = HOSTS.iter().find(|(name, _)| *name == host).unwrap();
    format!("fd99::{}", address.rsplit('.').next().unwrap())
}

/// Where the trees of this and other test processes lie.
pub fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The tree of a fresh node, laid out as `$SNAP_DATA`.
pub fn fresh(host: &str) -> PathBuf {
    static MADE: [OnceLock<()>; HOSTS.len()] = [const { OnceLock::new() }; HOSTS.len()];
    let index = HOSTS.iter().position(|(name, _)| *name == host).unwrap();
    let base = cache().join(format!("{}-{}", super::network::PREFIX, std::process::id()));
    let data = base.join(host).join("data");
    MADE[index].get_or_init(|| {
        let (name, address) = HOSTS[index];
        make(&base, name, address);
        // One scenario is about the case of the fingerprint's letters; once in 280 times it has none.
        while !has_letters(&data) {
            fs::remove_dir_all(base.join(host)).unwrap();
            make(&base, name, address);
        }
    });
    data
}

/// Whether the fingerprint that `add-node` prints, the first 12 digits, has letters in it.
fn has_letters(data: &Path) -> bool {
    let certificate = fs::read(data.join("certs/server.crt")).unwrap();
    pem::fingerprint(&certificate)[..12].contains(|digit: char| digit.is_ascii_alphabetic())
}

/// Makes the tree of a fresh node.
fn make(base: &Path, name: &str, address: &str) {
    let data = base.join(name).join("data");
    fs::create_dir_all(&data).unwrap();
    let layout = Layout::new(
        base.join(name).join("snap"),
        &data,
        base.join(name).join("common"),
    );
    fresh_node::create(
        &layout,
        &FreshNode {
            hostname: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            bind: "0.0.0.0:25000".to_owned(),
            datastore: "127.0.0.1:19001".parse().unwrap(),
        },
    )
    .unwrap();
}

/// Makes the trees of these hosts side by side, where they are not made yet.
pub fn prepare(hosts: &[&str]) {
    // Without the lock, tests that start together would each start a set of threads only to wait.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    thread::scope(|scope| {
        for host in hosts {
            scope.spawn(move || fresh(host));
        }
    });
}

/// Copies a tree with its modes, groups and links. The target must not exist.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .unwrap();
    assert!(
        status.success(),
        "cp -a {} {}",
        from.display(),
        to.display()
    );
}
