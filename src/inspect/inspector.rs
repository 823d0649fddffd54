//! Answers questions about this node, and carries questions to other nodes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use crate::inspect::content::{Giver, Mender};
use crate::inspect::diff::Sight;
use crate::inspect::told::{End, FromNode, ListRow, Question, Told};
use crate::inspect::{peers, plan, verify};
use crate::inventory::{InventoryHandle, Observed};
use crate::model::{ClusterState, Edit, Forest, HeldList, Intent, NodeId, Outlook, OutlookHandle, Stands};
use crate::rpc::{Peers, SLOW, send_within};
use crate::store::{Adopted, Store, StoreError};

/// Answers at once; each walks the roots.
const ANSWERS_MAX: usize = 4;
/// Lines that wait to be taken.
const WAITING: usize = 256;
/// How long a task in the middle of its work is waited for.
const OUTLOOK_WITHIN: Duration = Duration::from_secs(5);

/// What it works with.
pub struct Parts {
    /// This node's name.
    pub name: String,
    /// What the roots hold.
    pub inventory: InventoryHandle,
    /// This node's data.
    pub store: Store,
    /// What the log has built here.
    pub state: watch::Receiver<Option<Arc<ClusterState>>>,
    /// What would be published next.
    pub publishing: OutlookHandle,
    /// What would be done to the files next.
    pub applying: OutlookHandle,
    /// What is held until a person agrees.
    pub held: Arc<dyn Fn() -> Vec<Arc<HeldList>> + Send + Sync>,
    /// The way to other nodes.
    pub peers: Peers,
}

/// Answers. Cheap to clone.
#[derive(Clone)]
pub struct Inspector {
    parts: Arc<Parts>,
    pub(super) giver: Giver,
    answering: Arc<Semaphore>,
    verifying: Arc<Semaphore>,
}

