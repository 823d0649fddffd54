//! Which way to tell a new version by its old one is the smallest, per size of file: bytes and time, on generated pairs.
//!
//! `cargo bench --bench delta`; `-- PAIRS` for another number of pairs per class. Judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)] // a program for people; it uses a part of the generator

#[path = "../tests/support/tree.rs"]
mod tree;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use syncd::delta::{Engine, apply, make};

/// Bytes of a class of files, and how many pairs of it are looked at for each hundred. Noise stands for what is packed
/// already, such as a `.car`.
const CLASSES: &[(&str, usize, usize)] = &[
    ("0.5 KB", 500, 100),
    ("1 KB", 1 << 10, 100),
    ("4 KB", 4 << 10, 100),
    ("16 KB", 16 << 10, 100),
    ("64 KB", 64 << 10, 50),
    ("256 KB", 256 << 10, 20),
    ("1 MB", 1 << 20, 10),
    ("5 MB", 5 << 20, 4),
    ("15 MB", 15 << 20, 2),
    ("256 KB of noise", 256 << 10, 20),
    ("5 MB of noise", 5 << 20, 4),
];
const ENGINES: [Engine; 3] = [Engine::Plain, Engine::Prefix, Engine::Rsync];

fn main() {
    let pairs = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(100_usize);
    let seed = std::env::var("SYNCD_TEST_SEED").map_or(11, |seed| seed.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    println!("seed {seed}; mean bytes per file as sent, mean time to make it\n");
    println!(
        "| size | pairs | whole, zstd | zstd, old version as prefix | the same, shared by a batch | fast_rsync, then zstd | prefix smallest | fast_rsync smallest |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, bytes, share) in CLASSES {
        let count = (pairs * share / 100).max(1);
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            (0..count).map(|_| pair(&mut rng, *bytes, name.ends_with("noise"))).collect();
        let mut sums = [(0, Duration::ZERO); 3];
        let mut wins = [0; 3];
        for (old, new) in &pairs {
            let mut sizes = [0; 3];
            for (index, engine) in ENGINES.into_iter().enumerate() {
                let began = Instant::now();
                let patch = make(engine, old, new).unwrap();
                sums[index].0 += patch.len();
                sums[index].1 += began.elapsed();
                sizes[index] = patch.len();
                assert_eq!(&apply(engine, old, &patch, new.len()).unwrap(), new);
            }
            let least = sizes.iter().min().unwrap();
            wins[sizes.iter().position(|size| size == least).unwrap()] += 1;
        }
        let cell = |(bytes, took): (usize, Duration)| {
            format!("{} B, {:.0} µs", bytes / count, took.as_secs_f64() * 1e6 / count as f64)
        };
        let shared = if *bytes < 64 << 10 { cell(shared(&pairs)) } else { "–".to_owned() };
        println!(
            "| {name} | {count} | {} | {} | {shared} | {} | {} | {} |",
            cell(sums[0]),
            cell(sums[1]),
            cell(sums[2]),
            wins[1],
            wins[2]
        );
    }
}

/// Patches for as many files at a time as a parcel puts together.
fn shared(pairs: &[(Vec<u8>, Vec<u8>)]) -> (usize, Duration) {
    let (mut bytes, began) = (0, Instant::now());
    let mut left = pairs;
    while !left.is_empty() {
        let mut sum = 0;
        let group = left.iter().take_while(|(old, _)| {
            let is_in = sum < 256 << 10;
            sum += old.len();
            is_in
        });
        let count = group.count();
        let (group, rest) = left.split_at(count.max(1));
        left = rest;
        let olds: Vec<u8> = group.iter().flat_map(|(old, _)| old).copied().collect();
        let news: Vec<u8> = group.iter().flat_map(|(_, new)| new).copied().collect();
        bytes += make(Engine::Prefix, &olds, &news).unwrap().len();
    }
    (bytes, began.elapsed())
}

/// An artifact and the next version of it: mostly one hunk, most often of one line.
fn pair(rng: &mut StdRng, bytes: usize, noise: bool) -> (Vec<u8>, Vec<u8>) {
    if noise {
        let old: Vec<u8> = (0..bytes).map(|_| rng.random()).collect();
        let mut new = old.clone();
        let at = rng.random_range(0..bytes - 100);
        let hunk: Vec<u8> = (0..rng.random_range(20..200)).map(|_| rng.random()).collect();
        new.splice(at..at + 100, hunk);
        return (old, new);
    }
    let old = tree::artifact(rng, bytes);
    let mut lines: Vec<String> = old.split_inclusive('\n').map(str::to_owned).collect();
    let mut hunks = 1;
    while hunks < 7 && rng.random_bool(0.32) {
        hunks += 1;
    }
    for _ in 0..hunks {
        let at = rng.random_range(0..lines.len());
        let changed = if rng.random_bool(0.6) { 1 } else { rng.random_range(1..20) };
        let removed = rng.random_range(0..=changed).min(lines.len() - at);
        let added = (0..changed).map(|_| {
            format!("    <property name=\"edited\" value=\"{:x}\" scope=\"default\"/>\n", rng.random::<u32>())
        });
        let added: Vec<String> = added.collect();
        lines.splice(at..at + removed, added);
    }
    (old.into_bytes(), lines.concat().into_bytes())
}
