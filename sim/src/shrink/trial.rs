//! Tries: does a plan still break the rule?

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cli::{World, WorldArguments};
use crate::plan::Plan;
use crate::random::split_mix;
use crate::report::Failure;
use crate::runner::child;
use crate::trace::{Keep, Schedule, TraceHasher};

/// What makes two failures the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The rule.
    pub rule: String,
    /// Of an assertion that did not hold: where it stands.
    pub place: Option<String>,
}

impl Signature {
    /// That of a failure.
    #[must_use]
    pub fn of(failure: &Failure) -> Self {
        let place = failure.detail.split_once("panicked at ").map(|(_, rest)| {
            let place = rest.split_whitespace().next().unwrap_or_default();
            place.trim_end_matches(':').to_owned()
        });
        Self { rule: failure.rule.clone(), place }
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            None => f.write_str(&self.rule),
            Some(place) => write!(f, "{} at {place}", self.rule),
        }
    }
}

/// How a plan failed.
#[derive(Clone, Debug)]
pub struct Found {
    /// The rule that it broke, and how.
    pub failure: Failure,
    /// When, in virtual time.
    pub at_ns: Option<u64>,
    /// What of the plan had begun by then.
    pub schedule: Schedule,
}

/// Where plans are tried.
pub struct Laboratory {
    directory: tempfile::TempDir,
    jobs: NonZeroUsize,
    timeout: Duration,
    tries_max: u64,
    tries: AtomicU64,
    /// Hashes of plans that did not count.
    known: Mutex<BTreeSet<u64>>,
}

impl Laboratory {
    /// One that runs so many processes at a time, gives each so long, and stops after so many tries.
    ///
    /// # Errors
    /// There is no place for the plans.
    pub fn new(jobs: NonZeroUsize, timeout: Duration, tries_max: u64) -> std::io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("raftkv-shrink.");
        let directory = builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())?;
        let (tries, known) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { directory, jobs, timeout, tries_max, tries, known })
    }

    /// How many worlds were run.
    pub fn tries(&self) -> u64 {
        self.tries.load(Ordering::Relaxed)
    }

    /// Whether no more may be run.
    pub fn is_spent(&self) -> bool {
        self.tries() >= self.tries_max
    }

    /// Runs a plan; tells how it failed, if it did.
    pub fn run(&self, plan: &Plan) -> Option<Found> {
        let number = self.tries.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.directory.path().join(format!("{number}.{name}"));
        let (path, schedule) = (file("json"), file("schedule"));
        if let Err(error) = plan.save(&path) {
            panic!("a plan cannot be written down to be tried: {error}");
        }
        let mut command =
            child::command(&World::File(path.clone()), &WorldArguments::default(), Keep::Nothing);
        command.env("RUST_BACKTRACE", "0").arg("--schedule").arg(&schedule);
        let end = child::run(command, self.timeout, &mut |_| {});
        let read = std::fs::read_to_string(&schedule).ok();
        let found = end.failure().map(|failure| Found {
            failure,
            at_ns: end.report.as_ref().map(|report| report.virtual_ns),
            schedule: read.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        });
        let remove = |path: &PathBuf| std::fs::remove_file(path);
        // Whatever is left goes with the directory.
        let _ = remove(&path).and(remove(&schedule));
        found
    }

    /// The first of `candidates` that fails as `signature` says. If none does and `seeds` is not 0, they are tried
    /// with so many other seeds.
    pub fn first(
        &self,
        candidates: Vec<Plan>,
        signature: &Signature,
        seeds: u64,
    ) -> Option<(usize, Plan, Found)> {
        let count = candidates.len();
        let mut all = candidates;
        for turn in 1..=seeds {
            for at in 0..count {
                let mut other = all[at].clone();
                other.seed = split_mix(other.seed.wrapping_add(turn)) >> 20;
                all.push(other);
            }
        }
        let (next, best) = (AtomicUsize::new(0), Mutex::new(None::<(usize, Found)>));
        let lock = || best.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= all.len() || lock().as_ref().is_some_and(|(best, _)| *best < at) || self.is_spent() {
                    return;
                }
                let found = self.attempt(&all[at], signature);
                let mut best = lock();
                if let Some(found) = found
                    && best.as_ref().is_none_or(|(best, _)| at < *best)
                {
                    *best = Some((at, found));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.get().min(all.len()) {
                scope.spawn(work);
            }
        });
        let (at, found) = best.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        Some((at % count, all.swap_remove(at), found))
    }

    fn attempt(&self, plan: &Plan, signature: &Signature) -> Option<Found> {
        let hash = hash(plan);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&hash) {
            return None;
        }
        let found = self.run(plan).filter(|found| Signature::of(&found.failure) == *signature);
        if found.is_none() {
            known().insert(hash);
        }
        found
    }
}

fn hash(plan: &Plan) -> u64 {
    let mut hasher = TraceHasher::default();
    match serde_json::to_vec(plan) {
        Ok(bytes) => hasher.write(&bytes),
        Err(error) => panic!("a plan that is no JSON: {error}"),
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_assertion_is_part_of_what_makes_failures_the_same() {
        let at = |place: &str, numbers: &str| {
            let text = format!("exit status: 101: thread '<unnamed>' panicked at {place}:\n    {numbers}");
            Signature::of(&Failure::new("crash of the simulator", text))
        };
        assert_eq!(at("raft/src/core/log.rs:10:5", "commit 7"), at("raft/src/core/log.rs:10:5", "commit 9"));
        assert_ne!(at("raft/src/core/log.rs:10:5", "commit 7"), at("raft/src/core/log.rs:12:5", "commit 7"));
        let of = |rule: &str, detail: &str| Signature::of(&Failure::new(rule, detail));
        assert_eq!(of("liveness", "n1"), of("liveness", "n2"));
        assert_ne!(of("liveness", "n1"), of("exactly once", "n1"));
    }
}
