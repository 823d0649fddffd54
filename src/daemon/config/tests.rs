//! Whole files in, configurations or mistakes out.

use std::ffi::OsString;
use std::path::Path;

use super::*;

const LIST: &str = "[cluster]\nname = 'c'\n[[cluster.node]]\nname = 'gw1'\naddress = '10.0.0.1:8730'\n";

fn load(text: &str, env: &[(&str, &str)]) -> Result<(Config, Vec<Notice>), Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("syncd.toml");
    std::fs::write(&file, text).unwrap();
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let host = Host { name: "gw1".into(), addresses: Some(vec!["127.0.0.1".parse().unwrap()]) };
    Config::load_on(&host, &file, env).map_err(|error| {
        let folder = format!("{}/", folder.path().display());
        error.mistakes.iter().map(|mistake| mistake.to_string().replace(&folder, "")).collect()
    })
}

#[test]
fn a_short_file_gets_every_default_of_the_interface() {
    let root = "[node]\nlisten = '127.0.0.1:8730'\n[[root]]\nname = 'r'\npath = '/r'\n";
    let (config, notices) = load(&format!("{LIST}{root}"), &[]).unwrap();
    assert_eq!(config.node.name, "gw1");
    assert_eq!(config.node.http.to_string(), "0.0.0.0:8731");
    assert_eq!(config.node.data_dir, Path::new("/var/lib/syncd"));
    assert_eq!(config.node.socket, Path::new("/run/syncd/syncd.sock"));
    assert_eq!(config.election.heartbeat, Duration::from_millis(200));
    assert_eq!(config.election.timeout, Duration::from_millis(600));
    assert_eq!(config.election.lease, Duration::from_millis(1200));
    assert_eq!(config.sync.settle, Duration::from_millis(10));
    assert_eq!(config.sync.gather, Duration::from_secs(1));
    assert_eq!(config.sync.settle_max, Duration::from_secs(6));
    assert_eq!(config.sync.delete_grace, Duration::from_secs(3));
    assert_eq!((config.sync.max_delete, config.sync.history, config.sync.bandwidth), (50, 100, 0));
    assert_eq!(config.sync.quarantine_max, 4 << 30);
    assert_eq!((config.role(), config.address().as_str()), (Role::Candidate, "10.0.0.1:8730"));
    assert_eq!(config.rules().roots.len(), 1);
    assert!(notices.is_empty(), "{notices:?}");
}

#[test]
fn the_environment_lies_over_the_file() {
    let (config, _) = load(
        LIST,
        &[
            ("SYNCD_NODE__LISTEN", "127.0.0.1:9"),
            ("SYNCD_NODE__NAME", "'gw9'"),
            ("SYNCD_CLUSTER__NODE__1__NAME", "gw9"),
            ("SYNCD_CLUSTER__NODE__1__ADDRESS", "10.0.0.9:9"),
            ("SYNCD_ROOT__0__NAME", "123"),
            ("SYNCD_ROOT__0__PATH", "/r"),
            ("SYNCD_ROOT__0__EXCLUDE", r#"["*.a", '*.b']"#),
            ("SYNCD_SYNC__MAX_DELETE", "7"),
            ("SYNCD_SYNC__BANDWIDTH", "20MiB"),
            ("SYNCD_NODE__HTTP_PATHS", "true"),
            ("SYNCD_LOG", "debug"),
            ("UNRELATED__KEY", "x"),
        ],
    )
    .unwrap();
    assert_eq!((config.node.name.as_str(), config.address().as_str()), ("gw9", "10.0.0.9:9"));
    assert_eq!(config.roots[0].name.as_str(), "123");
    assert_eq!(config.roots[0].rules.exclude, ["*.a", "*.b"]);
    assert_eq!((config.sync.max_delete, config.sync.bandwidth), (7, 20 << 20));
    assert!(config.node.http_paths);
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let mistakes = load(
        LIST,
        &[("SYNCD_NODE__LISTEN", "here"), ("SYNCD_NODE__NAEM", "x"), ("SYNCD_ROOT__3__PATH", "/r")],
    )
    .unwrap_err();
    assert_eq!(mistakes.len(), 1, "the shape of the names comes first: {mistakes:?}");
    assert!(mistakes[0].starts_with("environment variable SYNCD_ROOT__3__PATH: "), "{mistakes:?}");
    let mistakes = load(LIST, &[("SYNCD_NODE__LISTEN", "here"), ("SYNCD_NODE__NAEM", "x")]).unwrap_err();
    assert!(
        mistakes.iter().any(|it| it.starts_with("environment variable SYNCD_NODE__LISTEN: node.listen: "))
    );
    let unknown = "environment variable SYNCD_NODE__NAEM: node.naem: there is no such key; \
                   remedy: did you mean `node.name`? else remove it";
    assert!(mistakes.iter().any(|it| it == unknown), "{mistakes:?}");
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines() {
    let text =
        format!("{LIST}role = 'boss'\n[election]\ntimeout = '100ms'\n[sync]\nhistory = 0\nsetle = '1s'\n");
    let mistakes = load(&text, &[]).unwrap_err();
    let lines: Vec<&str> = mistakes.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(
        lines,
        ["syncd.toml:1", "syncd.toml:1", "syncd.toml:6", "syncd.toml:8", "syncd.toml:10", "syncd.toml:11"],
        "{mistakes:#?}"
    );
}

#[test]
fn a_preset_stands_for_roots_which_a_root_of_the_name_refines() {
    let text = format!(
        "{LIST}[tls]\ninsecure = true\n[preset]\nname = 'wso2-apim-allinone'\nhome = '/opt/am'\n\
         [[root]]\nname = 'synapse-configs'\nper_node = ['x.xml']\nowner = 'w'\n"
    );
    let (config, _) = load(&text, &[]).unwrap();
    let names: Vec<&str> = config.roots.iter().map(|root| root.name.as_str()).collect();
    assert_eq!(names, ["executionplans", "synapse-configs", "userstores"]);
    let root = &config.roots[1];
    assert_eq!(root.path, Path::new("/opt/am/repository/deployment/server/synapse-configs"));
    assert_eq!((root.rules.per_node.as_slice(), root.optional), (&["x.xml".to_owned()][..], false));
    assert!(root.rules.exclude.iter().any(|pattern| pattern == "**/*.back"));
    assert!(config.roots[0].optional);
}

#[test]
fn a_missing_root_is_a_mistake_only_before_joining() {
    let text = format!("{LIST}[tls]\ninsecure = true\n[[root]]\nname = 'r'\npath = '/no/such/folder'\n");
    let (config, _) = load(&text, &[]).unwrap();
    let error = config.check_roots(false).unwrap_err().to_string();
    assert!(
        error.contains("syncd.toml:10: root[0].path: root `r`: /no/such/folder does not exist"),
        "{error}"
    );
    config.check_roots(true).unwrap();
}
