//! The command line.

mod member;
mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{LogFormat, MemberFlag, Overrides};

pub(crate) use member::{
    AddArgs, ChangeArgs, LeaderArgs, LeaderCommand, LeaseArgs, LeaseCommand, ListArgs, MemberArgs,
    MemberCommand, OneArgs, PromoteArgs, ReplaceArgs, UpdateArgs,
};

pub(crate) use snapshot::{RestoreArgs, SaveArgs, SnapshotArgs, SnapshotCommand, SnapshotStatusArgs};

/// The client addresses of the cluster that `raftkv local` starts.
pub(crate) const DEFAULT_ENDPOINTS: &str = "127.0.0.1:23800,127.0.0.1:23810,127.0.0.1:23820";

/// A replicated key-value store.
///
/// Exit codes: 0 yes, 1 a negative answer (no such key, a compare did not hold), 2 a definite error (nothing was
/// done), 3 the outcome is unknown.
#[derive(Debug, Parser)]
#[command(name = "raftkv", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run three nodes on this machine, as three processes
    Local(LocalArgs),
    /// Run one node
    Serve(ServeArgs),
    /// Set a key
    Put(PutArgs),
    /// Print the value of a key
    Get(GetArgs),
    /// Remove a key, or all keys with a prefix
    Del(DelArgs),
    /// Print the keys and values of a range
    Range(RangeArgs),
    /// Do a transaction, read as JSON from stdin
    Txn(TxnArgs),
    /// Forget the history before a revision
    Compact(CompactArgs),
    /// Show how every node is
    Status(StatusArgs),
    /// Show and change who is in the cluster
    Member(MemberArgs),
    /// Hand the leadership over
    Leader(LeaderArgs),
    /// Let the leader answer reads without asking the others, or not
    Lease(LeaseArgs),
    /// Look at the files of a node's log
    Wal(WalArgs),
    /// Save, verify and restore backups
    Snapshot(SnapshotArgs),
    /// Measure throughput and latency
    Bench(BenchArgs),
}

impl Command {
    /// How to reach the cluster, for the commands that do.
    pub(crate) fn client_args(&self) -> Option<&ClientArgs> {
        match self {
            Self::Local(_) | Self::Serve(_) | Self::Wal(_) => None,
            Self::Put(args) => Some(&args.client),
            Self::Get(args) => Some(&args.client),
            Self::Del(args) => Some(&args.client),
            Self::Range(args) => Some(&args.client),
            Self::Txn(args) => Some(&args.client),
            Self::Compact(args) => Some(&args.client),
            Self::Status(args) => Some(&args.client),
            Self::Member(args) => Some(args.command.client_args()),
            Self::Leader(args) => Some(args.command.client_args()),
            Self::Lease(args) => Some(args.command.client_args()),
            Self::Snapshot(args) => args.command.client_args(),
            Self::Bench(args) => Some(&args.client),
        }
    }
}

/// How to reach the cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    /// Client addresses of some or all nodes
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_ENDPOINTS, value_name = "HOST:PORT,..")]
    pub(crate) endpoints: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up after this many seconds
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) timeout: Duration,
    /// The form of log lines on stderr; RUST_LOG says which there are
    #[arg(long, default_value_t, value_enum)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct LocalArgs {
    /// Where the three nodes keep their data
    #[arg(long, default_value = "./raftkv-data")]
    pub(crate) data_dir: PathBuf,
    /// Node i serves clients at this port + 10*i, and its peers at the port after that
    #[arg(long, default_value_t = 23790, value_parser = clap::value_parser!(u16).range(1..=65504))]
    pub(crate) base_port: u16,
    /// The form of the nodes' log lines on stderr; RUST_LOG says which there are
    #[arg(long, default_value_t, value_enum)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration file; flags go before it
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// This node's id
    #[arg(long)]
    pub(crate) id: Option<u64>,
    /// Where this node keeps its data [default: /var/raftkv/ID]
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where to listen for peers [default: this member's peer address]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) peer_listen: Option<String>,
    /// Where to listen for clients [default: this member's client address]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) client_listen: Option<String>,
    /// A member of the cluster; once for each, this node included
    #[arg(long = "member", value_name = "ID=PEER,CLIENT")]
    pub(crate) members: Vec<MemberFlag>,
    /// Join a cluster that exists, instead of forming one: wait, with an empty data directory, for `member add`
    #[arg(long)]
    pub(crate) join: bool,
    /// The form of log lines on stderr; RUST_LOG says which there are
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Shut down when stdin ends: so a node does not outlive the process that started it
    #[arg(long)]
    pub(crate) stop_with_stdin: bool,
}

