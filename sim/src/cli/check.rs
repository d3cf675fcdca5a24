//! `raftkv-sim check`: are recorded histories linearizable?
//!
//! One verdict a file. The exit code is that of the worst file: 2 if one could not be read, else 1 if one is not
//! linearizable, else 3 if one could not be decided within the limits, else 0.

use std::{
    fs::File,
    io::{self, BufReader, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    checker::{self, Counterexample, Limits, Verdict},
    history::{History, ReadError},
};

/// Checks whether recorded histories are linearizable.
///
/// A history is a file of JSON lines: {"process":3,"type":"invoke","f":"put","key":"x","value":"1"}, then
/// {"process":3,"type":"ok"}; see docs/simulation.md. Exit codes: 0 all are linearizable, 1 some are not,
/// 2 some could not be read, 3 some could not be decided within the limits.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The histories; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One JSON object for each file.
    #[arg(long)]
    json: bool,
    /// The memory a search may take, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory_mib: usize,
    /// The time a file may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    time_limit: f64,
    /// The threads to use; as many as there are processors if not given.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if seconds.is_finite() && seconds >= 0.0 {
        Ok(seconds)
    } else {
        Err("it must not be negative".to_owned())
    }
}

/// What came of one file.
#[derive(Serialize)]
struct Report {
    file: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<usize>,
    read_ms: f64,
    check_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counterexample: Option<Box<Counterexample>>,
}

/// The verdicts, the one that decides the exit code last.
const VERDICTS: [(&str, u8); 4] =
    [("linearizable", 0), ("unknown", 3), ("not linearizable", 1), ("unreadable", 2)];

/// Checks the files; the exit code says what came out.
pub fn run(arguments: &Arguments) -> ExitCode {
    let limits = Limits {
        memory_bytes_max: arguments.memory_mib.saturating_mul(1 << 20),
        time_max: Some(Duration::from_secs_f64(arguments.time_limit)),
        threads: arguments
            .threads
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN),
        ..Limits::default()
    };
    let mut worst = 0;
    for file in &arguments.files {
        let report = report(file, &limits);
        let rank = VERDICTS.iter().position(|(verdict, _)| *verdict == report.verdict).unwrap_or(0);
        worst = worst.max(rank);
        if let Err(error) = print(&report, arguments.json) {
            // Nobody reads on: what is left to say is the exit code.
            if error.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("cannot write: {error}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::from(VERDICTS[worst].1)
}

fn report(file: &Path, limits: &Limits) -> Report {
    let mut report = Report {
        file: file.display().to_string(),
        verdict: "unreadable",
        operations: None,
        read_ms: 0.0,
        check_ms: 0.0,
        line: None,
        error: None,
        key: None,
        counterexample: None,
    };
    let begin = now();
    let history = match read(file) {
        Ok(history) => history,
        Err(error) => {
            report.line = error.line();
            report.error = Some(error.to_string());
            return report;
        }
    };
    report.read_ms = milliseconds(begin);
    report.operations = Some(history.operations().len());
    let begin = now();
    let verdict = checker::check(&history, limits);
    report.check_ms = milliseconds(begin);
    report.verdict = match verdict {
        Verdict::Linearizable => "linearizable",
        Verdict::NotLinearizable(counterexample) => {
            report.key = Some(counterexample.key.clone());
            report.counterexample = Some(counterexample);
            "not linearizable"
        }
        Verdict::Unknown { bound, key } => {
            report.error = Some(format!("{bound} was reached at key {key:?}"));
            report.key = Some(key);
            "unknown"
        }
    };
    report
}

/// Why a file is unreadable.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("{0}")]
    Open(#[from] io::Error),
    #[error("{0}")]
    Read(#[from] ReadError),
}

impl Unreadable {
    fn line(&self) -> Option<u64> {
        match self {
            Unreadable::Open(_) => None,
            Unreadable::Read(ReadError::Io { line, .. } | ReadError::Line { line, .. }) => Some(*line),
        }
    }
}

fn read(file: &Path) -> Result<History, Unreadable> {
    if file == Path::new("-") {
        return Ok(History::read(io::stdin().lock())?);
    }
    Ok(History::read(BufReader::with_capacity(1 << 18, File::open(file)?))?)
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return out.write_all(b"\n");
    }
    let Report { file, verdict, read_ms, check_ms, .. } = report;
    match (&report.operations, &report.error) {
        (None, error) => {
            out.flush()?;
            eprintln!("{file}: {}", error.as_deref().unwrap_or_default());
            return Ok(());
        }
        (Some(operations), None) => writeln!(
            out,
            "{file}: {verdict} ({operations} operations, read in {read_ms:.1} ms, checked in {check_ms:.1} ms)"
        )?,
        (Some(operations), Some(error)) => writeln!(
            out,
            "{file}: {verdict}: {error} ({operations} operations, read in {read_ms:.1} ms, {check_ms:.1} ms spent)"
        )?,
    }
    if let Some(counterexample) = &report.counterexample {
        write!(out, "{counterexample}")?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a command that says how long it took; nothing depends on it")]
fn now() -> Instant {
    Instant::now()
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}
