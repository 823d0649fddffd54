//! What follows when the gateway of this node does not take a version: its copy is kept, and the next write is made
//! sure to be seen.

use tokio::time::Instant;

use crate::apply::bump::{bump, next_time};
use crate::apply::files::Scene;
use crate::apply::judge::{Drift, Verdict};
use crate::apply::own_writes::Answer;
use crate::apply::task::{ApplyTask, blocking};
use crate::apply::{ApplyError, ApplyTaskError, DriftPolicy};
use crate::model::{Entry, FileTime, Place, unix_ms};
use crate::store::{Adopted, GivenUp, Quarantined};

impl ApplyTask {
    /// Takes over what an earlier process gave up, once.
    pub(super) async fn recall_given_up(&mut self) -> Result<(), ApplyTaskError> {
        if self.given_up.is_none() {
            let store = self.parts.store.clone();
            let known = blocking(move || store.given_up()).await??;
            let entries = known.iter().map(|(place, (entry, _))| (place.clone(), entry.clone())).collect();
            self.memory.own.restore(entries, Instant::now());
            self.given_up = Some(known);
        }
        Ok(())
    }

    /// Keeps a copy of each version that was given up, so that it can be fetched whatever is published next, and notes
    /// that it was.
    pub(super) async fn keep_given_up(
        &mut self,
        verdict: &Verdict,
        head: &Adopted,
    ) -> Result<(), ApplyTaskError> {
        let known = self.given_up.clone().unwrap_or_default();
        let mut now = GivenUp::new();
        let is_given_up = |drift: &Drift| *drift == Drift::Rejected(Answer::GivenUp);
        if self.config.drift == DriftPolicy::Revert {
            for (place, drift) in &verdict.drifted {
                let entry = head.forest.get(place).cloned();
                let before = known.get(place).filter(|(given_up, _)| *given_up == entry);
                let kept = match before {
                    // While it still changes nothing else is known of it.
                    Some((_, kept)) if is_given_up(drift) || *drift == Drift::Settling => kept.clone(),
                    None if is_given_up(drift) => self.keep_rejected(place, entry.as_ref(), head).await?,
                    _ => continue,
                };
                now.insert(place.clone(), (entry, kept));
            }
        }
        if now != known {
            let (store, noted) = (self.parts.store.clone(), now.clone());
            blocking(move || store.set_given_up(&noted)).await??;
            self.given_up = Some(now);
        }
        Ok(())
    }

    async fn keep_rejected(
        &self,
        place: &Place,
        entry: Option<&Entry>,
        head: &Adopted,
    ) -> Result<Option<String>, ApplyTaskError> {
        let Some(entry @ Entry::File { hash, .. }) = entry else { return Ok(None) };
        let store = self.parts.store.clone();
        let hash = *hash;
        let what = Quarantined {
            place: place.clone(),
            why: "the gateway of this node rejected this published version".to_owned(),
            generation: head.generation.number,
            entry: entry.clone(),
            mtime: None,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let work = move || store.quarantine(&what, &mut store.open_blob(&hash)?);
        match blocking(work).await? {
            Ok(id) => Ok(Some(id.0)),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                tracing::warn!(%place, %error, "no copy of a rejected version could be kept");
                Ok(None)
            }
        }
    }

    /// Gives new times to files that were written after an answer of the gateway, one scan later.
    pub(super) async fn bump_after_answers(&mut self, scene: &Scene<'_>) -> Result<(), ApplyTaskError> {
        let (due, next) = self.memory.own.bumps(Instant::now());
        if let Some(next) = next {
            self.now.wait_until(next);
        }
        if due.is_empty() {
            return Ok(());
        }
        let (store, sites) = (self.parts.store.clone(), scene.roots.sites.clone());
        let places = due.clone();
        let work = move || {
            let now = FileTime { seconds: unix_ms().div_euclid(1000), nanos: 0 };
            let mut times = Vec::new();
            for place in places {
                if let Some(time) = next_time(&store, &sites, &place, now)? {
                    times.push((place, time));
                }
            }
            bump(&store, &sites, &times)
        };
        match blocking(work).await? {
            Ok(()) => {}
            Err(ApplyError::Store(error)) if error.is_fatal() => return Err(error.into()),
            Err(error) => tracing::warn!(error = error.chain(), "a file got no new time"),
        }
        for place in &due {
            self.memory.own.bumped(place, Instant::now());
        }
        Ok(())
    }
}
