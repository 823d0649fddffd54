//! The relations between keys that must hold, and what of this host can be checked before anything runs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::daemon::config::host::{self, Found, Host};
use crate::daemon::config::mistakes::Mistakes;
use crate::daemon::config::read::Draft;
use crate::daemon::config::{Config, Notice, Root, later};
use crate::model::Role;

/// Names are parts of file names, metadata and metric labels.
const NAME_BYTES_MAX: usize = 64;

/// The room for a path in a socket address on Linux, less the closing zero.
const SOCKET_BYTES_MAX: usize = 107;

/// A manager that fell silent is replaced after this at the latest; a longer lease is a mistyped unit.
const LEASE_MAX: Duration = Duration::from_secs(60);

/// Checks a draft; what it returns holds together when no mistake was added.
pub(super) fn config(
    mistakes: &mut Mistakes,
    notices: &mut Vec<Notice>,
    host: &Host,
    draft: Draft,
) -> Config {
    let Draft { mut config, insecure } = draft;
    listed(mistakes, notices, &config);
    own_name(mistakes, notices, host, &mut config);
    own_places(mistakes, &config);
    election(mistakes, &config);
    sync(mistakes, &config);
    roots(mistakes, &config);
    tls(mistakes, notices, &config, insecure);
    later::tell(mistakes, notices, &config);
    config
}

/// Whether a root that is to be synchronized is a folder.
pub(super) fn root_is_there(mistakes: &mut Mistakes, root: &Root) {
    let path = root.path.display();
    let cause = match std::fs::metadata(&root.path) {
        Ok(found) if found.is_dir() => return,
        Ok(_) => format!("root `{}`: {path} is not a folder", root.name),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if root.optional {
                return;
            }
            format!("root `{}`: {path} does not exist", root.name)
        }
        Err(error) => format!("root `{}`: {path} cannot be looked at: {error}", root.name),
    };
    let remedy = "correct the path, mount or create the folder, or set optional = true if it may be absent";
    mistakes.at(&path_key(root), cause, remedy);
}

fn listed(mistakes: &mut Mistakes, notices: &mut Vec<Notice>, config: &Config) {
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    name(mistakes, "cluster.name", &config.cluster.name);
    for (number, node) in config.cluster.nodes.iter().enumerate() {
        let key = |name: &str| format!("cluster.node[{number}].{name}");
        name(mistakes, &key("name"), &node.name);
        if !node.address.is_empty() && host::host_of(&node.address).is_none() {
            let cause = format!("`{}` is not host:port", node.address);
            mistakes.at(
                &key("address"),
                cause,
                "give a name or address with a port, such as gw1.internal:8730",
            );
        }
        unique(mistakes, &mut names, &node.name, key("name"), "name");
        unique(mistakes, &mut addresses, &node.address, key("address"), "address");
    }
    if !config.cluster.nodes.iter().any(|node| node.role == Role::Candidate) {
        let remedy = "add a [[cluster.node]] with name and address for each host that may be manager";
        mistakes.at("cluster.node", "no candidate is listed, so nobody could be manager", remedy);
    }
    let voters = config.cluster.nodes.iter().filter(|node| node.role.votes()).count();
    if voters > 0 && voters % 2 == 0 {
        notices.push(warning(format!(
            "{voters} nodes vote: an even number bears no more losses than {}; add a witness on a further host, or \
             make one node a worker",
            voters - 1
        )));
    }
    if voters > 7 {
        notices.push(warning(format!(
            "{voters} nodes vote, and every commit waits for more than half of them; let 3 or 5 vote and make the \
             others workers"
        )));
    }
}

fn own_name(mistakes: &mut Mistakes, notices: &mut Vec<Notice>, host: &Host, config: &mut Config) {
    if mistakes.given("node.name") {
        if config.node.name.is_empty() {
            mistakes.at("node.name", "it is empty", "give the node's name, or leave the key out");
        }
    } else {
        config.node.name = match host.find(&config.cluster.nodes) {
            Found::One(node) => node.name.clone(),
            Found::Nobody => host.name.clone(),
            Found::Several(names) => {
                let cause = format!("several listed nodes are this host: {}", names.join(", "));
                let remedy = "set node.name in this host's file, or SYNCD_NODE__NAME in its environment";
                return mistakes.at("node.name", cause, remedy);
            }
        };
        if config.node.name.is_empty() {
            mistakes.at(
                "node.name",
                "this host has no name and is none of the listed nodes",
                "set node.name",
            );
        }
    }
    let node = &config.node;
    name(mistakes, "node.name", &node.name);
    let Some(me) = config.me() else {
        if !node.name.is_empty() {
            notices.push(warning(format!(
                "node `{}` is not listed under [[cluster.node]], so it joins as a worker and can never be manager; \
                 if this host is one of the listed nodes, set node.name to that one's name",
                node.name
            )));
        }
        return;
    };
    let listed_port = me.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if node.listen.port() != 0 && listed_port.is_some_and(|port| port != node.listen.port()) {
        notices.push(warning(format!(
            "peers reach this node at {}, but it listens on {}; that works only if something forwards the port",
            me.address, node.listen
        )));
    }
}

