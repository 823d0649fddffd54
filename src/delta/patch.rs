//! Patches: new bytes told by old ones that both sides have.
//!
//! Three ways, of which the smallest result wins: zstd with the old bytes as raw prefix; for single files from 64 KiB
//! up also a `fast_rsync` delta, whose signature is made of the sender's own copy and so may have tiny blocks; or the new
//! bytes compressed by themselves. Many small files share one patch: their old versions one after another are the prefix
//! of their new ones, so that they share tables and one context. Neither checks that the result is right: its hash does.

use std::io;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

use crate::delta::{ParcelError, Signature};

/// Both sides hold a file's old and new version in memory, so larger ones are not patched.
pub const PATCHED_BYTES_MAX: u64 = 16 << 20;
/// Files from this size on have a patch of their own.
pub(super) const SINGLE_BYTES_MIN: u64 = 64 << 10;
/// Old or new bytes after which a shared patch takes no further file.
pub(super) const SHARED_BYTES: u64 = 256 << 10;
/// Old and new bytes of the greatest patch.
const WINDOW_LOG_MAX: u32 = 25;
const LEVEL: i32 = 3;
/// Blocks of a signature that never travels: the smallest that pays, since each match costs about six bytes.
const BLOCK_BYTES: u32 = 32;
/// A patch this small is not worth looking for a smaller one.
const SMALL_ENOUGH: usize = 256;

/// How a patch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// zstd without the old bytes.
    Plain,
    /// zstd with the old bytes as prefix.
    Prefix,
    /// A delta of `fast_rsync`, compressed.
    Rsync,
}

impl Engine {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Prefix => 1,
            Self::Rsync => 2,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Plain, Self::Prefix, Self::Rsync].into_iter().find(|engine| engine.byte() == byte)
    }
}

/// The smallest patch from `old` to `new`; `fast_rsync` is tried when they are those of a `single` file.
///
/// # Errors
/// When the compression library fails.
pub(super) fn smallest(old: &[u8], new: &[u8], single: bool) -> io::Result<(Engine, Vec<u8>)> {
    let mut best = (Engine::Prefix, make(Engine::Prefix, old, new)?);
    let mut offer = |engine| -> io::Result<()> {
        if best.1.len() > SMALL_ENOUGH {
            let other = make(engine, old, new)?;
            if other.len() < best.1.len() {
                best = (engine, other);
            }
        }
        Ok(())
    };
    if single && new.len() as u64 >= SINGLE_BYTES_MIN {
        offer(Engine::Rsync)?;
    }
    offer(Engine::Plain)?;
    Ok(best)
}

/// The patch that one engine makes.
///
/// # Errors
/// When the compression library fails.
pub fn make(engine: Engine, old: &[u8], new: &[u8]) -> io::Result<Vec<u8>> {
    match engine {
        Engine::Plain => compress(&[], new),
        Engine::Prefix => compress(old, new),
        Engine::Rsync => compress(&[], &Signature::of_own(old, BLOCK_BYTES).delta(new)?),
    }
}

/// The smaller of a delta against the file that `signature` is of, and `new` compressed by itself.
///
/// # Errors
/// When the signature is of a kind that is not spoken here, or the compression library fails.
pub(super) fn against(signature: &Signature, new: &[u8]) -> io::Result<(Engine, Vec<u8>)> {
    let (delta, plain) = (compress(&[], &signature.delta(new)?)?, compress(&[], new)?);
    Ok(if delta.len() < plain.len() { (Engine::Rsync, delta) } else { (Engine::Plain, plain) })
}

/// What `patch` makes of `old`: exactly `size` bytes.
///
/// # Errors
/// When it makes anything else; never more memory than old, new and patch need.
pub fn apply(engine: Engine, old: &[u8], patch: &[u8], size: usize) -> Result<Vec<u8>, ParcelError> {
    let broken = |what| ParcelError::Patch { what };
    let new = match engine {
        Engine::Plain => decompress(&[], patch, size)?,
        Engine::Prefix => decompress(old, patch, size)?,
        Engine::Rsync => {
            let delta = decompress(&[], patch, delta_bytes_max(size))?;
            let mut new = Vec::with_capacity(size);
            fast_rsync::apply_limited(old, &delta, &mut new, size)
                .map_err(|_| broken("its delta does not fit to the old version"))?;
            new
        }
    };
    if new.len() == size { Ok(new) } else { Err(broken("it makes another size than was announced")) }
}

/// The longest patch that can make `size` bytes.
pub(super) fn bytes_max(size: usize) -> usize {
    compress_bound(delta_bytes_max(size))
}

/// A delta is at its worst one literal after another, each of at least a byte with one before it.
fn delta_bytes_max(size: usize) -> usize {
    2 * size + 64
}

