//! Has every node give some files a new time, so that its gateway loads them again: finds the places that a person named,
//! and gives the order.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::daemon::control::ControlError;
use crate::daemon::view::View;
use crate::model::{ArtifactPath, Coordinator, Entry, Forest, Order, OrderOutcome, Place, RootName};

/// What is to be loaded again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RedeployOrder {
    /// As a person named them: below a root, `ROOT:PATH`, or absolute on this host.
    pub paths: Vec<String>,
}

impl View {
    /// Gives the order.
    ///
    /// # Errors
    /// When a path names no published file, or more than one, or the order is refused or its outcome not known.
    pub async fn redeploy(&self, order: &RedeployOrder) -> Result<OrderOutcome, ControlError> {
        let Some(head) = self.store.head() else {
            let remedy = "see `syncd status` for what the cluster waits for";
            return Err(ControlError::refused("there is no generation yet", remedy));
        };
        let roots: Vec<(RootName, &Path)> =
            self.config.roots.iter().map(|root| (root.name.clone(), root.path.as_path())).collect();
        let mut places = Vec::new();
        for path in &order.paths {
            places.push(find(path, &head.forest, &roots)?);
        }
        places.sort();
        places.dedup();
        Ok(self.cluster.order(Order::Redeploy { places }).await?)
    }
}

/// The one published file that `text` names.
fn find(text: &str, head: &Forest, roots: &[(RootName, &Path)]) -> Result<Place, ControlError> {
    let remedy = "name files as `syncd status` and `syncd diff` do, or by their paths on this host";
    let within = |root: &RootName, path: &[u8]| {
        let path = ArtifactPath::new(path).ok()?;
        Some(Place { root: root.clone(), path })
    };
    let path = Path::new(text);
    let mut named: Vec<Place> = if path.is_absolute() {
        let below = |(root, folder): &(RootName, &Path)| {
            within(root, path.strip_prefix(folder).ok()?.as_os_str().as_bytes())
        };
        roots.iter().filter_map(below).collect()
    } else {
        let of_root = |root: &RootName| {
            let rest = text.strip_prefix(root.as_str())?.strip_prefix(':')?;
            within(root, rest.as_bytes())
        };
        let plain = head.roots.keys().filter_map(|root| within(root, text.as_bytes()));
        head.roots.keys().filter_map(of_root).chain(plain).collect()
    };
    named.retain(|place| head.get(place).is_some());
    match named.as_slice() {
        [place] if matches!(head.get(place), Some(Entry::File { .. })) => Ok(place.clone()),
        [place] => Err(ControlError::refused(format!("{place} is no file"), remedy)),
        [] => Err(ControlError::refused(format!("{text} is in no root's newest generation"), remedy)),
        [one, other, ..] => {
            let why = format!("{text} may be {one} or {other}");
            Err(ControlError::refused(why, "put the root's name and a colon before it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContentHash, Manifest};

    #[test]
    fn a_file_is_found_by_each_of_its_names() {
        let file = Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(b"1") };
        let folder = Entry::Folder { mode: 0o755 };
        let manifest = |paths: &[&str]| {
            let path = |text: &str| ArtifactPath::new(text.as_bytes()).unwrap();
            let files = paths.iter().map(|text| (path(&format!("d/{text}")), Some(file.clone())));
            Manifest::default().with(std::iter::once((path("d"), Some(folder.clone()))).chain(files)).unwrap()
        };
        let (one, two) = (RootName::new("one"), RootName::new("two"));
        let head = Forest {
            roots: [(one.clone(), manifest(&["a", "both"])), (two.clone(), manifest(&["b", "both"]))].into(),
        };
        let roots = [(one, Path::new("/srv/one")), (two, Path::new("/srv/two"))];
        let check = |text: &str, expected: &str| {
            let found = match find(text, &head, &roots) {
                Ok(place) => place.to_string(),
                Err(error) => error.error,
            };
            assert_eq!(found, expected, "{text}");
        };
        check("d/a", "one:d/a");
        check("two:d/b", "two:d/b");
        check("/srv/two/d/both", "two:d/both");
        check("d/both", "d/both may be one:d/both or two:d/both");
        check("d", "d may be one:d or two:d");
        check("one:d", "one:d is no file");
        check("d/none", "d/none is in no root's newest generation");
        check("/srv/d/a", "/srv/d/a is in no root's newest generation");
        check("../d/a", "../d/a is in no root's newest generation");
    }
}
