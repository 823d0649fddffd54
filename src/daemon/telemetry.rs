//! Where the daemon's log goes.
//!
//! Under systemd to the journal with its fields, else to standard error as text or JSON. Reads no environment: what
//! decides is handed in.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// What is logged when nobody says otherwise: this program's own news, and only trouble of the libraries.
const DEFAULT_FILTER: &str = "warn,syncd=info,openraft=off";

/// The form of lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How to log.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// The form; none: the journal where standard error leads there, else text.
    pub format: Option<LogFormat>,
    /// Levels in the syntax of `tracing`'s environment filter; none: `warn,syncd=info,openraft=off`,
    /// for openraft tells every lost heartbeat as an error, and syncd itself what follows from it.
    pub filter: Option<String>,
    /// systemd's `JOURNAL_STREAM`: device and inode of the stream that leads to the journal.
    pub journal_stream: Option<String>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("`{filter}` is no log filter, such as `debug` or `warn,syncd=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The journal does not answer.
    #[error("the journal cannot be reached")]
    Journal(#[source] std::io::Error),
    /// The process logs already.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

impl Telemetry {
    /// Sends the log of this process where it belongs. To be called once, before the first line.
    ///
    /// # Errors
    /// [`TelemetryError`]; nothing is logged then.
    pub fn start(&self) -> Result<(), TelemetryError> {
        let filter = self.filter.as_deref().unwrap_or(DEFAULT_FILTER);
        let filter = EnvFilter::try_new(filter)
            .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
        let layer = self.layer()?.with_filter(filter);
        tracing_subscriber::registry().with(layer).try_init().map_err(TelemetryError::Twice)
    }

    fn layer(&self) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        Ok(match self.format {
            Some(LogFormat::Json) => lines.json().flatten_event(true).boxed(),
            None if self.leads_to_journal() => {
                tracing_journald::layer().map_err(TelemetryError::Journal)?.boxed()
            }
            _ => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        })
    }

    /// Whether standard error is the stream that systemd opened: the variable alone is inherited by every child.
    fn leads_to_journal(&self) -> bool {
        let own = rustix::fs::fstat(std::io::stderr()).map(|stat| (stat.st_dev, stat.st_ino));
        let named = self.journal_stream.as_deref().and_then(|stream| stream.split_once(':'));
        let named = named.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
        own.is_ok_and(|own| named == Some(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let bad = Telemetry { filter: Some("syncd=loud".into()), ..Telemetry::default() };
        assert!(bad.start().unwrap_err().to_string().contains("`syncd=loud`"));
    }

    #[test]
    fn only_the_stream_itself_leads_to_the_journal() {
        let stat = rustix::fs::fstat(std::io::stderr()).unwrap();
        let stream = |text: String| Telemetry { journal_stream: Some(text), ..Telemetry::default() };
        assert!(stream(format!("{}:{}", stat.st_dev, stat.st_ino)).leads_to_journal());
        assert!(!stream(format!("{}:{}", stat.st_dev, stat.st_ino + 1)).leads_to_journal());
        assert!(!stream("nonsense".into()).leads_to_journal());
        assert!(!Telemetry::default().leads_to_journal());
    }
}
