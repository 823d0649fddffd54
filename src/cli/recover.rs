//! `syncd recover` and `syncd recover --rejoin`: what is found, what may be lost, and what to do next.

use std::path::Path;

use crate::cli::args::Recover;
use crate::cli::ask::agreed;
use crate::cli::exit::{Exit, Failure, chain};
use crate::cli::output::Output;
use crate::daemon::config::Config;
use crate::daemon::status::time_text;
use crate::daemon::{Kept, Recovery, RecoveryError};
use crate::model::Head;

impl From<RecoveryError> for Failure {
    fn from(error: RecoveryError) -> Self {
        Self::new(Exit::Critical, chain(&error))
    }
}

/// Does either.
pub(super) async fn recover(file: &Path, args: &Recover, output: &mut Output) -> Result<Exit, Failure> {
    let (config, _) = Config::load(file, std::env::vars_os())?;
    let recovery = Recovery::look(&config).await?;
    if args.rejoin {
        return rejoin(&config, recovery, args.yes, output);
    }
    recovery.may_succeed()?;
    output.write(&findings(&config, &recovery))?;
    output.write(&losses(&config, &recovery))?;
    if !agreed(output, args.yes, "Put a new cluster in the place of the lost one?")? {
        output.write("Nothing was changed.\n")?;
        return Ok(Exit::Degraded);
    }
    let old = recovery.log().cluster;
    let (new, aside) = recovery.succeed()?;
    output.write(&format!(
        "\n{node} alone votes now in cluster {new}, which succeeds {old}.\n\
         The old log is kept as {aside}\n\
         Next:\n\
         \x20 here:                                `systemctl start syncd`\n\
         \x20 on a host that kept its data folder: `systemctl stop syncd`, `syncd recover --rejoin`, `systemctl start syncd`\n\
         \x20 on a new or emptied host:            `systemctl start syncd`\n",
        node = config.node.name,
        aside = aside.display(),
    ))?;
    Ok(Exit::Ok)
}

fn rejoin(config: &Config, recovery: Recovery, yes: bool, output: &mut Output) -> Result<Exit, Failure> {
    recovery.may_lay_aside()?;
    output.write(&findings(config, &recovery))?;
    let which = match recovery.was_removed() {
        Some(_) => "the cluster that it was removed from",
        None => "the cluster that succeeded this one",
    };
    output.write(&format!(
        "\nThe log of {node} is laid aside; at its next start {node} joins {which} as after a lost disk.\n\
         Files with equal content stay as they are; what differs goes to quarantine.\n",
        node = config.node.name,
    ))?;
    if !agreed(output, yes, "Give this node's place in the old cluster up?")? {
        output.write("Nothing was changed.\n")?;
        return Ok(Exit::Degraded);
    }
    let aside = recovery.lay_aside()?;
    output
        .write(&format!("\nThe old log is kept as {}\nNext: `systemctl start syncd`\n", aside.display()))?;
    Ok(Exit::Ok)
}

fn head_text(head: &Head) -> String {
    format!(
        "generation {}, committed {}, digest {:.12}",
        head.generation,
        time_text(head.committed_unix_ms),
        head.digest.to_string()
    )
}

/// What this host has, and what the others say.
fn findings(config: &Config, recovery: &Recovery) -> String {
    let log = recovery.log();
    let (index, term) = log.last;
    let mut text = format!(
        "{} of cluster {:?}, id {}\n  log:    ends at index {index}, term {term}",
        config.node.name, config.cluster.name, log.cluster
    );
    if log.uncertain > 0 {
        text.push_str(&format!(
            "; its last {} entries were not known to be committed, and count as committed",
            log.uncertain
        ));
    }
    text.push_str("\n  head:   ");
    match recovery.kept() {
        Kept::Nothing => text.push_str("none: nothing was published yet"),
        Kept::Newest(head) => text.push_str(&head_text(head)),
        Kept::Older { kept, newest } => {
            let kept = kept.as_ref().map_or_else(|| "nothing".to_owned(), head_text);
            text.push_str(&format!("{kept}; the content of {} is not whole on this host", head_text(newest)));
        }
    }
    for other in recovery.neighbours() {
        text.push_str(&format!("\n  other:  {other}"));
    }
    text.push('\n');
    text
}

fn losses(config: &Config, recovery: &Recovery) -> String {
    let mut text = String::from(
        "\nWhat may be lost: generations that the lost majority committed and this node never saw.\n",
    );
    if let Kept::Older { newest, .. } = recovery.kept() {
        text.push_str(&format!(
            "What is lost: generation {}, whose content is not here.\n",
            newest.generation
        ));
    }
    let staged: Vec<String> = recovery.staged().iter().map(ToString::to_string).collect();
    if !staged.is_empty() {
        text.push_str(&format!(
            "Staged here and perhaps committed by the others: generation {}. It does not become the head.\n",
            staged.join(", ")
        ));
    }
    text.push_str(&format!(
        "{node} alone votes afterwards; content and history stay, the next generation is {next}, and epochs go on \
         rising.\nKeep the daemons of the lost hosts stopped: should a majority of them come back as they were, two \
         clusters publish.\n",
        node = config.node.name,
        next = recovery.used_generation() + 1,
    ));
    text
}
