//! Words to the user: arguments, output, exit codes.
//!
//! Owns what a person or a script reads and types, and nothing that decides: `run` wires the daemon, the other
//! commands ask a running one over its control socket, `demo` starts three of them. The only room that prints and
//! reads the environment.

mod approve;
mod args;
mod ask;
mod bootstrap;
mod check;
mod client;
mod demo;
mod exit;
mod history;
mod http;
mod inspect;
mod orders;
mod output;
mod portrait;
mod quarantine;
mod recover;
mod run;
mod status;
mod table;
mod wait;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::args::{Args, Command, QuarantineCommand, Reach};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::daemon::config::{Config, DEFAULT_SOCKET};

/// Where the configuration is when nobody says otherwise.
const DEFAULT_CONFIG: &str = "/etc/syncd/syncd.toml";

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nobody is left to tell when the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    match obey(args) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(message) = &failure.message {
                // As above.
                let _ = writeln!(std::io::stderr(), "syncd: {message}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn obey(args: Args) -> Result<Exit, Failure> {
    let file = File::choose(args.config);
    let mut output = Output::stdout();
    match args.command {
        Command::Run(run) => run::run(&file.path, run),
        Command::Status(status) => {
            let client = client(&file, &status.reach)?;
            wait_for(status::status(&client, &status, &mut output))
        }
        Command::Check(args) => wait_for(check::check(&file.path, &args, &mut output)),
        Command::Diff(args) => wait_for(inspect::diff(&client(&file, &args.reach)?, &args, &mut output)),
        Command::Verify(args) => wait_for(inspect::verify(&client(&file, &args.reach)?, &args, &mut output)),
        Command::Plan(args) => wait_for(inspect::plan(&client(&file, &args.reach)?, &args, &mut output)),
        Command::History(history) => {
            let client = client(&file, &history.reach)?;
            wait_for(history::history(&client, &history, &mut output))
        }
        Command::Quarantine(QuarantineCommand::List(list)) => {
            let client = client(&file, &list.reach)?;
            wait_for(quarantine::list(&client, &list, &mut output))
        }
        Command::Quarantine(QuarantineCommand::Show(show)) => {
            let client = client(&file, &show.reach)?;
            wait_for(quarantine::show(&client, &show, &mut output))
        }
        Command::Quarantine(QuarantineCommand::Restore(restore)) => {
            let client = client(&file, &restore.reach)?;
            wait_for(quarantine::restore(&client, &restore, &mut output))
        }
        Command::Quarantine(QuarantineCommand::Drop(args)) => {
            let client = client(&file, &args.reach)?;
            wait_for(quarantine::drop_one(&client, &args, &mut output))
        }
        Command::Pause(reach) => {
            let client = client(&file, &reach)?;
            wait_for(orders::pause(&client, &mut output))
        }
        Command::Switchover(switchover) => {
            let client = client(&file, &switchover.reach)?;
            wait_for(orders::switchover(&client, &switchover, &mut output))
        }
        Command::Resume(reach) => {
            let client = client(&file, &reach)?;
            wait_for(orders::resume(&client, &mut output))
        }
        Command::Bootstrap(args) => {
            let client = client(&file, &args.reach)?;
            wait_for(bootstrap::bootstrap(&client, &args, &mut output))
        }
        Command::Recover(args) => wait_for(recover::recover(&file.path, &args, &mut output)),
        Command::Remove(remove) => {
            let client = client(&file, &remove.reach)?;
            wait_for(orders::remove(&client, &remove, &mut output))
        }
        Command::Redeploy(redeploy) => {
            let client = client(&file, &redeploy.reach)?;
            wait_for(orders::redeploy(&client, &redeploy, &mut output))
        }
        Command::Approve(args) => {
            let client = client(&file, &args.reach)?;
            wait_for(approve::approve(&client, &args, &mut output))
        }
        Command::Demo => wait_for(demo::demo(&mut output)),
    }
}

/// The configuration file, and whether somebody asked for this one.
struct File {
    path: PathBuf,
    named: bool,
}

impl File {
    fn choose(argument: Option<PathBuf>) -> Self {
        let named = argument.or_else(|| std::env::var_os("SYNCD_CONFIG").map(PathBuf::from));
        Self { named: named.is_some(), path: named.unwrap_or_else(|| DEFAULT_CONFIG.into()) }
    }
}

/// The daemon's control socket: as said, else as the configuration says, else where it is by default.
fn client(file: &File, reach: &Reach) -> Result<Client, Failure> {
    if let Some(socket) = &reach.socket {
        return Ok(Client::new(socket));
    }
    if !file.named && !file.path.exists() {
        let variable = std::env::var_os("SYNCD_NODE__SOCKET").map(PathBuf::from);
        return Ok(Client::new(&variable.unwrap_or_else(|| DEFAULT_SOCKET.into())));
    }
    Ok(Client::new(&Config::control_socket(&file.path, std::env::vars_os())?))
}

/// Runs a command that only waits for others: one thread, which is also the parent of what it starts.
fn wait_for(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Critical, format!("cannot start: {error}")))?.block_on(command)
}
