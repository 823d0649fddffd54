//! Who takes part: what each is, and what the bench asks of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::lsyncd::Lsyncd;
use crate::rsync::Rsync;
use crate::syncd::Syncd;
use crate::workload::Source;

/// Brings what is changed in a source folder to target folders on this host.
pub trait Contestant {
    fn name(&self) -> String;
    fn source(&self) -> &Path;
    fn targets(&self) -> Vec<PathBuf>;
    /// Its lasting processes, that of the source first.
    fn processes(&self) -> Vec<u32>;
    /// Whether it notices changes by itself.
    fn watches(&self) -> bool;
    /// Begins with a full source and empty targets; from when the first copy counts.
    fn start(&mut self) -> Instant;
    fn is_started(&self) -> bool;
    /// Does what must be done after a change, under `tracer` if there is one. Nothing for one that watches.
    fn carry(&mut self, tracer: Option<&Path>);
    /// Bytes of content sent so far, as it counts them itself.
    fn content_bytes(&self) -> Option<f64> {
        None
    }

    /// For runs without the workload `first-copy`.
    fn ensure_started(&mut self) {
        if self.is_started() {
            return;
        }
        self.start();
        self.carry(None);
        let whole = crate::workload::Change::all_of(self.source());
        whole.wait(&self.targets());
    }
}

/// One way to take part.
#[derive(Clone, Copy)]
pub enum Maker {
    Syncd { settle: &'static str },
    Rsync { parallel: bool, compress: bool },
    Lsyncd { nodelay: bool },
}

/// What ratios are told against.
pub const REFERENCE: &str = "rsync, parallel";

/// Everyone whose tool is there.
pub fn all(missing: &[(&str, &str)]) -> Vec<Maker> {
    let mut all = vec![Maker::Syncd { settle: "10ms" }, Maker::Syncd { settle: "0ms" }];
    let is_there = |tool: &str| missing.iter().all(|(name, _)| *name != tool);
    if is_there("rsync") {
        for (parallel, compress) in [(true, false), (true, true), (false, false), (false, true)] {
            all.push(Maker::Rsync { parallel, compress });
        }
        if is_there("lsyncd") {
            all.extend([Maker::Lsyncd { nodelay: true }, Maker::Lsyncd { nodelay: false }]);
        }
    }
    all
}

impl Maker {
    pub fn name(&self) -> String {
        match self {
            Self::Syncd { settle: "10ms" } => "syncd".to_owned(),
            Self::Syncd { settle } => format!("syncd, settle {settle}"),
            Self::Rsync { parallel, compress } => {
                let order = if *parallel { "parallel" } else { "one by one" };
                format!("rsync{}, {order}", if *compress { " -z" } else { "" })
            }
            Self::Lsyncd { nodelay: true } => "lsyncd, TCP_NODELAY forced".to_owned(),
            Self::Lsyncd { nodelay: false } => "lsyncd, delay 0".to_owned(),
        }
    }

    pub fn make(&self, source: &Source, targets: usize) -> Box<dyn Contestant> {
        match *self {
            Self::Syncd { settle } => Box::new(Syncd::new(self.name(), source, targets, settle)),
            Self::Rsync { parallel, compress } => {
                Box::new(Rsync::new(self.name(), source, targets, parallel, compress))
            }
            Self::Lsyncd { nodelay } => Box::new(Lsyncd::new(self.name(), source, targets, nodelay)),
        }
    }
}
