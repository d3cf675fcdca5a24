//! The message soup: bare cores under drops, duplicates, reordering, partitions, lagging disks, crashes, compaction
//! and snapshots, while members come and go, leaders hand over, reads come to anyone, and clocks run apart as far as
//! leases allow; for as many schedules as there is time for.
//!
//! A schedule is a pure function of its seed. `SOUP_SCHEDULES=20000` runs that many, `SOUP_SEED=7` runs one,
//! `SOUP_SEED=7 SOUP_TRACE=1` also tells what happens in it.

#[path = "soup/checker.rs"]
mod checker;
mod common;
#[path = "soup/plan.rs"]
mod plan;
#[path = "soup/world.rs"]
mod world;

use world::{Tally, World};

const SCHEDULES_BY_DEFAULT: u64 = 500;

/// Names the seed if its schedule panics.
struct Blame(u64);

impl Drop for Blame {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failing seed: {0}; again: SOUP_SEED={0} SOUP_TRACE=1 cargo test -p raftkv-raft --test soup",
                self.0
            );
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the rate is measured in real time")]
fn nothing_goes_wrong_in_the_soup() {
    let seeds = match variable("SOUP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SOUP_SCHEDULES").unwrap_or(SCHEDULES_BY_DEFAULT),
    };
    let has_trace = std::env::var("SOUP_TRACE").is_ok();
    let began = std::time::Instant::now();
    let count = seeds.end - seeds.start;
    let mut tally = Tally::default();
    for seed in seeds {
        let blame = Blame(seed);
        let mut world = World::new(seed, has_trace);
        world.stir();
        world.heal_and_demand_progress();
        tally += world.tally();
        drop(blame);
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = count as f64 / seconds * 60.0;
    println!("{count} schedules in {seconds:.1} s, {rate:.0} a minute: {tally:?}");
}
