//! The unit keeps its sandbox: systemd's own judgement of it, from 0 (closed) to 10 (open).

use std::process::Command;

#[test]
fn the_unit_is_confined() {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=15", "systemd/syncd.service"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = output.expect("systemd-analyze is there: tests/run installs it");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("Overall exposure level"),
        "more open than 1.5:\n{told}"
    );
}
