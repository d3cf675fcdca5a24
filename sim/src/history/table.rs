//! Hashing for interned things: a table of indices, and the hash functions.
//!
//! The standard library's maps are either ordered (slow here) or seeded from the environment (banned, since their
//! order differs from run to run). This table stores nothing but indices into a vector of the owner's, who also
//! decides equality; what it answers never depends on its order.

/// An open-addressing hash table from the owner's keys to the owner's indices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// Upper half: upper half of the hash. Lower half: index + 1, so that 0 is an empty slot.
    slots: Vec<u64>,
    /// How many slots are taken.
    taken: usize,
}

/// The slots a table begins with.
const SLOTS_MIN: usize = 16;

impl Table {
    /// The first index under `hash` that `equal` accepts.
    pub(crate) fn find(&self, hash: u64, mut equal: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let tag = hash >> 32;
        let mut at = tag as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let index = slot as u32 - 1;
            if slot >> 32 == tag && equal(index) {
                return Some(index);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds `index` under `hash`. Several indices may stand under one hash.
    pub(crate) fn insert(&mut self, hash: u64, index: u32) {
        assert!(index < u32::MAX, "index {index} is the table's mark for an empty slot");
        if (self.taken + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        Self::put(&mut self.slots, (hash >> 32) << 32 | u64::from(index + 1));
        self.taken += 1;
    }

    /// What it occupies.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<u64>()
    }

    fn grow(&mut self) {
        let mut slots = vec![0; (self.slots.len() * 2).max(SLOTS_MIN)];
        for slot in self.slots.iter().copied().filter(|slot| *slot != 0) {
            Self::put(&mut slots, slot);
        }
        self.slots = slots;
    }

    fn put(slots: &mut [u64], slot: u64) {
        let mask = slots.len() - 1;
        let mut at = (slot >> 32) as usize & mask;
        while slots[at] != 0 {
            at = (at + 1) & mask;
        }
        slots[at] = slot;
    }
}

/// Spreads the bits of `x` over all of the result; a bijection (the finalizer of `SplitMix64`).
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes a byte string, eight bytes at a time.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(0x9e37_79b9_7f4a_7c15_u64 | 1);
        (product as u64) ^ (product >> 64) as u64
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = mix(bytes.len() as u64 ^ 0x243f_6a88_85a3_08d3);
    for word in words {
        state = fold(state, u64::from_le_bytes(*word)).wrapping_add(0x1319_8a2e_0370_7344);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(fold(state, u64::from_le_bytes(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let mut table = Table::default();
        for index in 0..10_000u32 {
            table.insert(mix(u64::from(index / 2)), index);
        }
        for index in 0..10_000u32 {
            assert_eq!(table.find(mix(u64::from(index / 2)), |found| found == index), Some(index));
        }
        assert_eq!(table.find(mix(77_777), |_| true), None);
    }

    #[test]
    fn hashes_differ_by_length_and_by_every_byte() {
        let mut seen = std::collections::BTreeSet::new();
        for length in 0..40 {
            let mut bytes = vec![0u8; length];
            assert!(seen.insert(hash_bytes(&bytes)));
            for at in 0..length {
                bytes[at] = 1;
                assert!(seen.insert(hash_bytes(&bytes)));
                bytes[at] = 0;
            }
        }
    }
}
