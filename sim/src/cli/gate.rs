//! `raftkv-sim gate`: does a seed mean one world?
//!
//! Each seed runs in two processes, and all their events are compared, one by one and as bytes. The second process is
//! made as unlike the first as can be without a difference that should matter: another environment (and so another
//! stack), other answers of the allocator, its neighbours busy, its output read in another rhythm. The system places
//! both at random addresses anyway.

use std::collections::VecDeque;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;

use super::{SeedRange, World, WorldArguments};
use crate::runner::{self, child};
use crate::scenario::StoreKind;
use crate::trace::Keep;

/// How many events before the first difference are shown, and how many from it on.
const CONTEXT: usize = 8;
/// How many events a process may be ahead of the other.
const AHEAD_MAX: usize = 10_000;

/// The arguments of `raftkv-sim gate`.
///
/// Exit codes: 0 every world was the same twice, 1 one was not, 2 wrong usage or a build without worlds, 3 a process
/// hung or was taken down.
#[derive(Args, Debug)]
pub struct Arguments {
    /// How many worlds of each store, of fresh seeds, which are printed.
    #[arg(long, default_value_t = 8, conflicts_with = "seeds")]
    pub count: u64,
    /// The worlds of these seeds: A..B, without B.
    #[arg(long, value_name = "A..B")]
    pub seeds: Option<SeedRange>,
    /// Only worlds of this store; of each, if not given.
    #[arg(long, value_enum)]
    pub store: Option<StoreKind>,
    /// Only this world: a seed, or a file with a plan.
    #[arg(long, conflicts_with_all = ["count", "seeds"])]
    pub world: Option<World>,
    /// Give up on a world after so many seconds.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

/// What two runs came to.
enum Compared {
    Same { events: usize },
    Different { text: String },
    Unknown { why: String },
}

/// Compares.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(madsim)) {
        return super::without_a_world();
    }
    let timeout = Duration::from_secs(arguments.timeout);
    let (mut events, mut worlds, mut unknown) = (0, 0, 0);
    for (world, fixed) in worlds_of(arguments) {
        let shown = format!("{world} {}", fixed.to_command_line().join(" "));
        match compare(&world, &fixed, timeout) {
            Compared::Same { events: more } => (events, worlds) = (events + more, worlds + 1),
            Compared::Different { text } => {
                println!("FAILED {shown}: two runs are not the same\n{text}");
                return ExitCode::FAILURE;
            }
            Compared::Unknown { why } => {
                println!("UNKNOWN {shown}: {why}");
                unknown += 1;
            }
        }
    }
    println!("{worlds} worlds, {events} events: twice the same, each in two processes");
    ExitCode::from(if unknown > 0 { 3 } else { 0 })
}

fn worlds_of(arguments: &Arguments) -> Vec<(World, WorldArguments)> {
    let stores =
        arguments.store.map_or_else(|| vec![StoreKind::Sled, StoreKind::Memory], |store| vec![store]);
    let fixed = |store| WorldArguments { store, ..WorldArguments::default() };
    if let Some(world) = &arguments.world {
        // A plan says itself what its store is.
        let stores = if matches!(world, World::File(_)) { vec![StoreKind::default()] } else { stores };
        return stores.into_iter().map(|store| (world.clone(), fixed(store))).collect();
    }
    let seeds = arguments.seeds.unwrap_or_else(|| {
        let first = runner::fresh_seed();
        let fresh = SeedRange { first, end: first + arguments.count };
        eprintln!("fresh seeds: --seeds {fresh}");
        fresh
    });
    let of_store = |store| (seeds.first..seeds.end).map(move |seed| (World::Seed(seed), fixed(store)));
    stores.into_iter().flat_map(of_store).collect()
}

