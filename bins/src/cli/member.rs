//! The commands about members, leader and leases.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ClientArgs, seconds_or_zero};
use crate::config::MemberFlag;

#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    #[command(subcommand)]
    pub(crate) command: MemberCommand,
}

/// What to do with the members. Every change that touches voters first says how many of them may fail before and
/// after it, and is refused if the cluster would stop.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Show who is in the cluster
    List(ListArgs),
    /// Add a node that was started with --join: as a learner, which becomes a voter once it has caught up
    Add(AddArgs),
    /// Make a learner a voter, once it has caught up
    Promote(PromoteArgs),
    /// Make a voter a learner
    Demote(OneArgs),
    /// Remove a member for good: its id is not used again
    Remove(OneArgs),
    /// Put a new node, started with --join, in the place of a member
    Replace(ReplaceArgs),
    /// Tell the cluster that a member has other addresses now
    Update(UpdateArgs),
}

impl MemberCommand {
    pub(crate) fn client_args(&self) -> &ClientArgs {
        match self {
            Self::List(args) => &args.client,
            Self::Add(args) => &args.change.client,
            Self::Promote(args) => &args.change.client,
            Self::Demote(args) | Self::Remove(args) => &args.change.client,
            Self::Replace(args) => &args.change.client,
            Self::Update(args) => &args.client,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How to change who votes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Only say what it would do to the quorum; exit code 1 if it would be refused
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it even if the cluster would stop
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How long to wait for a new member. Whoever waits no longer can give the same command again later.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait so long for it to catch up; 0: not at all
    #[arg(long, default_value = "600", value_parser = seconds_or_zero, value_name = "SECONDS")]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The new member, under an id that was never used
    #[arg(value_name = "ID=PEER,CLIENT")]
    pub(crate) member: MemberFlag,
    /// Let it stay a learner
    #[arg(long)]
    pub(crate) learner: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The learner
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The member
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    /// The member that goes
    pub(crate) old: u64,
    /// The member that comes, under an id that was never used
    #[arg(value_name = "ID=PEER,CLIENT")]
    pub(crate) new: MemberFlag,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The member and its new addresses
    #[arg(value_name = "ID=PEER,CLIENT")]
    pub(crate) member: MemberFlag,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LeaderArgs {
    #[command(subcommand)]
    pub(crate) command: LeaderCommand,
}

/// What to do with the leadership.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// Hand the leadership over; if that fails, the old leader goes on
    Transfer(TransferArgs),
}

impl LeaderCommand {
    pub(crate) fn client_args(&self) -> &ClientArgs {
        let Self::Transfer(args) = self;
        &args.client
    }
}

#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Who is to lead [default: whoever has most of the log]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseArgs {
    #[command(subcommand)]
    pub(crate) command: LeaseCommand,
}

/// Whether the leader answers reads without asking the others. Off by default: it is safe only while no two nodes'
/// clocks run apart by more than the given drift, and the loss of a leader is noticed later.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Let the leader answer reads by itself for some time after the others have answered it
    On(LeaseOnArgs),
    /// Have every read confirmed by the others
    Off(ListArgs),
    /// Show which it is
    Show(ListArgs),
}

impl LeaseCommand {
    pub(crate) fn client_args(&self) -> &ClientArgs {
        match self {
            Self::On(args) => &args.client,
            Self::Off(args) | Self::Show(args) => &args.client,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LeaseOnArgs {
    /// For how long; nobody else can be elected meanwhile
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=60_000), value_name = "MS")]
    pub(crate) duration_ms: u32,
    /// How much faster one clock may run than another, in millionths
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=500_000), value_name = "PPM")]
    pub(crate) drift_ppm: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
