//! What a node is about to do, and what keeps it: asked of the task that would do it, so that the answer is its own.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::model::Edit;

/// One change that a task has before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The change.
    pub edit: Edit,
    /// How it stands.
    pub stands: Stands,
}

/// How a change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It is made next.
    Due,
    /// It is made by itself once this is over.
    Waits(&'static str),
    /// It is not made before a person does something; the code of the problem that tells.
    Held(&'static str),
}

/// All changes that a task has before it; none when the task is not the one to ask, or does not know yet.
pub type Outlook = Option<Vec<Intent>>;

/// Asks a task for its outlook. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OutlookHandle(mpsc::Sender<oneshot::Sender<Outlook>>);

/// The task's end: it answers between two turns.
#[derive(Debug)]
pub struct OutlookAsked(mpsc::Receiver<oneshot::Sender<Outlook>>);

impl OutlookHandle {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, OutlookAsked) {
        let (asks, asked) = mpsc::channel(4);
        (Self(asks), OutlookAsked(asked))
    }

    /// Asks, and waits at most `limit`; a task in the middle of its work answers after it. `Err`: it did not.
    ///
    /// # Errors
    /// The limit, when it passed, or when the task has ended.
    pub async fn ask(&self, limit: Duration) -> Result<Outlook, Duration> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.0.send(answer).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(limit, exchange).await.ok().flatten().ok_or(limit)
    }
}

impl OutlookAsked {
    /// The next question; never again once nobody can ask.
    ///
    /// # Cancel safety
    /// Dropping the future loses no question.
    pub async fn next(&mut self) -> oneshot::Sender<Outlook> {
        match self.0.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}
