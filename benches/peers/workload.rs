//! The tree, what is changed in it, and how one sees that a target has the change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{self, tree};

/// More than anything here takes.
pub const LONG: Duration = Duration::from_secs(300);
const EDITED: &str = "default/api/edited.xml";
const LARGE: &str = "default/local-entries/large.xml";
const LARGE_BYTES: usize = 5 << 20;
const FOLDER: [&str; 2] = ["default/before", "default/after"];
const FOLDER_FILES: usize = 200;
const MANY: usize = 1000;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    FirstCopy,
    OneEdit,
    LargeEdit,
    Edits,
    Rename,
    Deletes,
    NoChange,
    Idle,
}

const ALL: [(Workload, &str, &str); 8] = [
    (Workload::FirstCopy, "first-copy", "First copy"),
    (Workload::OneEdit, "one-edit", "One edit: a line in 4 KB"),
    (Workload::LargeEdit, "large-edit", "One edit: a line in 5 MB"),
    (Workload::Edits, "edits", "1,000 one-line edits at once"),
    (Workload::Rename, "rename", "A folder of 200 files renamed"),
    (Workload::Deletes, "deletes", "1,000 deletes"),
    (Workload::NoChange, "no-change", "No change: what a pass costs"),
    (Workload::Idle, "idle", "An idle minute"),
];

/// The workloads that `text` names, in their own order.
pub fn parse(text: &str) -> Vec<Workload> {
    let names: Vec<&str> = text.split(',').collect();
    for name in &names {
        let is_known = *name == "all" || ALL.iter().any(|(_, known, _)| known == name);
        assert!(
            is_known,
            "{name} is no workload; there are all, {}",
            ALL.map(|(_, name, _)| name).join(", ")
        );
    }
    let is_wanted = |name: &str| names.contains(&"all") || names.contains(&name);
    ALL.iter().filter(|(_, name, _)| is_wanted(name)).map(|(workload, ..)| *workload).collect()
}

impl Workload {
    pub fn title(self) -> &'static str {
        ALL.iter().find(|(workload, ..)| *workload == self).map_or("", |(.., title)| title)
    }

    /// How often it is done.
    pub fn rounds(self, files: usize) -> usize {
        match self {
            Self::OneEdit if files > 50_000 => 20,
            Self::OneEdit => 50,
            Self::LargeEdit => 5,
            Self::Edits | Self::Rename | Self::Deletes | Self::NoChange => 2,
            Self::FirstCopy | Self::Idle => 1,
        }
    }

    pub fn rounds_traced(self) -> usize {
        if self == Self::OneEdit { 10 } else { 1 }
    }

    pub fn counts_syncs(self) -> bool {
        matches!(self, Self::OneEdit | Self::Edits | Self::Rename | Self::Deletes)
    }

    /// Makes the change in `root`; each round makes another.
    pub fn change(self, source: &Source, root: &Path, round: usize) -> Change {
        match self {
            Self::OneEdit => edit(root, &[PathBuf::from(EDITED)], round),
            Self::LargeEdit => edit(root, &[PathBuf::from(LARGE)], round),
            Self::Edits => edit(root, source.some(0), round),
            Self::Rename => {
                let (from, to) = (FOLDER[round % 2], FOLDER[(round + 1) % 2]);
                let names = fs::read_dir(root.join(from)).unwrap().map(|item| item.unwrap().file_name());
                let names: Vec<_> = names.collect();
                let there = names.iter().map(|name| (Path::new(to).join(name), Wanted::There));
                let gone = names.iter().map(|name| (Path::new(from).join(name), Wanted::Gone));
                let change = Change(there.chain(gone).collect());
                fs::rename(root.join(from), root.join(to)).unwrap();
                change
            }
            Self::Deletes => {
                let gone = source.some(1 + round);
                gone.iter().for_each(|path| fs::remove_file(root.join(path)).unwrap());
                Change(gone.iter().map(|path| (path.clone(), Wanted::Gone)).collect())
            }
            Self::FirstCopy | Self::NoChange | Self::Idle => Change(Vec::new()),
        }
    }
}

