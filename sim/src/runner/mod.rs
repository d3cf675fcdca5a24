//! Sweeps: many worlds, each in a process of its own, several at a time.
//!
//! Here is real time and there are real threads; a world knows nothing of them. A world fails if a rule is broken,
//! if its process panics, or if it does not end in time.

pub mod child;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{World, WorldArguments};
use crate::marks::Marks;
use crate::report::{Failure, Figures};
use crate::trace::Keep;

/// How to run a sweep.
pub struct Sweep {
    /// What is fixed of each world.
    pub fixed: WorldArguments,
    /// How many processes at a time.
    pub jobs: NonZeroUsize,
    /// Whether to print JSON.
    pub json: bool,
    /// How long a world may take.
    pub timeout: Duration,
    /// After how many failures to stop.
    pub failures_max: Option<NonZeroUsize>,
    /// Whether to print how often each mark was hit.
    pub marks: bool,
}

/// What one world came to, as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    world: String,
    passed: bool,
    failure: Option<&'a Failure>,
    reproduce: &'a str,
    wall_ms: u64,
    virtual_ms: u64,
    events: u64,
    trace_hash: &'a str,
    figures: &'a Figures,
    marks: &'a Marks,
}

/// What all of them came to.
#[derive(Serialize)]
struct Summary {
    worlds: usize,
    passed: usize,
    failed: usize,
    wall_seconds: f64,
    seeds_per_second: f64,
    /// Over all processes together.
    simulated_seconds_per_wall_second: f64,
    /// Of one process: the mean over all worlds.
    simulated_seconds_per_process_second: f64,
    figures: Figures,
    /// In how many worlds each mark was hit; 0 for those that never were.
    marks: Marks,
}

#[derive(Default)]
struct Totals {
    done: usize,
    failed: usize,
    virtual_ns: u64,
    process_time: Duration,
    figures: Figures,
    marks: Marks,
}

struct State {
    waiting: VecDeque<World>,
    totals: Totals,
}

#[expect(clippy::disallowed_methods, reason = "the runner stands outside every world")]
fn now() -> Instant {
    Instant::now()
}

/// A seed that was probably never run before.
#[must_use]
pub fn fresh_seed() -> u64 {
    use std::hash::BuildHasher;
    // The standard library draws the keys of its hash maps from the system. Short enough to be typed.
    std::hash::RandomState::new().hash_one("raftkv") >> 20
}

/// Runs the worlds; returns how many failed.
#[must_use]
pub fn sweep(worlds: VecDeque<World>, sweep: &Sweep) -> usize {
    let count = worlds.len();
    let bar = progress_bar(count as u64);
    let begun = now();
    let state = Mutex::new(State { waiting: worlds, totals: Totals::default() });
    std::thread::scope(|scope| {
        for _ in 0..sweep.jobs.get().min(count.max(1)) {
            scope.spawn(|| work(&state, sweep, &bar, begun));
        }
    });
    bar.finish_and_clear();
    let State { totals, .. } = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    print_summary(&totals, sweep, begun.elapsed());
    totals.failed
}

fn progress_bar(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} [{elapsed} elapsed, {eta} left]");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Takes worlds and runs them until there are none left.
fn work(state: &Mutex<State>, sweep: &Sweep, bar: &ProgressBar, begun: Instant) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let Some(world) = lock().waiting.pop_front() else { return };
        let started = now();
        let mut command = child::command(&world, &sweep.fixed, Keep::Nothing);
        command.env("RUST_BACKTRACE", "0"); // a line is enough; `replay` shows more
        let end = child::run(command, sweep.timeout, &mut |_| {});
        let took = started.elapsed();
        let failure = end.failure();
        let mut state = lock();
        let totals = &mut state.totals;
        totals.done += 1;
        totals.failed += usize::from(failure.is_some());
        totals.process_time += took;
        if let Some(report) = &end.report {
            totals.virtual_ns += report.virtual_ns;
            totals.figures.add(&report.figures);
            totals.marks.add(&report.marks);
        }
        print_world(&world, sweep, bar, took, &end, failure.as_ref());
        let seconds = begun.elapsed().as_secs_f64();
        bar.set_message(format!(
            "{:.1} seeds/s, {:.0} simulated s/s, {} failed",
            totals.done as f64 / seconds,
            totals.virtual_ns as f64 / 1e9 / seconds,
            totals.failed
        ));
        bar.inc(1);
        if sweep.failures_max.is_some_and(|most| totals.failed >= most.get()) {
            state.waiting.clear();
        }
    }
}

