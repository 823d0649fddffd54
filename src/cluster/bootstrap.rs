//! What a person orders while there is no cluster: forming without some of the listed voters, or anew over old marks.
//!
//! An order is a wish of this process that its peers hear when they greet it, and that ends by itself; the node with the
//! least name among those that remain acts on it. Everything that made it permissible is looked at again with each step.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::formation::plan::{self, Wishes};
use crate::cluster::greet::greet;
use crate::cluster::handle::Cluster;
use crate::model::{Coordinator, Refusal};

/// How long an order holds: long enough for a first scan that goes on.
const HOLDS: Duration = Duration::from_secs(60);
/// How long the answer waits for the cluster.
const FORMS_WITHIN: Duration = Duration::from_secs(12);
/// Between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Cluster {
    /// Forms the cluster without some listed voters, or with `anew` although roots carry marks. Waits some seconds for
    /// it and says how far it came.
    ///
    /// # Errors
    /// Why it must not be done; nothing is done then.
    pub async fn bootstrap(&self, without: BTreeSet<String>, anew: bool) -> Result<String, Refusal> {
        let shared = &self.0;
        let config = &shared.config;
        if shared.has_log.load(Ordering::Acquire) {
            let why = format!("{} belongs to a cluster that has formed", config.node_name);
            return Err(Refusal {
                why,
                remedy: "a member that is lost is removed with `syncd remove NODE`".to_owned(),
            });
        }
        let others = config.listed.iter().filter(|node| node.name != config.node_name).cloned();
        let heard = greet(&shared.peers, &config.cluster_name, &config.node_name, others).await;
        let wishes = Wishes { without, anew };
        plan::may_wish(config, &heard, &wishes).map_err(|(why, remedy)| Refusal { why, remedy })?;
        tracing::warn!(?wishes, "a person ordered to form the cluster");
        shared.wished.send_replace(Some((wishes, Instant::now() + HOLDS)));
        let deadline = Instant::now() + FORMS_WITHIN;
        while Instant::now() < deadline {
            if let Some(state) = shared.state.borrow().as_ref() {
                return Ok(format!(
                    "cluster {} has formed, with {} voters",
                    state.cluster,
                    state.voters.len()
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let standing = self.standing().borrow().clone();
        Ok(format!(
            "ordered, and not done yet; it holds for {} s. It waits for: {}",
            HOLDS.as_secs(),
            standing.waiting_for.unwrap_or_else(|| "an election".to_owned())
        ))
    }

    /// Turns true when the marks in this node's roots are to give way to a new cluster.
    #[must_use]
    pub fn marks_unwanted(&self) -> watch::Receiver<bool> {
        self.0.marks_unwanted.subscribe()
    }
}
