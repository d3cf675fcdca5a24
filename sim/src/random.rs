//! Chance: one seeded generator, from which every stream of draws in the simulation comes.
//!
//! The generator is xoshiro256++ seeded through SplitMix64 (Blackman and Vigna, public domain). It is our own, and
//! works on integers only, so that the same seed gives the same draws whatever the versions of other crates, and
//! whatever the machine's floating-point library.
//!
//! A world has many *streams*, each named: `Random::stream(seed, "network")`. A stream does not notice what is
//! drawn from another, so that removing a fault from a plan leaves the workload as it was.

use serde::{Deserialize, Serialize};

/// One stream of draws.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// One step of SplitMix64: also a good way to scatter a counter over all 64 bits.
#[must_use]
pub const fn split_mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of the stream `name` in the world of `seed`.
#[must_use]
pub fn derive(seed: u64, name: &str) -> u64 {
    name.bytes().fold(split_mix(seed), |hash, byte| split_mix(hash ^ u64::from(byte)))
}

impl Random {
    /// A stream from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let a = split_mix(seed);
        let b = split_mix(a);
        let c = split_mix(b);
        let d = split_mix(c);
        Self { state: [a, b, c, d] }
    }

    /// The stream `name` of the world of `seed`.
    #[must_use]
    pub fn stream(seed: u64, name: &str) -> Self {
        Self::new(derive(seed, name))
    }

    /// 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw below 0");
        // Lemire's multiplication; its bias is below bound / 2^64.
        let product = u128::from(self.next_u64()) * u128::from(bound);
        (product >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a draw between {low} and {high}");
        low + self.below(high - low + 1)
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1_000) < u64::from(per_mille)
    }

    /// One of `items`, which are not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "a draw from nothing");
        &items[self.below(items.len() as u64) as usize]
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// An exponentially distributed number of the given mean, from integers alone: minus the logarithm to base two
    /// of a uniform draw, taken linearly between powers of two.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        const MEAN_16_16: u128 = 98_304; // the mean of the approximation below, times 2^16
        let draw = self.next_u64() | 1;
        let zeros = draw.leading_zeros();
        let fraction = (draw << zeros << 1 >> 48) as u128;
        let log_16_16 = (u128::from(zeros) << 16) + (65_536 - fraction);
        u64::try_from(u128::from(mean) * log_16_16 / MEAN_16_16).unwrap_or(u64::MAX)
    }
}

/// A distribution of durations, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delay {
    /// Every value from `low_ns` to `high_ns` is as likely.
    Uniform {
        /// The least.
        low_ns: u64,
        /// The most.
        high_ns: u64,
    },
    /// At least `low_ns`, and beyond it exponential.
    Exponential {
        /// The least.
        low_ns: u64,
        /// The mean of what is added.
        mean_ns: u64,
    },
    /// Mostly fast, now and then slow.
    Bimodal {
        /// The usual delay, give or take half.
        fast_ns: u64,
        /// The other one, give or take half.
        slow_ns: u64,
        /// How many of 1,000 are slow.
        slow_per_mille: u32,
    },
}

impl Delay {
    /// Draws one.
    pub fn draw(&self, random: &mut Random) -> u64 {
        match *self {
            Self::Uniform { low_ns, high_ns } => random.between(low_ns, high_ns),
            Self::Exponential { low_ns, mean_ns } => {
                // The tail is cut: one delay of a minute would be a partition, and those are drawn as such.
                low_ns + random.exponential(mean_ns).min(20 * mean_ns)
            }
            Self::Bimodal { fast_ns, slow_ns, slow_per_mille } => {
                let middle = if random.chance(slow_per_mille) { slow_ns } else { fast_ns };
                middle / 2 + random.below(middle + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draws = |seed, name| {
            let mut random = Random::stream(seed, name);
            [random.next_u64(), random.next_u64(), random.next_u64()]
        };
        assert_eq!(draws(1, "network"), draws(1, "network"));
        assert_ne!(draws(1, "network"), draws(1, "disk"));
        assert_ne!(draws(1, "network"), draws(2, "network"));
    }

    #[test]
    fn xoshiro_gives_its_reference_sequence() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..4).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn an_exponential_draw_has_its_mean() {
        let mut random = Random::new(7);
        let sum: u64 = (0..100_000).map(|_| random.exponential(1_000)).sum();
        let mean = sum / 100_000;
        assert!((980..=1_020).contains(&mean), "the mean is {mean}");
    }

    #[test]
    fn draws_stay_in_their_bounds() {
        let mut random = Random::new(3);
        for _ in 0..10_000 {
            assert!(random.below(7) < 7);
            assert!((3..=5).contains(&random.between(3, 5)));
            let delay = Delay::Bimodal { fast_ns: 10, slow_ns: 1_000, slow_per_mille: 100 }.draw(&mut random);
            assert!((5..=1_500).contains(&delay), "{delay}");
        }
        assert!(!(0..1_000).any(|_| random.chance(0)));
        assert!((0..1_000).all(|_| random.chance(1_000)));
    }
}
