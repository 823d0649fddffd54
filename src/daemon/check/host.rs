//! What the daemon needs of the host besides its roots: own folders, ports, watches, descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::Access;
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::process::Resource;

use crate::daemon::check::roots::Held;
use crate::daemon::check::{Findings, bytes, probe};
use crate::daemon::config::Config;

/// A store with less room than this refuses the next generation.
const ROOM_MIN: u64 = 64 << 20;
/// Connections of peers and clients, packs, staged files, with room.
const DESCRIPTORS_MIN: u64 = 2048;

/// The daemon that serves this node's control socket now.
#[derive(Debug)]
pub(super) struct Running {
    pid: Option<i32>,
}

impl Running {
    /// Asks whose socket it is; none when nobody answers.
    pub(super) fn find(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok();
        Some(Self { pid: peer.map(|peer| peer.pid.as_raw_nonzero().get()) })
    }

    /// Whether it holds a listener on `port`; none when this user may not know.
    fn listens_on(&self, port: u16) -> Option<bool> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid?)).ok()?;
        let held: BTreeSet<String> = descriptors
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).ok());
        Some(
            tables
                .iter()
                .flatten()
                .flat_map(|table| listeners(table, port))
                .any(|inode| held.contains(&format!("socket:[{inode}]"))),
        )
    }

    fn descriptors_max(&self) -> Option<u64> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid?)).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// The inodes of sockets that listen on `port`, from a table of the kernel's.
fn listeners(table: &str, port: u16) -> Vec<&str> {
    const LISTEN: &str = "0A";
    let ending = format!(":{port:04X}");
    let inode = |line: &'_ str| -> Option<usize> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&ending) && *fields.get(3)? == LISTEN;
        listens.then_some(9)
    };
    table
        .lines()
        .filter_map(|line| inode(line).and_then(|field| line.split_whitespace().nth(field)))
        .collect()
}

/// Looks at everything but roots, certificates and peers.
pub(super) fn check(findings: &mut Findings, config: &Config, running: Option<&Running>, held: Held) {
    match running {
        Some(Running { pid: Some(pid) }) => findings.ok(
            ("daemon", &config.node.socket.display().to_string()),
            format!("a daemon runs here, as process {pid}"),
        ),
        Some(Running { pid: None }) => {
            findings.ok(("daemon", &config.node.socket.display().to_string()), "a daemon runs here");
        }
        None => findings.ok(
            ("daemon", &config.node.socket.display().to_string()),
            "no daemon runs here now, or this user may not reach it",
        ),
    }
    data_dir(findings, config, held);
    socket(findings, config, running);
    port(findings, "node.listen", config.node.listen, running);
    port(findings, "node.http", config.node.http, running);
    if config.synced_roots().next().is_some() {
        watches(findings, held, running.is_some());
    }
    descriptors(findings, running);
}

/// The nearest folder above `path` that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(path)
}

fn data_dir(findings: &mut Findings, config: &Config, held: Held) {
    let folder = &config.node.data_dir;
    let subject = folder.display().to_string();
    let there = existing(folder);
    let user = rustix::process::geteuid().as_raw();
    if there == folder && !folder.is_dir() {
        findings.error(("data-dir", &subject), "it is not a folder", "name another node.data_dir");
        return;
    }
    if let Err(error) = probe::may(there, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        findings.error(
            ("data-dir", &subject),
            format!("user {user} can't write in {}: {error}", there.display()),
            format!("make it, owned by the daemon's user: install -d -o USER -m 0700 {subject}"),
        );
        return;
    }
    match probe::room(there) {
        Ok(room) if room.bytes < ROOM_MIN => findings.error(
            ("data-dir", &subject),
            format!("its file system has only {} free", bytes(room.bytes)),
            format!("make room: at least {}", bytes(ROOM_MIN)),
        ),
        Ok(room) if room.bytes < held.bytes => findings.warning(
            ("data-dir", &subject),
            format!(
                "its file system has {} free, and the roots hold {}: one change of everything would not fit",
                bytes(room.bytes),
                bytes(held.bytes)
            ),
            "make room on it, or name a node.data_dir elsewhere",
        ),
        Ok(room) => findings.ok(
            ("data-dir", &subject),
            format!("user {user} writes there, and its file system has {} free", bytes(room.bytes)),
        ),
        Err(error) => findings.error(
            ("data-dir", &subject),
            format!("its file system does not answer: {error}"),
            "see the cause",
        ),
    }
}

