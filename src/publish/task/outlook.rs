//! What would go out next, by the same decision that sends it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::model::{Intent, Outlook, Stands};
use crate::publish::PublishError;
use crate::publish::task::rules::RULES_HELD;
use crate::publish::task::{PublishTask, Standing};

impl PublishTask {
    /// Answers who asks what would go out.
    pub(super) async fn answer(&mut self, answer: oneshot::Sender<Outlook>) {
        let outlook = self.outlook().await.unwrap_or_else(|error| {
            // The next turn meets it too, and tells.
            tracing::debug!(error = &error as &dyn std::error::Error, "no outlook");
            None
        });
        // Whoever asked may have gone away.
        let _ = answer.send(outlook);
    }

    async fn outlook(&mut self) -> Result<Outlook, PublishError> {
        let Standing::In(office) = self.office() else { return Ok(None) };
        if self.epoch != Some(office.epoch) {
            self.enter(office.epoch)?;
        }
        self.count_deletes(office.parent.as_ref().map_or(0, |parent| parent.generation.number)).await?;
        let observed = Arc::clone(&self.observed.borrow_and_update());
        if !observed.complete {
            return Ok(None);
        }
        let ((decision, _), _) = self.decide(&office, &observed).await?;
        let mut intents = self.gather.intents(&decision, Instant::now());
        let rules = self.own.edits().iter();
        intents.extend(rules.map(|edit| Intent { edit: edit.clone(), stands: Stands::Held(RULES_HELD) }));
        Ok(Some(intents))
    }
}
