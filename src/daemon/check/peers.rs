//! The listed peers: found, reached, of the same cluster, version and time.

use std::time::Duration;

use futures::future::join_all;
use tokio::net::{TcpStream, lookup_host};

use crate::daemon::check::Findings;
use crate::daemon::config::{Config, Listed};
use crate::model::{BootTime, unix_ms};
use crate::rpc::{self, Identity, Peers};
use crate::wire::proto::{HelloReply, HelloRequest};

/// Until a peer counts as silent, for each of looking up, connecting and asking.
const PATIENCE: Duration = Duration::from_secs(3);
/// Clocks further apart than this make ages and times of files misleading.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(2);

/// How far a peer was reached.
enum Reached {
    Unresolved(String),
    Silent(String),
    Dumb(String),
    /// What it says, and how far its clock is ahead, in milliseconds, at the least.
    Greeted(Box<HelloReply>, i64),
}

/// Asks every listed node but this one, all at once. `tls` is none when the files can't be used.
pub(super) async fn check(findings: &mut Findings, config: &Config, tls: Result<Option<rpc::Tls>, ()>) {
    let others: Vec<&Listed> =
        config.cluster.nodes.iter().filter(|node| node.name != config.node.name).collect();
    let Ok(tls) = tls else {
        findings.warning(
            ("peers", "all"),
            "they were not asked, because the TLS files can't be read",
            "mend those first",
        );
        return;
    };
    let peers = Peers::new(Identity::new(), tls);
    let asked = others.iter().map(|node| reach(&peers, config, &node.address));
    for (node, reached) in others.iter().zip(join_all(asked).await) {
        judge(findings, config, node, reached);
    }
}

async fn reach(peers: &Peers, config: &Config, address: &str) -> Reached {
    let found = match tokio::time::timeout(PATIENCE, lookup_host(address)).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => return Reached::Unresolved(error.to_string()),
        Err(_) => return Reached::Unresolved("the name service does not answer".to_owned()),
    };
    if found.is_empty() {
        return Reached::Unresolved("the name has no address".to_owned());
    }
    match tokio::time::timeout(PATIENCE, TcpStream::connect(&found[..])).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Reached::Silent(error.to_string()),
        Err(_) => return Reached::Silent(format!("no answer within {} s", PATIENCE.as_secs())),
    }
    let request = HelloRequest { cluster_name: config.cluster.name.clone(), ..HelloRequest::default() };
    let (begun, sent) = (BootTime::now(), unix_ms());
    let answer = match peers.coordination(None, address) {
        Ok(mut client) => rpc::within(PATIENCE, client.hello(request)).await,
        Err(error) => return Reached::Dumb(error.to_string()),
    };
    match answer {
        Ok(reply) => {
            let took = i64::try_from(BootTime::now().since(begun).as_millis()).unwrap_or(i64::MAX);
            let ahead = clock_ahead(sent, took, reply.unix_ms);
            Reached::Greeted(Box::new(reply), ahead)
        }
        Err(status) => Reached::Dumb(status.message().to_owned()),
    }
}

/// How far a clock that read `theirs` somewhere between `sent` and `took` later is ahead at the least; negative:
/// behind. All in milliseconds.
fn clock_ahead(sent: i64, took: i64, theirs: i64) -> i64 {
    let (early, late) = (theirs - sent - took, theirs - sent);
    if early > 0 {
        early
    } else if late < 0 {
        late
    } else {
        0
    }
}

fn judge(findings: &mut Findings, config: &Config, node: &Listed, reached: Reached) {
    let subject = format!("{} at {}", node.name, node.address);
    let what = ("peer", subject.as_str());
    let (reply, ahead) = match reached {
        Reached::Unresolved(why) => {
            return findings.error(
                what,
                format!("its address can't be looked up: {why}"),
                "correct the address, or add the name to the name service or /etc/hosts",
            );
        }
        Reached::Silent(why) => {
            return findings.warning(
                what,
                format!("it does not answer: {why}"),
                format!("start the daemon on {}, and open the port between the hosts", node.name),
            );
        }
        Reached::Dumb(why) => {
            return findings.error(
                what,
                format!("something answers there, but not as a peer should: {why}"),
                "use the same [tls] files' authority on all nodes, and see whether syncd listens there",
            );
        }
        Reached::Greeted(reply, ahead) => (reply, ahead),
    };
    let mut fine = true;
    if reply.cluster_name != config.cluster.name {
        fine = false;
        findings.error(
            what,
            format!(
                "it belongs to the cluster {:?}, and this file says {:?}",
                reply.cluster_name, config.cluster.name
            ),
            "use one file on all hosts, or correct the address",
        );
    }
    if reply.node_name != node.name {
        fine = false;
        findings.error(
            what,
            format!("the node there calls itself {:?}", reply.node_name),
            "correct the list, or node.name on that host",
        );
    }
    let own = env!("CARGO_PKG_VERSION");
    if reply.version != own {
        fine = false;
        let theirs = if reply.version.is_empty() { "an older one" } else { &reply.version };
        findings.warning(
            what,
            format!("it runs version {theirs}, and this is {own}"),
            "bring all nodes to one version, one after the other",
        );
    }
    if ahead.unsigned_abs() > u64::try_from(CLOCKS_APART_MAX.as_millis()).unwrap_or(u64::MAX) {
        fine = false;
        let (seconds, way) =
            (ahead.unsigned_abs() as f64 / 1000.0, if ahead > 0 { "ahead of" } else { "behind" });
        findings.warning(
            what,
            format!("its clock is {seconds:.1} s {way} this host's"),
            "let a time service such as chrony run on all hosts",
        );
    }
    if fine {
        findings.ok(what, format!("it answers, version {own}, and its clock agrees"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_blamed_only_for_what_the_way_does_not_explain() {
        for (sent, took, theirs, ahead) in [
            (1000, 0, 1000, 0),
            (1000, 50, 1020, 0),
            (1000, 50, 1050, 0),
            (1000, 50, 6050, 5000),
            (6000, 50, 1000, -5000),
        ] {
            assert_eq!(clock_ahead(sent, took, theirs), ahead, "{sent} {took} {theirs}");
        }
    }
}
