//! Signatures that travel: of a file that only the receiver has, so that a large file is told by what is near it there.
//!
//! Their maker is not trusted: what it asks for is bounded, and the result is checked against its hash.

use std::io;

use fast_rsync::SignatureOptions;

use crate::delta::ParcelError;

/// Smaller files come whole: a signature and a round of asking are worth more than their bytes.
pub const SIGNED_BYTES_MIN: u64 = 1 << 20;
/// Signatures of one request.
pub const SIGNATURES_MAX: usize = 64;
/// All signatures of one request together; below the limit of a message.
pub const SIGNATURES_BYTES_MAX: usize = 512 << 10;
/// Smaller blocks would cost their sender much work for each byte.
const BLOCK_BYTES_MIN: u32 = 512;
const BLOCK_BYTES_MAX: u32 = 64 << 10;
/// Bytes of each block's hash: too few make wrong matches, more than the hash has there are none.
const HASH_BYTES: std::ops::RangeInclusive<u32> = 8..=16;
/// Magic, block size, hash size.
const HEADER_BYTES: usize = 12;

/// The signature of another node's file.
#[derive(Clone, Debug)]
pub struct Signature(fast_rsync::Signature);

impl Signature {
    /// Makes the signature of `bytes`, as it travels. Blocks are about the square root of the size, which makes
    /// signature and delta together small.
    #[must_use]
    pub fn make(bytes: &[u8]) -> Vec<u8> {
        let root = u32::try_from(bytes.len().isqrt()).unwrap_or(u32::MAX);
        let block_size = root.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        let options = SignatureOptions { block_size, crypto_hash_size: *HASH_BYTES.start() };
        fast_rsync::Signature::calculate(bytes, options).into_serialized()
    }

    /// Takes one that a peer sent.
    ///
    /// # Errors
    /// When it is none, or asks for blocks or hashes that are out of bounds.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ParcelError> {
        let broken = || ParcelError::Bounds { what: "a signature is none or asks for too much" };
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (block, hash) = number(4).zip(number(8)).ok_or_else(broken)?;
        let is_bounded = (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block)
            && HASH_BYTES.contains(&hash)
            && (HEADER_BYTES..=SIGNATURES_BYTES_MAX).contains(&bytes.len());
        if !is_bounded {
            return Err(broken());
        }
        fast_rsync::Signature::deserialize(bytes).map(Self).map_err(|_| broken())
    }

    /// What leads from the file that this is of to `new`.
    ///
    /// # Errors
    /// When it is of a kind that is not spoken here.
    pub(super) fn delta(&self, new: &[u8]) -> io::Result<Vec<u8>> {
        let mut delta = Vec::new();
        fast_rsync::diff(&self.0.index(), new, &mut delta).map_err(io::Error::other)?;
        Ok(delta)
    }

    /// One of this node's own copy, for which any block will do.
    pub(super) fn of_own(bytes: &[u8], block_size: u32) -> Self {
        Self(fast_rsync::Signature::calculate(
            bytes,
            SignatureOptions { block_size, crypto_hash_size: *HASH_BYTES.end() },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signature_asks_for_is_bounded() {
        let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let good = Signature::make(&bytes);
        assert!(good.len() < 30 << 10, "{}", good.len());
        assert!(Signature::parse(good.clone()).is_ok());
        let with = |at: usize, value: u32| {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&value.to_be_bytes());
            bad
        };
        for (what, bad) in [
            ("blocks of nothing", with(4, 0)),
            ("tiny blocks", with(4, BLOCK_BYTES_MIN - 1)),
            ("huge blocks", with(4, BLOCK_BYTES_MAX + 1)),
            ("no hash", with(8, 0)),
            ("a short hash", with(8, 7)),
            ("a long hash", with(8, 17)),
            ("another format", with(0, 7)),
            ("half a block", good[..good.len() - 1].to_vec()),
            ("half a header", good[..9].to_vec()),
            ("nothing", Vec::new()),
            ("too much", vec![0; SIGNATURES_BYTES_MAX + 1]),
        ] {
            assert!(Signature::parse(bad).is_err(), "{what}");
        }
        // The older hash is parsed by the library and refused when it comes to a delta.
        assert!(Signature::parse(with(0, 0x7273_0137)).map_or(true, |other| other.delta(&bytes).is_err()));
        let delta = Signature::parse(good).unwrap().delta(&bytes).unwrap();
        assert!(delta.len() < 4000, "the same again: {}", delta.len());
    }
}
