//! Launch configurations: each field of the schema, and what becomes of a node when a part fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::lab::{Host, Lab, Output};

const TOKEN: &str = "a74cddf30d2408d49fcd748a26021c6a";
const PERSISTENT: &str = "credentials/persistent-cluster-tokens.txt";

/// Every field with settings, its file, and the services that restart when it changes.
const SETTINGS: [(&str, &str, &[&str]); 20] = [
    ("extraKubeAPIServerArgs", "kube-apiserver", &["kubelite"]),
    ("extraKubeletArgs", "kubelet", &["kubelite"]),
    ("extraKubeProxyArgs", "kube-proxy", &["kubelite"]),
    (
        "extraKubeControllerManagerArgs",
        "kube-controller-manager",
        &["kubelite"],
    ),
    ("extraKubeSchedulerArgs", "kube-scheduler", &["kubelite"]),
    ("extraKubeliteEnv", "kubelite-env", &["kubelite"]),
    ("extraContainerdArgs", "containerd", &["containerd"]),
    ("extraContainerdEnv", "containerd-env", &["containerd"]),
    ("extraDqliteArgs", "k8s-dqlite", &["k8s-dqlite"]),
    ("extraDqliteEnv", "k8s-dqlite-env", &["k8s-dqlite"]),
    (
        "extraMicroK8sClusterAgentArgs",
        "cluster-agent",
        &["cluster-agent"],
    ),
    (
        "extraMicroK8sClusterAgentEnv",
        "cluster-agent-env",
        &["cluster-agent"],
    ),
    (
        "extraMicroK8sAPIServerProxyArgs",
        "apiserver-proxy",
        &["apiserver-proxy"],
    ),
    (
        "extraMicroK8sAPIServerProxyEnv",
        "apiserver-proxy-env",
        &["apiserver-proxy"],
    ),
    ("extraEtcdArgs", "etcd", &["etcd"]),
    ("extraEtcdEnv", "etcd-env", &["etcd"]),
    ("extraFlanneldArgs", "flanneld", &["flanneld"]),
    ("extraFlanneldEnv", "flanneld-env", &["flanneld"]),
    ("extraCNIEnv", "cni-env", &[]),
    (
        "extraFIPSEnv",
        "fips-env",
        &["kubelite", "k8s-dqlite", "cluster-agent"],
    ),
];

/// Applies these fields in the process of the command.
fn init(host: &Host, fields: &str) -> Output {
    init_with(host, fields, &[])
}

fn init_with(host: &Host, fields: &str, options: &[&str]) -> Output {
    let words = [&["microk8s", "init", "-c", "-"], options].concat();
    let text = format!("version: 0.1.0\n{fields}\n");
    host.run_with_input(&words, text.as_bytes())
}

fn restarts(services: &[&str]) -> Vec<String> {
    services
        .iter()
        .map(|name| format!("snapctl restart microk8s.daemon-{name}"))
        .collect()
}

/// n1, with MicroK8s's command for repositories of add-ons.
fn node() -> Option<Lab> {
    let lab = Lab::new(&["n1"])?;
    install_addons(lab.host("n1"));
    Some(lab)
}

fn install_addons(host: &Host) {
    let wrapper = |name: &str| host.snap().join(format!("microk8s-{name}.wrapper"));
    fs::copy(wrapper("enable"), wrapper("addons")).unwrap();
}

