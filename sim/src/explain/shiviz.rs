//! A log for ShiViz: for each event its host, a vector clock, and its words.
//!
//! ShiViz needs to be told how to read it; [`REGEX`] stands in the first line of what is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::Story;
use crate::trace::{Fact, Source};

/// What to enter in ShiViz as *log parsing regular expression*.
pub const REGEX: &str = r"(?<host>\S+) (?<clock>\{.*\})\n(?<event>.*)";

type Clock = BTreeMap<String, u64>;

/// Something that happens at one host, and what was sent to it from elsewhere.
struct Step {
    at_ns: u64,
    order: usize,
    host: Source,
    text: String,
    /// The step that sent what arrives here.
    from: Option<(usize, bool)>,
    /// Names this step: the event, and whether it is the arrival of what that event sent.
    id: (usize, bool),
}

/// Writes the log.
///
/// # Errors
/// It cannot be written.
pub fn write(story: &Story, out: &mut impl Write) -> io::Result<()> {
    // Whatever stands before the first event is passed over.
    writeln!(out, "{REGEX}\n")?;
    let mut clocks: BTreeMap<Source, Clock> = BTreeMap::new();
    let mut sent: BTreeMap<(usize, bool), Clock> = BTreeMap::new();
    let steps = steps(story);
    let needed: BTreeSet<(usize, bool)> = steps.iter().filter_map(|step| step.from).collect();
    for step in steps {
        let clock = clocks.entry(step.host).or_default();
        if let Some(theirs) = step.from.and_then(|from| sent.get(&from)) {
            for (host, count) in theirs {
                let mine = clock.entry(host.clone()).or_default();
                *mine = (*mine).max(*count);
            }
        }
        *clock.entry(step.host.to_string()).or_default() += 1;
        let shown = serde_json::to_string(&clock)?;
        let seconds = step.at_ns as f64 / 1e9;
        writeln!(out, "{} {shown}\n{seconds:.6} {}", step.host, step.text.replace('\n', " "))?;
        if needed.contains(&step.id) {
            sent.insert(step.id, clock.clone());
        }
    }
    Ok(())
}

fn steps(story: &Story) -> Vec<Step> {
    let mut steps = Vec::new();
    for (order, record) in story.records.iter().enumerate() {
        let from = match &record.fact {
            Fact::Job
            | Fact::Segment { .. }
            | Fact::Connected { .. }
            | Fact::Closed { .. }
            | Fact::Writes { .. }
            | Fact::Durable { .. } => continue,
            Fact::Received(_) => story.other_end(order).map(|sent| (sent, false)),
            Fact::Exchange { from, to, arrives_ns } => {
                let text = format!("hears from {from}");
                let (id, from) = ((order, true), Some((order, false)));
                steps.push(Step { at_ns: *arrives_ns, order, host: *to, text, from, id });
                None
            }
            _ => None,
        };
        let text = record.text.clone();
        steps.push(Step { at_ns: record.at_ns, order, host: record.source, text, from, id: (order, false) });
    }
    let end_ns = story.records.last().map_or(0, |record| record.at_ns);
    steps.retain(|step| step.at_ns <= end_ns);
    steps.sort_by_key(|step| (step.at_ns, step.order, step.id.1));
    steps
}
