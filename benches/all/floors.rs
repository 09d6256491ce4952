//! What nothing can be faster than on this machine, and the parts of the program that can be measured alone.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::process::Command;
use std::time::Instant;

use microk8s::pki::ca::Ca;
use microk8s::pki::csr::{self, ParsedRequest};
use microk8s::pki::csr_policy::{Expected, judge};
use microk8s::pki::key::{Bits, PrivateKey};
use microk8s::pki::name::Subject;
use microk8s::store::args_file::ArgsFile;

use crate::figures::{Figure, median};

/// In milliseconds.
pub struct Floors {
    /// One RSA signature of 2,048 bits.
    pub signature: f64,
    /// To write a page to this disk and flush it.
    pub flush: f64,
    /// To start a program that does nothing.
    pub process: f64,
}

impl Floors {
    /// Measures them on the disk of temporary files.
    pub fn measure() -> Self {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let signature = times(200, || {
            black_box(key.sign(b"what a server says in a handshake").unwrap());
        });
        let mut file = tempfile::tempfile().unwrap();
        let flush = times(30, || flush(&mut file));
        let process = times(30, || {
            assert!(Command::new("/bin/true").status().unwrap().success());
        });
        Self {
            signature: median(&signature),
            flush: median(&flush),
            process: median(&process),
        }
    }

    pub fn figures(&self) -> Vec<Figure> {
        let rows = [
            ("floor: RSA signature, 2,048 bits", self.signature),
            ("floor: flush of one page", self.flush),
            ("floor: start of a process", self.process),
        ];
        rows.map(|(what, value)| Figure::new(what, "ms", vec![value]))
            .into()
    }
}

fn flush(file: &mut File) {
    file.write_all(&[1; 4096]).unwrap();
    file.sync_data().unwrap();
}

/// How long each of so many turns takes, in milliseconds.
pub fn times(turns: usize, mut act: impl FnMut()) -> Vec<f64> {
    let one = |_| {
        let start = Instant::now();
        act();
        start.elapsed().as_secs_f64() * 1000.0
    };
    (0..turns).map(one).collect()
}

/// Parts of the program, in this process.
pub fn parts(floors: &Floors) -> Vec<Figure> {
    let authority = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let (authority, _) = Ca::create(&Subject::common_name("10.152.183.1"), authority).unwrap();
    let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let request = csr::create(&Subject::common_name("system:kube-proxy"), &[], &key).unwrap();
    let sign = times(200, || {
        let request = ParsedRequest::from_pem(&request).unwrap();
        let approved = judge(&request, &Expected::Proxy).unwrap();
        black_box(authority.issue_approved(&approved).unwrap());
    });
    let arguments: String = (0..40)
        .map(|number| format!("--argument-{number}=${{SNAP_DATA}}/certs/value-{number}\n"))
        .collect();
    let parse = times(1000, || {
        black_box(ArgsFile::parse(&arguments).get_all("--argument-39"));
    });
    vec![
        Figure::new("part: read, check and sign a request", "ms", sign).above(floors.signature),
        Figure::new("part: parse 40 arguments", "ms", parse),
    ]
}
