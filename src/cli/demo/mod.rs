//! `syncd demo`: three real daemons on loopback, and what they promise, shown step by step.
//!
//! Owns the story. Every wait has a limit and is on what an outsider can see: files on disk and answers over HTTP.
//! Whatever happens, the daemons are ended and the folder is removed.

mod artifacts;
mod gateways;
mod trees;

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::demo::artifacts::Api;
use crate::cli::demo::gateways::{Gateways, Trouble};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Colour, Output};

/// The first election, the first scan and the first copy.
const FORMED_WITHIN: Duration = Duration::from_secs(30);

/// Any later step. A delete takes `delete_grace`, a failover a few seconds; the rest is for slow machines.
const STEP_WITHIN: Duration = Duration::from_secs(20);

/// How many APIs the generated tree has; each is four to six files.
const APIS: usize = 42;

/// Shows all of it.
pub(super) async fn demo(output: &mut Output) -> Result<Exit, Failure> {
    let cannot = |error: std::io::Error| Failure::new(Exit::Degraded, format!("demo: cannot begin: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut gateways = Gateways::prepare(["gw1", "gw2", "gw3"]).map_err(cannot)?;
    let told = tokio::select! {
        told = Story { output, begun: Instant::now() }.tell(&mut gateways) => told,
        _ = tokio::signal::ctrl_c() => Err(Told::Interrupted(130)),
        _ = terminate.recv() => Err(Told::Interrupted(143)),
    };
    let result = match told {
        Ok(()) => Ok(Exit::Ok),
        Err(Told::Trouble(trouble)) => {
            Err(Failure::new(Exit::Degraded, format!("demo: {}", gateways.explain(&trouble))))
        }
        Err(Told::Output(error)) => Err(error.into()),
        Err(Told::Interrupted(code)) => Err(Failure { code, message: None }),
    };
    gateways.end().await;
    result
}

/// Why the story broke off.
enum Told {
    Trouble(Trouble),
    Output(std::io::Error),
    Interrupted(u8),
}

impl From<Trouble> for Told {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<std::io::Error> for Told {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

struct Story<'o> {
    output: &'o mut Output,
    begun: Instant,
}

impl Story<'_> {
    async fn tell(mut self, gateways: &mut Gateways) -> Result<(), Told> {
        let apis = self.form(gateways).await?;
        let manager = gateways.manager(None, FORMED_WITHIN).await?.0;
        self.update(gateways, manager, &apis[0]).await?;
        self.create_and_delete(gateways, manager, &apis[1]).await?;
        self.worker_dies(gateways, manager, &apis[2..7]).await?;
        self.manager_dies(gateways, manager, &apis[7]).await?;
        self.changed_by_hand(gateways, manager, &apis[8]).await?;
        self.compare(gateways).await
    }

    /// One line, with the time since the beginning.
    fn say(&mut self, text: &str) -> Result<(), Told> {
        Ok(self.output.write(&format!("[{:5.1} s] {text}\n", self.begun.elapsed().as_secs_f64()))?)
    }

    /// One line for something that held, with how long it took.
    fn held(&mut self, text: &str, took: Duration) -> Result<(), Told> {
        let mark = self.output.style.paint("ok", Colour::Good);
        self.say(&format!("    {mark}  {text}, after {}", span(took)))
    }

    async fn form(&mut self, gateways: &mut Gateways) -> Result<Vec<Api>, Told> {
        let apis = artifacts::generate(&gateways.root(0), APIS).map_err(Trouble::from)?;
        let files = trees::digest(&gateways.root(0)).map_err(Trouble::from)?.files;
        self.say(&format!(
            "three gateways on this host, in {}; gw1 has {files} artifacts, the others none",
            gateways.folder().display()
        ))?;
        self.say("starting gw3, gw2 and gw1 from one configuration file")?;
        for node in [2, 1, 0] {
            gateways.start(node)?;
        }
        let (first, took) = gateways.manager(None, FORMED_WITHIN).await?;
        self.held(&format!("{} was elected manager", gateways.name(first)), took)?;
        let (generation, took) = gateways.in_step(FORMED_WITHIN).await?;
        self.held(&format!("generation {generation} with {files} artifacts is on all three"), took)?;
        Ok(apis)
    }

    async fn update(&mut self, gateways: &Gateways, manager: usize, api: &Api) -> Result<(), Told> {
        let name = gateways.name(manager);
        self.say(&format!("updating an API in the manager's folder ({name})"))?;
        let new = api.edit(&gateways.root(manager), "updated").map_err(Trouble::from)?;
        let took = gateways.visible(&[new], &[], STEP_WITHIN).await?;
        self.held("the new version is on all three", took)
    }

    async fn create_and_delete(
        &mut self,
        gateways: &Gateways,
        manager: usize,
        old: &Api,
    ) -> Result<(), Told> {
        self.say("publishing a new API of several files and deleting another; new and deleted paths wait for quiet")?;
        let root = gateways.root(manager);
        let written = Api::new("Fresh", 7).create(&root).map_err(Trouble::from)?;
        let gone = old.delete(&root).map_err(Trouble::from)?;
        let took = gateways.visible(&written, &gone, STEP_WITHIN).await?;
        self.held("the new one is on all three, the old one on none", took)
    }

    async fn worker_dies(
        &mut self,
        gateways: &mut Gateways,
        manager: usize,
        apis: &[Api],
    ) -> Result<(), Told> {
        let worker = if manager == 2 { 1 } else { 2 };
        let name = gateways.name(worker).to_owned();
        gateways.kill(worker).await?;
        self.say(&format!("killed {name} (SIGKILL), and updating {} APIs meanwhile", apis.len()))?;
        let mut written = Vec::new();
        for api in apis {
            written.push(api.edit(&gateways.root(manager), "while one was down").map_err(Trouble::from)?);
        }
        let took = gateways.visible(&written, &[], STEP_WITHIN).await?;
        self.held("the other two have them", took)?;
        gateways.start(worker)?;
        self.say(&format!("started {name} again"))?;
        let took = gateways.visible(&written, &[], STEP_WITHIN).await?;
        self.held(&format!("{name} caught up"), took)
    }

    async fn manager_dies(&mut self, gateways: &mut Gateways, old: usize, api: &Api) -> Result<(), Told> {
        let name = gateways.name(old).to_owned();
        gateways.kill(old).await?;
        self.say(&format!("killed the manager {name} (SIGKILL)"))?;
        let lost = Api::new("Unpublished", 3).create(&gateways.root(old)).map_err(Trouble::from)?;
        let (new, took) = gateways.manager(Some(old), STEP_WITHIN).await?;
        let heir = gateways.name(new).to_owned();
        self.held(&format!("{heir} answers 200 on /manager"), took)?;
        let written = api.edit(&gateways.root(new), "by the new manager").map_err(Trouble::from)?;
        let took = gateways.visible(std::slice::from_ref(&written), &[], STEP_WITHIN).await?;
        self.held(&format!("an update in {heir}'s folder is on the other survivor"), took)?;
        gateways.start(old)?;
        self.say(&format!(
            "started {name} again; its folder has {} files that were never published",
            lost.len()
        ))?;
        let gone: Vec<_> = lost.iter().map(|file| file.path.clone()).collect();
        let took = gateways.visible(&[written], &gone, STEP_WITHIN).await?;
        self.held(&format!("{name} has what it missed and no longer what nobody published"), took)?;
        let took = gateways.quarantined(old, lost.len(), STEP_WITHIN).await?;
        self.held(&format!("its {} unpublished files are in its quarantine", lost.len()), took)
    }

    async fn changed_by_hand(&mut self, gateways: &Gateways, node: usize, api: &Api) -> Result<(), Told> {
        let name = gateways.name(node);
        self.say(&format!("changing a file by hand on {name}, which is not the manager any more"))?;
        let by_hand = api.edit(&gateways.root(node), "changed by hand").map_err(Trouble::from)?;
        let took = gateways.visible(&[api.created()], &[], STEP_WITHIN).await?;
        self.held("it was noticed, and the published version is back", took)?;
        let (kept, took) = gateways.kept(node, &by_hand, STEP_WITHIN).await?;
        self.held(&format!("what was there is kept: `syncd quarantine list` on {name} has {kept}"), took)
    }

    async fn compare(&mut self, gateways: &mut Gateways) -> Result<(), Told> {
        let (generation, took) = gateways.in_step(STEP_WITHIN).await?;
        self.held(&format!("all three report generation {generation}, the newest"), took)?;
        self.say("comparing the three folders file by file, without asking syncd")?;
        let found = gateways.trees()?;
        for (name, tree) in &found {
            self.say(&format!("    {name}  {} files  {}", tree.files, tree.digest))?;
        }
        if found.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            return Err(Trouble::of_all("the three folders differ").into());
        }
        let took = gateways.stop().await?;
        self.held("all three daemons stopped in order", took)?;
        let all = self.output.style.paint("all of it held", Colour::Good);
        self.say(&format!("{all}: the three digests are equal; the temporary folder is removed"))
    }
}

/// A duration at the precision that means something.
fn span(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}
