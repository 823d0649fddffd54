//! Collects mistakes while a configuration is read, and knows where each key stands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::daemon::config::source::{Origin, Origins};
use crate::daemon::config::{ConfigError, Mistake, Where};

/// The mistakes of one reading.
pub(super) struct Mistakes {
    file: PathBuf,
    origins: Origins,
    found: Vec<Mistake>,
    /// Keys that a reader asked for, without indices, for suggestions.
    known: BTreeSet<String>,
    /// Keys that no reader asked for.
    unknown: Vec<(String, Origin)>,
}

impl Mistakes {
    pub(super) fn new(file: &Path) -> Self {
        Self::resume(file, Origins::new())
    }

    /// Begins again with what an earlier reading learned.
    pub(super) fn resume(file: &Path, origins: Origins) -> Self {
        Self {
            file: file.to_owned(),
            origins,
            found: Vec::new(),
            known: BTreeSet::new(),
            unknown: Vec::new(),
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.found.is_empty()
    }

    /// The file that is read.
    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// Whether the key was given.
    pub(super) fn given(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    pub(super) fn stands(&mut self, key: &str, origin: Origin) {
        self.origins.insert(key.to_owned(), origin);
    }

    /// A mistake of the file as a whole.
    pub(super) fn file(&mut self, cause: impl Into<String>, remedy: impl Into<String>) {
        let at = Where::File(self.file.clone());
        self.push(at, "", cause, remedy);
    }

    /// A mistake in a place that no key stands for.
    pub(super) fn origin(
        &mut self,
        origin: &Origin,
        key: &str,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let at = self.locate(origin);
        self.push(at, key, cause, remedy);
    }

    /// A mistake about `key`. One that was not given stands where its section stands, or the section around that,
    /// or where the file begins.
    pub(super) fn at(&mut self, key: &str, cause: impl Into<String>, remedy: impl Into<String>) {
        let mut holder = key;
        let at = loop {
            if let Some(origin) = self.origins.get(holder) {
                break self.locate(origin);
            }
            match holder.rfind(['.', '[']) {
                Some(end) => holder = &holder[..end],
                None => break Where::Line(self.file.clone(), 1),
            }
        };
        self.push(at, key, cause, remedy);
    }

    /// A key that may be given.
    pub(super) fn knows(&mut self, key: &str) {
        self.known.insert(without_indices(key));
    }

    /// A key that was given and that nobody asked for.
    pub(super) fn unknown(&mut self, key: String, origin: Origin) {
        self.unknown.push((key, origin));
    }

    /// Names the unknown keys, each with the known one that is nearest. To be called when all keys were asked for.
    pub(super) fn tell_unknown(&mut self) {
        for (key, origin) in std::mem::take(&mut self.unknown) {
            let remedy = match nearest(&without_indices(&key), &self.known) {
                Some(known) => format!("did you mean `{known}`? else remove it"),
                None => "remove it".to_owned(),
            };
            let at = self.locate(&origin);
            self.push(at, &key, "there is no such key", remedy);
        }
    }

    pub(super) fn into_origins(self) -> Origins {
        self.origins
    }

    pub(super) fn into_error(mut self) -> ConfigError {
        self.found.sort_by_key(|mistake| match &mistake.at {
            Where::File(_) => (0, 0),
            Where::Line(_, line) => (1, *line),
            Where::Variable(_) => (2, 0),
        });
        ConfigError { mistakes: self.found }
    }

    fn locate(&self, origin: &Origin) -> Where {
        match origin {
            Origin::Line(line) => Where::Line(self.file.clone(), *line),
            Origin::Variable(name) => Where::Variable(name.clone()),
        }
    }

    /// Takes the first mistake about a key only: what does not hold for a default that stands in would mislead.
    fn push(&mut self, at: Where, key: &str, cause: impl Into<String>, remedy: impl Into<String>) {
        if !key.is_empty() && self.found.iter().any(|mistake| mistake.key == key) {
            return;
        }
        self.found.push(Mistake { at, key: key.to_owned(), cause: cause.into(), remedy: remedy.into() });
    }
}

/// `root[0].path` is the key `root.path`.
fn without_indices(key: &str) -> String {
    key.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// The known key that a mistyped or misplaced one most likely stands for.
fn nearest<'k>(key: &str, known: &'k BTreeSet<String>) -> Option<&'k str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let misplaced = known.iter().find(|other| last(other) == last(key));
    let mistyped = known.iter().map(|other| (distance(key, other), other)).min();
    let near = mistyped.filter(|(distance, _)| *distance <= 1 + last(key).len() / 4);
    near.map(|(_, other)| other).or(misplaced).map(String::as_str)
}

/// How many letters must be put in, taken out or changed to come from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = change.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_or_misplaced_key_finds_the_one_that_was_meant() {
        let known: BTreeSet<String> =
            ["node.name", "node.listen", "sync.settle", "election.timeout", "root.path"]
                .map(str::to_owned)
                .into();
        for (key, meant) in [
            ("node.nmae", Some("node.name")),
            ("sync.setle", Some("sync.settle")),
            ("sync.timeout", Some("election.timeout")),
            ("listen", Some("node.listen")),
            ("sync.completely_else", None),
        ] {
            assert_eq!(nearest(key, &known), meant, "{key}");
        }
        assert_eq!(without_indices("cluster.node[12].role"), "cluster.node.role");
    }

    #[test]
    fn a_missing_key_stands_where_its_section_stands() {
        let mut mistakes = Mistakes::new(Path::new("f"));
        mistakes.stands("root[0]", Origin::Line(7));
        mistakes.at("root[0].path", "missing", "give it");
        mistakes.at("cluster.name", "missing", "give it");
        let texts: Vec<String> = mistakes.into_error().mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["f:1: cluster.name: missing; remedy: give it", "f:7: root[0].path: missing; remedy: give it"]
        );
    }
}