impl Inspector {
    /// Answers with what `parts` say.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let giver = Giver::new(parts.store.clone());
        let (answering, verifying) = (Arc::new(Semaphore::new(ANSWERS_MAX)), Arc::new(Semaphore::new(1)));
        Self { parts: Arc::new(parts), giver, answering, verifying }
    }

    /// Asks the node called `name`, or without a name this one.
    #[must_use]
    pub fn ask(&self, question: Question, name: Option<&str>) -> mpsc::Receiver<FromNode> {
        let (told, lines) = mpsc::channel(WAITING);
        let name = name.unwrap_or(&self.parts.name).to_owned();
        let inspector = self.clone();
        tokio::spawn(async move { inspector.ask_one(question, &name, &told).await });
        lines
    }

    /// Asks every member at once, this node included; the lines of all come mixed.
    #[must_use]
    pub fn ask_all(&self, question: Question) -> mpsc::Receiver<FromNode> {
        let (told, lines) = mpsc::channel(WAITING);
        let state = self.parts.state.borrow().clone();
        let mut names: Vec<String> =
            state.iter().flat_map(|state| state.members.values()).map(|member| member.name.clone()).collect();
        if !names.contains(&self.parts.name) {
            names.push(self.parts.name.clone());
        }
        for name in names {
            let (inspector, told) = (self.clone(), told.clone());
            tokio::spawn(async move { inspector.ask_one(question, &name, &told).await });
        }
        lines
    }

    async fn ask_one(&self, question: Question, name: &str, told: &mpsc::Sender<FromNode>) {
        if name == self.parts.name {
            let mut lines = self.answer(question);
            while let Some(line) = lines.recv().await {
                if told.send(FromNode { node: name.to_owned(), told: line }).await.is_err() {
                    return;
                }
            }
            return;
        }
        let state = self.parts.state.borrow().clone();
        let member = state.as_ref().and_then(|state| {
            let id = state.id_of(name)?;
            Some((id, state.members.get(&id)?.clone()))
        });
        match member {
            Some((id, member)) => peers::ask(&self.parts.peers, id, &member, question, told).await,
            None => {
                let known: Vec<&str> = state
                    .iter()
                    .flat_map(|state| state.members.values().map(|member| member.name.as_str()))
                    .collect();
                let why = format!("no member is called so; the members are {}", known.join(", "));
                let end = FromNode { node: name.to_owned(), told: Told::End(End::unknown(why)) };
                // Whoever asked may have gone away.
                let _ = told.send(end).await;
            }
        }
    }

    /// What this node says; the last line is an [`End`].
    pub(super) fn answer(&self, question: Question) -> mpsc::Receiver<Told> {
        let (told, lines) = mpsc::channel(WAITING);
        let inspector = self.clone();
        tokio::spawn(async move {
            let end = match inspector.work(question, &told).await {
                Ok(end) => end,
                Err(why) => End::unknown(why),
            };
            // Whoever asked may have gone away, or reads nothing.
            let _ = send_within(SLOW, &told, Told::End(end)).await;
        });
        lines
    }

    async fn work(&self, question: Question, told: &mpsc::Sender<Told>) -> Result<End, String> {
        let Ok(_permit) = self.answering.try_acquire() else {
            return Err("too many such questions are being answered here; ask again".to_owned());
        };
        match question {
            Question::Diff => self.diff(false, told).await,
            Question::DiffAndExcluded => self.diff(true, told).await,
            Question::Verify => self.verify(told).await,
            Question::Plan => self.plan(told).await,
            Question::Held => self.held(told).await,
        }
    }

    /// The log's state and the head's places; the head that is compared with is fixed here.
    fn head(&self) -> Result<(Arc<ClusterState>, Arc<Adopted>), String> {
        let state = self.parts.state.borrow().clone();
        let state = state.ok_or("this node belongs to no cluster yet")?;
        let wanted = state.head.as_ref().ok_or("there is no generation yet")?;
        let head = self.parts.store.head();
        match head.filter(|head| head.generation.number >= wanted.generation) {
            Some(head) => Ok((state, head)),
            None => Err(format!("generation {} is not here yet", wanted.generation)),
        }
    }

    async fn diff(&self, excluded: bool, told: &mpsc::Sender<Told>) -> Result<End, String> {
        self.head()?;
        let observed = self.parts.inventory.rescan().await;
        let (state, head) = self.head()?;
        self.compare(&state, head, observed, excluded, told).await
    }

    async fn verify(&self, told: &mpsc::Sender<Told>) -> Result<End, String> {
        let Ok(_permit) = self.verifying.try_acquire() else {
            return Err("everything is being read for somebody else here; ask again later".to_owned());
        };
        self.head()?;
        let observed =
            verify::files(&self.parts.inventory, told).await.ok_or("nobody waits for the answer")?;
        let (state, head) = self.head()?;
        let mender = Mender {
            store: &self.parts.store,
            observed: &observed,
            peers: &self.parts.peers,
            state: &state,
            me: self.me(&state),
        };
        let damaged = verify::store(&self.parts.store, &head, &mender, told).await?;
        // What changed meanwhile was told to the inventory.
        let observed = Arc::clone(&self.parts.inventory.observed().borrow());
        let (state, head) = self.head()?;
        let end = self.compare(&state, head, observed, false, told).await?;
        Ok(End { damaged, ..end })
    }

    /// Gets again what the store lacks of its head, each content from this node's own root or from a peer; how many came.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn mend(&self) -> Result<usize, StoreError> {
        let store = self.parts.store.clone();
        let looked = tokio::task::spawn_blocking(move || store.lost()).await;
        // A thread that ended badly has said so; it is looked again.
        let Ok(lost) = looked else { return Ok(0) };
        let lost = lost?;
        let Some(state) = self.parts.state.borrow().clone().filter(|_| !lost.is_empty()) else {
            return Ok(0);
        };
        let observed = Arc::clone(&self.parts.inventory.observed().borrow());
        let (store, peers) = (&self.parts.store, &self.parts.peers);
        let mender = Mender { store, observed: &observed, peers, state: &state, me: self.me(&state) };
        let mut came = 0;
        for (hash, size, place) in lost {
            if let Some(from) = mender.mend(&hash, size, &place).await {
                tracing::info!(%hash, %place, from, "a damaged content was replaced");
                came += 1;
            }
        }
        Ok(came)
    }

    fn me(&self, state: &ClusterState) -> Option<NodeId> {
        state.id_of(&self.parts.name)
    }

    async fn compare(
        &self,
        state: &ClusterState,
        head: Arc<Adopted>,
        observed: Arc<Observed>,
        excluded: bool,
        told: &mpsc::Sender<Told>,
    ) -> Result<End, String> {
        if !observed.complete {
            return Err("the roots were not looked at yet".to_owned());
        }
        let manages = state.appointment.as_ref().map(|office| office.manager) == self.me(state);
        let outlook = if manages { self.outlook_of(&self.parts.publishing).await? } else { None };
        let (store, cluster) = (self.parts.store.clone(), state.cluster);
        let work = move || {
            let record = store.applied()?.filter(|applied| applied.cluster == cluster);
            let applied: Option<Forest> = match record {
                Some(applied) if applied.number == head.generation.number => Some(head.forest.clone()),
                Some(applied) => store.forest_of(applied.number)?,
                None => None,
            };
            Ok::<_, StoreError>(Sight { store, observed, head, applied, outlook, excluded }.compare())
        };
        let (rows, end) = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("the store can't be read: {error}"))?;
        send(SLOW, told, rows).await?;
        Ok(end)
    }

    async fn plan(&self, told: &mpsc::Sender<Told>) -> Result<End, String> {
        let state = self.parts.state.borrow().clone().ok_or("this node belongs to no cluster yet")?;
        let publishing = self.outlook_of(&self.parts.publishing).await?;
        let manager = publishing.is_some();
        let outlook = match publishing {
            Some(outlook) => Some(outlook),
            None => self.outlook_of(&self.parts.applying).await?,
        };
        let Some(intents) = outlook else {
            return Err(
                "it is not decided yet: the head is not here, the roots were not looked at, or this node \
                        is becoming manager"
                    .to_owned(),
            );
        };
        let different = intents.len() as u64;
        send(SLOW, told, plan::rows(intents)).await?;
        let generation = state.head.as_ref().map(|head| head.generation);
        Ok(End { generation, different, manager, ..End::default() })
    }

    async fn held(&self, told: &mpsc::Sender<Told>) -> Result<End, String> {
        let mut different = 0;
        for list in (self.parts.held)() {
            different += list.edits.len() as u64;
            let head = ListRow {
                code: list.code.to_owned(),
                digest: list.digest.to_string(),
                says: list.says.clone(),
                paths: list.edits.len() as u64,
            };
            send(SLOW, told, vec![Told::List(head)]).await?;
            let intent = |edit: &Edit| Intent { edit: edit.clone(), stands: Stands::Held(list.code) };
            send(SLOW, told, plan::rows(list.edits.iter().map(intent).collect())).await?;
        }
        let state = self.parts.state.borrow().clone();
        let generation = state.and_then(|state| Some(state.head.as_ref()?.generation));
        Ok(End { generation, different, ..End::default() })
    }

    async fn outlook_of(&self, task: &OutlookHandle) -> Result<Outlook, String> {
        task.ask(OUTLOOK_WITHIN)
            .await
            .map_err(|limit| format!("a change is being made, for longer than {} s", limit.as_secs()))
    }
}

async fn send(limit: Duration, told: &mpsc::Sender<Told>, rows: Vec<Told>) -> Result<(), String> {
    for row in rows {
        send_within(limit, told, row).await.map_err(|error| format!("the answer was not taken: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends() {
        let (told, _lines) = mpsc::channel(1);
        let rows = vec![Told::End(End::default()), Told::End(End::default())];
        let sent = send(Duration::from_millis(10), &told, rows);
        let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
        assert!(sent.expect("it waits no longer").unwrap_err().contains("does not read"));
    }
}
