//! The README's first command, with the binary of this build.
#![allow(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

use std::process::Command;

/// Publishes, updates, brings back a worker that was down, kills the manager, fails over, and ends with equal digests.
#[test]
fn the_demo_holds_what_it_promises() {
    let output = Command::new(env!("CARGO_BIN_EXE_syncd")).arg("demo").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{complaint}");
    let digests: Vec<_> =
        told.lines().filter_map(|line| line.split_once(" files  ").map(|(_, digest)| digest)).collect();
    assert!(told.contains("what was there is kept: `syncd quarantine list` on gw"), "{told}");
    assert_eq!(digests.len(), 3, "{told}");
    assert!(digests.iter().all(|digest| digest.len() == 64 && *digest == digests[0]), "{told}");
}