fn own_places(mistakes: &mut Mistakes, config: &Config) {
    let node = &config.node;
    if node.listen == node.http && node.listen.port() != 0 {
        let remedy = "give the two different ports, such as 8730 and 8731";
        mistakes.at("node.http", format!("it is {} as node.listen is", node.http), remedy);
    }
    let socket = node.socket.as_os_str().len();
    if socket > SOCKET_BYTES_MAX {
        let cause = format!("the path has {socket} bytes, and a socket's path at most {SOCKET_BYTES_MAX}");
        mistakes.at("node.socket", cause, "choose a shorter path");
    }
}

fn election(mistakes: &mut Mistakes, config: &Config) {
    let election = &config.election;
    let show = humantime::format_duration;
    let (heartbeat, timeout, lease) = (election.heartbeat, election.timeout, election.lease);
    if heartbeat < Duration::from_millis(10) {
        let cause = format!("{} is below 10ms, which no disk can keep up with", show(heartbeat));
        mistakes.at("election.heartbeat", cause, "give 10ms or more; the default is 200ms");
    }
    if timeout <= 2 * heartbeat {
        let cause = format!(
            "{} is not more than twice election.heartbeat ({}), so one late heartbeat would change the leader",
            show(timeout),
            show(heartbeat)
        );
        mistakes.at("election.timeout", cause, format!("give more than {}", show(2 * heartbeat)));
    }
    if lease < timeout {
        let cause = format!(
            "{} is shorter than election.timeout ({}), so one late answer would end it",
            show(lease),
            show(timeout)
        );
        mistakes.at("election.lease", cause, format!("give {} or more", show(2 * timeout)));
    }
    if lease > LEASE_MAX {
        let cause = format!(
            "{} is more than {}: so long nobody could replace a dead manager",
            show(lease),
            show(LEASE_MAX)
        );
        mistakes.at("election.lease", cause, "give 1m or less; the default is 1200ms");
    }
}

fn sync(mistakes: &mut Mistakes, config: &Config) {
    let sync = &config.sync;
    let show = humantime::format_duration;
    for (key, wait) in
        [("sync.settle", sync.settle), ("sync.gather", sync.gather), ("sync.delete_grace", sync.delete_grace)]
    {
        if wait > sync.settle_max {
            let cause = format!(
                "{} is more than sync.settle_max ({}), after which a change goes out in any case",
                show(wait),
                show(sync.settle_max)
            );
            mistakes.at(
                key,
                cause,
                format!("give {} or less, or raise sync.settle_max", show(sync.settle_max)),
            );
        }
    }
    let shared = &config.shared_fs;
    let positive = [
        ("sync.verify_every", sync.verify_every),
        ("shared_fs.interval", shared.interval),
        ("shared_fs.stall_after", shared.stall_after),
    ];
    for (key, duration) in positive {
        if duration.is_zero() {
            mistakes.at(key, "it is 0", "give a time above 0");
        }
    }
    if shared.converge_within < shared.interval {
        let cause = format!(
            "{} is less than shared_fs.interval ({}), so a difference would count before it was seen twice",
            show(shared.converge_within),
            show(shared.interval)
        );
        mistakes.at("shared_fs.converge_within", cause, "give at least shared_fs.interval");
    }
    for (number, hook) in config.hooks.iter().enumerate() {
        if hook.timeout.is_zero() {
            mistakes.at(
                &format!("hook[{number}].timeout"),
                "it is 0",
                "give a time above 0, such as \"10s\"",
            );
        }
    }
}

