//! A model of the gateway's hot deployer: a thread that scans a folder on a tick, or scans that a test steps by hand.
//!
//! Source: the facts about the product's own code that the project collected. Owns what a gateway serves and the record
//! of everything it did; tests read that record and wait for scans. What it does, in the product's order:
//! - A scan lists all folders but those whose names begin with a dot (hidden files count), takes `*.xml`, and compares
//!   the whole second of each file's modification time with the one it remembers, by `!=`.
//! - It undeploys what is gone, unless the folder above is gone too (older versions undeploy then as well); then it
//!   deploys what is new or changed, in a folder by name, folders in an order of their own. It reads only now.
//! - A new artifact that fails is not tried again before its second changes. An update that fails writes the version in
//!   memory back over the file, in other bytes, and ignores the next change that it sees of that path.
//! - The sequences `main` and `fault` can't be undeployed: their files are written anew from memory.
//! - A name that another file has in the same folder is refused, and so is an API's context that another API has, also
//!   when the one file is renamed to the other in one scan and the new one is deployed before the old one is undeployed.
//! - An update of the kinds that the product waits for blocks the thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How this gateway goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Gateway {
    /// Between the starts of two scans; 15 s in the product.
    pub tick: Duration,
    /// How long an update of an API, endpoint, sequence, inbound endpoint or message processor blocks; 2 s in the product.
    pub update_takes: Duration,
    /// Older versions undeploy what lies in a folder that is gone.
    pub undeploys_with_folder: bool,
}

impl Gateway {
    /// The product, as often as `tick`, and as fast in proportion.
    pub fn every(tick: Duration) -> Self {
        Self { tick, update_takes: tick * 2 / 15, undeploys_with_folder: false }
    }
}

/// What was done to one file's artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    Deployed,
    Updated,
    Undeployed,
    /// It stays undeployed, or as it was.
    Failed(String),
    /// The version in memory was written over the file.
    Restored,
    /// A change of the file was taken for the gateway's own.
    Ignored,
}

/// One thing that was done.
#[derive(Clone, Debug)]
pub struct Event {
    pub scan: usize,
    pub at: SystemTime,
    /// Relative to the folder.
    pub path: String,
    pub did: Did,
}

/// One scan; number 0 is the start.
#[derive(Clone, Debug)]
pub struct Scan {
    pub number: usize,
    pub began: SystemTime,
    /// When all folders were listed.
    pub listed: SystemTime,
    pub ended: SystemTime,
    /// APIs that were served after it without an endpoint that they name: (API, endpoint).
    pub broken: Vec<(String, String)>,
}

/// What is served of one artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub path: String,
    pub content: String,
    context: Option<String>,
    endpoints: Vec<String>,
}

#[derive(Default)]
struct Record {
    events: Vec<Event>,
    scans: Vec<Scan>,
    serving: BTreeMap<(String, String), Served>,
}

struct Shared {
    record: Mutex<Record>,
    /// Whether a scan ended.
    told: Condvar,
    stop: AtomicBool,
    paused: AtomicBool,
}

/// The gateway. Ends with its value.
pub struct Deployer {
    engine: Arc<Mutex<Engine>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Engine {
    root: PathBuf,
    gateway: Gateway,
    number: usize,
    /// The second that was last seen of each file.
    seconds: BTreeMap<String, i64>,
    /// The artifact (folder, name) of each file that is deployed.
    artifacts: BTreeMap<String, (String, String)>,
    /// Files that are being updated: what they were.
    updating: BTreeMap<String, (String, String)>,
    /// Files that were written back, and whose next change is ignored.
    restored: BTreeSet<String>,
    serving: BTreeMap<(String, String), Served>,
    shared: Arc<Shared>,
    /// Called once between listing and reading, for tests of the model.
    between: Option<Box<dyn FnOnce() + Send>>,
}

/// What a start loads, and only directly in these folders.
const KNOWN: &[&str] = &[
    "api",
    "endpoints",
    "sequences",
    "local-entries",
    "proxy-services",
    "templates",
    "tasks",
    "event-sources",
    "message-stores",
    "message-processors",
    "priority-executors",
    "imports",
    "inbound-endpoints",
];
const WAITED_FOR: &[&str] = &["api", "endpoints", "sequences", "inbound-endpoints", "message-processors"];

impl Deployer {
    /// Starts a gateway on `root` that scans by itself.
    pub fn start(root: &Path, gateway: Gateway) -> Self {
        let mut this = Self::stepped(root, gateway);
        let (engine, shared) = (Arc::clone(&this.engine), Arc::clone(&this.shared));
        this.thread = Some(std::thread::spawn(move || {
            let mut due = Instant::now() + gateway.tick;
            while !shared.stop.load(Ordering::SeqCst) {
                let now = Instant::now();
                if now < due || shared.paused.load(Ordering::SeqCst) {
                    std::thread::sleep(
                        due.saturating_duration_since(now)
                            .clamp(Duration::from_millis(1), Duration::from_millis(10)),
                    );
                    continue;
                }
                engine.lock().unwrap().scan();
                due = (due + gateway.tick).max(Instant::now());
            }
        }));
        this
    }

