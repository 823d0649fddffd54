//! What a person orders the whole cluster to do.

use serde_json::Value;

use crate::cli::args::{Redeploy, Remove, Switchover};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, plain};
use crate::daemon::control::Named;
use crate::daemon::redeploying::RedeployOrder;
use crate::daemon::switchover::{SwitchoverOrder, SwitchoverStep};
use crate::model::OrderOutcome;

/// Stops all publishing, applying and reverting.
pub(super) async fn pause(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let outcome: OrderOutcome = client.post("/pause", &Value::Null).await?;
    output.write(&format!(
        "{}: nothing is published, applied or reverted until `syncd resume`\n",
        outcome.sentence
    ))?;
    Ok(Exit::Ok)
}

/// Ends a pause.
pub(super) async fn resume(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let outcome: OrderOutcome = client.post("/resume", &Value::Null).await?;
    output.write(&format!("{}\n", outcome.sentence))?;
    Ok(Exit::Ok)
}

/// Gives the manager's office to another candidate.
pub(super) async fn switchover(
    client: &Client,
    args: &Switchover,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut done = false;
    let order = SwitchoverOrder { to: args.to.clone() };
    let told = client.follow("/switchover", &order, |step: SwitchoverStep| {
        done |= step.manager.is_some();
        Ok(output.write(&format!("{}\n", plain(&step.said)))?)
    });
    told.await?;
    if !done {
        let why = "the daemon ended before the new manager was seen in office; remedy: see `syncd status`";
        return Err(Failure::new(Exit::Critical, why));
    }
    Ok(Exit::Ok)
}

/// Takes a member out of the cluster.
pub(super) async fn remove(client: &Client, args: &Remove, output: &mut Output) -> Result<Exit, Failure> {
    let outcome: OrderOutcome = client.post("/remove", &Named { name: args.node.clone() }).await?;
    output.write(&format!("{}\n", outcome.sentence))?;
    Ok(Exit::Ok)
}

/// Has every gateway load files again.
pub(super) async fn redeploy(client: &Client, args: &Redeploy, output: &mut Output) -> Result<Exit, Failure> {
    let order = RedeployOrder { paths: args.paths.clone() };
    let outcome: OrderOutcome = client.post("/redeploy", &order).await?;
    output.write(&format!("{}\n", outcome.sentence))?;
    Ok(Exit::Ok)
}
