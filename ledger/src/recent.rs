//! Identities that this session has met lately: a hint which of a batch to look up before they are inserted.
//!
//! A Bloom filter in blocks of one cache line (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters,
//! 2007), in two generations, so that old ones are forgotten. Identities are hashes: their bits select block and bits.

use crate::identity::Identity;

/// Blocks of 64 bytes: 1 MiB for each generation.
const BLOCKS: usize = 1 << 14;
/// Identities per generation: with 16 bits for each, fewer than 1 in 100 unknown ones look known.
const MOST: usize = 500_000;
const BITS: usize = 3;

type Block = [u64; 8];

/// The identities that were met lately, as a hint.
#[derive(Default)]
pub struct Recent {
    newer: Vec<Block>,
    older: Vec<Block>,
    /// Identities of the newer generation.
    count: usize,
}

impl Recent {
    /// No identity was met yet; the first one allocates the memory.
    pub const fn new() -> Self {
        Self {
            newer: Vec::new(),
            older: Vec::new(),
            count: 0,
        }
    }

    /// Adds an identity that was met now.
    pub fn remember(&mut self, identity: &Identity) {
        if self.newer.is_empty() || self.count == MOST {
            let emptied = std::mem::take(&mut self.older);
            self.older = std::mem::replace(&mut self.newer, cleared(emptied));
            self.count = 0;
        }
        self.count += 1;
        let (block, bits) = place(identity);
        if let Some(words) = self.newer.get_mut(block) {
            bits.iter()
                .for_each(|bit| words[bit / 64] |= 1 << (bit % 64));
        }
    }

    /// Whether the identity may have been met lately; false means that it was not, or long ago.
    pub fn has(&self, identity: &Identity) -> bool {
        let (block, bits) = place(identity);
        [&self.newer, &self.older].into_iter().any(|generation| {
            let block = generation.get(block);
            block.is_some_and(|words| {
                bits.iter()
                    .all(|bit| words[bit / 64] >> (bit % 64) & 1 == 1)
            })
        })
    }
}

/// An empty generation; without memory for one it has no blocks, because it is only a hint.
fn cleared(mut blocks: Vec<Block>) -> Vec<Block> {
    blocks.clear();
    if blocks.try_reserve_exact(BLOCKS).is_ok() {
        blocks.resize(BLOCKS, [0; 8]);
    }
    blocks
}

fn place(identity: &Identity) -> (usize, [usize; BITS]) {
    let number = u128::from_le_bytes(*identity.as_bytes());
    let bits = std::array::from_fn(|nth| (number >> (64 + 9 * nth)) as usize % 512);
    (number as usize % BLOCKS, bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits as in a hash.
    fn identity(number: u64) -> Identity {
        let mixed = |seed: u64| {
            let z = (number.wrapping_add(seed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u128::from(z ^ (z >> 31))
        };
        Identity::from_bytes((mixed(1) << 64 | mixed(1 << 40)).to_le_bytes())
    }

    #[test]
    fn what_was_met_lately_is_remembered_and_nearly_nothing_else() {
        let mut recent = Recent::new();
        assert!(!recent.has(&identity(0)));
        let met = 3 * MOST as u64 / 2;
        (0..met).for_each(|number| recent.remember(&identity(number)));
        assert!((0..met).all(|number| recent.has(&identity(number))));
        let mistaken = (met..2 * met).filter(|number| recent.has(&identity(*number)));
        let share = mistaken.count() as f64 / met as f64;
        assert!(share < 0.015, "{share}");
        // Two generations later it is forgotten.
        (met..4 * met).for_each(|number| recent.remember(&identity(number)));
        let kept = (0..met / 2).filter(|number| recent.has(&identity(*number)));
        let share = kept.count() as f64 / met as f64;
        assert!(share < 0.015, "{share}");
    }
}
