//! What to show when there is no order: the few operations that matter, how far one gets with them, and why not
//! further.

use std::fmt;

use serde::Serialize;

use super::{
    Entry, Patience, partition,
    register::Register,
    replay::{self, Value},
    search::Search,
    shrink::Shrinker,
};
use crate::history::{Answer, End, History, Moment, Process, Request};

/// Operations on one key that have no order. No single one of those that must be in it can be
/// spared, unless the search for them was given up.
#[derive(Clone, Debug, Serialize)]
pub struct Counterexample {
    /// The key.
    pub key: String,
    /// How many operations there are on it.
    pub operations_on_key: usize,
    /// The operations that matter, in the order they were called.
    pub operations: Vec<Shown>,
    /// As many of them as can be put in order.
    pub order: Vec<Placed>,
    /// Those that would have to come next, but cannot.
    pub stuck: Vec<Stuck>,
}

/// An operation of a counterexample.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its number in the history, from 0 by call.
    pub operation: u32,
    /// Who called.
    pub process: Process,
    /// What it did and answered.
    pub text: String,
    /// The event of its call, from 1: the line in a file without blank lines.
    pub called: u64,
    /// The event of its end, if it had one and it matters.
    pub ended: Option<u64>,
    /// Whether it must be in the order: false if it makes no difference whether it was done or not.
    pub must: bool,
}

/// An operation in its place.
#[derive(Clone, Debug, Serialize)]
pub struct Placed {
    /// Its number in the history.
    pub operation: u32,
    /// What it did and answered.
    pub text: String,
    /// The key's value after it; `None` is absent.
    pub value: Option<String>,
}

/// An operation without a place.
#[derive(Clone, Debug, Serialize)]
pub struct Stuck {
    /// Its number in the history.
    pub operation: u32,
    /// What it did and answered.
    pub text: String,
    /// Why it cannot come next.
    pub reason: String,
}

/// Operations that need not be in the order are shown up to this many.
const OPTIONAL_MAX: usize = 12;

impl Counterexample {
    /// Makes one of `partition`, which has no order.
    pub(super) fn find(
        history: &History,
        partition: &[Entry],
        shrinker: &mut Shrinker<'_>,
        patience: &mut Patience,
    ) -> Counterexample {
        let entries = presentable(history, shrinker.shrink(partition));
        let (order, stuck) = furthest(history, &entries, patience);
        let shown = entries.iter().map(|entry| Shown {
            operation: entry.id.0,
            process: history.operation(entry.id).process,
            text: describe(history, entry),
            called: u64::from(entry.call) + 1,
            ended: entry.answer.map(|_| u64::from(entry.ret) + 1),
            must: entry.answer.is_some(),
        });
        Counterexample {
            key: partition::key(history, partition),
            operations_on_key: partition.len(),
            operations: shown.collect(),
            order,
            stuck,
        }
    }
}

/// Without the operations that need not be in the order and have nothing to do with what the others saw.
fn presentable(history: &History, mut entries: Vec<Entry>) -> Vec<Entry> {
    let appends = entries.iter().any(|entry| matches!(entry.request, Request::Append { .. }));
    let mut seen: Vec<Option<&str>> = Vec::new();
    for entry in &entries {
        match (history.spell(&entry.request), entry.answer.map(|answer| replay::spell(history, answer))) {
            (_, Some(Answer::Value(value))) => seen.push(value),
            (Request::Cas { expect, .. }, Some(_)) => seen.push(expect),
            _ => {}
        }
    }
    let touches = |made: Option<&str>| match made {
        Some(made) if appends => seen.iter().flatten().any(|seen| seen.contains(made)),
        made => seen.contains(&made),
    };
    let mut optional = 0;
    entries.retain(|entry| {
        if entry.answer.is_some() {
            return true;
        }
        let made = match history.spell(&entry.request) {
            Request::Get { .. } => return false,
            Request::Put { value, .. } | Request::Cas { value, .. } => value,
            Request::Append { value, .. } => Some(value),
            Request::Delete { .. } => None,
        };
        let touches = touches(made);
        optional += usize::from(touches);
        touches && optional <= OPTIONAL_MAX
    });
    entries
}

