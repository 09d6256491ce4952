//! IPv6: MicroK8s prints such join strings and then refuses them; here they work.

use crate::lab::{Host, Lab};

fn give_address(host: &Host, address: &str) {
    // Without the detection of duplicates, during which the address cannot be used.
    host.shell(&format!("ip -6 addr add {address}/64 dev eth0 nodad"))
        .ok();
}

#[test]
fn a_node_joins_over_ipv6_with_the_string_that_add_node_printed() {
    for role in [None, Some("--worker")] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        give_address(n1, "fd00:99::11");
        give_address(n2, "fd00:99::12");
        for host in [n1, n2] {
            let arguments = host
                .read("args/cluster-agent")
                .replace("0.0.0.0:25000", "[::]:25000");
            host.write("args/cluster-agent", &arguments, 0o644);
        }
        let _agent = n1.agent();
        let printed = n1.shell("microk8s add-node --format short").ok();
        let command = printed
            .lines()
            .find(|line| line.starts_with("microk8s join [fd00:99::11]:25000/"))
            .unwrap();
        let line = format!("{command} {}", role.unwrap_or_default());
        let joined = n2.shell(&line);
        assert_eq!(joined.code, Some(0), "{line}: {joined:?}");
        assert!(
            joined
                .stdout
                .starts_with("Contacting cluster at fd00:99::11\n")
        );
        if role.is_none() {
            assert_eq!(
                n1.read("var/kubernetes/backend/cluster.yaml")
                    .lines()
                    .next(),
                Some("- Address: '[fd00:99::11]:19001'")
            );
            let again = n2.shell(&line);
            assert_eq!(again.code, Some(0), "{again:?}");
        } else {
            let provider = n2.read("args/traefik/provider.yaml");
            assert!(provider.contains("[fd00:99::11]:16443"), "{provider}");
        }
        let names = n2.shell(&format!(
            "openssl x509 -noout -ext subjectAltName -in {}",
            n2.path("certs/kubelet.crt").display()
        ));
        assert!(names.stdout.contains("FD00:99:0:0:0:0:0:12"), "{names:?}");
    }
}