#[test]
fn every_field_with_settings_changes_its_file_and_restarts_what_reads_it() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    for (field, file, services) in SETTINGS {
        let path = format!("args/{file}");
        let was_there = n1.path(&path).exists();
        let key = if field.ends_with("Env") {
            "ZZ_TEST"
        } else {
            "--zz-test"
        };
        init(n1, &format!("{field}:\n  {key}: null")).ok();
        init(n1, &format!("{field}:")).ok();
        assert_eq!(
            n1.path(&path).exists(),
            was_there,
            "{field}: nothing is set"
        );
        assert_eq!(n1.stand_ins.calls(), [""; 0], "{field}: nothing is set");

        init(n1, &format!("{field}:\n  {key}: \"1\"")).ok();
        assert!(n1.read(&path).ends_with(&format!("{key}=1\n")), "{field}");
        assert_eq!(n1.stand_ins.calls(), restarts(services), "{field}");
        n1.stand_ins.forget_calls();

        init(n1, &format!("{field}:\n  {key}: 1")).ok();
        assert_eq!(
            n1.stand_ins.calls(),
            [""; 0],
            "{field}: nothing has changed"
        );

        init(n1, &format!("{field}:\n  {key}: 2")).ok();
        assert!(n1.read(&path).ends_with(&format!("{key}=2\n")), "{field}");
        n1.stand_ins.forget_calls();

        init(n1, &format!("{field}:\n  {key}: null")).ok();
        assert_eq!(n1.stand_ins.calls(), restarts(services), "{field}");
        n1.stand_ins.forget_calls();
        assert!(!n1.read(&path).contains("zz"), "{field}");
        if !was_there {
            n1.remove(&path);
        }
    }
    assert_eq!(n1.snapshot(), before, "all else is as it was, to the byte");
}

#[test]
fn a_persistent_token_admits_nodes_and_is_added_once() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    n1.write(PERSISTENT, "of another program", 0o660);
    let agent = n1.agent();
    for _ in 0..2 {
        init(n1, &format!("persistentClusterToken: {TOKEN}")).ok();
    }
    assert_eq!(
        n1.read(PERSISTENT),
        format!("of another program\n{TOKEN}\n")
    );
    let line = format!("microk8s join 10.99.0.11:25000/{TOKEN} --worker");
    lab.host("n2").shell(&line).ok();
    assert!(!agent.log().contains(TOKEN));
}

#[test]
fn names_and_addresses_for_the_api_server_are_in_the_request_for_its_certificate() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    let template = "certs/csr.conf.template";
    let before = n1.snapshot();
    init(
        n1,
        "extraSANs: [microk8s.example.com, 10.10.10.10, fd00::1]",
    )
    .ok();
    let names = n1
        .shell(&format!(
            "openssl req -new -newkey rsa:2048 -nodes -keyout /dev/null -config $SNAP_DATA/{template} 2>/dev/null | openssl req -noout -text"
        ))
        .ok();
    for name in [
        "DNS:kubernetes.default.svc.cluster.local",
        "DNS:microk8s.example.com",
        "IP Address:127.0.0.1",
        "IP Address:10.10.10.10",
        "IP Address:FD00:0:0:0:0:0:0:1",
    ] {
        assert!(names.contains(name), "{name}: {names}");
    }
    assert!(n1.read(template).contains("#MOREIPS"));
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
    init(n1, "extraSANs: []").ok();
    assert_eq!(n1.snapshot(), before);
    // Nothing issues the certificates of a member again by itself.
    n1.write("var/lock/no-cert-reissue", "", 0o700);
    let told = init(n1, "extraSANs: [microk8s.example.com]");
    assert!(told.stderr.contains("refresh-certs"), "{told:?}");
}

#[test]
fn files_and_registries_are_written_below_their_folders() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    init(
        n1,
        "extraConfigFiles:\n  audit.yaml: |\n    a: 1\n  cni-network/mine.conf: x\ncontainerdRegistryConfigs:\n  docker.io: server = \"http://my.proxy:5000\"\n  10.0.0.1:32000: |\n    [host]",
    )
    .ok();
    assert_eq!(n1.read("args/audit.yaml"), "a: 1\n");
    assert_eq!(n1.read("args/cni-network/mine.conf"), "x");
    assert_eq!(
        n1.read("args/certs.d/docker.io/hosts.toml"),
        "server = \"http://my.proxy:5000\""
    );
    let mode = |path: &str| fs::metadata(n1.path(path)).unwrap().permissions().mode() & 0o7777;
    let registry = "args/certs.d/10.0.0.1:32000";
    assert_eq!(n1.read(&format!("{registry}/hosts.toml")), "[host]\n");
    assert_eq!(mode(registry), 0o755);
    assert_eq!(mode(&format!("{registry}/hosts.toml")), 0o644);
    assert_eq!(mode("args/audit.yaml"), 0o640);
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
    // A whole file of arguments is read by its service.
    init(n1, "extraConfigFiles: {kube-scheduler: --v=3}").ok();
    assert_eq!(n1.stand_ins.calls(), restarts(&["kubelite"]));
}