    /// Starts a gateway that scans when it is told to.
    pub fn stepped(root: &Path, gateway: Gateway) -> Self {
        let shared = Arc::new(Shared {
            record: Mutex::default(),
            told: Condvar::new(),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
        });
        let mut engine = Engine {
            root: root.to_owned(),
            gateway,
            number: 0,
            seconds: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            updating: BTreeMap::new(),
            restored: BTreeSet::new(),
            serving: BTreeMap::new(),
            shared: Arc::clone(&shared),
            between: None,
        };
        engine.load();
        Self { engine: Arc::new(Mutex::new(engine)), shared, thread: None }
    }

    /// One scan, now.
    pub fn scan(&self) {
        self.engine.lock().unwrap().scan();
    }

    /// One scan, now, in which `between` happens after the listing and before anything is read.
    pub fn scan_with(&self, between: impl FnOnce() + Send + 'static) {
        let mut engine = self.engine.lock().unwrap();
        engine.between = Some(Box::new(between));
        engine.scan();
    }

    /// No scan begins until [`Deployer::resume`]; waits for the one that goes on.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
        drop(self.engine.lock().unwrap());
    }

    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Waits until `more` scans that begin after this call have ended.
    pub fn wait_scans(&self, more: usize, bound: Duration) {
        let from = SystemTime::now();
        self.wait("scans", bound, |record| {
            record.scans.iter().filter(|scan| scan.began >= from).count() >= more
        });
    }

    /// Waits until the artifact `name` in `folder` is served with this content.
    pub fn wait_serves(&self, folder: &str, name: &str, content: &str, bound: Duration) {
        let key = (folder.to_owned(), name.to_owned());
        self.wait(&format!("{folder}/{name} to be served"), bound, |record| {
            record.serving.get(&key).is_some_and(|served| served.content == content)
        });
    }

    fn wait(&self, what: &str, bound: Duration, done: impl Fn(&Record) -> bool) {
        let deadline = Instant::now() + bound;
        let mut record = self.record();
        while !done(&record) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last: Vec<_> = record.events.iter().rev().take(20).collect();
                panic!(
                    "waited {bound:?} in vain for {what}; {} scans, the last events: {last:#?}",
                    record.scans.len()
                );
            }
            record = self.shared.told.wait_timeout(record, left).unwrap().0;
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record.lock().unwrap()
    }

    /// How many events there are: a mark for [`Deployer::since`].
    pub fn mark(&self) -> usize {
        self.record().events.len()
    }

    /// What was done since a mark.
    pub fn since(&self, mark: usize) -> Vec<Event> {
        self.record().events[mark..].to_vec()
    }

    /// What was done since a mark, in short: `+` deployed, `~` updated, `-` undeployed, `!` failed, `<` restored, `.`
    /// ignored; sorted.
    pub fn brief(&self, mark: usize) -> Vec<String> {
        let mut brief: Vec<String> = self
            .since(mark)
            .iter()
            .map(|event| {
                let sign = match event.did {
                    Did::Deployed => '+',
                    Did::Updated => '~',
                    Did::Undeployed => '-',
                    Did::Failed(_) => '!',
                    Did::Restored => '<',
                    Did::Ignored => '.',
                };
                format!("{sign}{}", event.path)
            })
            .collect();
        brief.sort();
        brief
    }

    pub fn scans(&self) -> Vec<Scan> {
        self.record().scans.clone()
    }

    /// What is served under a name of a folder.
    pub fn serves(&self, folder: &str, name: &str) -> Option<Served> {
        self.record().serving.get(&(folder.to_owned(), name.to_owned())).cloned()
    }

    /// How many artifacts are served.
    pub fn served(&self) -> usize {
        self.record().serving.len()
    }
}

impl Drop for Deployer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the gateway's thread failed");
        }
    }
}

/// The artifact in a file, or why there is none.
fn parse(folder: &str, content: &str) -> Result<(String, Served), String> {
    let document = roxmltree::Document::parse(content).map_err(|error| format!("Error parsing: {error}"))?;
    let top = document.root_element();
    let name = top.attribute("name").or(top.attribute("key")).ok_or("it has no name")?;
    let context = top.attribute("context").map(str::to_owned).filter(|_| folder == "api");
    if folder == "api" && !context.as_ref().is_some_and(|context| context.starts_with('/')) {
        return Err("an API needs a context that begins with /".to_owned());
    }
    let named = top
        .descendants()
        .filter(|node| node.has_tag_name((top.tag_name().namespace().unwrap_or(""), "endpoint")));
    let endpoints = named.filter_map(|node| node.attribute("key")).map(str::to_owned).collect();
    Ok((name.to_owned(), Served { path: String::new(), content: content.to_owned(), context, endpoints }))
}

