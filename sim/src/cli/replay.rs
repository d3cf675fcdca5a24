//! `raftkv-sim replay`: runs one world and prints its timeline.

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;

use super::{World, WorldArguments};
use crate::explain::{Story, shiviz, why::Why};
use crate::page::{self, Title};
use crate::report::Failure;
use crate::runner::{case, child};
use crate::trace::{Keep, Source, Standings};

/// The arguments of `raftkv-sim replay`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A seed, or a file with a plan.
    pub world: World,
    #[command(flatten)]
    pub(crate) fixed: WorldArguments,
    /// Print every event, network segments and lane jobs included.
    #[arg(long)]
    pub all: bool,
    /// Write the plan to this file: it can be edited, and replayed.
    #[arg(long, value_name = "FILE")]
    pub save_plan: Option<PathBuf>,
    /// Write the history of client operations to this file, for `check`.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write a page that shows the run to this file: open it in a browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the run to this file for ShiViz (bestchai.bitbucket.io/shiviz); its first line is the regular expression to read it by.
    #[arg(long, value_name = "FILE")]
    pub shiviz: Option<PathBuf>,
    /// Print only the events that the violation depends on.
    #[arg(long, conflicts_with_all = ["all", "until", "node", "grep"])]
    pub why: bool,
    /// Print only what happens up to this time, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub until: Option<f64>,
    /// Print only the events of this node or client, and those that name it; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub node: Vec<Source>,
    /// Print only lines with this text in them; may be given more than once, and then either will do.
    #[arg(long, value_name = "TEXT")]
    pub grep: Vec<String>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

/// Runs the world.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(madsim)) {
        return super::without_a_world();
    }
    let timeout = Duration::from_secs(arguments.timeout);
    let keep = if arguments.all { Keep::Everything } else { Keep::Story };
    let mut command = command(arguments, keep);
    for (flag, path) in [("--save-plan", &arguments.save_plan), ("--history", &arguments.history)] {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    match show(arguments, command, timeout) {
        Ok(None) => {
            println!("\npassed");
            ExitCode::SUCCESS
        }
        Ok(Some(failure)) => {
            println!("\nFAILED: {failure}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the world, prints what was asked for, and writes what was asked for.
fn show(arguments: &Arguments, command: Command, timeout: Duration) -> io::Result<Option<Failure>> {
    let filter = Filter { until: arguments.until, nodes: &arguments.node, texts: &arguments.grep };
    let mut print = |line: &str| {
        if !arguments.why && filter.shows(line) {
            println!("{line}");
        }
    };
    if !arguments.why && arguments.html.is_none() && arguments.shiviz.is_none() {
        return Ok(child::run(command, timeout, &mut print).failure());
    }
    let (end, story) = case::tell(command, timeout, &mut print)?;
    let (failure, why) = (end.failure(), Why::of(&story));
    if arguments.why {
        print_why(&story, &why);
    }
    let reproduce = child::reproduce(&arguments.world, &arguments.fixed);
    let world = arguments.world.to_string();
    let title = Title { world: &world, reproduce: &reproduce, failure: failure.as_ref() };
    if let Some(path) = &arguments.html {
        case::to_file(path, |out| page::write(&story, &why, &title, out))?;
        println!("written: {}", path.display());
    }
    if let Some(path) = &arguments.shiviz {
        case::to_file(path, |out| shiviz::write(&story, out))?;
        println!("written: {}", path.display());
    }
    Ok(failure)
}

fn print_why(story: &Story, why: &Why) {
    let mut standings = Standings::default();
    for (at, record) in story.records.iter().enumerate() {
        standings.note(record.source, &record.fact);
        if why.contains(at) {
            println!("{}", record.line(&standings));
        }
    }
    println!("\n{} of {} events", why.causes.len(), story.records.len());
}

/// Which lines of a timeline are printed.
struct Filter<'a> {
    until: Option<f64>,
    nodes: &'a [Source],
    texts: &'a [String],
}

impl Filter<'_> {
    fn shows(&self, line: &str) -> bool {
        let time = line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        let in_time = self.until.is_none_or(|until| time.is_none_or(|time| time <= until));
        let names = |source: &Source| {
            let name = source.to_string();
            line.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word == name)
        };
        in_time
            && (self.nodes.is_empty() || self.nodes.iter().any(names))
            && (self.texts.is_empty() || self.texts.iter().any(|text| line.contains(text.as_str())))
    }
}

fn command(arguments: &Arguments, keep: Keep) -> Command {
    child::command(&arguments.world, &arguments.fixed, keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_goes_by_time_by_name_and_by_words() {
        let line = "   0.187033503 c1                          #1 -> ok revision 1";
        let fault = "   1.500000000 world                       fault 3 begin: n2 paused for 10.000 ms";
        let shows = |until, nodes: &[&str], texts: &[&str], line| {
            let nodes: Vec<Source> = nodes.iter().map(|name| name.parse().unwrap()).collect();
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filter { until, nodes: &nodes, texts: &texts }.shows(line)
        };
        assert!(shows(None, &[], &[], line));
        assert!(shows(Some(1.0), &[], &[], line));
        assert!(!shows(Some(1.0), &[], &[], fault));
        assert!(shows(None, &["n2"], &[], fault));
        assert!(!shows(None, &["n2"], &[], line));
        assert!(shows(None, &["n2", "c1"], &[], line));
        assert!(shows(None, &[], &["nothing", "revision 1"], line));
        assert!(!shows(None, &["c1"], &["revision 2"], line));
    }
}
