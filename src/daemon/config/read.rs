//! Which keys there are, with their types and defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::daemon::config::mistakes::Mistakes;
use crate::daemon::config::preset::{self, Kind, Preset};
use crate::daemon::config::section::Section;
use crate::daemon::config::source::{Origins, Table};
use crate::daemon::config::{
    Cluster, Config, DEFAULT_SOCKET, Drift, Election, Hook, Listed, Mode, Node, Root, RootMode, SharedFs,
    Sync, Tls, Validate,
};
use crate::model::{Role, RootName, RootRules};

/// A configuration whose keys are typed and whose relations are not checked yet.
pub(super) struct Draft {
    /// `node.name` is empty when it was not given.
    pub(super) config: Config,
    pub(super) insecure: bool,
}

/// Reads every key.
pub(super) fn config(mistakes: &mut Mistakes, table: Table) -> Draft {
    let file = mistakes.path().to_owned();
    let mut top = Section::top(mistakes, table);
    let node = top.within("node", node);
    let cluster = top.within("cluster", cluster);
    let election = top.within("election", election);
    let preset = top.within("preset", preset);
    let given = top.each("root", root);
    let sync = top.within("sync", sync);
    let shared_fs = top.within("shared_fs", shared_fs);
    let (insecure, tls) = top.within("tls", tls);
    let hooks = top.each("hook", hook);
    top.finish();
    mistakes.tell_unknown();
    let roots = roots(mistakes, preset.as_ref(), given);
    let origins = Origins::new();
    let config = Config { file, node, cluster, election, roots, sync, shared_fs, tls, hooks, origins };
    Draft { config, insecure }
}

/// Reads `node.socket` only.
pub(super) fn socket(mistakes: &mut Mistakes, table: Table) -> PathBuf {
    Section::top(mistakes, table).within("node", socket_path)
}

fn socket_path(node: &mut Section<'_>) -> PathBuf {
    node.path("socket").unwrap_or_else(|| DEFAULT_SOCKET.into())
}

fn node(node: &mut Section<'_>) -> Node {
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let socket_shape = "an IP address with a port, such as 0.0.0.0:8730";
    Node {
        name: node.text("name").unwrap_or_default(),
        listen: node.parsed("listen", any(8730), socket_shape),
        http: node.parsed("http", any(8731), socket_shape),
        http_paths: node.truth("http_paths", false),
        data_dir: node.path("data_dir").unwrap_or_else(|| "/var/lib/syncd".into()),
        socket: socket_path(node),
    }
}

fn cluster(cluster: &mut Section<'_>) -> Cluster {
    Cluster {
        name: cluster.needed("name", "give the cluster one name on all hosts").unwrap_or_default(),
        mode: cluster.word("mode", &[("rsync", Mode::Rsync), ("shared-fs", Mode::SharedFs)], Mode::Rsync),
        nodes: cluster.each("node", |node| Listed {
            name: node.needed("name", "give the node's name").unwrap_or_default(),
            address: node.needed("address", "give host:port where its peers reach it").unwrap_or_default(),
            role: node.word(
                "role",
                &[("candidate", Role::Candidate), ("worker", Role::Worker), ("witness", Role::Witness)],
                Role::Candidate,
            ),
            priority: node.whole("priority", i64::MIN, 0),
        }),
    }
}

fn election(election: &mut Section<'_>) -> Election {
    election.word("backend", &[("raft", ())], ());
    Election {
        heartbeat: election.duration("heartbeat", Duration::from_millis(200)),
        timeout: election.duration("timeout", Duration::from_millis(600)),
        lease: election.duration("lease", Duration::from_millis(1200)),
    }
}

fn preset(preset: &mut Section<'_>) -> Option<Preset> {
    let words: Vec<(&str, Kind)> = Kind::ALL.iter().map(|kind| (kind.name(), *kind)).collect();
    let kind =
        preset.word("name", &words.iter().map(|(name, kind)| (*name, Some(*kind))).collect::<Vec<_>>(), None);
    let home = preset.path("home");
    let multi_tenant = preset.truth("multi_tenant", false);
    let (named, homed) = (preset.mistakes.given("preset.name"), home.is_some());
    if named && !homed && !preset.mistakes.given("preset.home") {
        preset.mistakes.at(
            "preset.home",
            "it is missing",
            "give the folder in which the product is installed",
        );
    }
    if !named && (homed || multi_tenant) {
        preset.mistakes.at("preset.name", "it is missing", format!("use {}", Kind::names()));
    }
    Some(Preset { kind: kind?, home: home?, multi_tenant })
}

/// A `[[root]]` as it was written.
struct Given {
    key: String,
    name: String,
    path: Option<PathBuf>,
    mode: RootMode,
    optional: Option<bool>,
    rules: RootRules,
}

fn root(root: &mut Section<'_>) -> Given {
    let optional = root.truth("optional", false);
    let optional = root.mistakes.given(&root.full("optional")).then_some(optional);
    Given {
        key: root.key().to_owned(),
        name: root.needed("name", "give the root one name on all hosts").unwrap_or_default(),
        path: root.path("path"),
        mode: root.word("mode", &[("sync", RootMode::Sync), ("compare", RootMode::Compare)], RootMode::Sync),
        optional,
        rules: RootRules {
            exclude: root.patterns("exclude"),
            per_node: root.patterns("per_node"),
            protect: root.patterns("protect"),
            owner: root.text("owner"),
            group: root.text("group"),
        },
    }
}

