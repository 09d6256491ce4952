//! What of a launch configuration is understood, and what is said of the rest.

use super::*;

const TOKEN: &str = "a74cddf30d2408d49fcd748a26021c6a";

fn read(text: &str) -> LaunchConfiguration {
    LaunchConfiguration::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn fault(text: impl AsRef<[u8]>) -> String {
    let text = text.as_ref();
    match LaunchConfiguration::parse(text) {
        Ok(_) => panic!("{}", String::from_utf8_lossy(text)),
        Err(error) => error.to_string(),
    }
}

/// The values of the only field with settings.
fn settings(field: &str, yaml: &str) -> (&'static str, Values) {
    let mut read = read(&format!("version: 0.1.0\n{field}:\n{yaml}"));
    read.parts[0].settings.remove(0)
}

#[test]
fn values_are_texts_as_they_stand_and_null_is_none() {
    let value = |text: &str| Some(text.to_owned());
    for (yaml, expected) in [
        ("  --a: RBAC,Node", value("RBAC,Node")),
        ("  --a: true", value("true")),
        ("  --a: 1.10", value("1.10")),
        ("  --a: 0755", value("0755")),
        ("  --a: \"null\"", value("null")),
        ("  --a: \"\"", value("")),
        ("  --a: '\"x y\"'", value("\"x y\"")),
        ("  --a: null", None),
        ("  --a: ~", None),
        ("  --a:", None),
    ] {
        let (file, values) = settings("extraKubeletArgs", yaml);
        assert_eq!(
            (file, values),
            ("kubelet", vec![("--a".to_owned(), expected)]),
            "{yaml}"
        );
    }
    let (file, values) = settings("extraContainerdArgs", "  -l: debug");
    assert_eq!((file, values[0].0.as_str()), ("containerd", "-l"));
}

#[test]
fn all_fields_are_read_and_those_without_a_value_change_nothing() {
    let full = read(&format!(
        "---\nversion: 0.2.0\npersistentClusterToken: {TOKEN}\n\
         join:\n  url: 10.0.0.10:25000/{TOKEN}/e3b0c44298fc\n  worker: true\n\
         extraSANs: [10.10.10.10, microk8s.example.com, '*.example.com', fd00::1]\n\
         extraConfigFiles:\n  flannel-network-mgr-config: |\n    {{}}\n  cni-network/cni.yaml: x\n\
         containerdRegistryConfigs:\n  docker.io: server = \"http://my.proxy:5000\"\n\
         addonRepositories:\n- {{name: core, url: https://example.com/core}}\n- {{name: mine, url: /addons, reference: 1.26}}\n\
         addons:\n- name: dns\n- {{name: mayastor, args: [--default-pool-size, 20GB]}}\n- {{name: registry, disable: true}}\n"
    ));
    let part = &full.parts[0];
    let (url, worker) = full.join().unwrap();
    assert_eq!(
        (url.endpoint().to_string(), worker),
        ("10.0.0.10:25000".to_owned(), true)
    );
    assert!(part.persistent_token.is_some() && full.holds_token());
    assert_eq!(part.extra_sans.as_ref().unwrap().len(), 4);
    assert_eq!(part.config_files[0].1, "{}\n");
    assert_eq!(part.registries[0].0, "docker.io");
    assert_eq!(part.repositories[1].reference.as_deref(), Some("1.26"));
    assert_eq!(part.addons[1].arguments, ["--default-pool-size", "20GB"]);
    assert!(part.addons[2].disable && !part.addons[0].disable);

    let names = SETTINGS.map(|(field, _)| format!("{field}:\n")).concat();
    let empty = read(&format!(
        "version: 0.1.0\npersistentClusterToken: \"\"\njoin: {{url: \"\"}}\nextraSANs:\naddons:\n\
         addonRepositories:\nextraConfigFiles:\ncontainerdRegistryConfigs:\n{names}"
    ));
    let part = &empty.parts[0];
    assert!(empty.join().is_none() && !empty.holds_token() && part.extra_sans.is_none());
    assert!(part.settings.iter().all(|(_, values)| values.is_empty()));
    assert_eq!(part.settings.len(), 20);
    assert!(empty.unknown.is_empty() && full.unknown.is_empty());
}

#[test]
fn documents_keep_their_order_and_empty_ones_are_none() {
    let text = "# a comment\n---\nversion: 0.1.0\nextraSANs: []\n---\n---\n{}\n---\nversion: v0.2.0\naddons: [{name: rbac}]\n";
    let read = read(text);
    assert_eq!(read.parts.len(), 2);
    assert_eq!(read.parts[0].extra_sans, Some(vec![]));
    assert_eq!(read.parts[1].addons[0].name, "rbac");
}

#[test]
fn fields_that_are_not_known_are_named_once() {
    let read = read(
        "version: 0.1.0\nx-new: {a: [1]}\naddons: [{name: dns, color: red}]\n---\nversion: 0.1.0\nx-new: 2\njoin: {port: 1}\n",
    );
    assert_eq!(read.unknown, ["addons.color", "join.port", "x-new"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, says) in [
        ("[ test", "unclosed bracket '[' at line 1"),
        ("version: 0.1.0\n\tx: 1", "found a tab at line 1"),
        ("- a", "expected names with values at line 1"),
        (
            "version: 0.1.0\naddons: [a, b]",
            "expected names with values at line 2",
        ),
        (
            "version: 0.1.0\nversion: 0.1.0",
            "duplicate mapping key: version at line 2",
        ),
        (
            "version: 0.1.0\nx: {a: 1, a: 2}",
            "duplicate mapping key: a at line 2",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  --a: [1]",
            "expected a text at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  --a: {b: 1}",
            "expected a text at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  a: 1",
            "begins with a dash at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  --a=b: 1",
            "begins with a dash at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  --a: \"1\\n--b=2\"",
            "control character at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdEnv:\n  A-B: 1",
            "letters, digits and `_` at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdEnv:\n  'A=1;B': 1",
            "letters, digits and `_` at line 3",
        ),
        (
            "version: 0.1.0\nextraSANs:\n- \"a\\nDNS.9 = b\"",
            "neither a host name nor an address at line 3",
        ),
        (
            "version: 0.1.0\nextraSANs:\n- a b\n- c\n\naddons: []\n",
            "neither a host name nor an address at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  a: 1\n  --b: 2\naddons: []\n",
            "begins with a dash at line 3",
        ),
        (
            "version: 0.1.0\nextraEtcdArgs:\n  --a: \"1\\n\"\n  --b: 2\naddons: []\n",
            "control character at line 3",
        ),
        ("version: 9\naddons: []\n", "are at line 1"),
        (
            "version: 0.1.0\naddons:\n- disable: true",
            "an addon needs a `name` at line 3",
        ),
        (
            "version: 0.1.0\naddons:\n- {name: dns, disable: maybe}",
            "give true or false at line 3",
        ),
        (
            "version: 0.1.0\naddonRepositories:\n- {name: a, url: --force}",
            "begins with a dash at line 3",
        ),
        (
            "version: 0.1.0\njoin:\n  worker: true",
            "`join` has no `url` at line 3",
        ),
        (
            "version: 0.1.0\npersistentClusterToken: [1]",
            "expected a text at line 2",
        ),
        ("extraSANs: []", "document 1 has no `version`"),
        (
            "version: 0.1.0\n---\nextraSANs: []",
            "document 2 has no `version`",
        ),
    ] {
        let fault = fault(text);
        assert!(fault.contains(says), "{text:?}: {fault}");
    }
    let twice = format!("version: 0.1.0\njoin: {{url: '10.0.0.1:25000/{TOKEN}'}}\n---\n");
    assert!(fault(twice.repeat(2)).contains("more than one document"));
    assert_eq!(
        fault(b"a: 1\nb: \xff\n"),
        "line 2 holds a byte that is not UTF-8"
    );
}

#[test]
fn versions_from_0_1_0_to_0_2_0_are_known() {
    for known in ["0.1.0", "v0.1.0", "0.1.7", "0.2.0"] {
        read(&format!("version: {known}"));
    }
    for other in [
        "0.0.1",
        "0.2.1",
        "0.3.0",
        "1.0.0",
        "0.1",
        "0.1.0-rc.1",
        "0.1.0.0",
        "newest",
        "[0]",
        "99999999999.0.0",
    ] {
        let fault = fault(format!("version: {other}"));
        assert!(fault.contains("at line 1"), "{other}: {fault}");
    }
}

#[test]
fn no_name_of_a_file_leads_out_of_its_folder() {
    for name in [
        "../certs/ca.key",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "''",
        "a//b",
        ".hidden",
        "a\\b",
        "\"a\\0\"",
        "\"a\\n\"",
    ] {
        for field in ["extraConfigFiles", "containerdRegistryConfigs"] {
            let fault = fault(format!("version: 0.1.0\n{field}:\n  {name}: x"));
            assert!(fault.contains("at line 3"), "{field} {name}: {fault}");
        }
    }
    assert!(fault("version: 0.1.0\ncontainerdRegistryConfigs:\n  a/b: x").contains("at line 3"));
}

#[test]
fn no_secret_is_in_an_error() {
    let short = "hunter2hunter2";
    for text in [
        format!("persistentClusterToken: {short}"),
        format!("persistentClusterToken: [{short}]"),
        format!("persistentClusterToken: \"{short} {TOKEN}\""),
        format!("persistentClusterToken: {TOKEN}|{short}"),
        format!("join: {short}"),
        format!("join: {{url: [10.0.0.1:25000/{short}]}}"),
        format!("join: {{url: 10.0.0.1:25000/{short}}}"),
        format!("join: {{worker: {short}}}"),
        format!("extraContainerdEnv: {{HTTP_PROXY: [{short}]}}"),
        format!("extraContainerdEnv: {{HTTP_PROXY: \"{short}\\n\"}}"),
        format!("extraConfigFiles: {{a: {{{short}: 1}}}}"),
        format!("extraSANs: [\"{short} \"]"),
        format!("version: {short}"),
        format!("persistentClusterToken: \"{short}"),
    ] {
        let fault = fault(format!("version: 0.1.0\n{text}"));
        assert!(!fault.contains("hunter"), "{text}: {fault}");
    }
}

#[test]
fn aliases_and_depth_make_no_more_of_a_file_than_it_is() {
    let mut bomb = String::from("version: 0.1.0\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let list = format!("*a{}, ", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{list}]\n");
    }
    let long = "x".repeat(400_000);
    let copies = format!("version: 0.1.0\nextraConfigFiles:\n  a: &a {long}\n")
        + &(0..999)
            .map(|number| format!("  b{number}: *a\n"))
            .collect::<String>();
    let deep = format!("version: 0.1.0\nx: {}1{}", "[".repeat(500), "]".repeat(500));
    for text in [
        bomb,
        copies,
        deep,
        "- ".repeat(200_000),
        "---\nx: 1\n".repeat(2000),
    ] {
        assert!(!fault(&text).is_empty());
    }
    assert_eq!(fault(vec![b'#'; MAX_BYTES + 1]), "it has more than 512 KiB");
}
