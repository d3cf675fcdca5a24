//! `raftkv-sim shrink`: a smaller plan that breaks the same rule.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{World, WorldArguments};
use crate::plan::Plan;
use crate::runner::child;
use crate::shrink::{Found, Laboratory, Signature, Size, shrink};
use crate::trace::Keep;

/// Where regressions are kept, from the root of the repository.
const REGRESSIONS: &str = "sim/regressions";
/// How many lines of the story are shown from its end, at most.
const STORY_LINES_MAX: usize = 120;

/// The arguments of `raftkv-sim shrink`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A seed, or a file with a plan.
    pub world: World,
    #[command(flatten)]
    pub(crate) fixed: WorldArguments,
    /// Where to write the small plan; if not given, into sim/regressions, which `cargo test` runs.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How many processes at a time; as many as there are processors, if not given. The result does not depend on it.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// Stop after so many worlds.
    #[arg(long, default_value_t = 3_000)]
    pub tries: u64,
    /// Give up on a world after so many seconds.
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Say nothing but what came out.
    #[arg(long)]
    pub quiet: bool,
}

/// Shrinks the world.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(madsim)) {
        return super::without_a_world();
    }
    match shrink_world(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// False if there was nothing to shrink.
fn shrink_world(arguments: &Arguments) -> Result<bool, String> {
    let mut plan = arguments.world.plan(arguments.fixed.fixed()).map_err(|error| error.to_string())?;
    plan.mutant = mutant(&plan, arguments.fixed.sound)?;
    let jobs =
        arguments.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let timeout = Duration::from_secs(arguments.timeout);
    let laboratory = Laboratory::new(jobs, timeout, arguments.tries).map_err(|error| error.to_string())?;
    let Some(found) = laboratory.run(&plan) else {
        println!("{} breaks no rule: nothing to shrink", arguments.world);
        return Ok(false);
    };
    let (before, signature) = (Size::of(&plan), Signature::of(&found.failure));
    println!("{} breaks a rule: {signature}\n    {before}", arguments.world);
    plan.violates = Some(found.failure.rule.clone());
    let (small, found) = with_progress(arguments.quiet, |say| shrink(&laboratory, plan, found, say));
    let path = arguments.output.clone().unwrap_or_else(|| default_path(&small));
    small.save(&path).map_err(|error| error.to_string())?;
    report(&small, &found, before, &laboratory, &path);
    tell_story(&path, timeout);
    println!("\nFAILED: {}\n    cargo sim replay {}", found.failure, path.display());
    Ok(true)
}

/// The planted bug that the world has, if any.
fn mutant(plan: &Plan, sound: bool) -> Result<Option<String>, String> {
    let mutant = plan.mutant.clone().or_else(|| std::env::var("RAFTKV_MUTANT").ok()).filter(|_| !sound);
    match mutant {
        Some(mutant) if cfg!(not(mutants)) => {
            Err(format!("the planted bug {mutant} is not in this build: use `cargo mutants-build`"))
        }
        mutant => Ok(mutant),
    }
}

fn with_progress<T>(quiet: bool, work: impl FnOnce(&mut dyn FnMut(&str)) -> T) -> T {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let style = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut last = String::new();
    let result = work(&mut |text| {
        // One line for each pass; in between the spinner shows how it goes.
        let pass = text.split(':').next().unwrap_or_default().to_owned();
        if pass != last && !quiet {
            let done = bar.message();
            bar.suspend(|| {
                if !done.is_empty() {
                    eprintln!("  {done}");
                }
            });
            last = pass;
        }
        bar.set_message(text.to_owned());
    });
    bar.finish_and_clear();
    result
}

fn default_path(plan: &Plan) -> PathBuf {
    let rule = plan.violates.as_deref().unwrap_or("failure");
    let mut name: String = rule.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if let Some(mutant) = &plan.mutant {
        name = format!("planted_{}", mutant.replace('-', "_"));
    }
    let file = format!("{name}_{}.json", plan.seed);
    let directory = Path::new(REGRESSIONS);
    if directory.is_dir() { directory.join(file) } else { file.into() }
}

fn report(plan: &Plan, found: &Found, before: Size, laboratory: &Laboratory, path: &Path) {
    let after = Size::of(plan);
    let per_cent = 100.0 * after.steps() as f64 / before.steps().max(1) as f64;
    println!("shrunk in {} worlds, to {per_cent:.1} % of its faults and operations:", laboratory.tries());
    println!("    before: {before}\n    after:  {after}\n    rule:   {}", Signature::of(&found.failure));
    println!("    plan:   {}\n", path.display());
    for scheduled in &plan.faults {
        println!("  {:>10.3} ms  fault {}: {}", millis(scheduled.at_ns), scheduled.number, scheduled.fault);
    }
    for operation in &plan.operations {
        let at = operation.at_ns.map_or_else(|| "-".to_owned(), |at_ns| format!("{:.3}", millis(at_ns)));
        println!("  {at:>10} ms  c{} #{} {}", operation.client, operation.number, operation.kind);
    }
}

fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The small plan's timeline, or its end if it is long.
fn tell_story(path: &Path, timeout: Duration) {
    let mut lines = std::collections::VecDeque::new();
    let mut left_out = 0;
    let command = child::command(&World::File(path.to_owned()), &WorldArguments::default(), Keep::Story);
    let _ = child::run(command, timeout, &mut |line| {
        lines.push_back(line.to_owned());
        if lines.len() > STORY_LINES_MAX {
            lines.pop_front();
            left_out += 1;
        }
    });
    println!(
        "\nits story{}:",
        if left_out > 0 { format!(" ({left_out} lines before are left out)") } else { String::new() }
    );
    lines.iter().for_each(|line| println!("{line}"));
}
