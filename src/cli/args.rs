//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::cli::exit::EXIT_CODES;
use crate::daemon::telemetry::LogFormat;

/// Keeps the artifact folders of a cluster of API gateways equal, and says how sure that is.
///
/// One daemon runs on each gateway host. The nodes elect a manager; what changes in its artifact folders is on every
/// other node moments later, and when it dies another takes over.
#[derive(Debug, Parser)]
#[command(name = "syncd", bin_name = "syncd", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(super) struct Args {
    /// The configuration file, the same on all hosts [env: SYNCD_CONFIG] [default: /etc/syncd/syncd.toml]
    ///
    /// Any key can also be given as SYNCD_SECTION__KEY in the environment, such as SYNCD_NODE__NAME=gw2.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(Run),
    Status(Status),
    Check(Check),
    Diff(Diff),
    Verify(Verify),
    Plan(Plan),
    History(History),
    /// Local content that was replaced on this node
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    Approve(Approve),
    Switchover(Switchover),
    /// Nothing is published, applied or reverted on any node, until `syncd resume`
    ///
    /// Managers are still appointed, and no gateway is taken out of the load balancer for it.
    Pause(Reach),
    /// Ends `syncd pause`: what was written meanwhile goes out, what drifted is reverted
    Resume(Reach),
    Bootstrap(Bootstrap),
    Recover(Recover),
    Remove(Remove),
    Redeploy(Redeploy),
    /// Three real daemons on this host: publish, catch up, fail over; cleans up
    ///
    /// Runs in a temporary folder and on loopback only, needs no configuration and changes nothing else. Exits with 0
    /// only if everything it shows held.
    Demo,
}

/// Shows what is held, asks, and lets exactly that through, once
///
/// Held are deletes beyond `sync.max_delete` or of a whole folder, changes made while no syncd watched, and rules that take
/// paths in or release some, all on the manager; on this node its own files at first contact, and a root without its mark.
/// A list that changed since it was shown is refused. The log keeps who let it through. What is approved does not count
/// against `sync.max_delete`. Exits with 0, with 1 if something was refused, and with 2 if it is not known.
#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    /// Make the content of this candidate the first generation
    #[arg(long, value_name = "NODE")]
    pub(super) seed: Option<String>,

    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Takes a node out of the cluster for good, such as a host that is gone
///
/// A voter goes only while the others can go on without it and hold the newest generation. The manager in office goes
/// only when it can't be reached. No file is changed anywhere; the node that was removed keeps what it has.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The member's name
    #[arg(value_name = "NODE")]
    pub(super) node: String,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Has the gateway of every node load files again, though nothing in them changed
///
/// Advances their modification times by at least a second, once on each node; a node that is down does it when it is
/// back. Helps where a gateway missed an artifact, or did not take it for a reason that is gone.
#[derive(Debug, clap::Args)]
pub(super) struct Redeploy {
    /// Published files: their paths below a root, ROOT:PATH, or their paths on this host
    #[arg(value_name = "PATH", required = true)]
    pub(super) paths: Vec<String>,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// The daemon of this host, in the foreground
///
/// Logs to the journal under systemd, else to standard error. SIGTERM or SIGINT stops it in order, a second one at
/// once. SYNCD_LOG sets the log's levels, such as `debug` or `warn,syncd=debug`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The form of the log on standard error, also under systemd
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<Format>,

    /// Ends this process when the one that started it ends
    #[arg(long, hide = true)]
    pub(super) die_with_parent: bool,
}

/// Forms the cluster although a listed voter is missing, or although roots carry old marks
///
/// Asks the running daemon. A cluster forms by itself once every listed candidate and witness answers that it is empty;
/// where it waits, status names the one of these that helps.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("how").required(true).args(["without", "new"])))]
pub(super) struct Bootstrap {
    /// Form without this listed voter; may be given more than once
    ///
    /// Refused while it answers, and unless a majority of the listed voters remains. It joins when it appears.
    #[arg(long, value_name = "NODE")]
    pub(super) without: Vec<String>,

    /// Form a new cluster of hosts whose data folders were lost, such as reinstalled ones
    ///
    /// Every listed voter must answer, and none may have a log. The marks of the former membership are laid aside; no
    /// content is touched.
    #[arg(long)]
    pub(super) new: bool,