fn compress(prefix: &[u8], bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut context = CCtx::try_create().ok_or_else(|| failed(0))?;
    // The tables must keep every place of the prefix, or what it says is found only in its end.
    let window = (usize::BITS - (prefix.len() + bytes.len()).leading_zeros()).clamp(10, WINDOW_LOG_MAX);
    let parameters = [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(window),
        CParameter::HashLog(window.clamp(10, 22)),
        CParameter::ChainLog(window.clamp(10, 22)),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(failed)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut out = Vec::with_capacity(compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).map_err(failed)?;
    Ok(out)
}

fn decompress(prefix: &[u8], bytes: &[u8], size_max: usize) -> Result<Vec<u8>, ParcelError> {
    let mut context = DCtx::try_create().ok_or_else(|| failed(0))?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    // In one call the library needs no window of its own, whatever the frame asks for, and never writes beyond the
    // capacity: a patch that makes more is an error.
    let mut out = Vec::with_capacity(size_max);
    match context.decompress(&mut out, bytes) {
        Ok(_) => Ok(out),
        Err(_) => Err(ParcelError::Patch { what: "its compression is damaged or makes too much" }),
    }
}

fn failed(code: usize) -> io::Error {
    io::Error::other(format!("zstd: {}", get_error_name(code)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stderr, reason = "a random test tells its seed")]

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    const ENGINES: [Engine; 3] = [Engine::Plain, Engine::Prefix, Engine::Rsync];

    fn random() -> StdRng {
        let seed =
            std::env::var("SYNCD_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        eprintln!("SYNCD_TEST_SEED={seed}");
        StdRng::seed_from_u64(seed)
    }

    fn text(random: &mut StdRng, length: usize) -> Vec<u8> {
        (0..length).map(|_| b"abcdefgh <>\n"[random.random_range(0..12)]).collect()
    }

    /// A version after `old`: some places replaced by other text of another length.
    fn edited(random: &mut StdRng, old: &[u8]) -> Vec<u8> {
        let mut new = old.to_vec();
        for _ in 0..random.random_range(0..4) {
            let from = random.random_range(0..=new.len());
            let to = random.random_range(from..=new.len().min(from + 50));
            let length = random.random_range(0..60);
            let other = text(random, length);
            new.splice(from..to, other);
        }
        new
    }

    #[test]
    fn every_engine_makes_the_new_version() {
        let mut random = random();
        for round in 0..200 {
            let magnitude = random.random_range(0..18);
            let length = random.random_range(0..=1_usize << magnitude);
            let old = text(&mut random, length);
            let new = edited(&mut random, &old);
            for engine in ENGINES {
                let patch = make(engine, &old, &new).unwrap();
                assert!(patch.len() <= bytes_max(new.len()));
                assert_eq!(apply(engine, &old, &patch, new.len()).unwrap(), new, "{engine:?} round {round}");
            }
            let (engine, patch) = smallest(&old, &new, round % 2 == 0).unwrap();
            assert_eq!(apply(engine, &old, &patch, new.len()).unwrap(), new);
        }
    }

    /// Whatever a peer sends is an error or other bytes of the announced size; the hash tells the latter.
    #[test]
    fn damage_never_makes_more_than_was_announced() {
        let mut random = random();
        let old = text(&mut random, 70_000);
        let new = edited(&mut random, &old);
        for engine in ENGINES {
            let patch = make(engine, &old, &new).unwrap();
            for size in [0, new.len() - 1, new.len() + 1] {
                assert!(apply(engine, &old, &patch, size).is_err(), "{engine:?} as {size} bytes");
            }
            assert!(apply(engine, &old, &patch[..patch.len() - 1], new.len()).is_err());
            for _ in 0..200 {
                let mut damaged = patch.clone();
                let at = random.random_range(0..damaged.len());
                damaged[at] ^= 1 << random.random_range(0..8);
                if let Ok(made) = apply(engine, &old, &damaged, new.len()) {
                    assert_eq!(made.len(), new.len());
                }
            }
        }
        // Another old version: an error or other bytes.
        let other = text(&mut random, 70_000);
        for engine in [Engine::Prefix, Engine::Rsync] {
            let patch = make(engine, &old, &new).unwrap();
            assert!(apply(engine, &other, &patch, new.len()).map_or(true, |made| made != new));
        }
    }

    #[test]
    fn bombs_are_refused() {
        let bomb = compress(&[], &vec![0; 8 << 20]).unwrap();
        assert!(bomb.len() < 2000);
        for engine in ENGINES {
            assert!(apply(engine, b"old", &bomb, 1000).is_err(), "{engine:?}");
        }
        // A delta that copies the whole base again and again.
        let old = vec![b'x'; 60_000];
        let mut delta = vec![0x72, 0x73, 0x02, 0x36];
        for _ in 0..1000 {
            delta.extend_from_slice(&[0x46, 0, 0xea, 0x60]);
        }
        delta.push(0);
        let patch = compress(&[], &delta).unwrap();
        assert!(apply(Engine::Rsync, &old, &patch, 60_000).is_err());
    }

    #[test]
    fn a_line_costs_some_dozens_of_bytes() {
        let mut random = random();
        for length in [4 << 10, 100 << 10, 5 << 20] {
            let old = text(&mut random, length);
            let mut new = old.clone();
            new.splice(length / 2..length / 2 + 30, *b"<another line=\"of the file\"/>\n");
            let (_, patch) = smallest(&old, &new, true).unwrap();
            assert!(patch.len() < 120, "{} bytes for a line in {length}", patch.len());
        }
    }
}
