//! Keys of every kind that OpenSSL writes, where a node may have them: each is accepted and stays,
//! or is refused by its file's name. Certificates under every kind of authority are verified by
//! OpenSSL and by curl.

use std::fs;

use microk8s::pki::key::PrivateKey;

use crate::lab::{Host, Lab};

/// Commands that write a key to standard output, by what is to be said of them.
const ACCEPTED: [(&str, &str); 12] = [
    ("RSA, PKCS#8", "openssl genpkey -algorithm RSA"),
    ("RSA, PKCS#1", "openssl genrsa -traditional"),
    ("RSA of 4096 bits", "openssl genrsa 4096"),
    ("RSA with a text", "openssl genrsa | openssl rsa -text"),
    (
        "RSA with the attributes of a bag",
        "printf 'Bag Attributes\n    friendlyName: kubelet\nKey Attributes: <No Attributes>\n'; openssl genrsa",
    ),
    ("RSA with CRLF", "openssl genrsa | sed 's/$/\\r/'"),
    (
        "P-256, SEC1, its parameters first",
        "openssl ecparam -genkey -name prime256v1",
    ),
    (
        "P-256, PKCS#8",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    ),
    (
        "P-384, SEC1",
        "openssl ecparam -genkey -noout -name secp384r1",
    ),
    (
        "P-521, PKCS#8",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521",
    ),
    (
        "P-521 after its certificate",
        "cat $SNAP_DATA/certs/server.crt; openssl ecparam -genkey -noout -name secp521r1",
    ),
    ("Ed25519", "openssl genpkey -algorithm ed25519"),
];

const ENCRYPTED: &str = "the private key is encrypted";
const UNSUPPORTED: &str = "of a kind that is not supported";

const REFUSED: [(&str, &str, &str); 7] = [
    (
        "PKCS#8 with a passphrase",
        "openssl genpkey -algorithm RSA -aes256 -pass pass:secret",
        ENCRYPTED,
    ),
    (
        "PKCS#1 with a passphrase",
        "openssl genrsa | openssl rsa -traditional -aes256 -passout pass:secret",
        ENCRYPTED,
    ),
    (
        "SEC1 with a passphrase",
        "openssl ecparam -genkey -name prime256v1 | openssl ec -aes256 -passout pass:secret",
        ENCRYPTED,
    ),
    ("RSA of 1024 bits", "openssl genrsa 1024", UNSUPPORTED),
    (
        "Bitcoin's curve",
        "openssl ecparam -genkey -noout -name secp256k1",
        UNSUPPORTED,
    ),
    ("Ed448", "openssl genpkey -algorithm ed448", UNSUPPORTED),
    (
        "a certificate",
        "cat $SNAP_DATA/certs/server.crt",
        "not a private key",
    ),
];

fn made(host: &Host, command: &str) -> String {
    host.shell(&format!("{{ {command}; }} 2>/dev/null")).ok()
}

#[test]
fn keys_of_all_common_kinds_are_read_in_every_form_and_keep_their_public_half() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    for (what, command) in ACCEPTED {
        let text = made(n1, command);
        let key = PrivateKey::from_pem(&text).unwrap_or_else(|error| panic!("{what}: {error}"));
        let public = n1.run_with_input(&["sh", "-c", "openssl pkey -pubout"], text.as_bytes());
        let expected = crate::lab::pem::blocks(public.ok().as_bytes()).remove(0);
        assert_eq!(key.public_key().unwrap(), expected.der, "{what}");
        let again = PrivateKey::from_pem(key.to_pem().unwrap().expose()).unwrap();
        assert_eq!(again.public_key().unwrap(), expected.der, "{what}");
    }
}

#[test]
fn a_key_that_is_of_no_use_is_refused_by_its_name_before_anything_is_sent_and_stays() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    for (number, (what, command, why)) in REFUSED.into_iter().enumerate() {
        let text = made(n2, command);
        assert!(!text.is_empty(), "{what}");
        // The keys of a control plane node are checked as well as those of a worker.
        let (file, role) = match number % 2 {
            0 => ("kubelet.key", "--worker"),
            _ => ("scheduler.key", ""),
        };
        let before = n2.read(&format!("certs/{file}"));
        n2.write(&format!("certs/{file}"), &text, 0o600);
        for dry_run in ["--dry-run", ""] {
            let refused = n2.shell(&format!("{line} {role} {dry_run}"));
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert_eq!(refused.code, Some(9), "{what} {dry_run}: {said}");
            assert!(
                said.contains(file) && said.contains(why),
                "{what} {dry_run}: {said}"
            );
        }
        assert_eq!(n2.read(&format!("certs/{file}")), text, "{what}");
        n2.write(&format!("certs/{file}"), &before, 0o600);
    }
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn a_worker_keeps_its_keys_of_whatever_kind_and_gets_certificates_for_them() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let kubelet = made(n2, "openssl ecparam -genkey -name secp384r1");
    let proxy = made(n2, "openssl genpkey -algorithm ed25519");
    n2.write("certs/kubelet.key", &kubelet, 0o600);
    n2.write("certs/proxy.key", &proxy, 0o600);
    let line = n1.join_line();
    n2.shell(&format!("{line} --worker")).ok();
    for (name, key) in [("kubelet", &kubelet), ("proxy", &proxy)] {
        assert_eq!(n2.read(&format!("certs/{name}.key")), *key);
        n2.shell(&format!(
            "cd $SNAP_DATA/certs && openssl verify -CAfile ca.remote.crt {name}.crt \
             && [ \"$(openssl x509 -noout -pubkey -in {name}.crt)\" = \"$(openssl pkey -pubout -in {name}.key)\" ]"
        ))
        .ok();
    }
}

