//! Stand-ins for what surrounds the node: the service manager, kubectl and the dqlite shell.
//!
//! Each writes its call to `calls.log`, in the form of the recordings, and answers as the files
//! beside that log tell it to. Starting or restarting `k8s-dqlite` does to the datastore's files
//! what the recordings show: `init.yaml` and `update.yaml` become `cluster.yaml` and `info.yaml`.
//! The scripts are in `standins/`, each to be put behind the same head.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The stand-ins of one host.
pub struct StandIns {
    directory: PathBuf,
    data: PathBuf,
}

/// What became of a service that somebody started, stopped or restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    Stopped,
    /// With the files that the node has now.
    Fresh,
    /// With files that have changed since.
    Stale,
}

/// The head of every stand-in: where its files are, and how a call is written down. The umask is
/// set because a caller with a tight one must not change the modes of what the datastore writes.
const HEAD: &str = include_str!("standins/head.sh");

const SNAPCTL: &str = include_str!("standins/snapctl.sh");

/// What tells the files that a service runs with from any others.
const FILES: &str = "find $data/args $data/certs $data/credentials $data/var/kubernetes/backend \\
    -type f -exec cksum {} + | sort | cksum";

const KUBECTL: &str = include_str!("standins/kubectl.sh");

const KUBECTL_PATH: &str = "microk8s-kubectl.wrapper";

/// Members that were removed stand in a file of their own: as in the recordings, `cluster.yaml` of
/// the node that asks stays as it is.
const DQLITE: &str = include_str!("standins/dqlite.sh");

/// The real dqlite shell.
const REAL_DQLITE: &str = include_str!("standins/real_dqlite.sh");

/// A service manager whose datastore runs.
const REAL_SNAPCTL: &str = include_str!("standins/real_snapctl.sh");

/// Enables and disables add-ons.
const SWITCH: &str = include_str!("standins/switch.sh");

/// The container runtime's client: what it is fed goes into a file, and its end is written down.
const CTR: &str = include_str!("standins/ctr.sh");

impl StandIns {
    /// Writes the stand-ins to where the snap and the `PATH` of a host have the programs.
    pub fn install(directory: &Path, snap: &Path, snap_data: &Path) -> Self {
        fs::create_dir_all(directory.join("bin")).unwrap();
        fs::create_dir_all(directory.join("nodes")).unwrap();
        fs::create_dir_all(snap.join("bin")).unwrap();
        let stand_ins = Self {
            directory: directory.to_owned(),
            data: snap_data.to_owned(),
        };
        let snapctl = SNAPCTL.replace("{files}", FILES);
        for (path, body) in [
            (directory.join("bin/snapctl"), snapctl.as_str()),
            (snap.join(KUBECTL_PATH), KUBECTL),
            (snap.join("bin/dqlite"), DQLITE),
            (snap.join("microk8s-enable.wrapper"), SWITCH),
            (snap.join("microk8s-disable.wrapper"), SWITCH),
        ] {
            stand_ins.write(&path, body);
        }
        stand_ins.api_servers(&[]);
        stand_ins.forget_calls();
        stand_ins
    }

