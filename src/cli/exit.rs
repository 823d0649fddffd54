//! Exit codes, and how a command fails.

use std::process::ExitCode;

use crate::daemon::config::ConfigError;
use crate::daemon::status::Health;

/// What the process exits with. 0 to 3 are what monitoring plugins expect, the others come from `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Ok = 0,
    Degraded = 1,
    Critical = 2,
    NoDaemon = 3,
    Usage = 64,
    Config = 78,
}

/// The table for the help text and the README.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
   0  in order
   1  degraded: a node is behind or unreachable, files drifted, something is held;
      or a wait timed out
   2  critical: no manager, this node is out of step, a root is missing;
      or the daemon failed
   3  the daemon does not answer
  64  usage
  78  configuration";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Health> for Exit {
    fn from(health: Health) -> Self {
        match health {
            Health::Ok => Self::Ok,
            Health::Degraded => Self::Degraded,
            Health::Critical => Self::Critical,
        }
    }
}

/// A command that could not do what it should.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    /// For standard error; none when there is nobody to read it.
    pub(super) message: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { code: exit as u8, message: Some(message.into()) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let count = error.mistakes.len();
        let mistakes = if count == 1 { "a mistake".to_owned() } else { format!("{count} mistakes") };
        Self::new(Exit::Config, format!("the configuration has {mistakes}\n{error}"))
    }
}

/// Standard output is gone: what was asked for cannot be told to anybody.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let message =
            (error.kind() != std::io::ErrorKind::BrokenPipe).then(|| format!("cannot write: {error}"));
        Self { code: Exit::Degraded as u8, message }
    }
}

/// An error with all its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some libraries tell their cause themselves.
        let told = error.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}
