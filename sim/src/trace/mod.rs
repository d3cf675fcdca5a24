//! The trace: everything that happens in a world, in the order in which it happens.
//!
//! Each event is *always* hashed, so that two runs of a seed can be compared by one number, and is *kept* as a line
//! of text only when somebody will read it (`replay`, the determinism test). Hashing takes no allocation, and so
//! neither does building an [`Event`], which borrows.
//!
//! What may not stand in a trace is what differs between two runs of one seed: sizes and timings of sled's files,
//! addresses, process ids, wall-clock time.

mod event;
mod hasher;
mod record;
mod said;
mod schedule;
mod standing;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use event::{Event, Source, StopKind};
pub use hasher::TraceHasher;
pub use record::{Fact, Parcel, Record, role_name};
pub use said::Said;
pub use schedule::Schedule;
pub use standing::{Column, Standing, Standings};

/// A world that goes round in circles does not fill the disk with records.
const RECORDS_MAX: u64 = 2_000_000;

/// The trace of one world. Clones are the same trace.
#[derive(Clone, Default)]
pub struct Trace {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hasher: TraceHasher,
    events: u64,
    now_ns: u64,
    schedule: Schedule,
    kept: Option<Kept>,
    /// Where every event goes as data.
    file: Option<File>,
}

struct Kept {
    /// One line an event.
    lines: String,
    /// Leave out the events of single network segments and lane jobs.
    story_only: bool,
    echo: bool,
    standings: Standings,
}

/// What of a trace is kept as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// Only the hash.
    Nothing,
    /// The lines that tell a story: roles, faults, operations.
    Story,
    /// Every event.
    Everything,
}

impl Keep {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Story => "story",
            Self::Everything => "everything",
        }
    }
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        let kept = match keep {
            Keep::Nothing => None,
            Keep::Story => Some(Kept {
                lines: String::new(),
                story_only: true,
                echo: false,
                standings: Standings::default(),
            }),
            Keep::Everything => Some(Kept {
                lines: String::new(),
                story_only: false,
                echo: false,
                standings: Standings::default(),
            }),
        };
        let trace = Self::default();
        trace.lock().kept = kept;
        trace
    }

    /// Prints each kept line to standard output as it comes, instead of collecting it: of a run that hangs or
    /// aborts, what was printed stays.
    #[must_use]
    pub fn echoing(self) -> Self {
        if let Some(kept) = &mut self.lock().kept {
            kept.echo = true;
        }
        self
    }

    /// Writes every event to `file` as it comes, one [`Record`] a line: of a run that hangs or aborts, what was
    /// written stays.
    #[must_use]
    pub fn writing(self, file: Option<File>) -> Self {
        self.lock().file = file;
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event.
    pub fn record(&self, at_ns: u64, source: Source, event: &Event<'_>) {
        use std::hash::Hash;
        let mut state = self.lock();
        state.events += 1;
        state.now_ns = at_ns;
        at_ns.hash(&mut state.hasher);
        source.hash(&mut state.hasher);
        event.hash(&mut state.hasher);
        state.schedule.note(at_ns, event);
        let State { file, kept, events, .. } = &mut *state;
        if file.is_none() && kept.is_none() {
            return;
        }
        let line = Record::new(at_ns, source, event);
        if let Some(file) = file.as_mut().filter(|_| *events <= RECORDS_MAX) {
            write_record(file, &line);
        }
        let Some(kept) = kept else { return };
        kept.standings.note(source, &line.fact);
        if kept.story_only && event.is_detail() {
            return;
        }
        let begin = kept.lines.len();
        // Writing to a String does not fail.
        let _ = writeln!(kept.lines, "{}", line.line(&kept.standings));
        if kept.echo {
            print!("{}", &kept.lines[begin..]);
            kept.lines.truncate(begin);
        }
    }

    /// How many events there were, and their hash.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let state = self.lock();
        (state.events, state.hasher.digest())
    }

    /// What of the plan has begun.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        self.lock().schedule.clone()
    }

    /// When the last event was.
    #[must_use]
    pub fn last_event_ns(&self) -> u64 {
        self.lock().now_ns
    }

    /// The kept lines.
    #[must_use]
    pub fn take_lines(&self) -> String {
        self.lock().kept.as_mut().map(|kept| std::mem::take(&mut kept.lines)).unwrap_or_default()
    }
}

fn write_record(file: &mut File, record: &Record) {
    let written = serde_json::to_vec(record).map_err(std::io::Error::from).and_then(|mut line| {
        line.push(b'\n');
        file.write_all(&line)
    });
    if let Err(error) = written {
        panic!("the file of events: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_of(numbers: &[u64], keep: Keep) -> Trace {
        let trace = Trace::new(keep);
        for &at_ns in numbers {
            trace.record(at_ns, Source::World, &Event::Phase { name: "chaos" });
        }
        trace
    }

    #[test]
    fn the_hash_does_not_depend_on_what_is_kept() {
        let hashed = trace_of(&[1, 2], Keep::Nothing);
        let kept = trace_of(&[1, 2], Keep::Everything);
        assert_eq!(hashed.digest(), kept.digest());
        assert_eq!(hashed.take_lines(), "");
        assert_eq!(kept.take_lines().lines().count(), 2);
    }

    #[test]
    fn time_source_and_content_all_count() {
        let base = trace_of(&[1, 2], Keep::Nothing).digest();
        assert_ne!(base, trace_of(&[1, 3], Keep::Nothing).digest());
        assert_ne!(base, trace_of(&[2, 1], Keep::Nothing).digest());
        let other = Trace::new(Keep::Nothing);
        other.record(1, Source::World, &Event::Phase { name: "chaos" });
        other.record(2, Source::Node(1), &Event::Phase { name: "chaos" });
        assert_ne!(base, other.digest());
    }
}
