//! Names of owners and groups, as this host's name service knows them: its own files, LDAP, SSSD.
//!
//! A directory service that is out of reach may hold a question for minutes, so a thread of its own asks, and a known
//! answer is used until there is a new one. Nothing else waits longer than [`PATIENCE`], once.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{Group, User};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{RootRules, Rules};

/// How long a name counts as known, and as unknown, before it is asked for again.
const FRESH: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// How long work on the files waits for a name that was never answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who written files belong to: none where the daemon's own user or group is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Owner {
    /// For a call that sets both; none when neither is set.
    pub(super) fn for_files(self) -> Option<(u32, u32)> {
        if self == Self::default() {
            return None;
        }
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Some((self.uid.unwrap_or(own.0), self.gid.unwrap_or(own.1)))
    }
}

/// A name that files are to belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    User(String),
    Group(String),
}

impl Name {
    fn of(rules: &RootRules) -> impl Iterator<Item = Self> + '_ {
        let user = rules.owner.clone().map(Self::User);
        user.into_iter().chain(rules.group.clone().map(Self::Group))
    }
}

/// What the name service said.
#[derive(Clone, Debug)]
struct Answer {
    /// None: there is no such name. An error: it could not say.
    id: Result<Option<u32>, String>,
    at: Instant,
}

impl Answer {
    fn is_fresh(&self) -> bool {
        let fresh = if matches!(self.id, Ok(Some(_))) { FRESH.0 } else { FRESH.1 };
        self.at.elapsed() < fresh
    }
}

type Lookup = fn(&Name) -> Result<Option<u32>, String>;

/// What is known of the names in the rules.
#[derive(Debug)]
pub(super) struct Owners {
    answers: watch::Sender<BTreeMap<Name, Answer>>,
    asking: Option<(Instant, JoinHandle<()>)>,
    lookup: Lookup,
}

impl Owners {
    pub(super) fn new() -> Self {
        Self::with(lookup)
    }

    fn with(lookup: Lookup) -> Self {
        Self { answers: watch::Sender::new(BTreeMap::new()), asking: None, lookup }
    }

    /// Makes sure that what `rules` name is known, or asked for; waits only for what was never answered.
    pub(super) async fn prepare(&mut self, rules: &Rules) {
        let names: BTreeSet<Name> = rules.roots.iter().flat_map(|(_, rules)| Name::of(rules)).collect();
        if names.is_empty() {
            return;
        }
        let stale: Vec<Name> = {
            let answers = self.answers.borrow();
            names.iter().filter(|name| !answers.get(name).is_some_and(Answer::is_fresh)).cloned().collect()
        };
        if self.asking.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            self.asking = None;
        }
        if !stale.is_empty() && self.asking.is_none() {
            self.ask(stale);
        }
        let Some((since, _)) = self.asking else { return };
        let mut seen = self.answers.subscribe();
        let all = seen.wait_for(|answers| names.iter().all(|name| answers.contains_key(name)));
        // Whoever waited in vain once waits no more: `of` says which names are not known.
        let _ = tokio::time::timeout_at(since + PATIENCE, all).await;
    }

    fn ask(&mut self, names: Vec<Name>) {
        let (answers, lookup) = (self.answers.clone(), self.lookup);
        // Not one of the runtime's: those are waited for at the end.
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
            for name in names {
                let id = lookup(&name);
                answers.send_modify(|answers| {
                    let before = answers.get(&name).map(|answer| answer.id.clone());
                    let id = match before {
                        // A service that is out of reach takes nothing back.
                        Some(Ok(known)) if id.is_err() => Ok(known),
                        _ => id,
                    };
                    answers.insert(name.clone(), Answer { id, at: Instant::now() });
                });
            }
        });
        match thread {
            Ok(thread) => self.asking = Some((Instant::now(), thread)),
            Err(error) => tracing::warn!(%error, "no thread to look names up"),
        }
    }

    /// The owner and group of `rules`, and what this host does not know of them, each as a sentence.
    pub(super) fn of(&self, rules: &RootRules) -> (Owner, Vec<String>) {
        let answers = self.answers.borrow();
        owner_of(rules, |name| match answers.get(name) {
            Some(answer) => answer.id.clone(),
            None => Err("the name service has not answered yet".to_owned()),
        })
    }
}