/// The longest order of some of `entries`, and what cannot follow. Writes that were weakened are taken as they were: it
/// is easier to read an order with all of them in it.
fn furthest(history: &History, entries: &[Entry], patience: &mut Patience) -> (Vec<Placed>, Vec<Stuck>) {
    let as_it_was = |entry: &Entry| match history.operation(entry.id).end {
        End::Ok { at, answer: Answer::Done } => Entry { answer: Some(Answer::Done), ret: at, ..*entry },
        _ => *entry,
    };
    let entries: &[Entry] = &entries.iter().map(as_it_was).collect::<Vec<_>>();
    let mut register = Register::new(history, entries).without_foresight();
    let longest = Search::new(&mut register).tracing().furthest(patience);
    let longest: Vec<usize> = longest.into_iter().map(|op| register.entry(op)).collect();

    let mut value = Value::default();
    let mut order = Vec::new();
    for at in &longest {
        let entry = &entries[*at];
        value.apply(history.spell(&entry.request), None);
        let (operation, text) = (entry.id.0, describe(history, entry));
        order.push(Placed { operation, text, value: value.get().map(str::to_owned) });
    }
    let left = || entries.iter().enumerate().filter(|(at, _)| !longest.contains(at)).map(|(_, entry)| entry);
    let horizon = left().map(|entry| entry.ret).min().unwrap_or(Moment::MAX);
    let next = left().filter(|entry| entry.answer.is_some() && entry.call < horizon);
    let stuck = next.map(|entry| Stuck {
        operation: entry.id.0,
        text: describe(history, entry),
        reason: format!("the value is {}", quoted(value.get())),
    });
    (order, stuck.collect())
}

/// What an operation did and answered.
fn describe(history: &History, entry: &Entry) -> String {
    let operation = history.operation(entry.id);
    let what = match history.spell(&entry.request) {
        Request::Get { .. } => "get".to_owned(),
        Request::Put { value, .. } => format!("put {}", quoted(value)),
        Request::Append { value, .. } => format!("append {}", quoted(Some(value))),
        Request::Delete { .. } => "delete".to_owned(),
        Request::Cas { expect, value, .. } => format!("cas {} to {}", quoted(expect), quoted(value)),
    };
    let answer = match operation.end {
        End::Ok { answer, .. } => match replay::spell(history, answer) {
            Answer::Done => String::new(),
            Answer::Value(value) => format!(" = {}", quoted(value)),
            Answer::Succeeded(true) => ", succeeded".to_owned(),
            Answer::Succeeded(false) => ", failed to match".to_owned(),
        },
        End::Fail { .. } | End::Info { .. } => ", outcome unknown".to_owned(),
    };
    what + &answer
}

fn quoted(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("{value:?}"))
}

/// Lists are shown up to this many lines.
const LINES_MAX: usize = 40;

/// Texts are shown up to this many characters: their beginning and their end.
const SHOWN_CHARS_MAX: usize = 100;

/// A long text's beginning and end.
fn short(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    let half = SHOWN_CHARS_MAX / 2;
    let begin: String = chars[..half].iter().collect();
    let end: String = chars[chars.len() - half..].iter().collect();
    format!("{begin} … {} more … {end}", chars.len() - 2 * half)
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let must = self.operations.iter().filter(|shown| shown.must).count();
        writeln!(
            f,
            "  key {:?}: of its {} operations these {must} have no order:",
            self.key, self.operations_on_key
        )?;
        for shown in self.operations.iter().take(LINES_MAX) {
            let Shown { operation, process, called, .. } = shown;
            let when = match shown.ended {
                Some(ended) => format!("event {called} to {ended}"),
                None => format!("event {called}"),
            };
            write!(f, "    #{operation} process {process}, {when}: {}", short(&shown.text))?;
            writeln!(f, "{}", if shown.must { "" } else { " (done or not makes no difference)" })?;
        }
        if let Some(more) = self.operations.len().checked_sub(LINES_MAX + 1) {
            writeln!(f, "    … and {} more", more + 1)?;
        }
        writeln!(f, "  the longest order found:")?;
        if self.order.is_empty() {
            writeln!(f, "    none: the key begins absent")?;
        }
        let skipped = self.order.len().saturating_sub(LINES_MAX);
        if skipped > 0 {
            writeln!(f, "    … {skipped} operations …")?;
        }
        for placed in self.order.iter().skip(skipped) {
            let value = short(&quoted(placed.value.as_deref()));
            writeln!(f, "    #{} {}; the value is {value}", placed.operation, short(&placed.text))?;
        }
        writeln!(f, "  nothing can follow:")?;
        for stuck in &self.stuck {
            writeln!(f, "    #{} {}, but {}", stuck.operation, short(&stuck.text), short(&stuck.reason))?;
        }
        Ok(())
    }
}
