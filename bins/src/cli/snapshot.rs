//! The commands about backups.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ClientArgs, seconds};

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save a backup of a running cluster: of everything that was acknowledged before
    Save(SaveArgs),
    /// Verify a backup and show what is in it; exit code 1 if it is damaged
    Status(SnapshotStatusArgs),
    /// Make the data directory of a member of a new cluster from a backup
    Restore(RestoreArgs),
}

impl SnapshotCommand {
    pub(crate) fn client_args(&self) -> Option<&ClientArgs> {
        match self {
            Self::Save(args) => Some(&args.client),
            Self::Status(_) | Self::Restore(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Where to write it; must not exist
    pub(crate) file: PathBuf,
    /// How long a node may take until it has the backup ready
    #[arg(long, default_value = "600", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) patience: Duration,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotStatusArgs {
    /// The backup
    pub(crate) file: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// Every member of the new cluster is restored from the same file, each on its own machine, and then started as any new
/// member is. The new cluster has a new id; old members cannot join it, nor it them.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    pub(crate) file: PathBuf,
    /// The member's data directory; must be empty
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// Restore all three nodes that `raftkv local --data-dir` runs
    #[arg(long)]
    pub(crate) local: bool,
    /// How far the revision jumps ahead, so that none is used twice that a client of the old cluster may have seen; the same
    /// for all members
    #[arg(long, default_value_t = kv::backup::REVISION_BUMP, value_name = "N")]
    pub(crate) bump_revision: u64,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}