/// The name of the folder that says of what kind an artifact is.
fn folder_of(path: &str) -> String {
    let mut folders: Vec<&str> = path.split('/').collect();
    folders.pop();
    let known = folders.iter().find(|folder| KNOWN.contains(folder));
    (*known.unwrap_or(&"")).to_owned()
}

/// The same artifact as the product writes it: never the bytes of its author.
fn reformatted(content: &str) -> String {
    let body = match content.trim_start().strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or(rest, |(_, body)| body),
        None => content,
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><!-- from memory -->{}\n",
        body.replace("<!-- from memory -->", "").trim()
    )
}

impl Engine {
    /// The start: known folders only, and what fails is passed over.
    fn load(&mut self) {
        let began = SystemTime::now();
        let files = self.list();
        let listed = SystemTime::now();
        for path in files.keys() {
            let direct = path.split('/').rev().nth(1).is_some_and(|folder| KNOWN.contains(&folder));
            if direct {
                self.deploy(path);
            }
        }
        self.end(began, listed);
    }

    fn scan(&mut self) {
        self.number += 1;
        let began = SystemTime::now();
        let files = self.list();
        let listed = SystemTime::now();
        let gone: Vec<String> =
            self.seconds.keys().filter(|path| !files.contains_key(*path)).cloned().collect();
        let has_parent = |path: &String| {
            self.root.join(path).parent().is_some_and(Path::is_dir) || self.gateway.undeploys_with_folder
        };
        let (gone, _kept): (Vec<String>, Vec<String>) = gone.into_iter().partition(has_parent);
        let changed: Vec<String> = files
            .iter()
            .filter(|(path, second)| self.seconds.get(*path).is_some_and(|known| known != *second))
            .map(|(path, _)| path.clone())
            .collect();
        let mut due: Vec<String> = files
            .iter()
            .filter(|(path, second)| self.seconds.get(*path) != Some(second))
            .map(|(path, _)| path.clone())
            .collect();
        // Folders in an order that has nothing to do with what needs what.
        due.sort_by_key(|path| {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            (blake3::hash(folder.as_bytes()).to_hex().to_string(), name.to_owned())
        });
        for path in &gone {
            self.seconds.remove(path);
        }
        self.seconds.extend(files);
        if let Some(between) = self.between.take() {
            between();
        }
        gone.iter().chain(&changed).for_each(|path| self.undeploy(path));
        due.iter().for_each(|path| self.deploy(path));
        self.end(began, listed);
    }

    /// Every file that counts, with the whole second of its time.
    fn list(&self) -> BTreeMap<String, i64> {
        fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<String, i64>) {
            let Ok(listing) = fs::read_dir(folder) else { return };
            for entry in listing.flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                // As the product does: through links, and without minding what vanishes meanwhile.
                let Ok(meta) = fs::metadata(&path) else { continue };
                if meta.is_dir() {
                    if !name.starts_with('.') && name != "CVS" {
                        walk(top, &path, found);
                    }
                } else if name.ends_with(".xml") {
                    let path = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
                    found.insert(path, meta.mtime());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.root, &self.root, &mut found);
        found
    }

    /// First half of a change, or the end of an artifact whose file is gone.
    fn undeploy(&mut self, path: &str) {
        if self.restored.contains(path) {
            return;
        }
        let Some(artifact) = self.artifacts.remove(path) else { return };
        if self.root.join(path).exists() {
            self.updating.insert(path.to_owned(), artifact);
            return;
        }
        if artifact.0 == "sequences" && matches!(artifact.1.as_str(), "main" | "fault") {
            self.artifacts.insert(path.to_owned(), artifact.clone());
            self.restore(path, &artifact);
            return;
        }
        self.serving.remove(&artifact);
        self.did(path, Did::Undeployed);
    }