#[test]
fn addons_come_last_through_the_commands_of_the_snap() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    init(
        n1,
        "addons:\n- name: dns\n- {name: mayastor, args: [--default-pool-size, 20GB]}\n- {name: registry, disable: true}\naddonRepositories:\n- {name: core, url: https://example.com/core}\n- {name: mine, url: /addons, reference: 1.26}\nextraEtcdArgs: {--a: 1}",
    )
    .ok();
    assert_eq!(
        n1.stand_ins.calls(),
        [
            "snapctl restart microk8s.daemon-etcd",
            "microk8s-addons repo add core https://example.com/core --force",
            "microk8s-addons repo add mine /addons --reference 1.26 --force",
            "microk8s-enable dns",
            "microk8s-enable mayastor --default-pool-size 20GB",
            "microk8s-disable registry",
        ]
    );
}

#[test]
fn addons_are_refused_by_name_before_anything_changes_where_there_is_no_snap() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    fs::remove_file(n1.snap().join("microk8s-enable.wrapper")).unwrap();
    let before = n1.snapshot();
    for (field, name) in [
        ("addons: [{name: dns}]", "`dns` needs `microk8s enable`"),
        (
            "addonRepositories: [{name: core, url: /x}]",
            "`core` needs `microk8s addons`",
        ),
    ] {
        let refused = init(n1, &format!("extraEtcdArgs: {{--a: 1}}\n{field}"));
        assert_eq!(refused.code, Some(9), "{refused:?}");
        assert!(refused.stderr.contains(name), "{refused:?}");
        assert_eq!(
            (n1.snapshot(), n1.stand_ins.calls().len()),
            (before.clone(), 0)
        );
        init_with(
            n1,
            &format!("extraEtcdArgs: {{}}\n{field}"),
            &["--pre-init"],
        )
        .ok();
    }
}

#[test]
fn an_addon_that_fails_leaves_the_rest_applied_and_is_tried_again_with_the_same_command() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    n1.stand_ins.fail_addon("nosuch");
    let fields = "addons: [{name: nosuch}]\nextraMicroK8sClusterAgentArgs: {--timeout: 99}";
    for restarted in [true, false] {
        let failed = init(n1, fields);
        assert_eq!(failed.code, Some(14), "{failed:?}");
        let told = "`microk8s enable` failed for `nosuch`";
        assert!(failed.stderr.contains(told), "{failed:?}");
        let calls = n1.stand_ins.calls();
        let restart = "snapctl restart microk8s.daemon-cluster-agent".to_owned();
        assert_eq!(calls.contains(&restart), restarted, "{calls:?}");
        n1.stand_ins.forget_calls();
    }
}

/// All documents of a file, and what concerns one service more than once.
const SEVERAL: &str = "extraKubeletArgs: {--v: 1, --max-pods: 50}\nextraKubeProxyArgs: {--v: 1}\n---\nversion: 0.1.0\nextraKubeletArgs: {--v: 2}\nextraContainerdEnv: {HTTP_PROXY: http://squid.internal:3128}\nextraContainerdArgs: {-l: debug}";

#[test]
fn each_service_restarts_once_after_all_documents() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    n1.stand_ins.watch_services();
    init(n1, SEVERAL).ok();
    assert!(n1.read("args/kubelet").contains("--v=2\n"));
    assert!(n1.read("args/kubelet").contains("--max-pods=50\n"));
    assert!(n1.read("args/containerd").contains("-l=debug\n"));
    let calls = n1.stand_ins.calls();
    assert_eq!(calls, restarts(&["kubelite", "containerd"]));
    init(n1, SEVERAL).ok();
    assert_eq!(n1.stand_ins.calls(), calls, "a second time nothing changes");
}

