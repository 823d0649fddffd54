//! The results as Markdown tables.

use std::time::Duration;

use crate::contestant::REFERENCE;
use crate::meter::Cost;
use crate::workload::Workload;

/// One contestant's result in one workload.
pub struct Row {
    pub name: String,
    pub targets: usize,
    /// None where the workload is none for it.
    pub cost: Option<Cost>,
    pub syncs: Option<f64>,
}

struct Entry {
    workload: Workload,
    files: usize,
    row: Row,
}

/// All results of a run.
#[derive(Default)]
pub struct Tables(Vec<Entry>);

impl Tables {
    /// Keeps it, and says it at once: a long run may be stopped.
    pub fn add(&mut self, workload: Workload, files: usize, row: Row) {
        let median = row.cost.as_ref().map_or("–".to_owned(), |cost| shown(at(cost, 50)));
        eprintln!("  {}: {median}", workload.title());
        self.0.push(Entry { workload, files, row });
    }

    pub fn print(&self, workloads: &[Workload], sizes: &[usize], targets: &[usize]) {
        for &workload in workloads {
            for &files in sizes {
                for &count in targets {
                    self.print_one(workload, files, count);
                }
            }
        }
        if sizes.len() > 1 {
            self.print_growth(workloads, sizes, targets);
        }
        if targets.len() > 1 {
            self.print_fan_out(workloads, sizes, targets);
        }
    }

    fn rows(&self, workload: Workload, files: usize, targets: usize) -> impl Iterator<Item = &Row> {
        let wanted = move |entry: &&Entry| {
            (entry.workload, entry.files, entry.row.targets) == (workload, files, targets)
        };
        self.0.iter().filter(wanted).map(|entry| &entry.row)
    }

    fn print_one(&self, workload: Workload, files: usize, targets: usize) {
        println!("**{}**, {files} files, {targets} targets\n", workload.title());
        let is_idle = workload == Workload::Idle;
        let time = if is_idle { "busiest process, % of a core" } else { "median | 90 % | ratio" };
        println!(
            "| | {time} | CPU | of it the source | bytes per target | of it content | peak memory | syncs |"
        );
        println!("|---|{}", "---:|".repeat(if is_idle { 7 } else { 9 }));
        let reference = self.rows(workload, files, targets).find(|row| row.name == REFERENCE);
        let reference = reference.and_then(|row| row.cost.as_ref()).map(|cost| at(cost, 50));
        for row in self.rows(workload, files, targets) {
            let Some(cost) = &row.cost else {
                println!("| {} |{}", row.name, " – |".repeat(if is_idle { 7 } else { 9 }));
                continue;
            };
            let times = if is_idle {
                format!("{:.2}", cost.busiest * 100.0)
            } else {
                let ratio = reference.map(|reference| at(cost, 50).as_secs_f64() / reference.as_secs_f64());
                let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
                format!("{} | {} | {ratio}", shown(at(cost, 50)), shown(at(cost, 90)))
            };
            println!(
                "| {} | {times} | {} | {} | {} | {} | {} | {} |",
                row.name,
                shown(cost.cpu),
                shown(cost.cpu_source),
                bytes(cost.bytes / targets as f64),
                cost.content.map_or("–".to_owned(), |content| bytes(content / targets as f64)),
                bytes(cost.memory as f64),
                row.syncs.map_or("–".to_owned(), |syncs| format!("{syncs:.1}")),
            );
        }
        println!();
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for entry in &self.0 {
            if !names.contains(&entry.row.name.as_str()) {
                names.push(&entry.row.name);
            }
        }
        names
    }

    fn cost(&self, name: &str, workload: Workload, files: usize, targets: usize) -> Option<&Cost> {
        self.rows(workload, files, targets).find(|row| row.name == name)?.cost.as_ref()
    }

    /// Whether a median grows with the tree.
    fn print_growth(&self, workloads: &[Workload], sizes: &[usize], targets: &[usize]) {
        let measured = workloads.iter().filter(|workload| **workload != Workload::Idle);
        for (&workload, &count) in
            measured.flat_map(|workload| targets.iter().map(move |count| (workload, count)))
        {
            println!("**{}**, medians by size of the tree, {count} targets\n", workload.title());
            let heads: Vec<String> = sizes.iter().map(|files| format!(" {files} files |")).collect();
            println!("| |{}\n|---|{}", heads.concat(), "---:|".repeat(sizes.len()));
            for name in self.names() {
                let cell = |files: &usize| {
                    self.cost(name, workload, *files, count)
                        .map_or(" – |".to_owned(), |cost| format!(" {} |", shown(at(cost, 50))))
                };
                println!("| {name} |{}", sizes.iter().map(cell).collect::<String>());
            }
            println!();
        }
    }

    /// What each further target costs the source, against the first one.
    fn print_fan_out(&self, workloads: &[Workload], sizes: &[usize], targets: &[usize]) {
        let (few, many) =
            (targets.iter().min().copied().unwrap_or(1), targets.iter().max().copied().unwrap_or(1));
        let measured =
            workloads.iter().filter(|workload| !matches!(workload, Workload::Idle | Workload::NoChange));
        for (&workload, &files) in
            measured.flat_map(|workload| sizes.iter().map(move |files| (workload, files)))
        {
            println!("**{}**, {files} files: the source's processor time\n", workload.title());
            println!(
                "| | {few} targets | {many} targets | each further one, % of the first |\n|---|---:|---:|---:|"
            );
            for name in self.names().into_iter().filter(|name| name.starts_with("syncd")) {
                let of = |count| self.cost(name, workload, files, count).map(|cost| cost.cpu_source);
                let (Some(first), Some(last)) = (of(few), of(many)) else { continue };
                let further = (last.as_secs_f64() - first.as_secs_f64()) / (many - few) as f64;
                let share = further / (first.as_secs_f64() / few as f64) * 100.0;
                println!("| {name} | {} | {} | {share:.0} |", shown(first), shown(last));
            }
            println!();
        }
    }
}

/// The wall time that so many percent of the rounds stay within.
fn at(cost: &Cost, percent: usize) -> Duration {
    cost.walls[(cost.walls.len() * percent / 100).min(cost.walls.len() - 1)]
}

fn shown(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

fn bytes(count: f64) -> String {
    match count {
        count if count < 1000.0 => format!("{count:.0} B"),
        count if count < 1_000_000.0 => format!("{:.1} KB", count / 1000.0),
        count => format!("{:.2} MB", count / 1_000_000.0),
    }
}
