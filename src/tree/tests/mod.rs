//! The artifact folders as the kernel really has them.

mod confinement;
mod observing;
mod staging;
mod walking;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{ArtifactPath, RootName};
use crate::tree::Root;
use crate::tree::beneath::Confinement;

/// A root, and a folder outside of it with a file that nobody may touch.
struct Fixture {
    outside: tempfile::TempDir,
    path: PathBuf,
    root: Arc<Root>,
}

const SECRET: &str = "outside";

fn fixture() -> Fixture {
    fixture_with(Confinement::Kernel)
}

fn fixture_with(confinement: Confinement) -> Fixture {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), SECRET).unwrap();
    let path = outside.path().join("root");
    std::fs::create_dir(&path).unwrap();
    let root = Root::open(RootName::new("r"), &path).unwrap().confined_by(confinement);
    Fixture { outside, path, root: Arc::new(root) }
}

fn path(bytes: &[u8]) -> ArtifactPath {
    ArtifactPath::new(bytes).unwrap()
}

/// Runs `disturb` again and again in another thread while `work` runs.
fn while_disturbed<T>(mut disturb: impl FnMut() + Send, work: impl FnOnce() -> T) -> T {
    /// Ends the other thread also when `work` panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb();
            }
        });
        let _done = Done(&done);
        work()
    })
}