/// Inserts a line in the middle of each file, written as the gateway writes: truncate, write, close.
fn edit(root: &Path, paths: &[PathBuf], round: usize) -> Change {
    let mut wanted = Vec::with_capacity(paths.len());
    for path in paths {
        let mut text = fs::read_to_string(root.join(path)).unwrap();
        let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let at = text[middle..].find('\n').map_or(text.len(), |line| middle + line + 1);
        text.insert_str(at, &format!("  <!-- edit {round:05} -->\n"));
        wanted.push((path.clone(), Wanted::Content(text)));
    }
    for (path, wanted) in &wanted {
        let Wanted::Content(text) = wanted else { continue };
        fs::write(root.join(path), text).unwrap();
    }
    Change(wanted)
}

enum Wanted {
    There,
    Size(u64),
    Content(String),
    Gone,
}

/// What is to be seen in each target.
pub struct Change(Vec<(PathBuf, Wanted)>);

impl Change {
    /// Every file below `root` as large as it is there; whether the content is right is looked at in the end.
    pub fn all_of(root: &Path) -> Self {
        let files = support::snapshot(root).into_iter().filter_map(|(path, seen)| match seen {
            support::Seen::File { content, .. } => Some((path, Wanted::Size(content.len() as u64))),
            _ => None,
        });
        Self(files.collect())
    }

    /// Looks, cheaply, until every target has all of it.
    pub fn wait(&self, targets: &[PathBuf]) {
        let pause = Duration::from_micros(if self.0.len() < 10 { 100 } else { 1000 });
        let deadline = Instant::now() + LONG;
        let mut next: BTreeMap<&PathBuf, usize> = targets.iter().map(|target| (target, 0)).collect();
        while !next.is_empty() {
            next.retain(|target, index| {
                while let Some((path, wanted)) = self.0.get(*index) {
                    if !wanted.is_met(&target.join(path)) {
                        return true;
                    }
                    *index += 1;
                }
                false
            });
            let missing = || next.iter().map(|(target, index)| target.join(&self.0[*index].0));
            assert!(Instant::now() < deadline, "never came: {:?}", missing().collect::<Vec<_>>());
            if !next.is_empty() {
                std::thread::sleep(pause);
            }
        }
    }
}

impl Wanted {
    fn is_met(&self, path: &Path) -> bool {
        match self {
            Self::There => path.symlink_metadata().is_ok(),
            Self::Size(size) => path.metadata().is_ok_and(|meta| meta.len() == *size),
            // The length first: it costs less than reading.
            Self::Content(text) => {
                path.metadata().is_ok_and(|meta| meta.len() == text.len() as u64)
                    && fs::read_to_string(path).is_ok_and(|now| now == *text)
            }
            Self::Gone => path.symlink_metadata().is_err(),
        }
    }
}

/// The tree that everyone gets a copy of.
pub struct Source {
    dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Source {
    pub fn generate(files: usize) -> Self {
        let mut rng = support::rng("peers");
        let dir = tempfile::tempdir().unwrap();
        let mut paths = tree::generate(dir.path(), files.saturating_sub(FOLDER_FILES + 2), &mut rng);
        paths.retain(|path| !path.ends_with("synapse.xml"));
        // Neighbours in the list are strewn over the folders, as the changes of a day are.
        let put = |path: PathBuf, bytes: usize, rng: &mut _| {
            fs::write(dir.path().join(path), tree::artifact(rng, bytes)).unwrap();
        };
        fs::create_dir(dir.path().join(FOLDER[0])).unwrap();
        for number in 0..FOLDER_FILES {
            put(Path::new(FOLDER[0]).join(format!("seq{number:03}.xml")), 900, &mut rng);
        }
        put(EDITED.into(), 4096, &mut rng);
        put(LARGE.into(), LARGE_BYTES, &mut rng);
        Self { dir, paths }
    }

    /// A thousand paths, or a sixth of a smaller tree; another number, others.
    fn some(&self, number: usize) -> &[PathBuf] {
        let count = MANY.min(self.paths.len() / 6);
        &self.paths[number * count..(number + 1) * count]
    }

    pub fn copy_to(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for path in support::snapshot(self.dir.path()).into_iter() {
            let to = folder.join(&path.0);
            match path.1 {
                support::Seen::Folder { .. } => fs::create_dir_all(to).unwrap(),
                support::Seen::File { content, .. } => fs::write(to, content).unwrap(),
                support::Seen::Link { .. } => {}
            }
        }
    }

    /// What a first copy of `root` brings.
    pub fn whole(&self, root: &Path) -> Change {
        Change::all_of(root)
    }
}