impl ServeArgs {
    /// The flags that go before the file.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            id: self.id,
            data_dir: self.data_dir.clone(),
            peer_listen: self.peer_listen.clone(),
            client_listen: self.client_listen.clone(),
            members: self.members.clone(),
            join: self.join,
            log_format: self.log_format,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key
    pub(crate) key: String,
    /// Its value; read from stdin if left out
    pub(crate) value: Option<String>,
    /// Also print the pair that was there before
    #[arg(long)]
    pub(crate) prev_kv: bool,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How to write.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WriteArgs {
    /// Go through a session: then it can be tried again when a node fails, and is still done once
    #[arg(long)]
    pub(crate) exactly_once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How to read.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ReadArgs {
    /// Read the state at this revision
    #[arg(long)]
    pub(crate) revision: Option<u64>,
    /// Let any node answer from what it has, which may be old
    #[arg(long, conflicts_with = "any")]
    pub(crate) serializable: bool,
    /// Let any member answer, after it has asked the leader up to where it must have applied: as fresh as from the
    /// leader itself
    #[arg(long)]
    pub(crate) any: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    /// The key, or the first key
    pub(crate) key: String,
    /// Remove all keys from KEY up to but not including this one
    #[arg(conflicts_with = "prefix")]
    pub(crate) end: Option<String>,
    /// Remove all keys that begin with KEY
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Also print the pairs that were there
    #[arg(long)]
    pub(crate) prev_kv: bool,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RangeArgs {
    /// The first key; all keys if left out
    pub(crate) start: Option<String>,
    /// The key behind the last one
    #[arg(conflicts_with = "prefix")]
    pub(crate) end: Option<String>,
    /// All keys that begin with START
    #[arg(long)]
    pub(crate) prefix: bool,
    /// At most this many pairs
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) limit: u64,
    /// Only the keys
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Only how many there are
    #[arg(long)]
    pub(crate) count_only: bool,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// {n}
/// {"compares": [{"key": "a", "relation": "=", "version": 0}],{n}
///  "success": [{"put": {"key": "a", "value": "1"}}],{n}
///  "failure": [{"range": {"key": "a"}}, {"delete": {"prefix": "b"}}]}
///
/// A compare has one of value, version, create_revision, mod_revision, and a relation of = != > <. Bytes that are not
/// UTF-8 are given as key_base64, value_base64, prefix_base64, end_base64.
#[derive(Debug, Args)]
pub(crate) struct TxnArgs {
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// The oldest revision that stays readable
    pub(crate) revision: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WalArgs {
    #[command(subcommand)]
    pub(crate) command: WalCommand,
}

/// What to do with a log.
#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Show what is in a log, and verify it: 0 if it is clean, 1 if it is damaged, 2 if it cannot be read. Writes nothing
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A node's data directory, or the directory of its log
    pub(crate) dir: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Show every entry
    #[arg(long)]
    pub(crate) entries: bool,
}

/// What the clients of a benchmark do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchKind {
    /// Puts of random keys.
    Put,
    /// Linearizable reads of random keys.
    Get,
    /// Both.
    Mixed,
    /// Three nodes of its own: filled with the keys, then started again; time to the first read, and memory.
    StartUp,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) kind: BenchKind,
    /// Clients, each with one request under way at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) clients: u32,
    /// Connections that the clients share [default: one each]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) connections: Option<u32>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) value_size: u32,
    /// How long to measure
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) seconds: Duration,
    /// How many different keys there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// With `mixed`: how many of 100 requests are reads
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// Let all members answer the reads in turn
    #[arg(long)]
    pub(crate) any: bool,
    /// With which number the choice of keys begins
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where to measure the bare fdatasync: should be on the disk that the nodes use. With `start-up`, where its nodes
    /// keep their data
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) fdatasync_dir: PathBuf,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// A number of seconds, or 0.
fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

/// A number of seconds, which may have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err("it must be between 0.001 and 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_or_behind_the_key() {
        for line in ["raftkv get --endpoints a:1,b:2 k", "raftkv get k --endpoints a:1,b:2"] {
            let Command::Get(get) = Cli::parse_from(line.split(' ')).command else { panic!("{line}") };
            assert_eq!(
                (get.key.as_str(), get.client.endpoints),
                ("k", vec!["a:1".to_owned(), "b:2".to_owned()])
            );
        }
    }

    #[test]
    fn impossible_arguments_are_usage_errors() {
        let lines = [
            "raftkv",
            "raftkv get",
            "raftkv del a b --prefix",
            "raftkv bench put --clients 0",
            "raftkv bench put --seconds -1",
            "raftkv serve --member nonsense",
            "raftkv local --base-port 65530",
            "raftkv compact soon",
            "raftkv get k --any --serializable",
            "raftkv member",
            "raftkv member add 4",
            "raftkv member add 4=a:1",
            "raftkv member add 4=a:1,b",
            "raftkv member add 4=a:1,b:2 --wait -1",
            "raftkv member remove n4",
            "raftkv member replace 4=a:1,b:2",
            "raftkv leader transfer x",
            "raftkv lease on --duration-ms 1",
            "raftkv lease on --drift-ppm 1000000",
            "raftkv snapshot save",
            "raftkv snapshot restore f",
            "raftkv snapshot restore f --data-dir d --bump-revision -1",
        ];
        for line in lines {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
