//! A small random generator, for election timeouts, and for where a node begins to count its questions.
//!
//! The core takes no randomness from its surroundings: the seed is handed in with the
//! [`Config`](super::Config), so that a run repeats exactly. The generator is SplitMix64 (Steele, Lea, Flood,
//! OOPSLA 2014): eight bytes of state, and every seed is a good one.

use super::types::NodeId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rng(u64);

impl Rng {
    /// A generator of `node`'s own, so that nodes that were handed one seed do not draw the same timeouts.
    pub(super) fn new(seed: u64, node: NodeId) -> Self {
        let mut rng = Self(seed ^ node.0.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..low + width`.
    pub(super) fn within(&mut self, low: u32, width: u32) -> u32 {
        let high = self.next() >> 32;
        low + u32::try_from((high * u64::from(width)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_range_and_reach_all_of_it() {
        let mut rng = Rng::new(7, NodeId(1));
        let mut seen = [false; 10];
        for _ in 0..1000 {
            let n = rng.within(10, 10);
            assert!((10..20).contains(&n));
            seen[n as usize - 10] = true;
        }
        assert_eq!(seen, [true; 10]);
    }

    /// The reference values of SplitMix64 for the seed 0.
    #[test]
    fn it_is_the_generator_it_says() {
        let mut rng = Rng(0);
        let drawn = [rng.next(), rng.next(), rng.next()];
        assert_eq!(drawn, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn one_seed_gives_each_node_its_own_numbers() {
        let draw = |node| {
            let mut rng = Rng::new(1, NodeId(node));
            [rng.within(0, 1000), rng.within(0, 1000), rng.within(0, 1000)]
        };
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1), draw(1));
    }
}
