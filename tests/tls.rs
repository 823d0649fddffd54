//! Certificates between nodes: those of one authority form a cluster, others do not get a word in.
#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use support::{THREE, TestCluster};

const LONG: Duration = Duration::from_secs(30);

/// An authority, and a certificate of it for each node, below `folder`.
fn certify(cluster: &TestCluster, folder: &Path) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("ca.pem"), params.self_signed(&authority_key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, authority_key);
    for node in &cluster.nodes {
        let host = node.address.split(':').next().unwrap().to_owned();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host]).unwrap().signed_by(&key, &authority).unwrap();
        fs::write(folder.join(format!("{}.pem", node.name)), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{}.key", node.name)), key.serialize_pem()).unwrap();
    }
}

/// Each node's own certificate, from its environment: the configuration file is one for all.
fn use_certificates(cluster: &mut TestCluster, node: usize, folder: &Path) {
    let node = &mut cluster.nodes[node];
    for (key, file) in [
        ("CA", "ca.pem".to_owned()),
        ("CERT", format!("{}.pem", node.name)),
        ("KEY", format!("{}.key", node.name)),
    ] {
        node.env.insert(format!("SYNCD_TLS__{key}"), folder.join(file).to_str().unwrap().to_owned());
    }
}

#[test]
fn certificates_of_one_authority_form_a_cluster() {
    let mut cluster = TestCluster::new(THREE, "");
    let folder = cluster.dir.path().join("tls");
    certify(&cluster, &folder);
    (0..3).for_each(|node| use_certificates(&mut cluster, node, &folder));
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.write(0, "default/api/a.xml", "<api>2</api>");
    for node in 1..3 {
        cluster.wait_content(node, "default/api/a.xml", "<api>2</api>", LONG);
    }

    // Another authority's node, and one without any, are not heard; the two others go on.
    let foreign = cluster.dir.path().join("foreign");
    certify(&cluster, &foreign);
    let manager = cluster.wait_manager(LONG);
    let other = (manager + 1) % 3;
    cluster.kill(other);
    use_certificates(&mut cluster, other, &foreign);
    cluster.start(other);
    cluster.wait("the stranger to serve its status", LONG, || cluster.status(other).is_some());
    cluster.write(manager, "default/api/a.xml", "<api>3</api>");
    let third = 3 - manager - other;
    cluster.wait_content(third, "default/api/a.xml", "<api>3</api>", LONG);
    cluster.wait("the stranger to be named", LONG, || {
        cluster.status(manager).is_some_and(|status| support::has_problem(&status, "unreachable"))
    });
    assert_eq!(cluster.read(other, "default/api/a.xml").unwrap(), b"<api>2</api>");

    cluster.kill(other);
    use_certificates(&mut cluster, other, &folder);
    cluster.start(other);
    cluster.wait_content(other, "default/api/a.xml", "<api>3</api>", LONG);
}
