//! Sweeps: many worlds, each in a process of its own, several at a time.
//!
//! Here is real time and there are real threads; a world knows nothing of them. A world fails if a rule is broken,
//! if its process panics, or if it does not end in time.

pub mod child;
pub mod journal;
mod shard;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::child::Outcome;
use self::journal::{Journal, WorldLine};
pub use self::shard::{Shard, duration};
use crate::cli::{World, WorldArguments};
use crate::marks::Marks;
use crate::report::Figures;
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
    /// After how long to begin no more worlds.
    pub duration: Option<Duration>,
    /// Whether to print how often each mark was hit.
    pub marks: bool,
}

/// The worlds to run, one after the other.
pub struct Worlds {
    /// They.
    pub list: Box<dyn Iterator<Item = World> + Send>,
    /// How many there are; `None` if they have no end.
    pub count: Option<u64>,
}

/// What a sweep came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Worlds that broke a rule.
    pub violations: usize,
    /// Worlds that did not end in time, or whose process was taken down.
    pub unknown: usize,
    /// Whether the journal could not be written.
    pub journal_failed: bool,
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
    waiting: Box<dyn Iterator<Item = World> + Send>,
    journal: Option<Journal>,
    verdict: Verdict,
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

/// Runs the worlds, and writes each to the journal if there is one.
#[must_use]
pub fn sweep(worlds: Worlds, sweep: &Sweep, journal: Option<Journal>) -> Verdict {
    let bar = progress_bar(worlds.count);
    let begun = now();
    let jobs =
        usize::try_from(worlds.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).clamp(1, sweep.jobs.get());
    let state = Mutex::new(State {
        waiting: worlds.list,
        journal,
        verdict: Verdict::default(),
        totals: Totals::default(),
    });
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&state, sweep, &bar, begun));
        }
    });
    bar.finish_and_clear();
    let State { totals, verdict, .. } = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    print_summary(&totals, sweep, begun.elapsed());
    verdict
}

fn progress_bar(count: Option<u64>) -> ProgressBar {
    let (bar, template) = match count {
        Some(count) => {
            (ProgressBar::new(count), "{bar:40} {pos}/{len} {msg} [{elapsed} elapsed, {eta} left]")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {pos} {msg} [{elapsed} elapsed]"),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Takes worlds and runs them until there are none left, or no time.
fn work(state: &Mutex<State>, sweep: &Sweep, bar: &ProgressBar, begun: Instant) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if sweep.duration.is_some_and(|duration| begun.elapsed() >= duration) {
            return;
        }
        let Some(world) = lock().waiting.next() else { return };
        let started = now();
        let mut command = child::command(&world, &sweep.fixed, Keep::Nothing);
        command.env("RUST_BACKTRACE", "0"); // a line is enough; `replay` shows more
        let end = child::run(command, sweep.timeout, &mut |_| {});
        let line = line(&world, sweep, started.elapsed(), &end);
        let mut state = lock();
        let totals = &mut state.totals;
        totals.done += 1;
        totals.failed += usize::from(!line.passed);
        totals.process_time += started.elapsed();
        if let Some(report) = &end.report {
            totals.virtual_ns += report.virtual_ns;
            totals.figures.add(&report.figures);
            totals.marks.add(&report.marks);
        }
        let seconds = begun.elapsed().as_secs_f64();
        bar.set_message(format!(
            "{:.1} seeds/s, {:.0} simulated s/s, {} failed",
            totals.done as f64 / seconds,
            totals.virtual_ns as f64 / 1e9 / seconds,
            totals.failed
        ));
        bar.inc(1);
        let enough = sweep.failures_max.is_some_and(|most| totals.failed >= most.get());
        print_world(sweep, bar, &line);
        state.take_down(&line, bar);
        if enough {
            state.waiting = Box::new(std::iter::empty());
        }
    }
}

impl State {
    /// Counts a world, and writes it to the journal. If that fails the sweep ends: what nobody will ever know of need
    /// not be run.
    fn take_down(&mut self, line: &WorldLine, bar: &ProgressBar) {
        match line.outcome {
            Outcome::Passed => {}
            Outcome::Violation => self.verdict.violations += 1,
            Outcome::Hang | Outcome::Harness => self.verdict.unknown += 1,
        }
        let Some(journal) = &mut self.journal else { return };
        if let Err(error) = journal.write(line) {
            let path = journal.path().display().to_string();
            bar.suspend(|| eprintln!("{path}: {error}; the sweep ends here, and can be resumed"));
            self.journal = None;
            self.verdict.journal_failed = true;
            self.waiting = Box::new(std::iter::empty());
        }
    }
}

fn line(world: &World, sweep: &Sweep, took: Duration, end: &child::End) -> WorldLine {
    let mut reproduce = vec!["cargo sim replay".to_owned(), world.to_string()];
    reproduce.extend(sweep.fixed.to_command_line());
    let (failure, report) = (end.failure(), end.report.as_ref());
    WorldLine {
        world: world.to_string(),
        passed: failure.is_none(),
        outcome: end.outcome(),
        failure,
        reproduce: reproduce.join(" "),
        wall_ms: took.as_millis() as u64,
        virtual_ms: report.map_or(0, |report| report.virtual_ns / 1_000_000),
        events: report.map_or(0, |report| report.events),
        trace_hash: report.map_or_else(String::new, |report| report.trace_hash.clone()),
        figures: report.map_or_else(Figures::default, |report| report.figures.clone()),
        marks: report.map_or_else(Marks::default, |report| report.marks.clone()),
    }
}

fn print_world(sweep: &Sweep, bar: &ProgressBar, line: &WorldLine) {
    if sweep.json {
        return print_json(bar, line);
    }
    if let Some(failure) = &line.failure {
        bar.suspend(|| println!("FAILED {}: {failure}\n    {}", line.world, line.reproduce));
    }
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
pub(crate) fn print_marks(marks: &Marks, worlds: usize, all: bool) {
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
