//! What a person orders the whole cluster to do.

use serde_json::Value;

use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
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