/// Makes `ca.key` and `ca.crt` of n1, and `root.crt` where another authority signed that.
const AUTHORITIES: [(&str, &str); 5] = [
    (
        "self-signed, EC",
        "openssl ecparam -genkey -noout -name secp384r1 -out ca.key
         openssl req -x509 -sha256 -new -key ca.key -days 3650 -subj '/CN=10.152.183.1' -out ca.crt",
    ),
    (
        "intermediate, RSA",
        "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/O=Example/CN=Root' -keyout root.key -out root.crt
         openssl req -newkey rsa:2048 -nodes -subj '/O=Example/CN=Edge' -keyout ca.key -out ca.csr
         openssl x509 -req -in ca.csr -CA root.crt -CAkey root.key -CAcreateserial -days 1825 -extfile ca.ext -out ca.crt",
    ),
    (
        "intermediate, EC below RSA",
        "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/O=Example/CN=Root' -keyout root.key -out root.crt
         openssl ecparam -genkey -name prime256v1 -out ca.key
         openssl req -new -key ca.key -subj '/O=Example/CN=Edge' -out ca.csr
         openssl x509 -req -in ca.csr -CA root.crt -CAkey root.key -CAcreateserial -days 1825 -extfile ca.ext -out ca.crt",
    ),
    (
        "cross-signed, EC P-521",
        "openssl ecparam -genkey -noout -name secp521r1 -out ca.key
         openssl ecparam -genkey -noout -name prime256v1 -out root.key
         openssl req -x509 -new -key root.key -days 3650 -subj '/CN=Root' -out root.crt
         openssl req -new -key ca.key -subj '/CN=Old' -out ca.csr
         openssl x509 -req -in ca.csr -CA root.crt -CAkey root.key -CAcreateserial -days 1825 -extfile ca.ext -out ca.crt",
    ),
    (
        "self-signed without a key identifier, Ed25519",
        "openssl genpkey -algorithm ed25519 -out ca.key
         openssl req -x509 -new -key ca.key -days 3650 -subj '/CN=Bare' -config bare.conf -extensions none -out ca.crt",
    ),
];

#[test]
fn every_certificate_verifies_below_every_kind_of_authority_on_both_sides_of_a_join() {
    for (what, make) in AUTHORITIES {
        let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
            return;
        };
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
        let place = n1.scratch().join("authority");
        fs::create_dir(&place).unwrap();
        let place = place.display();
        n1.shell(&format!(
            "set -e; cd {place}; exec 2>&1
             printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n' >ca.ext
             printf '[req]\ndistinguished_name=dn\n[dn]\n[none]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\n' >bare.conf
             {make}
             cp ca.crt ca.key $SNAP_DATA/certs/
             cd $SNAP_DATA/certs
             openssl req -new -sha256 -key server.key -out {place}/server.csr -config csr.conf
             openssl x509 -req -in {place}/server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -CAserial {place}/serial \
                 -out server.crt -days 365 -extensions v3_ext -extfile csr.conf"
        ))
        .ok();
        let (_first, _second) = (n1.agent(), n2.agent());
        n2.shell(&n1.join_line()).ok();
        n3.shell(&format!("{} --worker", n1.join_line())).ok();
        let verify = |host: &Host, authority: &str, names: &[&str]| {
            for name in names {
                let line = format!(
                    "cd $SNAP_DATA/certs && openssl verify -no-CAfile -no-CApath -partial_chain -trusted {authority} {name}.crt 2>&1 \
                     && {{ [ {authority} = front-proxy-ca.crt ] || [ ! -e {place}/root.crt ] || openssl verify -CAfile {place}/root.crt -untrusted {authority} {name}.crt 2>&1; }}"
                );
                let verified = host.shell(&line);
                assert_eq!(
                    verified.code,
                    Some(0),
                    "{what}, {}: {verified:?}",
                    host.name
                );
            }
        };
        let all = [
            "server",
            "apiserver-kubelet-client",
            "client",
            "controller",
            "kubelet",
            "proxy",
            "scheduler",
        ];
        verify(n2, "ca.crt", &all);
        verify(n2, "front-proxy-ca.crt", &["front-proxy-client"]);
        verify(n3, "ca.remote.crt", &["kubelet", "proxy"]);
        // The agent of the node that joined serves its certificate; curl takes the authority alone.
        let said = n1.shell(
            "curl -sS -o /dev/null --cacert $SNAP_DATA/certs/ca.crt https://10.99.0.12:25000/",
        );
        assert_eq!(said.code, Some(0), "{what}: {said:?}");
    }
}
