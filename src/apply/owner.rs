//! Names of owners and groups, as this host knows them.

use crate::model::RootRules;

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

/// Looks the owner and group of `rules` up; the names that this host does not know come second.
///
/// Reads the host's own files, not a directory service: what a boot needs before the network is there.
pub(super) fn owner_of(rules: &RootRules) -> (Owner, Vec<String>) {
    let mut unknown = Vec::new();
    let mut id = |name: &Option<String>, file: &str| {
        let name = name.as_ref()?;
        let found = std::fs::read_to_string(file).ok().and_then(|table| id_in(&table, name));
        if found.is_none() {
            unknown.push(name.clone());
        }
        found
    };
    let owner = Owner { uid: id(&rules.owner, "/etc/passwd"), gid: id(&rules.group, "/etc/group") };
    (owner, unknown)
}

/// The owner and group of `rules` that this host does not know.
#[must_use]
pub fn unknown_names(rules: &RootRules) -> Vec<String> {
    owner_of(rules).1
}

/// Whether this process may give files to the owner and group of `rules` without any privilege: they are its own.
#[must_use]
pub fn is_own(rules: &RootRules) -> bool {
    let (owner, _) = owner_of(rules);
    owner.uid.is_none_or(|uid| uid == rustix::process::geteuid().as_raw())
        && owner.gid.is_none_or(|gid| gid == rustix::process::getegid().as_raw())
}

/// Both files have the name first and the number third.
fn id_in(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let table = "root:x:0:0:root:/root:/bin/sh\nwso2carbon:x:802:802::/home:/bin/sh\nodd\n";
        assert_eq!(id_in(table, "wso2carbon"), Some(802));
        assert_eq!(id_in(table, "wso2"), None);
        assert_eq!(id_in(table, ""), None);
        let rules = RootRules {
            owner: Some("root".to_owned()),
            group: Some("no such group".to_owned()),
            ..RootRules::default()
        };
        let (owner, unknown) = owner_of(&rules);
        assert_eq!(owner, Owner { uid: Some(0), gid: None });
        assert_eq!(unknown, ["no such group"]);
    }
}
