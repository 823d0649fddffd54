//! Artifact trees with the folders, names and sizes that real gateways have.
//!
//! Source: statistics over public gateway trees (median API 1.2 KB, endpoints 0.4 KB, OpenAPI documents in
//! local-entries much larger, 60 % of files without a final newline, three tenths repeating another file's body).

use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

const FOLDERS: &[(&str, u32, f64, f64)] = &[
    // folder, share in percent, median bytes, bytes at the 90th percentile
    ("proxy-services", 38, 1087.0, 2238.0),
    ("sequences", 17, 872.0, 1631.0),
    ("api", 20, 1167.0, 3292.0),
    ("endpoints", 14, 410.0, 1158.0),
    ("local-entries", 8, 2400.0, 16000.0),
    ("templates", 3, 640.0, 1100.0),
];

/// Writes `files` artifacts below `root`; their paths relative to it.
pub fn generate(root: &Path, files: usize, rng: &mut StdRng) -> Vec<PathBuf> {
    let default = root.join("default");
    for (folder, ..) in FOLDERS {
        fs::create_dir_all(default.join(folder)).unwrap();
    }
    fs::write(default.join("synapse.xml"), "<definitions xmlns=\"http://ws.apache.org/ns/synapse\"/>")
        .unwrap();
    let mut made = vec![PathBuf::from("default/synapse.xml")];
    let mut bodies: Vec<String> = Vec::new();
    while made.len() < files {
        let mut ticket = rng.random_range(0..100);
        let (folder, _, median, p90) = FOLDERS
            .iter()
            .find(|(_, share, ..)| {
                let hit = ticket < *share;
                ticket = ticket.saturating_sub(*share);
                hit
            })
            .unwrap();
        let name = format!(
            "admin--{}_v{}.{}.0.xml",
            word(rng, made.len()),
            rng.random_range(1..4),
            rng.random_range(0..10)
        );
        let body = if !bodies.is_empty() && rng.random_bool(0.3) {
            bodies[rng.random_range(0..bodies.len())].clone()
        } else {
            let bytes = size(rng, *median, *p90);
            let body = artifact(rng, bytes);
            bodies.push(body.clone());
            body
        };
        let path = PathBuf::from("default").join(folder).join(name);
        fs::write(root.join(&path), body).unwrap();
        made.push(path);
    }
    made
}

/// One artifact of about `bytes` bytes.
pub fn artifact(rng: &mut StdRng, bytes: usize) -> String {
    let mut text = String::new();
    if rng.random_bool(0.4) {
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    }
    text.push_str("<api xmlns=\"http://ws.apache.org/ns/synapse\" name=\"");
    text.push_str(&word(rng, 0));
    text.push_str("\" context=\"/");
    text.push_str(&word(rng, 1));
    text.push_str("\">\n");
    while text.len() < bytes {
        let (name, key) = (word(rng, 2), word(rng, 3));
        text.push_str("  <resource methods=\"POST GET\" uri-template=\"/");
        text.push_str(&name);
        text.push_str("\">\n    <inSequence><property name=\"api.ut.backendRequestTime\" expression=\"get-property('SYSTEM_TIME')\"/>\n      <send><endpoint key=\"");
        text.push_str(&key);
        text.push_str("--v1.0.0_APIproductionEndpoint\"/></send></inSequence>\n  </resource>\n");
    }
    text.push_str("</api>");
    if rng.random_bool(0.4) {
        text.push('\n');
    }
    text
}

fn size(rng: &mut StdRng, median: f64, p90: f64) -> usize {
    // A log-normal distribution with this median and 90th percentile, by a sum of uniforms.
    let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    let sigma = (p90 / median).ln() / 1.2816;
    (median * (sigma * normal).exp()).clamp(160.0, 300_000.0) as usize
}

fn word(rng: &mut StdRng, number: usize) -> String {
    const PARTS: &[&str] =
        &["Pet", "Order", "Bank", "Customer", "Price", "Weather", "Claim", "Stock", "Phone", "Pay"];
    let a = PARTS[rng.random_range(0..PARTS.len())];
    let b = PARTS[rng.random_range(0..PARTS.len())];
    format!("{a}{b}API{number}x{:03x}", rng.random_range(0..4096))
}