#[test]
fn before_the_services_run_files_change_and_nothing_else_happens() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    let fields = format!(
        "{SEVERAL}\naddons: [{{name: dns}}]\njoin: {{url: '10.99.0.12:25000/{TOKEN}'}}\npersistentClusterToken: {TOKEN}"
    );
    for options in [&["--pre-init"][..], &["-p"], &["--pre-init=true"]] {
        init_with(n1, &fields, options).ok();
    }
    // As the snap's hook calls it.
    n1.shell(&format!(
        "printf 'version: 0.1.0\\n' > {0}/x.yaml; ln -s $(command -v microk8s) {0}/cluster-agent; {0}/cluster-agent init --pre-init --config-file {0}/x.yaml; microk8s cluster-agent init -p -c {0}/x.yaml",
        n1.scratch().display()
    ))
    .ok();
    assert!(n1.read("args/kubelet").contains("--v=2\n"));
    assert_eq!(n1.read(PERSISTENT), format!("{TOKEN}\n"));
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
    // On a node that was stopped nothing is started.
    n1.write("var/lock/stopped.lock", "", 0o644);
    init(n1, "extraKubeletArgs: {--v: 9}").ok();
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
}

/// Each fails at one part, behind others that were fit.
#[test]
fn a_part_that_fails_undoes_all_parts() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let _contacted = lab.host("n2").agent();
    n1.write("args/stranger", "x", 0o644);
    for (name, target) in [
        ("args/linked", "stranger"),
        ("args/certs.d/linked", "docker.io"),
        ("args/linked-folder", "/etc"),
        ("args/certs.d/dangling", "/nowhere"),
    ] {
        symlink(target, n1.path(name)).unwrap();
    }
    fs::create_dir(n1.path("args/fips-env")).unwrap();
    n1.stand_ins
        .fail_service("restart", "microk8s.daemon-flanneld");
    let before = n1.snapshot();
    let rest = format!(
        "{SEVERAL}\npersistentClusterToken: {TOKEN}\nextraSANs: [a.example]\ncontainerdRegistryConfigs: {{new.io: x}}\nextraConfigFiles: {{new-file: x}}\n---\nversion: 0.1.0"
    );
    for (fields, code, says) in [
        ("extraConfigFiles: {linked: y}", 9, "it is a symbolic link"),
        (
            "extraConfigFiles: {linked-folder/passwd: y}",
            9,
            "it is a symbolic link",
        ),
        (
            "extraConfigFiles: {no-folder/a: y}",
            9,
            "it is not a folder",
        ),
        ("extraConfigFiles: {stranger/a: y}", 9, "it is not a folder"),
        (
            "containerdRegistryConfigs: {linked: y}",
            9,
            "it is a symbolic link",
        ),
        (
            "containerdRegistryConfigs: {dangling: y}",
            9,
            "it is a symbolic link",
        ),
        ("extraFIPSEnv: {GOFIPS: 1}", 9, "it is not a file"),
        (
            "extraFlanneldArgs: {--v: 1}",
            16,
            "the files are as they were, but a service did not come up again",
        ),
        ("extraEtcdArgs: {v: 1}", 1, "begins with a dash at line"),
        (
            "join: {url: '10.99.0.12:25000/00000000000000000000000000000000'}",
            6,
            "refused the join",
        ),
        (
            "join: {url: '10.99.0.13:25000/00000000000000000000000000000000'}",
            10,
            "10.99.0.13",
        ),
    ] {
        let failed = init(n1, &format!("{rest}\n{fields}"));
        assert_eq!(failed.code, Some(code), "{fields}: {failed:?}");
        assert!(failed.stderr.contains(says), "{fields}: {failed:?}");
        assert!(!failed.stderr.contains(TOKEN), "{fields}: {failed:?}");
        assert_eq!(n1.snapshot(), before, "{fields}");
        assert!(!n1.path("var/cluster-agent/journal").exists(), "{fields}");
        // Nothing but a service that fails is a reason to restart others.
        let calls = n1.stand_ins.calls();
        let restarted = calls.iter().any(|call| call.contains("restart"));
        assert_eq!(restarted, code == 16, "{fields}: {calls:?}");
        n1.stand_ins.forget_calls();
    }
}