    fn deploy(&mut self, path: &str) {
        if self.restored.remove(path) {
            self.did(path, Did::Ignored);
            return;
        }
        let before = self.updating.remove(path);
        if before.is_none() && self.artifacts.contains_key(path) {
            return;
        }
        let folder = folder_of(path);
        let read = fs::read_to_string(self.root.join(path)).map_err(|error| error.to_string());
        let parsed = read.and_then(|content| parse(&folder, &content));
        let outcome = parsed.and_then(|(name, served)| {
            let artifact = (folder.clone(), name);
            let same = before.as_ref() == Some(&artifact);
            if let Some(other) = self.serving.get(&artifact).filter(|_| !same) {
                return Err(format!("{} has this name already", other.path));
            }
            let takes = |(key, other): (&(String, String), &Served)| {
                let own = same && *key == artifact;
                (!own && served.context.is_some() && other.context == served.context)
                    .then(|| other.path.clone())
            };
            if let Some(other) = self.serving.iter().find_map(takes) {
                return Err(format!("URL context is already registered with {other}"));
            }
            Ok((artifact, Served { path: path.to_owned(), ..served }))
        });
        match (outcome, before) {
            (Ok((artifact, served)), before) => {
                if let Some(old) = before.as_ref().filter(|old| **old != artifact) {
                    self.serving.remove(old);
                }
                self.serving.insert(artifact.clone(), served);
                self.artifacts.insert(path.to_owned(), artifact);
                if before.is_some() && WAITED_FOR.contains(&folder.as_str()) {
                    std::thread::sleep(self.gateway.update_takes);
                }
                self.did(path, if before.is_some() { Did::Updated } else { Did::Deployed });
            }
            (Err(why), Some(before)) => {
                self.did(path, Did::Failed(why));
                self.artifacts.insert(path.to_owned(), before.clone());
                self.restore(path, &before);
            }
            (Err(why), None) => self.did(path, Did::Failed(why)),
        }
    }

    /// Writes what is in memory over the file: truncated and written, as the product does.
    fn restore(&mut self, path: &str, artifact: &(String, String)) {
        let Some(served) = self.serving.get(artifact) else { return };
        let written = fs::write(self.root.join(path), reformatted(&served.content));
        self.restored.insert(path.to_owned());
        self.did(
            path,
            if written.is_ok() { Did::Restored } else { Did::Failed("Restoring failed".to_owned()) },
        );
    }

    fn did(&self, path: &str, did: Did) {
        let event = Event { scan: self.number, at: SystemTime::now(), path: path.to_owned(), did };
        self.shared.record.lock().unwrap().events.push(event);
    }

    fn end(&self, began: SystemTime, listed: SystemTime) {
        let broken = self
            .serving
            .iter()
            .filter(|((folder, _), _)| folder == "api")
            .flat_map(|((_, api), served)| {
                served.endpoints.iter().map(move |endpoint| (api.clone(), endpoint.clone()))
            })
            .filter(|(_, endpoint)| !self.serving.contains_key(&("endpoints".to_owned(), endpoint.clone())))
            .collect();
        let mut record = self.shared.record.lock().unwrap();
        record.serving = self.serving.clone();
        record.scans.push(Scan { number: self.number, began, listed, ended: SystemTime::now(), broken });
        self.shared.told.notify_all();
    }
}

/// The five files of one API, and its endpoints' and sequence's names derived from its own: path and content each.
pub fn api(name: &str, version: u32) -> Vec<(String, String)> {
    let artifact =
        |folder: &str, file: String, content: String| (format!("default/{folder}/{file}.xml"), content);
    let ns = "xmlns=\"http://ws.apache.org/ns/synapse\"";
    let endpoint = |kind: &str| {
        let key = format!("{name}--v1_API{kind}Endpoint");
        let content = format!(
            "<endpoint {ns} name=\"{key}\"><http uri-template=\"http://backend/{version}\"/></endpoint>"
        );
        artifact("endpoints", key, content)
    };
    let id = format!("{name}-5f2c");
    let document = format!(
        "<localEntry {ns} key=\"{id}\">{{&quot;info&quot;: {{&quot;version&quot;: {version}}}}}</localEntry>"
    );
    let sequence = format!("admin--{name}:v1--In");
    let keys = ["production", "sandbox"]
        .map(|kind| format!("<send><endpoint key=\"{name}--v1_API{kind}Endpoint\"/></send>"));
    vec![
        artifact("local-entries", id, document),
        endpoint("production"),
        endpoint("sandbox"),
        artifact(
            "sequences",
            format!("admin--{name}_v1--In"),
            format!("<sequence {ns} name=\"{sequence}\"><log level=\"{version}\"/></sequence>"),
        ),
        artifact(
            "api",
            format!("admin--{name}_v1"),
            api_file(name, &format!("admin--{name}"), version, &keys.concat()),
        ),
    ]
}

/// An API's own file: its name may differ from its context.
pub fn api_file(context: &str, name: &str, version: u32, body: &str) -> String {
    format!(
        "<api xmlns=\"http://ws.apache.org/ns/synapse\" name=\"{name}\" context=\"/{context}/v1\"><resource methods=\"GET\" url-mapping=\"/{version}\"><inSequence>{body}</inSequence></resource></api>"
    )
}