    /// Do not ask
    #[arg(long, requires = "new")]
    pub(super) yes: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Carries on after a majority of the voters is lost for good
///
/// Start the other hosts first: with a majority of them back, nothing need be recovered. If they are lost for good, run
/// this on the surviving host with the newest log while its daemon is stopped. It shows what it found and what may be
/// lost, asks, and puts a new cluster in which this node alone votes in the place of the old one. Content, history and
/// the head stay; generations and epochs go on rising. The old log is kept under another name, which is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Recover {
    /// Give this node's place in the old cluster up, and join the one that was recovered elsewhere
    ///
    /// For every other host that still has its data folder; status there says so. The log is laid aside, and the node
    /// joins as after a lost disk: equal files stay untouched, what differs goes to quarantine. Refused while the old
    /// cluster has a quorum.
    #[arg(long)]
    pub(super) rejoin: bool,

    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

/// A form of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

/// How a command finds the daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Reach {
    /// The daemon's control socket, instead of the configuration's node.socket
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

/// The whole cluster as this node sees it
///
/// The first line says whether all is well; then one line per node, and each problem with its remedy. The exit code
/// says the same: 0, 1 or 2.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,

    /// Print again every second, until interrupted
    #[arg(long, conflicts_with_all = ["json", "wait"])]
    pub(super) watch: bool,

    /// Wait until every node has the generation: a barrier for deployments
    ///
    /// On time-out the laggards are named and the exit code is 1.
    #[arg(long)]
    pub(super) wait: bool,

    /// The generation to wait for [default: the newest one now]
    #[arg(long, value_name = "G", requires = "wait")]
    pub(super) generation: Option<u64>,

    /// How long to wait
    #[arg(long, value_name = "T", requires = "wait", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Reads the configuration and tests this host, whether the daemon runs or not
///
/// Looks at roots, owners, mounts, free space, watches, ports, TLS files and peers, and names a remedy for whatever is
/// not in order. Changes nothing. To be run as the daemon's user. Exits with 0, with 1 if something is only a warning,
/// with 2 if something will not work, and with 78 for a mistake in the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,
}

/// The paths in which a node differs from the newest generation, and why
///
/// The node itself compares. Exits with 0 if nothing differs, with 1 if something does, and with 2 if a node can't tell
/// or does not answer.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The node [default: this one]
    #[arg(value_name = "NODE", conflicts_with = "all")]
    pub(super) node: Option<String>,

    /// Ask every node
    #[arg(long)]
    pub(super) all: bool,

    /// List also what the rules leave out and what is each node's own: no difference
    #[arg(long)]
    pub(super) excluded: bool,

    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Every node reads all its files and all contents of its store again, without cached digests
///
/// A damaged content of a store is named and taken again from where a whole one is. Exits with 0 only if all nodes
/// agree and nothing was damaged, with 1 if not, and with 2 if a node can't tell or does not answer.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// What this node would publish or apply now, in the order in which it would be made; changes nothing
///
/// Exits with 0, with 1 if something is held until a person does something, and with 2 if it is not known.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Past generations: number, time, author, what changed
#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// How many, the newest first
    #[arg(value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) count: u32,

    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    List(QuarantineList),
    Show(QuarantineShow),
    Restore(QuarantineRestore),
    Drop(QuarantineDrop),
}

/// Removes one version for good
///
/// The quarantine is bounded by `sync.quarantine_max`, and syncd itself never drops anything from it.
#[derive(Debug, clap::Args)]
pub(super) struct QuarantineDrop {
    /// Which one, as `list` names it; the beginning of its name is enough
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// One version: where it was and lies, why it was replaced, and its content
#[derive(Debug, clap::Args)]
pub(super) struct QuarantineShow {
    /// Which one, as `list` names it; the beginning of its name is enough
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// Print the content only, as it is
    #[arg(long)]
    pub(super) content: bool,

    /// Print what it has that the published version at its path has not, and the other way round
    #[arg(long, conflicts_with = "content")]
    pub(super) diff: bool,

    /// Print JSON for scripts, without the content
    #[arg(long, conflicts_with_all = ["content", "diff"])]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// Publishes one version: the manager writes it into its folder, from where it goes to every node
///
/// Nothing newer is replaced unless --over-newer says so, and then it is kept in the manager's quarantine. The version
/// stays in this one.
#[derive(Debug, clap::Args)]
pub(super) struct QuarantineRestore {
    /// Which one, as `list` names it; the beginning of its name is enough
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// Another path in the same root
    #[arg(long = "as", value_name = "PATH")]
    pub(super) path: Option<String>,

    /// Also when the path was changed since, or is there already
    #[arg(long)]
    pub(super) over_newer: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// What is kept, and why it was replaced
#[derive(Debug, clap::Args)]
pub(super) struct QuarantineList {
    /// Print JSON for scripts
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) reach: Reach,
}

/// A planned change of manager
///
/// The manager stops publishing and gives its office up, the other brings its folder to the head and takes over: no
/// lease is waited out. What is written on the old manager meanwhile is handed over. Ends once the new one is in
/// office.
#[derive(Debug, clap::Args)]
pub(super) struct Switchover {
    /// The candidate that takes over [default: the best one]
    #[arg(long, value_name = "NODE")]
    pub(super) to: Option<String>,

    #[command(flatten)]
    pub(super) reach: Reach,
}
