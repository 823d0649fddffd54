//! What a workload costs: processor time, bytes, memory, syncs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::contestant::Contestant;

/// How long an idle contestant is watched.
const IDLE: Duration = Duration::from_secs(60);
/// The kernel counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);
/// Lasting work after the last target has the change counts too, as far as it comes within this.
const AFTERMATH: Duration = Duration::from_millis(300);

/// What it came to.
pub struct Cost {
    /// Each round, sorted.
    pub walls: Vec<Duration>,
    /// Of all processes, per round.
    pub cpu: Duration,
    /// Of the source's process, per round.
    pub cpu_source: Duration,
    /// Of the busiest process, as a share of the time that passed.
    pub busiest: f64,
    /// Through the loopback device, per round.
    pub bytes: f64,
    /// What the contestant itself counts as content, per round.
    pub content: Option<f64>,
    /// The greatest peak of one process, in bytes.
    pub memory: u64,
}

/// A measurement under way.
pub struct Meter {
    since: Instant,
    /// Processor time of each lasting process with the children it has waited for.
    each: Vec<(u32, Duration)>,
    own_children: Duration,
    bytes: u64,
    content: Option<f64>,
    sampler: Option<Sampler>,
}

impl Meter {
    pub fn start(contestant: &dyn Contestant) -> Self {
        let pids = contestant.processes();
        for pid in &pids {
            // Peaks count from here where the kernel can forget the former one.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        Self {
            since: Instant::now(),
            each: pids.iter().map(|pid| (*pid, used(*pid, true))).collect(),
            own_children: used_by_children(),
            content: contestant.content_bytes(),
            sampler: (!contestant.watches()).then(Sampler::start),
            bytes: loopback_bytes(),
        }
    }

    pub fn stop(self, contestant: &dyn Contestant, mut walls: Vec<Duration>) -> Cost {
        let bytes = loopback_bytes();
        std::thread::sleep(AFTERMATH);
        let pids = contestant.processes();
        let before = |pid: u32| {
            self.each.iter().find(|(other, _)| *other == pid).map_or(Duration::ZERO, |(_, at)| *at)
        };
        let each: Vec<Duration> =
            pids.iter().map(|pid| used(*pid, true).saturating_sub(before(*pid))).collect();
        let rounds = walls.len().max(1) as u32;
        let own = used_by_children().saturating_sub(self.own_children);
        let sampled = self.sampler.map_or(0, Sampler::stop);
        let peaks = pids.iter().map(|pid| status(*pid, "VmHWM") << 10);
        walls.sort();
        Cost {
            walls,
            cpu: (each.iter().sum::<Duration>() + own) / rounds,
            cpu_source: each.first().copied().unwrap_or(own) / rounds,
            busiest: each
                .iter()
                .max()
                .map_or(0.0, |most| most.as_secs_f64() / self.since.elapsed().as_secs_f64()),
            bytes: bytes.saturating_sub(self.bytes) as f64 / f64::from(rounds),
            content: self
                .content
                .and_then(|before| Some((contestant.content_bytes()? - before) / f64::from(rounds))),
            memory: peaks.max().unwrap_or(0).max(sampled),
        }
    }
}

/// Watches a contestant that has nothing to do. None for one that only runs when it is told to.
pub fn idle(contestant: &dyn Contestant) -> Option<Cost> {
    if !contestant.watches() {
        return None;
    }
    std::thread::sleep(Duration::from_secs(5));
    let meter = Meter::start(contestant);
    std::thread::sleep(IDLE);
    Some(meter.stop(contestant, vec![IDLE]))
}

/// `strace` that writes each sync call into `trace`.
pub fn strace(trace: &Path) -> Command {
    let calls = "trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync";
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", calls, "-e", "signal=none", "-o"]).arg(trace);
    command
}

/// How many syncs all processes make while `work` goes on; none when strace may not attach.
pub fn syncs(
    contestant: &mut dyn Contestant,
    work: impl FnOnce(&mut dyn Contestant, &Path),
) -> Option<usize> {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("lasting");
    let pids = contestant.processes();
    let mut tracer = strace(&trace)
        .args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]))
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(|pid| status(*pid, "TracerPid") == 0) {
        if Instant::now() > deadline || tracer.try_wait().ok()?.is_some() {
            return None;
        }
        std::thread::sleep(TICK);
    }
    work(contestant, &dir.path().join("run"));
    std::thread::sleep(AFTERMATH);
    // It detaches on this signal and ends; who was traced runs on.
    Command::new("kill").args(["-INT", &tracer.id().to_string()]).status().ok()?;
    tracer.wait().ok()?;
    let texts =
        fs::read_dir(dir.path()).unwrap().filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let count =
        |text: String| text.lines().filter(|line| line.contains("sync") && !line.contains("resumed")).count();
    Some(texts.map(count).sum())
}

/// Processor time of a process, with the children that it has waited for.
fn used(pid: u32, children: bool) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything, in parentheses.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |from: usize, count: usize| -> u32 {
        rest.split_whitespace().skip(from).take(count).filter_map(|field| field.parse::<u32>().ok()).sum()
    };
    TICK * if children { ticks(11, 4) } else { ticks(11, 2) }
}

fn used_by_children() -> Duration {
    let own = std::process::id();
    used(own, true).saturating_sub(used(own, false))
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// From `/proc`, which shows this process's own network; `/sys` shows that of whoever mounted it.
fn loopback_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let numbers = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    numbers.and_then(|numbers| numbers.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0)
}

/// Looks at what this program's children hold in memory, while they live.
struct Sampler {
    ended: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Sampler {
    fn start() -> Self {
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = std::sync::Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                peak = descendants(std::process::id())
                    .iter()
                    .map(|pid| status(*pid, "VmHWM") << 10)
                    .fold(peak, u64::max);
                std::thread::sleep(TICK);
            }
            peak
        });
        Self { ended, thread }
    }

    fn stop(self) -> u64 {
        self.ended.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}