/// The roots of the preset, each refined by the given one of its name, and the other given ones.
fn roots(mistakes: &mut Mistakes, preset: Option<&Preset>, given: Vec<Given>) -> Vec<Root> {
    let mut roots = preset.map(preset::roots).unwrap_or_default();
    let mut preset_names: Vec<RootName> = roots.iter().map(|root: &Root| root.name.clone()).collect();
    for given in given {
        let name = RootName::new(&given.name);
        if let Some(position) = preset_names.iter().position(|preset| *preset == name) {
            preset_names.remove(position);
            if let Some(root) = roots.iter_mut().find(|root| root.name == name) {
                refine(root, given);
            }
            continue;
        }
        let path = given.path.clone();
        if path.is_none() && !mistakes.given(&format!("{}.path", given.key)) {
            let remedy = "give the folder's absolute path on this host";
            mistakes.at(&format!("{}.path", given.key), "it is missing", remedy);
        }
        let mut root = Root {
            name,
            path: path.unwrap_or_default(),
            mode: given.mode,
            optional: false,
            rules: RootRules::default(),
            key: String::new(),
        };
        refine(&mut root, given);
        roots.push(root);
    }
    roots.sort_by(|left, right| left.name.cmp(&right.name));
    roots
}

fn refine(root: &mut Root, given: Given) {
    root.key = given.key;
    root.mode = given.mode;
    root.path = given.path.unwrap_or_else(|| root.path.clone());
    root.optional = given.optional.unwrap_or(root.optional);
    root.rules.exclude.extend(given.rules.exclude);
    root.rules.per_node.extend(given.rules.per_node);
    root.rules.protect.extend(given.rules.protect);
    root.rules.owner = given.rules.owner;
    root.rules.group = given.rules.group;
}

fn sync(sync: &mut Section<'_>) -> Sync {
    let count = |whole: i64| whole.unsigned_abs();
    Sync {
        settle: sync.duration("settle", Duration::from_millis(10)),
        gather: sync.duration("gather", Duration::from_secs(1)),
        settle_max: sync.duration("settle_max", Duration::from_secs(6)),
        delete_grace: sync.duration("delete_grace", Duration::from_secs(3)),
        max_delete: count(sync.whole("max_delete", 0, 50)),
        handover: sync.duration("handover", Duration::from_secs(10)),
        ready_lag: sync.duration("ready_lag", Duration::from_secs(30)),
        drift: sync.word("drift", &[("revert", Drift::Revert), ("report", Drift::Report)], Drift::Revert),
        validate: sync.word(
            "validate",
            &[("hold", Validate::Hold), ("warn", Validate::Warn), ("off", Validate::Off)],
            Validate::Hold,
        ),
        verify_every: sync.duration("verify_every", Duration::from_secs(600)),
        history: count(sync.whole("history", 1, 100)),
        bandwidth: sync.size("bandwidth", 0),
        quarantine_max: sync.size("quarantine_max", 4 << 30),
    }
}

fn shared_fs(shared: &mut Section<'_>) -> SharedFs {
    SharedFs {
        interval: shared.duration("interval", Duration::from_secs(10)),
        converge_within: shared.duration("converge_within", Duration::from_secs(120)),
        stall_after: shared.duration("stall_after", Duration::from_secs(5)),
        require_mount: shared.truth("require_mount", true),
    }
}

fn tls(tls: &mut Section<'_>) -> (bool, Option<Tls>) {
    let insecure = tls.truth("insecure", false);
    let files = [tls.path("ca"), tls.path("cert"), tls.path("key")];
    let given = files.iter().any(Option::is_some);
    for (name, file) in ["ca", "cert", "key"].into_iter().zip(&files) {
        let key = tls.full(name);
        if given && file.is_none() && !tls.mistakes.given(&key) {
            tls.mistakes.at(
                &key,
                "it is missing: ca, cert and key belong together",
                "give all three or none",
            );
        }
    }
    let [ca, cert, key] = files;
    (insecure, ca.zip(cert).zip(key).map(|((ca, cert), key)| Tls { ca, cert, key }))
}

fn hook(hook: &mut Section<'_>) -> Hook {
    const EVENTS: [&str; 5] = ["manager-changed", "applied", "held", "drift", "health-changed"];
    let words = EVENTS.map(|event| (event, event));
    let on = hook.word("on", &words, "");
    let key = hook.full("on");
    if !hook.mistakes.given(&key) {
        hook.mistakes.at(&key, "it is missing", format!("name an event: {}", EVENTS.join(", ")));
    }
    let command = hook.texts("command");
    let key = hook.full("command");
    if command.first().is_none_or(|program| !program.starts_with('/')) {
        let cause = "it must begin with the absolute path of a program";
        hook.mistakes.at(&key, cause, "write it as a list, such as [\"/usr/local/bin/reload\", \"--now\"]");
    }
    Hook { on: on.to_owned(), command, timeout: hook.duration("timeout", Duration::from_secs(10)) }
}