/// What a file says beside its join holds after it as well.
fn joins(option: &str, through_agent: bool) {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    install_addons(n2);
    let _contacted = n1.agent();
    init(n1, &format!("persistentClusterToken: {TOKEN}")).ok();
    let agent = through_agent.then(|| n2.agent());
    let fields = format!(
        "persistentClusterToken: {TOKEN}\njoin:\n  url: 10.99.0.11:25000/{TOKEN}\n{option}\nextraKubeletArgs:\n  --max-pods: 50\nextraContainerdEnv:\n  HTTP_PROXY: http://squid.internal:3128\naddons: [{{name: dns}}]"
    );
    let joined = init(n2, &fields);
    assert!(joined.stderr.contains("no fingerprint"), "{joined:?}");
    let told = joined.ok();
    assert_eq!(
        told,
        "Contacting cluster at 10.99.0.11\n".to_owned()
            + if option.is_empty() {
                "Waiting for this node to finish joining the cluster.  \n"
            } else {
                ""
            }
            + "The launch configuration is applied.\n"
    );
    assert!(n2.read("args/kubelet").contains("--max-pods=50\n"));
    assert_eq!(n2.read(PERSISTENT), format!("{TOKEN}\n"));
    let calls = n2.stand_ins.calls();
    let count = |wanted: &str| calls.iter().filter(|call| call.ends_with(wanted)).count();
    assert_eq!(count("restart microk8s.daemon-containerd"), 1, "{calls:?}");
    let is_worker = !option.is_empty();
    assert_eq!(
        count("microk8s-enable dns"),
        usize::from(!is_worker),
        "{calls:?}"
    );
    assert_eq!(n2.path("var/lock/clustered.lock").exists(), is_worker);
    // The same once more finds a member, and changes nothing.
    let before = n2.snapshot();
    n2.stand_ins.forget_calls();
    init(n2, &fields).ok();
    assert_eq!(n2.snapshot(), before);
    let calls = n2.stand_ins.calls();
    assert!(
        !calls.iter().any(|call| call.contains("restart")),
        "{calls:?}"
    );
    assert!(agent.is_none_or(|agent| !agent.log().contains(TOKEN)));
}

#[test]
fn a_control_plane_node_joins_with_what_its_file_says() {
    joins("", false);
}

#[test]
fn a_worker_joins_with_what_its_file_says() {
    joins("  worker: true", false);
}

#[test]
fn a_worker_joins_with_what_its_file_says_through_its_agent() {
    joins("  worker: true", true);
}

#[test]
fn an_agent_with_new_arguments_restarts_when_all_else_is_done() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    n1.stand_ins
        .ask_caller_to_end("restart", "microk8s.daemon-cluster-agent");
    let agent = n1.agent();
    init(
        n1,
        "extraMicroK8sClusterAgentArgs: {--timeout: 99}\nextraEtcdArgs: {--a: 1}",
    )
    .ok();
    let (status, log) = agent.ends();
    assert_eq!(status.code(), Some(0), "{log}");
    let mut calls = n1.stand_ins.calls();
    calls.retain(|call| call.contains("restart"));
    assert_eq!(calls, restarts(&["etcd", "cluster-agent"]));
    assert!(n1.read("args/cluster-agent").contains("--timeout=99\n"));
    assert!(!n1.path("var/cluster-agent/journal").exists());
}