fn socket(findings: &mut Findings, config: &Config, running: Option<&Running>) {
    let path = &config.node.socket;
    let subject = path.display().to_string();
    let Some(folder) = path.parent().filter(|_| running.is_none()) else { return };
    let there = existing(folder);
    match probe::may(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => findings.ok(("socket", &subject), "it can be made here"),
        Err(error) => findings.error(
            ("socket", &subject),
            format!("it can't be made in {}: {error}", there.display()),
            "make its folder, owned by the daemon's user; under systemd RuntimeDirectory=syncd does it",
        ),
    }
}

fn port(findings: &mut Findings, key: &'static str, address: SocketAddr, running: Option<&Running>) {
    let subject = format!("{key} {address}");
    // Bound and closed at once; a daemon that starts in this very moment tries again under systemd.
    match TcpListener::bind(address) {
        Ok(_) => findings.ok(("port", &subject), "it is free"),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            match running.map(|running| running.listens_on(address.port())) {
                Some(Some(true)) => findings.ok(("port", &subject), "the running daemon holds it"),
                Some(None) => findings.ok(
                    ("port", &subject),
                    "it is taken, most likely by the running daemon; only that one's user or root can tell",
                ),
                Some(Some(false)) | None => findings.error(
                    ("port", &subject),
                    "another program holds it",
                    format!("stop that one (`ss -ltnp` names it), or choose another {key}"),
                ),
            }
        }
        Err(error) => findings.error(
            ("port", &subject),
            format!("it can't be listened on: {error}"),
            match error.kind() {
                ErrorKind::AddrNotAvailable => "name an address of this host",
                ErrorKind::PermissionDenied => "choose a port of 1024 or above",
                _ => "see the cause",
            },
        ),
    }
}

fn watches(findings: &mut Findings, held: Held, running: bool) {
    const WATCHES: &str = "fs.inotify.max_user_watches";
    const INSTANCES: &str = "fs.inotify.max_user_instances";
    let limit = |name: &str| -> Option<u64> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let set = |name: &str, value: u64| {
        format!("sysctl -w {name}={value}, and `{name} = {value}` in /etc/sysctl.d/60-syncd.conf to keep it")
    };
    match limit(WATCHES) {
        // The limit is the user's, and the gateway that runs as the same one has watches too.
        Some(most) if most < 2 * held.folders => findings.warning(
            ("inotify", WATCHES),
            format!(
                "{most} watches for all programs of one user, and the roots have {} folders: those without a \
                 watch are polled",
                held.folders
            ),
            set(WATCHES, (4 * held.folders).next_power_of_two().max(65_536)),
        ),
        Some(most) => {
            findings.ok(("inotify", WATCHES), format!("{most} are enough for {} folders", held.folders));
        }
        None => findings.warning(
            ("inotify", WATCHES),
            "the kernel does not tell its limit, so changes may be found by polling only",
            "mount /proc in this environment",
        ),
    }
    match inotify::init(inotify::CreateFlags::CLOEXEC) {
        Ok(_) => {
            let most = limit(INSTANCES).map_or_else(String::new, |most| format!(" (at most {most})"));
            findings.ok(("inotify", INSTANCES), format!("this user can have one more{most}"));
        }
        Err(Errno::MFILE) if running => {
            findings.ok(("inotify", INSTANCES), "none is left, and the running daemon has its own");
        }
        Err(Errno::MFILE) => findings.warning(
            ("inotify", INSTANCES),
            "this user has none left, so changes would be found by polling only",
            set(INSTANCES, 2 * limit(INSTANCES).unwrap_or(128)),
        ),
        Err(error) => findings.warning(
            ("inotify", INSTANCES),
            format!("nothing can be watched here ({error}), so changes are found by polling only"),
            "see the cause",
        ),
    }
}

fn descriptors(findings: &mut Findings, running: Option<&Running>) {
    let of_daemon = running.and_then(Running::descriptors_max);
    let (most, whose) = match of_daemon {
        Some(most) => (Some(most), "the running daemon"),
        None => (rustix::process::getrlimit(Resource::Nofile).maximum, "a process started from here"),
    };
    let subject = "open files";
    match most {
        Some(most) if most < DESCRIPTORS_MIN => findings.warning(
            ("descriptors", subject),
            format!(
                "{whose} may open {most} files and connections, and a busy node needs up to {DESCRIPTORS_MIN}"
            ),
            "set LimitNOFILE=65536 in the unit, or raise `ulimit -n`",
        ),
        Some(most) => {
            findings.ok(("descriptors", subject), format!("{whose} may open {most} files and connections"));
        }
        None => findings.ok(("descriptors", subject), format!("{whose} may open any number of files")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernels_table() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:221A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:221A 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 00000000:221B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0";
        assert_eq!(listeners(table, 0x221A), ["4711"]);
        assert_eq!(listeners(table, 0x221B), ["4713"]);
        assert!(listeners(table, 1).is_empty());
    }
}
