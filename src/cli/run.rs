//! `syncd run`: configuration, log and signals around the daemon.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal as ProcessSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::args::Run;
use crate::cli::exit::{Exit, Failure, chain};
use crate::daemon::config::Config;
use crate::daemon::telemetry::{Telemetry, TelemetryError};
use crate::daemon::{Daemon, DaemonError};

/// How long threads that hang in a system call may hold up the end of the process.
const THREADS_END_WITHIN: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop.
pub(super) fn run(file: &Path, args: Run) -> Result<Exit, Failure> {
    if args.die_with_parent {
        rustix::process::set_parent_process_death_signal(Some(ProcessSignal::KILL))
            .map_err(|error| Failure::new(Exit::Critical, format!("--die-with-parent: {error}")))?;
    }
    let (config, notices) = Config::load(file, std::env::vars_os())?;
    let telemetry = Telemetry {
        format: args.log_format.map(Into::into),
        filter: std::env::var("SYNCD_LOG").ok(),
        journal_stream: std::env::var("JOURNAL_STREAM").ok(),
    };
    telemetry.start().map_err(|error| match &error {
        TelemetryError::Filter { .. } => {
            let message =
                format!("environment variable SYNCD_LOG: {}; remedy: correct or unset it", chain(&error));
            Failure::new(Exit::Config, message)
        }
        _ => Failure::new(Exit::Critical, chain(&error)),
    })?;
    for notice in notices {
        match notice.warning {
            true => tracing::warn!("{}", notice.message),
            false => tracing::info!("{}", notice.message),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Critical, format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = Signals::take()
            .map_err(|error| Failure::new(Exit::Critical, format!("cannot take signals: {error}")))?;
        let listener = tokio::spawn(signals.listen(stop.clone()));
        let result = serve(config, stop).await;
        listener.abort();
        result
    });
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    result.map(|()| Exit::Ok)
}

/// The daemon itself.
async fn serve(config: Config, stop: CancellationToken) -> Result<(), Failure> {
    let failed = |error: DaemonError| Failure { code: error.exit_code(), message: Some(chain(&error)) };
    let daemon = Daemon::bind(config).await.map_err(failed)?;
    daemon.run(stop).await.map_err(failed)
}

/// The signals that mean something here.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// The kernel's word that somebody opens a file on which this process holds a lease. By default it would end the
    /// process; taking it is all that is needed, since leases are given back at once.
    _lease_broken: Signal,
}

impl Signals {
    fn take() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _lease_broken: signal(SignalKind::io())?,
        })
    }

    /// Asks the daemon to stop at the first signal and ends the process at the second.
    async fn listen(mut self, stop: CancellationToken) {
        let first = self.next().await;
        tracing::info!(signal = first, "stopping; a second signal ends at once");
        stop.cancel();
        let second = self.next().await;
        tracing::warn!(signal = second, "ending at once");
        std::process::exit(128 + second);
    }

    async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        };
        kind.as_raw_value()
    }
}