#[test]
fn what_is_read_of_a_file_is_bounded_and_a_token_that_all_can_read_is_warned_of() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    let large = n1.scratch().join("large.yaml");
    fs::write(&large, vec![b'#'; 10 << 20]).unwrap();
    let path = n1.scratch().join("token.yaml");
    for (source, says) in [
        (large.to_str().unwrap(), "more than 512 KiB"),
        ("/dev/zero", "more than 512 KiB"),
        ("/nowhere", "No such file"),
        ("/", "Is a directory"),
    ] {
        // Much less memory than a file may have bytes.
        let refused = n1.shell(&format!("ulimit -v 300000; microk8s init -c {source}"));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(says), "{refused:?}");
    }
    assert_eq!(n1.shell("microk8s init").code, Some(2));
    assert_eq!(n1.snapshot(), before);
    for (mode, content, warns) in [
        (0o644, format!("persistentClusterToken: {TOKEN}\n"), true),
        (0o600, format!("persistentClusterToken: {TOKEN}\n"), false),
        (0o644, "extraSANs: []\n".to_owned(), false),
    ] {
        fs::write(&path, format!("version: 0.1.0\nx-new: 1\n{content}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let done = n1.run(&["microk8s", "init", "--config-file", path.to_str().unwrap()]);
        let warning = done.stderr.contains("every user can read it");
        assert_eq!(warning, warns, "{mode:o} {content}: {done:?}");
        assert!(done.stderr.contains("`x-new` is not known"), "{done:?}");
        done.ok();
    }
}

/// The documents of MicroK8s's documentation and of programs that write such files, with the tokens and
/// addresses of this test.
const OF_THE_FIELD: [&str; 6] = [
    // A node that others join (polyseam/cndi), and a cloud's autoscaler (Fred78290).
    "---\nversion: \"0.1.0\"\npersistentClusterToken: \"{token}\"\naddonRepositories:\n  - name: core\n    url: https://github.com/canonical/microk8s-core-addons\n  - name: community\n    url: /snap/microk8s/current/addons/community\n    reference: main\naddons:\n  - name: dns\n  - name: community/nfs\n",
    "{\"version\": \"0.1.0\", \"persistentClusterToken\": \"{token}\", \"extraMicroK8sAPIServerProxyArgs\": {\"--refresh-interval\": \"0\"}, \"extraKubeletArgs\": {\"--max-pods\": 110, \"--cloud-provider\": \"external\", \"--node-ip\": \"10.99.0.11\"}, \"extraSANs\": [\"10.99.0.11\", \"k8s.example.com\"]}",
    // With a proxy, with other networks, and with an audit log.
    "---\n# 'version' is the semantic version of the configuration file format.\nversion: 0.1.0\nextraSANs:\n  - 10.10.10.10\nextraContainerdEnv:\n  http_proxy: http://squid.internal:3128\n  no_proxy: 127.0.0.1,192.168.0.0/16,10.0.0.0/8\nextraKubeAPIServerArgs:\n  --authorization-mode: RBAC,Node\n  --event-ttl: null\ncontainerdRegistryConfigs:\n  docker.io: |\n    server = \"http://my.proxy:5000\"\n",
    "---\nversion: 0.2.0\naddons:\n  - name: dns\n  - name: rbac\nextraCNIEnv:\n  IPv4_SUPPORT: true\n  IPv4_CLUSTER_CIDR: 100.64.0.0/16\n  IPv4_SERVICE_CIDR: 100.127.0.0/24\n  IPv6_SUPPORT: true\n  IPv6_CLUSTER_CIDR: fdf4:8ab3:60fb::/64\n",
    "# example doc with header comment\n---\nversion: 0.1.0\nextraConfigFiles:\n  audit-policy.yaml: |\n    apiVersion: audit.k8s.io/v1\n    kind: Policy\n    rules:\n    - level: Metadata\nextraKubeAPIServerArgs:\n  --audit-policy-file: ${SNAP_DATA}/args/audit-policy.yaml\n---\nversion: 0.1.0\naddons:\n  - name: metallb\n    args: [10.64.140.43-10.64.140.143]\n",
    "version: 0.2.0\nextraFIPSEnv:\n  GOFIPS: 1\nextraDqliteArgs:\n  --disk-mode: \"true\"\nextraDqliteEnv:\n  LIBRAFT_TRACE: \"1\"\nextraConfigFiles:\n  flannel-network-mgr-config: |\n    {\"Network\": \"10.1.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}\n",
];

#[test]
fn the_documents_of_the_field_are_applied() {
    let Some(lab) = node() else { return };
    let n1 = lab.host("n1");
    for document in OF_THE_FIELD {
        let text = document.replace("{token}", TOKEN);
        let done = n1.run_with_input(&["microk8s", "init", "-c", "-"], text.as_bytes());
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{text}");
    }
    for (path, line) in [
        ("args/kubelet", "--max-pods=110\n"),
        ("args/apiserver-proxy", "--refresh-interval=0\n"),
        (
            "args/kube-apiserver",
            "--audit-policy-file=${SNAP_DATA}/args/audit-policy.yaml\n",
        ),
        (
            "args/containerd-env",
            "no_proxy=127.0.0.1,192.168.0.0/16,10.0.0.0/8\n",
        ),
        ("args/cni-env", "IPv4_SUPPORT=true\n"),
        ("args/fips-env", "GOFIPS=1\n"),
    ] {
        assert!(n1.read(path).contains(line), "{path}: {}", n1.read(path));
    }
    let calls = n1.stand_ins.calls();
    let metallb = "microk8s-enable metallb 10.64.140.43-10.64.140.143".to_owned();
    assert!(calls.contains(&metallb), "{calls:?}");
}