fn print_world(
    world: &World,
    sweep: &Sweep,
    bar: &ProgressBar,
    took: Duration,
    end: &child::End,
    failure: Option<&Failure>,
) {
    let mut reproduce = vec!["cargo sim replay".to_owned(), world.to_string()];
    reproduce.extend(sweep.fixed.to_command_line());
    let reproduce = reproduce.join(" ");
    if !sweep.json {
        if let Some(failure) = failure {
            bar.suspend(|| println!("FAILED {world}: {failure}\n    {reproduce}"));
        }
        return;
    }
    let (nothing, unmarked) = (Figures::default(), Marks::default());
    let line = Line {
        world: world.to_string(),
        passed: failure.is_none(),
        failure,
        reproduce: &reproduce,
        wall_ms: took.as_millis() as u64,
        virtual_ms: end.report.as_ref().map_or(0, |report| report.virtual_ns / 1_000_000),
        events: end.report.as_ref().map_or(0, |report| report.events),
        trace_hash: end.report.as_ref().map_or("", |report| &report.trace_hash),
        figures: end.report.as_ref().map_or(&nothing, |report| &report.figures),
        marks: end.report.as_ref().map_or(&unmarked, |report| &report.marks),
    };
    print_json(bar, &line);
}

fn print_json(bar: &ProgressBar, value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => bar.suspend(|| println!("{text}")),
        Err(error) => panic!("a result that is no JSON: {error}"),
    }
}

fn print_summary(totals: &Totals, sweep: &Sweep, took: Duration) {
    let wall_seconds = took.as_secs_f64().max(1e-9);
    let simulated = totals.virtual_ns as f64 / 1e9;
    let summary = Summary {
        worlds: totals.done,
        passed: totals.done - totals.failed,
        failed: totals.failed,
        wall_seconds,
        seeds_per_second: totals.done as f64 / wall_seconds,
        simulated_seconds_per_wall_second: simulated / wall_seconds,
        simulated_seconds_per_process_second: simulated / totals.process_time.as_secs_f64().max(1e-9),
        figures: totals.figures.clone(),
        marks: totals.marks.clone().with_all(),
    };
    if sweep.json {
        return print_json(&ProgressBar::hidden(), &summary);
    }
    let Figures { faults, crashes, wipes, changes, transfers, elections, committed, installs, .. } =
        &summary.figures;
    let Figures { ok, fail, info, .. } = &summary.figures;
    println!(
        "{} worlds: {} passed, {} failed in {wall_seconds:.1} s ({:.1} seeds/s, {:.0} simulated seconds per second, \
         {:.0} per process)",
        summary.worlds,
        summary.passed,
        summary.failed,
        summary.seeds_per_second,
        summary.simulated_seconds_per_wall_second,
        summary.simulated_seconds_per_process_second,
    );
    println!(
        "    {faults} faults, {crashes} crashes, {wipes} disks lost, {changes} changes of membership, \
         {transfers} hand-overs, {elections} elections, {committed} entries committed, {installs} snapshots \
         installed; operations: {ok} done, {fail} not done, {info} unknown"
    );
    print_marks(&totals.marks, totals.done, sweep.marks);
}

/// How often the marks were hit: all of them if that is asked for, else how many were not.
fn print_marks(marks: &Marks, worlds: usize, all: bool) {
    let missed = marks.missed();
    if all {
        for (id, hit) in &marks.clone().with_all().0 {
            println!("    {:6.2} %  {hit:6}  {id}", *hit as f64 * 100.0 / worlds.max(1) as f64);
        }
    }
    let count = crate::marks::all().count();
    println!(
        "    marks: {} of {count} hit{}",
        count - missed.len(),
        match missed.as_slice() {
            [] => String::new(),
            missed => format!("; never: {}", missed.join(", ")),
        }
    );
}