fn roots(mistakes: &mut Mistakes, config: &Config) {
    if config.roots.is_empty() && config.role() != Role::Witness {
        let remedy = "add a [[root]] with name and path, or a [preset]";
        mistakes.at("root", "there is no root, so there would be nothing to do", remedy);
    }
    let mut names = BTreeMap::new();
    let mut places: Vec<(PathBuf, String)> = vec![(real(&config.node.data_dir), "node.data_dir".to_owned())];
    for root in &config.roots {
        let name_key = format!("{}.name", root.key);
        name(mistakes, &name_key, root.name.as_str());
        unique(mistakes, &mut names, root.name.as_str(), name_key, "name");
        for (name, value) in [("owner", &root.rules.owner), ("group", &root.rules.group)] {
            if value.as_ref().is_some_and(String::is_empty) {
                mistakes.at(
                    &format!("{}.{name}", root.key),
                    "it is empty",
                    "give a name, or leave the key out",
                );
            }
        }
        if root.path.as_os_str().is_empty() || root.path.is_relative() {
            continue;
        }
        let place = real(&root.path);
        for (other, other_key) in &places {
            let cause = if place == *other {
                format!("{} is {other_key} too", root.path.display())
            } else if place.starts_with(other) {
                format!("{} lies inside {other_key} ({})", root.path.display(), other.display())
            } else if other.starts_with(&place) {
                format!("{} holds {other_key} ({})", root.path.display(), other.display())
            } else {
                continue;
            };
            mistakes.at(&path_key(root), cause, "keep them apart, or exclude one of them");
        }
        places.push((place, path_key(root)));
    }
}

fn tls(mistakes: &mut Mistakes, notices: &mut Vec<Notice>, config: &Config, insecure: bool) {
    let Some(tls) = &config.tls else {
        let incomplete = ["ca", "cert", "key"].iter().any(|name| mistakes.given(&format!("tls.{name}")));
        if insecure {
            notices.push(warning(
                "tls.insecure is set: whoever reaches node.listen can read and change all artifacts; give the nodes \
                 certificates",
            ));
        } else if !config.node.listen.ip().is_loopback() && !incomplete {
            mistakes.at(
                "node.listen",
                format!("{} can be reached from other hosts, and there are no certificates", config.node.listen),
                "give ca, cert and key in [tls]; or listen on 127.0.0.1; or, where the network itself is closed, set \
                 tls.insecure = true",
            );
        }
        return;
    };
    if insecure {
        let remedy = "remove it, or remove ca, cert and key";
        mistakes.at("tls.insecure", "it is true although certificates are given", remedy);
    }
    for (key, path, kind) in [
        ("tls.ca", &tls.ca, "CERTIFICATE-----"),
        ("tls.cert", &tls.cert, "CERTIFICATE-----"),
        ("tls.key", &tls.key, "PRIVATE KEY-----"),
    ] {
        match std::fs::read(path) {
            Err(error) => {
                let cause = format!("{} cannot be read: {error}", path.display());
                mistakes.at(
                    key,
                    cause,
                    "correct the path, and let the user that syncd runs as read the file",
                );
            }
            Ok(bytes) if !String::from_utf8_lossy(&bytes).contains(kind) => {
                let cause = format!("{} holds no PEM block `{kind}`", path.display());
                mistakes.at(key, cause, "give a file in PEM form");
            }
            Ok(_) => {}
        }
    }
    let mode = std::fs::metadata(&tls.key).map_or(0, |found| found.permissions().mode());
    if mode & 0o007 != 0 {
        notices.push(warning(format!(
            "{} may be read by everybody on this host: chmod 0600 it",
            tls.key.display()
        )));
    }
}

fn name(mistakes: &mut Mistakes, key: &str, name: &str) {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() > NAME_BYTES_MAX || !name.bytes().all(good) || name.starts_with('.') {
        let remedy = format!("use up to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`, no `.` first");
        mistakes.at(key, format!("`{}` is not a good name", name.escape_debug()), remedy);
    }
}

/// Tells when `value` was there before.
fn unique(
    mistakes: &mut Mistakes,
    seen: &mut BTreeMap<String, String>,
    value: &str,
    key: String,
    what: &str,
) {
    if value.is_empty() {
        return;
    }
    match seen.get(value) {
        Some(first) => {
            let cause = format!("`{value}` is the {what} at {first} too");
            mistakes.at(&key, cause, format!("give each its own {what}"));
        }
        None => {
            seen.insert(value.to_owned(), key);
        }
    }
}

/// The key that says where a root is.
fn path_key(root: &Root) -> String {
    if root.key.starts_with("preset") { root.key.clone() } else { format!("{}.path", root.key) }
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    for existing in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (existing.canonicalize(), path.strip_prefix(existing)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

fn warning(message: impl Into<String>) -> Notice {
    Notice { warning: true, message: message.into() }
}
