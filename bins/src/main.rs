//! `raftkv`: the server, a cluster of three on one machine, the client commands, and a benchmark.
//!
//! Results go to stdout; errors and logs to stderr. The exit codes are the same everywhere: 0 yes, 1 a negative
//! answer, 2 a definite error, 3 the outcome is unknown.

mod bench;
mod cli;
mod commands;
mod config;
mod json;
mod local;
mod member;
mod serve;
mod snapshot;
mod status;
mod wal;

use std::process::ExitCode;

use clap::Parser;
use kv::client::ClientError;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use config::{ConfigError, LogFormat};

/// Why a command ends without an answer; one line for a human.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Definite(String),
    #[error("cannot read stdin: {0}")]
    Input(std::io::Error),
    #[error("cannot write stdout: {0}")]
    Output(std::io::Error),
}

const DEFINITE: u8 = 2;
const UNKNOWN: u8 = 3;

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Client(ClientError::Unknown { .. }) => ExitCode::from(UNKNOWN),
            _ => ExitCode::from(DEFINITE),
        }
    }
}

/// Logs to stderr. `RUST_LOG` says what; without it `default` does.
pub(crate) fn log(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            logs.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init()
        }
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    if let Some(args) = command.client_args() {
        log(args.log_format, "warn");
    }
    match command {
        Command::Local(args) => local::local(args).await,
        Command::Serve(args) => serve::serve(args).await,
        Command::Put(args) => commands::put(args).await,
        Command::Get(args) => commands::get(args).await,
        Command::Del(args) => commands::del(args).await,
        Command::Range(args) => commands::range(args).await,
        Command::Txn(args) => commands::txn(args).await,
        Command::Compact(args) => commands::compact(args).await,
        Command::Status(args) => status::status(args).await,
        Command::Member(args) => member::member(args).await,
        Command::Leader(args) => member::leader(args).await,
        Command::Lease(args) => member::lease(args).await,
        Command::Wal(args) => wal::wal(args),
        Command::Snapshot(args) => snapshot::snapshot(args).await,
        Command::Bench(args) => bench::bench(args).await,
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("raftkv: cannot start: {error}");
            return ExitCode::from(DEFINITE);
        }
    };
    let result = runtime.block_on(run(command));
    // A thread may be waiting for stdin; nothing else is left to be done.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("raftkv: {failure}");
            failure.exit_code()
        }
    }
}
