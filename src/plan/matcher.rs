//! Which paths a root's rules take out of the manifest, and which they keep in it.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::model::{ArtifactPath, RootRules};

/// What top-level names begin with that are syncd's own, in every root and under any rules.
const OWN_PREFIX: &[u8] = b".syncd";

/// A pattern that is not in gitignore syntax.
#[derive(Debug, thiserror::Error)]
#[error("the pattern {pattern:?} can't be used")]
pub struct PatternError {
    /// As it was written.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub source: ignore::Error,
}

/// The rules of one root, ready to be asked. Made once per set of rules; asking allocates next to nothing.
#[derive(Clone, Debug)]
pub struct Matcher {
    exclude: Gitignore,
    per_node: Gitignore,
    protect: Gitignore,
}

impl Matcher {
    /// Takes the patterns of `rules`.
    ///
    /// # Errors
    /// [`PatternError`] names the first pattern that is none.
    pub fn new(rules: &RootRules) -> Result<Self, PatternError> {
        Ok(Self {
            exclude: build(&rules.exclude)?,
            per_node: build(&rules.per_node)?,
            protect: build(&rules.protect)?,
        })
    }

    /// Whether `path` is in no manifest: excluded, differing per node, or syncd's own; also when a folder above it is,
    /// which no later `!` pattern takes back.
    #[must_use]
    pub fn excluded(&self, path: &ArtifactPath, is_folder: bool) -> bool {
        let top = path.components().next().unwrap_or_default();
        top.starts_with(OWN_PREFIX)
            || covers(&self.exclude, path, is_folder)
            || covers(&self.per_node, path, is_folder)
    }

    /// Whether `path`, a file or a link, stays in the manifest when it vanishes from the manager's folder.
    #[must_use]
    pub fn protected(&self, path: &ArtifactPath) -> bool {
        covers(&self.protect, path, false)
    }
}

fn build(patterns: &[String]) -> Result<Gitignore, PatternError> {
    let error = |pattern: &str, source| PatternError { pattern: pattern.to_owned(), source };
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|source| error(pattern, source))?;
    }
    builder.build().map_err(|source| error(&patterns.join(", "), source))
}

/// As git does it: from the top down, the first folder that matches decides for everything below it.
fn covers(patterns: &Gitignore, path: &ArtifactPath, is_folder: bool) -> bool {
    if patterns.is_empty() {
        return false;
    }
    let bytes = path.as_bytes();
    let matches = |part: &[u8], is_folder| {
        use std::os::unix::ffi::OsStrExt;
        patterns.matched(std::ffi::OsStr::from_bytes(part), is_folder).is_ignore()
    };
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .any(|(slash, _)| matches(&bytes[..slash], true))
        || matches(bytes, is_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> ArtifactPath {
        ArtifactPath::new(bytes).unwrap()
    }

    fn strings(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    #[track_caller]
    fn check(patterns: &[&str], text: &[u8], is_folder: bool, excluded: bool) {
        let rules = RootRules { exclude: strings(patterns), ..RootRules::default() };
        let matcher = Matcher::new(&rules).unwrap();
        assert_eq!(matcher.excluded(&path(text), is_folder), excluded, "{patterns:?} on {:?}", path(text));
    }

    #[test]
    fn gitignore_syntax() {
        check(&[], b"default/api/a.xml", false, false);
        check(&["*.back"], b"default/api/a.xml.back", false, true);
        check(&["*.back"], b"default/api/a.xml", false, false);
        check(&["**/.*"], b"default/api/.a.xml.swp", false, true);
        check(&["**/* - Copy*.xml"], b"default/api/x - Copy (2).xml", false, true);
        check(&["/default/api/a.xml"], b"x/default/api/a.xml", false, false);
        check(&["build/"], b"build", false, false);
        check(&["build/"], b"build", true, true);
        check(&["*.xml", "!keep.xml"], b"keep.xml", false, false);
        check(&["*.xml"], b"caf\xe9\n{}.xml", false, true);
        check(&["{a,b}.xml"], b"a.xml", false, true);
        check(&["# a comment", ""], b"# a comment", false, false);
    }

    #[test]
    fn a_path_below_an_excluded_folder_is_excluded() {
        check(&["webapps/"], b"a/webapps/b/c.xml", false, true);
        check(&["**/webapps/**"], b"a/webapps/b/c.xml", false, true);
        check(&["**/webapps/**"], b"a/webapps", true, false);
        check(&["sub", "!sub/keep.xml"], b"sub/keep.xml", false, true);
    }

    #[test]
    fn its_own_folders_are_excluded_at_the_top_only() {
        check(&[], b".syncd", true, true);
        check(&["!.syncd"], b".syncd/stage/1.part", false, true);
        check(&[], b".syncd.foreign-1/member", false, true);
        check(&[], b"default/.syncd", true, false);
    }

    #[test]
    fn per_node_and_protected() {
        let rules = RootRules {
            exclude: strings(&["*.xml", "!WSO2AM--Ext--In.xml"]),
            per_node: strings(&["**/sequences/WSO2AM--Ext--*.xml"]),
            protect: strings(&["**/synapse.xml"]),
            ..RootRules::default()
        };
        let matcher = Matcher::new(&rules).unwrap();
        assert!(matcher.excluded(&path(b"default/sequences/WSO2AM--Ext--In.xml"), false));
        assert!(matcher.protected(&path(b"default/synapse.xml")));
        assert!(!matcher.protected(&path(b"default/registry.xml")));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let rules = RootRules { exclude: strings(&["ok", "a[z-a].xml"]), ..RootRules::default() };
        assert_eq!(Matcher::new(&rules).unwrap_err().pattern, "a[z-a].xml");
    }
}