    /// From now on there is a container runtime.
    pub fn install_ctr(&self, snap: &Path, snap_common: &Path) {
        let head = HEAD
            .replace("{here}", self.directory.to_str().unwrap())
            .replace("{data}", snap_common.to_str().unwrap())
            .replace("SNAP_DATA", "SNAP_COMMON");
        let path = snap.join("bin/ctr");
        fs::write(&path, format!("{head}{CTR}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// From now on there is a systemd, with this unit. Whoever asks for its main process is that, or
    /// is not.
    pub fn install_systemctl(&self, unit: &str, is_main: bool) {
        let main = if is_main { "$PPID" } else { "1" };
        let path = self.bin().join("systemctl");
        let units = format!("MainPID=0\\nId=other.service\\n\\nMainPID=%s\\nId={unit}\\n");
        let body =
            format!("log \"systemctl $*\"\n[ \"$1\" != show ] || printf '{units}' \"{main}\"\n");
        self.write(&path, &body);
    }

    /// From now on kubectl is a real one: these words, and then those of the call.
    pub fn real_kubectl(&self, snap: &Path, words: &[String]) {
        let body = format!("log \"kubectl $*\"\nexec {} \"$@\"\n", words.join(" "));
        self.write(&snap.join(KUBECTL_PATH), &body);
    }

    /// Ends [`StandIns::real_kubectl`].
    pub fn stand_in_for_kubectl(&self, snap: &Path) {
        self.write(&snap.join(KUBECTL_PATH), KUBECTL);
    }

    /// From now on the dqlite shell is a real one, and `snapctl` writes what is done to the
    /// datastore's service to the first of these pipes. It reads the answer from the second.
    pub fn real_datastore(&self, snap: &Path) -> [PathBuf; 2] {
        self.write(&snap.join("bin/dqlite"), REAL_DQLITE);
        self.write(&self.bin().join("snapctl"), REAL_SNAPCTL);
        ["orders", "answers"].map(|name| self.directory.join(name))
    }

    /// Writes a program, behind the head that all have.
    fn write(&self, path: &Path, body: &str) {
        let head = HEAD
            .replace("{here}", self.directory.to_str().unwrap())
            .replace("{data}", self.data.to_str().unwrap());
        fs::write(path, head + body).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// From now on the container runtime takes no image, and says so before it has read all of one.
    pub fn fail_ctr(&self) {
        fs::write(self.directory.join("ctr-fails"), "").unwrap();
    }

    /// The SHA-256 of the image that the container runtime has last read to its end.
    pub fn imported(&self) -> Option<String> {
        let text = fs::read_to_string(self.directory.join("ctr.sha256")).ok()?;
        Some(text.trim().to_owned())
    }

    /// The process of the container runtime's client that was last started.
    pub fn ctr_process(&self) -> Option<i32> {
        let text = fs::read_to_string(self.directory.join("ctr.pid")).ok()?;
        text.trim().parse().ok()
    }

    /// From now on this add-on cannot be enabled.
    pub fn fail_addon(&self, addon: &str) {
        fs::write(self.directory.join(format!("fail-addon-{addon}")), "").unwrap();
    }

    /// The directory that goes first on the `PATH`.
    pub fn bin(&self) -> PathBuf {
        self.directory.join("bin")
    }

    /// The calls so far, in order.
    pub fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("calls.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// Starts the log anew.
    pub fn forget_calls(&self) {
        fs::write(self.directory.join("calls.log"), "").unwrap();
    }

    /// From now on it is kept which services run, and with which files; none is known yet.
    pub fn watch_services(&self) {
        let folder = self.directory.join("services");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(folder).unwrap();
    }

    /// The services that were touched since they are watched.
    pub fn services(&self) -> BTreeMap<String, Running> {
        let script = format!("data=$0; {FILES}");
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(&self.data)
            .output()
            .unwrap();
        let state = |path: PathBuf| match fs::read(path).unwrap() {
            text if text == b"stopped\n" => Running::Stopped,
            text if text == output.stdout => Running::Fresh,
            _ => Running::Stale,
        };
        fs::read_dir(self.directory.join("services"))
            .unwrap()
            .flatten()
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, state(entry.path()))
            })
            .collect()
    }

    /// From now on `snapctl <action> <service>` fails.
    pub fn fail_service(&self, action: &str, service: &str) {
        fs::write(self.directory.join(format!("fail-{action}-{service}")), "").unwrap();
    }

    /// From now on `snapctl <action> <service>` is the last thing that its caller does.
    pub fn kill_caller(&self, action: &str, service: &str) {
        fs::write(self.directory.join(format!("fatal-{action}-{service}")), "").unwrap();
    }

    /// From now on `snapctl services <service>` says that the service is in this state; it says
    /// nothing of others.
    pub fn service_is(&self, service: &str, state: &str) {
        fs::write(self.directory.join(format!("state-{service}")), state).unwrap();
    }

    /// The states that `snapctl services <service>` gives one after the other, the last of them from
    /// then on. At `fails` it fails.
    pub fn service_is_in_turn(&self, service: &str, states: &[&str]) {
        let text = format!("{}\n", states.join("\n"));
        fs::write(self.directory.join(format!("states-{service}")), text).unwrap();
    }

    /// At the next `snapctl <action> <service>` its caller is asked to end.
    pub fn ask_caller_to_end(&self, action: &str, service: &str) {
        fs::write(self.directory.join(format!("term-{action}-{service}")), "").unwrap();
    }

    /// The next `snapctl <action> <service>` runs this line of shell first, with `$data` for the node
    /// directory.
    pub fn on_service(&self, action: &str, service: &str, line: &str) {
        let path = self.directory.join(format!("on-{action}-{service}"));
        fs::write(path, format!("{line}\n")).unwrap();
    }

    /// `snapctl <action> <service>` does not end before [`StandIns::let_go`].
    pub fn hold(&self, action: &str, service: &str) {
        fs::write(self.directory.join(format!("hold-{action}-{service}")), "").unwrap();
    }

    /// The environment of the call that is held, once there is one.
    pub fn held(&self) -> Option<String> {
        fs::read_to_string(self.directory.join("held"))
            .ok()
            .filter(|text| text.ends_with('\n'))
    }

    /// Ends [`StandIns::hold`].
    pub fn let_go(&self, action: &str, service: &str) {
        fs::remove_file(self.directory.join(format!("hold-{action}-{service}"))).unwrap();
    }

    /// From now on the dqlite shell lists again whom it has removed.
    pub fn forget_removed(&self) {
        let _ = fs::remove_file(self.directory.join("removed"));
    }

    /// From now on no call to a service fails.
    pub fn repair_services(&self) {
        for entry in fs::read_dir(&self.directory).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("fail-") || name.starts_with("fatal-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// The next `times` calls of `kubectl apply` fail, as while an API server starts.
    pub fn refuse_manifests(&self, times: u32) {
        for n in 0..times {
            fs::write(self.directory.join(format!("refuse-apply-{n}")), "").unwrap();
        }
    }

    /// From now on the dqlite shell exits 1.
    pub fn fail_dqlite(&self) {
        fs::write(self.directory.join("dqlite-fails"), "").unwrap();
    }

    /// From now on the dqlite shell removes nobody.
    pub fn fail_dqlite_remove(&self) {
        fs::write(self.directory.join("dqlite-remove-fails"), "").unwrap();
    }

    /// From now on the dqlite shell works again.
    pub fn repair_dqlite(&self) {
        for name in ["dqlite-fails", "dqlite-remove-fails"] {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }

    /// From now on every call of kubectl fails, as while the API server is down.
    pub fn fail_kubectl(&self) {
        fs::write(self.directory.join("kubectl-fails"), "").unwrap();
    }

    /// From now on no call of kubectl ends, as where the API server takes connections and is silent.
    pub fn hang_kubectl(&self) {
        fs::write(self.directory.join("kubectl-hangs"), "").unwrap();
    }

    /// From now on kubectl works again.
    pub fn repair_kubectl(&self) {
        fs::remove_file(self.directory.join("kubectl-fails")).unwrap();
    }

    /// The API server knows this node too, with this address or with none.
    pub fn kubernetes_knows(&self, name: &str, address: Option<&str>) {
        self.kubernetes_has(address, serde_json::json!({"name": name}));
    }

    /// From now on the API server knows this node, which has the label of a control plane node.
    pub fn control_plane_knows(&self, name: &str, address: &str) {
        let label = "node.kubernetes.io/microk8s-controlplane";
        let metadata =
            serde_json::json!({"name": name, "labels": {label: "microk8s-controlplane"}});
        self.kubernetes_has(Some(address), metadata);
    }

    /// From now on the API server knows this node, and does not let it go.
    pub fn kubernetes_keeps(&self, name: &str, address: &str, finalizer: &str) {
        let metadata = serde_json::json!({"name": name, "finalizers": [finalizer]});
        self.kubernetes_has(Some(address), metadata);
    }

    fn kubernetes_has(&self, address: Option<&str>, metadata: Value) {
        let name = metadata["name"].as_str().unwrap().to_owned();
        let mut addresses = vec![serde_json::json!({"address": name, "type": "Hostname"})];
        addresses.extend(
            address.map(|address| serde_json::json!({"address": address, "type": "InternalIP"})),
        );
        let node = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata,
            "status": {"addresses": addresses},
        });
        let path = self.directory.join("nodes").join(format!("{name}.json"));
        fs::write(path, node.to_string()).unwrap();
    }

    /// From now on the API server refuses what kubectl is told by this word.
    pub fn forbid_kubectl(&self, word: &str) {
        fs::write(self.directory.join(format!("kubectl-forbids-{word}")), "").unwrap();
    }

    /// Whether the API server knows a node of this name.
    pub fn is_in_kubernetes(&self, name: &str) -> bool {
        self.directory
            .join("nodes")
            .join(format!("{name}.json"))
            .exists()
    }

    /// From now on the dqlite shell lists these addresses, whatever `cluster.yaml` says.
    pub fn dqlite_lists(&self, addresses: &[&str]) {
        let list: Vec<Value> = addresses
            .iter()
            .zip(1..)
            .map(|(address, id)| serde_json::json!({"ID": id, "Address": address, "Role": 0}))
            .collect();
        fs::write(
            self.directory.join("dqlite.json"),
            Value::from(list).to_string(),
        )
        .unwrap();
    }

    /// From now on the dqlite shell lists again whom `cluster.yaml` names.
    pub fn list_members(&self) {
        fs::remove_file(self.directory.join("dqlite.json")).unwrap();
    }

    /// Where the cluster's API servers say that they serve.
    pub fn api_servers(&self, addresses: &[&str]) {
        let mut endpoints = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default"},
        });
        if !addresses.is_empty() {
            let list: Vec<Value> = addresses
                .iter()
                .map(|address| serde_json::json!({"ip": address}))
                .collect();
            let ports = [serde_json::json!({"name": "https", "port": 16443})];
            endpoints["subsets"] = serde_json::json!([{"addresses": list, "ports": ports}]);
        }
        fs::write(self.directory.join("endpoints.json"), endpoints.to_string()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        root: tempfile::TempDir,
        stand_ins: StandIns,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        fs::create_dir_all(path.join("data/var/kubernetes/backend")).unwrap();
        let stand_ins = StandIns::install(
            &path.join("stand-ins"),
            &path.join("snap"),
            &path.join("data"),
        );
        Place { root, stand_ins }
    }

    impl Place {
        fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
            let output = Command::new(self.root.path().join(program))
                .args(arguments)
                .output()
                .unwrap();
            (
                output.status.success(),
                String::from_utf8(output.stdout).unwrap(),
            )
        }

        fn backend(&self, file: &str) -> PathBuf {
            self.root
                .path()
                .join("data/var/kubernetes/backend")
                .join(file)
        }
    }

    #[test]
    fn starting_the_datastore_turns_its_init_file_into_a_cluster() {
        let place = place();
        let init = "Address: 10.99.0.12:19001\nCluster:\n- 10.99.0.11:19001\n- 10.99.0.13:19001\n";
        fs::write(place.backend("init.yaml"), init).unwrap();
        let service = "microk8s.daemon-k8s-dqlite";
        assert!(place.run("stand-ins/bin/snapctl", &["start", service]).0);
        assert_eq!(
            fs::read_to_string(place.backend("cluster.yaml")).unwrap(),
            "- Address: 10.99.0.11:19001\n  ID: 100\n  Role: 0\n\
             - Address: 10.99.0.13:19001\n  ID: 101\n  Role: 0\n\
             - Address: 10.99.0.12:19001\n  ID: 999\n  Role: 0\n"
        );
        assert_eq!(
            fs::read_to_string(place.backend("info.yaml")).unwrap(),
            "Address: 10.99.0.12:19001\nID: 999\nRole: 0\n"
        );
        assert!(place.backend("init.yaml").exists());
        let (_, list) = place.run("snap/bin/dqlite", &["k8s", ".cluster"]);
        assert_eq!(
            list,
            "[{\"ID\":100,\"Address\":\"10.99.0.11:19001\",\"Role\":0},\
             {\"ID\":101,\"Address\":\"10.99.0.13:19001\",\"Role\":0},\
             {\"ID\":999,\"Address\":\"10.99.0.12:19001\",\"Role\":0}]\n"
        );
    }

    #[test]
    fn restarting_the_datastore_applies_its_update_file_and_keeps_its_id() {
        let place = place();
        fs::write(
            place.backend("info.yaml"),
            "Address: 127.0.0.1:19001\nID: 32\nRole: 0\n",
        )
        .unwrap();
        fs::write(
            place.backend("cluster.yaml"),
            "- Address: 127.0.0.1:19001\n",
        )
        .unwrap();
        fs::write(place.backend("update.yaml"), "Address: 10.99.0.11:19001\n").unwrap();
        let service = "microk8s.daemon-k8s-dqlite";
        assert!(place.run("stand-ins/bin/snapctl", &["restart", service]).0);
        assert_eq!(
            fs::read_to_string(place.backend("cluster.yaml")).unwrap(),
            "- Address: 10.99.0.11:19001\n  ID: 32\n  Role: 0\n"
        );
        assert_eq!(
            fs::read_to_string(place.backend("update.yaml.applied")).unwrap(),
            "Address: 10.99.0.11:19001\n"
        );
        assert!(!place.backend("update.yaml").exists());
    }

    #[test]
    fn calls_are_logged_in_order_with_the_node_directory_as_a_placeholder() {
        let place = place();
        let yaml = place.root.path().join("data/args/cni-network/cni.yaml");
        assert!(
            place
                .run(
                    "stand-ins/bin/snapctl",
                    &["restart", "microk8s.daemon-kubelite"]
                )
                .0
        );
        let apply = ["apply", "-f", yaml.to_str().unwrap()];
        assert!(place.run("snap/microk8s-kubectl.wrapper", &apply).0);
        assert_eq!(
            place.stand_ins.calls(),
            [
                "snapctl restart microk8s.daemon-kubelite",
                "kubectl apply -f $SNAP_DATA/args/cni-network/cni.yaml",
            ]
        );
        place.stand_ins.forget_calls();
        assert!(place.stand_ins.calls().is_empty());
    }

    #[test]
    fn a_service_and_the_datastore_shell_fail_when_they_are_told_to() {
        let place = place();
        place
            .stand_ins
            .fail_service("restart", "microk8s.daemon-kubelite");
        place.stand_ins.fail_dqlite();
        let restart = |service| place.run("stand-ins/bin/snapctl", &["restart", service]).0;
        assert!(!restart("microk8s.daemon-kubelite"));
        assert!(restart("microk8s.daemon-etcd"));
        place.stand_ins.repair_services();
        assert!(restart("microk8s.daemon-kubelite"));
        assert!(!place.run("snap/bin/dqlite", &["k8s", ".cluster"]).0);
    }
}
