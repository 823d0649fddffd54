//! Keys that are read and checked although what they switch is not built yet.
//!
//! Whoever builds one of these features deletes its line here, and nothing else.

use crate::daemon::config::mistakes::Mistakes;
use crate::daemon::config::{Config, Mode, Notice, RootMode};

/// A key without effect yet, and whether this configuration asks for it.
type Later = (&'static str, fn(&Config) -> bool);

/// Running on without these does no harm: they are told at start.
const WITHOUT_EFFECT: &[Later] = &[("hook", |config| !config.hooks.is_empty())];

/// Tells which keys have no effect yet, and refuses those without which running would be a lie.
pub(super) fn tell(mistakes: &mut Mistakes, notices: &mut Vec<Notice>, config: &Config) {
    const NOT_YET: &str = "is not in this version";
    if config.cluster.mode == Mode::SharedFs {
        mistakes.at("cluster.mode", format!("mode \"shared-fs\" {NOT_YET}"), "use \"rsync\"");
    }
    for root in config.roots.iter().filter(|root| root.mode == RootMode::Compare) {
        let key = format!("{}.mode", root.key);
        mistakes.at(&key, format!("mode \"compare\" {NOT_YET}"), "use \"sync\", or take this root out");
    }
    let asked: Vec<&str> =
        WITHOUT_EFFECT.iter().filter(|(_, asks)| asks(config)).map(|(key, _)| *key).collect();
    if !asked.is_empty() {
        let message =
            format!("without effect in this version, though read and checked: {}", asked.join(", "));
        notices.push(Notice { warning: false, message });
    }
}