fn owner_of(rules: &RootRules, id_of: impl Fn(&Name) -> Result<Option<u32>, String>) -> (Owner, Vec<String>) {
    let mut owner = Owner::default();
    let mut unknown = Vec::new();
    for name in Name::of(rules) {
        let (what, text) = match &name {
            Name::User(text) => ("owner", text),
            Name::Group(text) => ("group", text),
        };
        match (&name, id_of(&name)) {
            (Name::User(_), Ok(Some(id))) => owner.uid = Some(id),
            (Name::Group(_), Ok(Some(id))) => owner.gid = Some(id),
            (_, Ok(None)) => unknown.push(format!("this host knows no {what} {text}")),
            (_, Err(why)) => unknown.push(format!("the {what} {text} can't be looked up ({why})")),
        }
    }
    (owner, unknown)
}

/// Asks the host's name service. May block for as long as that likes.
fn lookup(name: &Name) -> Result<Option<u32>, String> {
    match name {
        Name::User(text) => User::from_name(text).map(|user| user.map(|user| user.uid.as_raw())),
        Name::Group(text) => Group::from_name(text).map(|group| group.map(|group| group.gid.as_raw())),
    }
    .map_err(|error| error.to_string())
}

/// What this host does not know of the owner and group of `rules`, each as a sentence. Blocks on the name service.
#[must_use]
pub fn unknown_names(rules: &RootRules) -> Vec<String> {
    owner_of(rules, lookup).1
}

/// Whether this process may give files to the owner and group of `rules` without any privilege: they are its own.
/// Blocks on the name service.
#[must_use]
pub fn is_own(rules: &RootRules) -> bool {
    let (owner, _) = owner_of(rules, lookup);
    owner.uid.is_none_or(|uid| uid == rustix::process::geteuid().as_raw())
        && owner.gid.is_none_or(|gid| gid == rustix::process::getegid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::model::RootName;

    fn rules(owner: &str, group: &str) -> Rules {
        let rules = RootRules {
            owner: Some(owner.to_owned()),
            group: Some(group.to_owned()),
            ..RootRules::default()
        };
        Rules { roots: vec![(RootName::new("r"), rules)] }
    }

    async fn ask(owners: &mut Owners, rules: &Rules) -> (Owner, Vec<String>) {
        owners.prepare(rules).await;
        owners.of(&rules.roots[0].1)
    }

    #[tokio::test]
    async fn the_hosts_own_names() {
        let rules = rules("root", "no such group");
        let (owner, unknown) = ask(&mut Owners::new(), &rules).await;
        assert_eq!(owner, Owner { uid: Some(0), gid: None });
        assert_eq!(unknown, ["this host knows no group no such group"]);
        assert_eq!(unknown_names(&rules.roots[0].1), unknown);
    }

    #[tokio::test]
    async fn a_name_service_that_hangs_is_waited_for_once() {
        fn hangs(name: &Name) -> Result<Option<u32>, String> {
            match name {
                Name::User(_) => Ok(Some(7)),
                Name::Group(_) => loop {
                    std::thread::park();
                },
            }
        }
        let mut owners = Owners::with(hangs);
        let begun = Instant::now();
        for _ in 0..20 {
            let (owner, unknown) = ask(&mut owners, &rules("u", "g")).await;
            assert_eq!(owner, Owner { uid: Some(7), gid: None });
            assert!(unknown[0].contains("not answered"), "{unknown:?}");
        }
        let took = begun.elapsed();
        assert!(took >= PATIENCE && took < 5 * PATIENCE, "{took:?}");
    }

    #[tokio::test]
    async fn what_was_known_stays_known_while_the_service_is_gone() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        fn goes(_: &Name) -> Result<Option<u32>, String> {
            match ASKED.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Ok(Some(7)),
                _ => Err("out of reach".to_owned()),
            }
        }
        let mut owners = Owners::with(goes);
        let rules = rules("u", "g");
        let known = (Owner { uid: Some(7), gid: Some(7) }, Vec::new());
        assert_eq!(ask(&mut owners, &rules).await, known);
        assert_eq!(ASKED.load(Ordering::SeqCst), 2, "each name once");
        assert_eq!(ask(&mut owners, &rules).await, known);
        assert_eq!(ASKED.load(Ordering::SeqCst), 2, "it is known");
        let long_ago = Instant::now() - 2 * FRESH.0;
        owners.answers.send_modify(|answers| answers.values_mut().for_each(|answer| answer.at = long_ago));
        assert_eq!(ask(&mut owners, &rules).await, known);
        if let Some((_, thread)) = owners.asking.take() {
            thread.join().unwrap();
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 4, "it was asked again");
        assert_eq!(ask(&mut owners, &rules).await, known);
    }
}
