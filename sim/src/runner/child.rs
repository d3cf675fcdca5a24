//! One world in a process of its own, under a watchdog.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::{World, WorldArguments};
use crate::report::{Failure, SeedReport};
use crate::trace::Keep;

/// How much of a failed process's last words is shown.
const LAST_WORDS_MAX: usize = 40;

/// What a world's end means for whoever runs many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// No rule was broken.
    Passed,
    /// A rule was broken, or an assertion did not hold.
    Violation,
    /// It did not end in time.
    Hang,
    /// Its process did not start, or was taken down from outside: nothing is known of it.
    Harness,
}

/// How a world's process ended.
#[derive(Debug)]
pub struct End {
    /// What it reported, if it came so far.
    pub report: Option<SeedReport>,
    /// The last lines it printed that are not its report.
    last_words: Vec<String>,
    status: Option<ExitStatus>,
    timed_out: Option<Duration>,
}

impl End {
    /// What that means.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.report {
            _ if self.timed_out.is_some() => Outcome::Hang,
            Some(report) if report.failure.is_none() => Outcome::Passed,
            Some(_) => Outcome::Violation,
            None if self.last_words.iter().any(|line| line.contains("panicked at")) => Outcome::Violation,
            None => Outcome::Harness,
        }
    }

    /// What went wrong, if anything: a broken rule, a panic, or a hang.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        if let Some(timeout) = self.timed_out {
            let text = format!("no end after {} s of real time", timeout.as_secs());
            return Some(Failure::new("hang", text));
        }
        match &self.report {
            Some(report) => report.failure.clone(),
            None => {
                let status =
                    self.status.map_or_else(|| "did not start".to_owned(), |status| status.to_string());
                let panic = self.last_words.iter().position(|line| line.contains("panicked at"));
                let words = self.last_words.get(panic.unwrap_or(0)..).unwrap_or_default();
                let shown = words.iter().take(if panic.is_some() { 4 } else { 12 });
                let text = shown.map(String::as_str).collect::<Vec<_>>().join("\n    ");
                Some(Failure::new("crash of the simulator", format!("{status}: {text}")))
            }
        }
    }
}

/// The command that runs `world`.
#[must_use]
pub fn command(world: &World, fixed: &WorldArguments, keep: Keep) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "raftkv-sim".into());
    let mut command = Command::new(program);
    // sled allocates two zeroed MiB whenever a store is opened. glibc would soon keep such blocks, and zero them by
    // hand each time; fresh ones from the kernel are zero only where they are touched.
    command.env("MALLOC_MMAP_THRESHOLD_", "262144");
    command.arg("one").arg(world.to_string()).args(["--keep", keep.name()]).args(fixed.to_command_line());
    command
}

/// Runs `command` until it ends or `timeout` has passed; hands each line that it prints to `line`.
#[must_use]
pub fn run(command: Command, timeout: Duration, line: &mut dyn FnMut(&str)) -> End {
    let mut end = End { report: None, last_words: Vec::new(), status: None, timed_out: None };
    let (reader, child) = match start(command) {
        Ok(started) => started,
        Err(error) => {
            end.last_words.push(error.to_string());
            return end;
        }
    };
    let watchdog = Watchdog::set(child, timeout);
    for text in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&text);
        if let Some(report) = text.starts_with('{').then(|| serde_json::from_str(&text).ok()).flatten() {
            end.report = Some(report);
            continue;
        }
        line(&text);
        if end.last_words.len() == LAST_WORDS_MAX {
            end.last_words.remove(0);
        }
        end.last_words.push(text.into_owned());
    }
    let (status, barked) = watchdog.finish();
    end.status = status;
    end.timed_out = barked.then_some(timeout);
    end
}

/// Starts the process, with both its outputs in one pipe.
fn start(mut command: Command) -> std::io::Result<(std::io::PipeReader, Child)> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn()?;
    // `command` holds the writing ends: the pipe ends with the child only once it is dropped.
    drop(command);
    Ok((reader, child))
}

/// Kills a process that takes too long.
struct Watchdog {
    state: Arc<(Mutex<State>, Condvar)>,
    thread: std::thread::JoinHandle<()>,
}

struct State {
    child: Child,
    finished: bool,
    barked: bool,
}

impl Watchdog {
    #[expect(clippy::disallowed_methods, reason = "real time and real threads: this is outside every world")]
    fn set(child: Child, timeout: Duration) -> Self {
        let state = Arc::new((Mutex::new(State { child, finished: false, barked: false }), Condvar::new()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let (state, rung) = &*shared;
            let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = rung.wait_timeout_while(guard, timeout, |state| !state.finished);
            let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
            if result.timed_out() {
                state.barked = true;
                // It may have ended just now.
                let _ = state.child.kill();
            }
        });
        Self { state, thread }
    }

    /// The process has closed its output. Tells how it ended, and whether it was killed.
    fn finish(self) -> (Option<ExitStatus>, bool) {
        let (state, rung) = &*self.state;
        let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        guard.finished = true;
        rung.notify_all();
        let status = guard.child.wait().ok();
        let barked = guard.barked;
        drop(guard);
        // It has nothing to panic about.
        let _ = self.thread.join();
        (status, barked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run_quietly(script: &str, timeout_ms: u64) -> End {
        run(shell(script), Duration::from_millis(timeout_ms), &mut |_| {})
    }

    #[test]
    fn a_hang_is_a_failure() {
        let end = run_quietly("exec sleep 100", 50);
        assert_eq!((end.failure().unwrap().rule.as_str(), end.outcome()), ("hang", Outcome::Hang));
    }

    #[test]
    fn a_panic_is_a_failure_and_its_words_are_kept() {
        let end = run_quietly("echo before; echo \"thread panicked at x.rs\" >&2; echo why; exit 101", 5_000);
        let failure = end.failure().unwrap();
        assert_eq!((failure.rule.as_str(), end.outcome()), ("crash of the simulator", Outcome::Violation));
        assert!(failure.detail.contains("panicked at x.rs\n    why"), "{}", failure.detail);
        assert!(!failure.detail.contains("before"), "{}", failure.detail);
    }

    #[test]
    fn a_process_that_is_taken_down_says_nothing_about_its_world() {
        let end = run_quietly("kill -9 $$", 5_000);
        assert_eq!(end.outcome(), Outcome::Harness);
        assert!(end.failure().unwrap().detail.contains("signal: 9"), "{:?}", end.failure());
    }

    #[test]
    fn a_report_is_read_from_among_other_lines() {
        let report = SeedReport {
            seed: 5,
            failure: Some(Failure::new("a rule", "is broken")),
            virtual_ns: 1,
            events: 2,
            trace_hash: "00".into(),
            figures: crate::report::Figures::default(),
            marks: crate::marks::Marks::default(),
        };
        let mut lines = Vec::new();
        let script = format!("echo a; echo '{}'; echo b", serde_json::to_string(&report).unwrap());
        let end = run(shell(&script), Duration::from_secs(5), &mut |line| lines.push(line.to_owned()));
        assert_eq!(end.outcome(), Outcome::Violation);
        assert_eq!(lines, ["a", "b"]);
        assert_eq!(end.failure(), report.failure);
        assert_eq!(end.report, Some(report));
    }
}
