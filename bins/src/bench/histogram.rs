//! Latencies, counted in buckets that grow with them: every figure is right to within 1 part in 64.

use std::time::Duration;

/// Sub-buckets of each power of two.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts durations.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; STEPS * (65 - STEP_BITS as usize)], total: 0, sum_ns: 0, max_ns: 0 }
    }

    /// The bucket of a value: values below 64 have their own, those above share one with what has the same six
    /// highest bits behind the first.
    fn bucket(ns: u64) -> usize {
        let Some(shift) = ns.checked_ilog2().and_then(|bits| bits.checked_sub(STEP_BITS)) else {
            return ns as usize;
        };
        (shift as usize + 1) * STEPS + ((ns >> shift) as usize - STEPS)
    }

    /// The middle of a bucket.
    fn value(bucket: usize) -> u64 {
        let Some(shift) = (bucket / STEPS).checked_sub(1) else { return bucket as u64 };
        let low = ((STEPS + bucket % STEPS) as u64) << shift;
        low + ((1u64 << shift) >> 1)
    }

    pub(crate) fn add(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(Self::bucket(ns)) {
            *count += 1;
        }
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// In milliseconds: the value that `share` of all lie at or below.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return Self::value(bucket).min(self.max_ns) as f64 / 1e6;
            }
        }
        0.0
    }

    pub(crate) fn mean_ms(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum_ns as f64 / self.total as f64 / 1e6 }
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max_ns as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_no_wider_than_a_64th_of_its_value() {
        for ns in (0..40).flat_map(|bit| [1u64 << bit, (1u64 << bit) + 1, (3u64 << bit) - 1]) {
            let value = Histogram::value(Histogram::bucket(ns));
            assert!(value.abs_diff(ns) <= ns / 64, "{ns} counted as {value}");
        }
        assert!(Histogram::bucket(u64::MAX) < Histogram::new().counts.len());
    }

    #[test]
    fn percentiles_are_where_they_should_be() {
        let mut histogram = Histogram::new();
        for ms in 1..=1000 {
            histogram.add(Duration::from_millis(ms));
        }
        for (share, expected) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.percentile_ms(share);
            assert!((found - expected).abs() <= expected / 64.0, "p{share}: {found}");
        }
        assert_eq!((histogram.max_ms(), histogram.mean_ms(), histogram.count()), (1000.0, 500.5, 1000));
        assert_eq!(Histogram::new().percentile_ms(0.5), 0.0);
    }
}