/// Runs a world twice and shows the first difference.
fn compare(world: &World, fixed: &WorldArguments, timeout: Duration) -> Compared {
    let first = child::command(world, fixed, Keep::Everything);
    let mut second = child::command(world, fixed, Keep::Everything);
    make_unlike(&mut second);
    if let World::Seed(_) = world {
        second.current_dir("/");
    }
    let over = AtomicBool::new(false);
    let (left, right) = (mpsc::sync_channel(AHEAD_MAX), mpsc::sync_channel(AHEAD_MAX));
    std::thread::scope(|scope| {
        let run = |command: Command, lines: mpsc::SyncSender<String>| {
            // Once a difference is found nobody listens; the process is let run to its end.
            child::run(command, timeout, &mut |line| drop(lines.send(line.to_owned())))
        };
        scope.spawn(|| keep_busy(&over));
        let (a, b) = (scope.spawn(move || run(first, left.0)), scope.spawn(move || run(second, right.0)));
        let compared = first_difference(left.1, right.1);
        let ends = (a.join(), b.join());
        over.store(true, Ordering::Relaxed);
        let (Ok(a), Ok(b)) = ends else {
            return Compared::Unknown { why: "the comparison panicked".to_owned() };
        };
        let taken_down =
            |end: &child::End| end.report.is_none() && end.outcome() != child::Outcome::Violation;
        match compared {
            _ if taken_down(&a) || taken_down(&b) => {
                let why = a.failure().or_else(|| b.failure()).map_or_else(String::new, |why| why.to_string());
                Compared::Unknown { why }
            }
            Err(text) => Compared::Different { text },
            Ok(_) if a.report != b.report => Compared::Different {
                text: format!("the same events, but other ends:\n  {:?}\n  {:?}", a.report, b.report),
            },
            Ok(events) => Compared::Same { events },
        }
    })
}

/// What must not matter, other than for the first process.
fn make_unlike(command: &mut Command) {
    command.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_ARENA_MAX", "1").env("MALLOC_PERTURB_", "165");
    command
        .env("RAFTKV_SIM_PADDING", "x".repeat(40_001))
        .env("TZ", "Pacific/Chatham")
        .env("LANG", "tr_TR.UTF-8");
    command.env("HOME", "/nowhere").env("TOKIO_WORKER_THREADS", "3");
}

/// A neighbour who takes processor time, in pieces.
fn keep_busy(over: &AtomicBool) {
    let mut state = 1_u64;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..200_000 {
            state = crate::random::split_mix(state);
        }
        std::hint::black_box(state);
        std::thread::yield_now();
    }
}

/// Compares two streams of lines; how many there were, or the first difference with what stands around it.
fn first_difference(left: mpsc::Receiver<String>, right: mpsc::Receiver<String>) -> Result<usize, String> {
    let mut before = VecDeque::new();
    for number in 1.. {
        match (left.recv().ok(), right.recv().ok()) {
            (None, None) => return Ok(number - 1),
            (a, b) if a == b => {
                before.extend(a);
                if before.len() > CONTEXT {
                    before.pop_front();
                }
            }
            (a, b) => return Err(show_difference(number, &before, [(a, left), (b, right)])),
        }
    }
    Ok(0)
}

fn show_difference(
    number: usize,
    before: &VecDeque<String>,
    sides: [(Option<String>, mpsc::Receiver<String>); 2],
) -> String {
    let mut text = format!("they part at event {number}; what was the same before:\n");
    before.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    for (name, (first, rest)) in ["first", "second"].into_iter().zip(sides) {
        text.push_str(&format!("  the {name} run goes on with:\n"));
        let mut lines = first.into_iter().chain(rest).take(CONTEXT).peekable();
        if lines.peek().is_none() {
            text.push_str("    (nothing: it ends)\n");
        }
        lines.for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(left: &[&str], right: &[&str]) -> Result<usize, String> {
        let stream = |lines: &[&str]| {
            let (sender, receiver) = mpsc::sync_channel(100);
            lines.iter().for_each(|line| sender.send((*line).to_owned()).unwrap());
            receiver
        };
        first_difference(stream(left), stream(right))
    }

    #[test]
    fn the_first_difference_is_shown_with_what_stands_around_it() {
        assert_eq!(difference(&["a", "b"], &["a", "b"]), Ok(2));
        let text = difference(&["a", "b", "c"], &["a", "x", "c"]).unwrap_err();
        assert!(text.contains("part at event 2"), "{text}");
        assert!(text.contains("    a\n  the first run goes on with:\n    b\n    c\n"), "{text}");
        assert!(text.contains("  the second run goes on with:\n    x\n    c\n"), "{text}");
        let text = difference(&["a"], &["a", "b"]).unwrap_err();
        assert!(text.contains("(nothing: it ends)\n  the second run goes on with:\n    b"), "{text}");
    }
}
