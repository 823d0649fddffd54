//! What a preset stands for: the artifact folders of a product, and what in them is its own business.

use std::path::PathBuf;

use crate::daemon::config::{Root, RootMode};
use crate::model::{RootName, RootRules};

/// `[preset]`.
pub(super) struct Preset {
    pub(super) kind: Kind,
    /// Where the product is installed.
    pub(super) home: PathBuf,
    /// Whether tenants have folders of their own.
    pub(super) multi_tenant: bool,
}

/// The products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Apim,
    ApimAllInOne,
    Ei,
    Mi,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Apim, Self::ApimAllInOne, Self::Ei, Self::Mi];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Apim => "wso2-apim",
            Self::ApimAllInOne => "wso2-apim-allinone",
            Self::Ei => "wso2-ei",
            Self::Mi => "wso2-mi",
        }
    }

    pub(super) fn names() -> String {
        Self::ALL.map(|kind| format!("\"{}\"", kind.name())).join(" or ")
    }
}

/// Editors' leavings, what the product keeps aside, what each node generates for itself at its start (with its own
/// ports and passwords), and product code.
const EXCLUDE: [&str; 20] = [
    "**/.*",
    "**/*.back",
    "**/*.swp",
    "**/*~",
    "**/*.tmp",
    "**/*.bak",
    "**/*.orig",
    "**/CVS/**",
    "**/lost+found/**",
    "**/Thumbs.db",
    "**/* - Copy*.xml",
    "**/inbound-endpoints/SecureWebSocketInboundEndpoint.xml",
    "**/inbound-endpoints/WebSocketInboundEndpoint.xml",
    "**/inbound-endpoints/SecureWebhookServer.xml",
    "**/inbound-endpoints/WebhookServer.xml",
    "**/webapps/**",
    "**/jaggeryapps/**",
    "**/artifactMetafiles/**",
    "**/axis2modules/**",
    "**/axis2services/**",
];

/// Without these a gateway does not start, or makes them again from memory.
const PROTECT: [&str; 5] = [
    "**/synapse.xml",
    "**/registry.xml",
    "**/task-manager.xml",
    "**/sequences/main.xml",
    "**/sequences/fault.xml",
];

/// The folder that a product deploys from.
const SERVER: &str = "repository/deployment/server";

/// The roots that the preset stands for.
pub(super) fn roots(preset: &Preset) -> Vec<Root> {
    let server = |name: &'static str| (name, format!("{SERVER}/{name}"));
    let mut folders = vec![(server("synapse-configs"), false)];
    match preset.kind {
        Kind::Apim => {}
        Kind::ApimAllInOne => {
            folders.extend([(server("executionplans"), true), (server("userstores"), true)])
        }
        Kind::Ei | Kind::Mi => folders.push((server("carbonapps"), true)),
    }
    if preset.multi_tenant {
        folders.push((("tenants", "repository/tenants".to_owned()), true));
    }
    let rules = RootRules {
        exclude: EXCLUDE.map(str::to_owned).into(),
        protect: PROTECT.map(str::to_owned).into(),
        ..RootRules::default()
    };
    let root = |((name, path), optional): ((&str, String), bool)| Root {
        name: RootName::new(name),
        path: preset.home.join(path),
        mode: RootMode::Sync,
        optional,
        rules: rules.clone(),
        key: "preset.home".to_owned(),
    };
    folders.into_iter().map(root).collect()
}

#[cfg(test)]
mod tests {
    use ignore::gitignore::GitignoreBuilder;

    use super::*;

    #[test]
    fn the_patterns_mean_what_they_should() {
        let matcher = |patterns: &[&str]| {
            let mut builder = GitignoreBuilder::new("/");
            patterns.iter().for_each(|pattern| {
                builder.add_line(None, pattern).unwrap();
            });
            builder.build().unwrap()
        };
        let (exclude, protect) = (matcher(&EXCLUDE), matcher(&PROTECT));
        let excluded = |path: &str| exclude.matched_path_or_any_parents(path, false).is_ignore();
        for path in [
            "default/api/.a.xml.swp",
            "default/.svn/entries",
            "default/api/a.xml.back",
            "default/api/a - Copy.xml",
            "default/api/a - Copy (2).xml",
            "default/inbound-endpoints/SecureWebSocketInboundEndpoint.xml",
            "1/webapps/x/WEB-INF/web.xml",
        ] {
            assert!(excluded(path), "{path}");
        }
        for path in
            ["default/api/admin--A_v1.0.0.xml", "default/synapse.xml", "default/inbound-endpoints/mine.xml"]
        {
            assert!(!excluded(path), "{path}");
        }
        let protected = |path: &str| protect.matched_path_or_any_parents(path, false).is_ignore();
        assert!(
            protected("default/synapse.xml") && protected("1/synapse-configs/default/sequences/main.xml")
        );
        assert!(!protected("default/sequences/other.xml"));
    }
}
