//! What the host has, and a network of the bench's own, in which nobody else's bytes are counted.

use std::process::Command;

const INSIDE: &str = "SYNCD_BENCH_INSIDE";

/// Runs this program again in a network namespace of its own; its exit code. None: this is it, or it can't be had.
pub fn enter_own_network() -> Option<i32> {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()), "the loopback device can't be set up");
        return None;
    }
    let can = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("(not root, or no iproute2: bytes are those of the whole host's loopback device)\n");
        return None;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .unwrap();
    Some(status.code().unwrap_or(1))
}

/// Whether a tool answers.
pub fn has(tool: &str) -> bool {
    let asked = Command::new(tool).arg(if tool == "lsyncd" { "-version" } else { "--version" }).output();
    asked.is_ok()
}

/// Tools that are not there, with the Debian package that has them.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let wanted = [("rsync", "rsync"), ("lsyncd", "lsyncd"), ("strace", "strace")];
    wanted.into_iter().filter(|(tool, _)| !has(tool)).collect()
}

/// One line on what the figures were measured on.
pub fn describe() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let dir = std::env::temp_dir();
    let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(&dir).output();
    let kind = kind
        .map_or_else(|_| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!(
        "{cores} cores that run everything; files in {} ({kind}; another place by TMPDIR: creating files is slow right \
         after mass deletes on ext4, so take a fresh file system for figures to keep).",
        dir.display()
    );
    println!(
        "syncd runs with `gather` and `delete_grace` 0 and `max_delete` raised, and syncs everything to disk on every \
         node; the peers sync nothing. Bytes are those of the loopback device, headers and acknowledgements included.\n"
    );
}
