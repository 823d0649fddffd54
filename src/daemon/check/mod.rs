//! Tests whether this host can run the daemon as configured, beside a running one or before the first start.
//!
//! Owns what is looked at and what is said about it: each [`Finding`] is one sentence with its remedy. Changes nothing:
//! the only files it makes are two empty ones inside an existing `<root>/.syncd`, removed at once. Leaves reading the
//! configuration to `config`, and words for people to the command line.

mod host;
mod peers;
mod probe;
mod roots;
mod tls;

use serde::Serialize;

use crate::daemon::check::host::Running;
use crate::daemon::config::{Config, ConfigError, Notice};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, but not as well or not for long.
    Warning,
    /// The daemon will not start, or not do its work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How good it is.
    pub grade: Grade,
    /// A stable word for what was looked at, such as `root-access`.
    pub check: &'static str,
    /// What it is about: a root, a key of the configuration, a node.
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// What to do; none where nothing need be done.
    pub remedy: Option<String>,
}

/// Findings in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    fn push(
        &mut self,
        grade: Grade,
        (check, subject): (&'static str, &str),
        message: String,
        remedy: Option<String>,
    ) {
        self.0.push(Finding { grade, check, subject: subject.to_owned(), message, remedy });
    }

    /// It is as it should be.
    fn ok(&mut self, what: (&'static str, &str), message: impl Into<String>) {
        self.push(Grade::Ok, what, message.into(), None);
    }

    /// It works, but not as well or not for long.
    fn warning(&mut self, what: (&'static str, &str), message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Grade::Warning, what, message.into(), Some(remedy.into()));
    }

    /// It does not work.
    fn error(&mut self, what: (&'static str, &str), message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Grade::Error, what, message.into(), Some(remedy.into()));
    }
}

/// Tests everything that `config` names. `notices` is what reading it said.
///
/// Takes some seconds at most when peers do not answer. Blocks on the disk.
pub async fn check(config: &Config, notices: Vec<Notice>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.ok(
        ("configuration", &config.file.display().to_string()),
        format!("it is in order; this node is {}, {}", config.node.name, config.role()),
    );
    for notice in notices.into_iter().filter(|notice| notice.warning) {
        findings.warning(
            ("configuration", &config.file.display().to_string()),
            notice.message,
            "change the configuration if this is not what was meant",
        );
    }
    if let Err(error) = config.check_roots(false) {
        findings.0.extend(mistakes(&error));
    }
    let running = Running::find(&config.node.socket);
    let held = roots::check(&mut findings, config);
    host::check(&mut findings, config, running.as_ref(), held);
    let usable = tls::check(&mut findings, config);
    peers::check(&mut findings, config, usable).await;
    findings.0
}

/// The mistakes of a configuration as findings.
#[must_use]
pub fn mistakes(error: &ConfigError) -> Vec<Finding> {
    let finding = |mistake: &crate::daemon::config::Mistake| Finding {
        grade: Grade::Error,
        check: "configuration",
        subject: mistake.at.to_string(),
        message: if mistake.key.is_empty() {
            mistake.cause.clone()
        } else {
            format!("{}: {}", mistake.key, mistake.cause)
        },
        remedy: Some(mistake.remedy.clone()),
    };
    error.mistakes.iter().map(finding).collect()
}

/// A size for people.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
