//! What a core is started with, and what is wrong with it if it cannot start.

use std::fmt;

use super::damage::Damage;
use super::types::{Configuration, Entry, HardState, LogId, NodeId};

/// The settings of one core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The least number of ticks without a leader before an election; the actual one is drawn from `n..2n` each
    /// time (§3.4). Also the time for which a node that hears a leader refuses to help depose it (§4.2.3), and for
    /// which a leader goes on without hearing a quorum (§6.2).
    pub election_timeout_ticks: u32,
    /// Ticks between heartbeats; less than the election timeout.
    pub heartbeat_ticks: u32,
    /// The most bytes of entries in one AppendEntries; a single larger entry still goes, alone.
    pub append_bytes_max: u64,
    /// The most AppendEntries on their way to one follower.
    pub inflight_messages_max: usize,
    /// The most bytes on their way to one follower; one message may overrun it.
    pub inflight_bytes_max: u64,
    /// The most bytes of log in memory: at this bound proposals are refused as `Overloaded` until
    /// [`Raft::compact`](super::Raft::compact) makes room. The caller keeps less than this behind the applied index.
    pub log_bytes_max: u64,
    /// The most bytes of log that are not committed yet: at this bound proposals are refused as `Overloaded`.
    pub uncommitted_bytes_max: u64,
    /// The most bytes of committed log that are not applied here yet: at this bound proposals are refused as
    /// `Overloaded`.
    pub unapplied_bytes_max: u64,
    /// The most ticks that a node waits, by a random draw from `0..=n`, before it begins an election of which it need
    /// not wait out the timeout: its connection to the leader broke, or a quorum is connected and nobody leads.
    pub hurried_election_ticks: u32,
    /// The most reads waiting for their round.
    pub reads_pending_max: usize,
    /// Whence election timeouts are drawn, and the numbers of the reads that are forwarded to the leader. Nodes may be
    /// given the same one, but a node needs another one at each start: its numbers must not come again.
    pub seed: u64,
}

/// What a core begins with: what is durable on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The durable term and vote.
    pub hard_state: HardState,
    /// The entry just before `entries`; at or below `applied`.
    pub prev: LogId,
    /// The durable log behind `prev`, contiguous.
    pub entries: Vec<Entry>,
    /// The last entry the state machine holds. It is committed, and is `prev` or one of `entries`.
    pub applied: LogId,
    /// The configuration in force at `applied`.
    pub configuration: Configuration,
    /// What the durable log is known to have held behind `entries`, and lost.
    pub damage: Option<Damage>,
}

/// Why a core cannot start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A setting is out of its range.
    Setting(&'static str),
    /// The log has a gap or its terms decrease at this entry.
    LogBroken(LogId),
    /// The configuration makes no sense, in this way.
    Configuration(&'static str),
    /// The log's last entry is of a later term than the hard state.
    TermBehindLog {
        /// The hard state handed in.
        hard_state: HardState,
        /// The log's last entry.
        last: LogId,
    },
    /// The state machine's last entry is not in the log.
    AppliedNotInLog {
        /// The state machine's last entry.
        applied: LogId,
        /// The entry before the log.
        prev: LogId,
        /// The log's last entry.
        last: LogId,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(what) => write!(f, "bad setting: {what}"),
            Self::Configuration(what) => write!(f, "the configuration makes no sense: {what}"),
            Self::LogBroken(at) => write!(f, "the log has a gap or a falling term at {at}"),
            Self::TermBehindLog { hard_state, last } => {
                write!(f, "the hard state's term {} is behind the log, which ends at {last}", hard_state.term)
            }
            Self::AppliedNotInLog { applied, prev, last } => {
                write!(
                    f,
                    "the applied entry {applied} is not in the log, which reaches from {prev} to {last}"
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}

const MIB: u64 = 1 << 20;

impl Config {
    /// The settings of a server with ticks of 10 ms: elections after 0.6 s, heartbeats every 60 ms, 64 MiB of log.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            election_timeout_ticks: 60,
            heartbeat_ticks: 6,
            append_bytes_max: MIB,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 * MIB,
            log_bytes_max: 128 * MIB,
            uncommitted_bytes_max: 64 * MIB,
            unapplied_bytes_max: 64 * MIB,
            hurried_election_ticks: 3,
            reads_pending_max: 8192,
            seed: id.0,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rules = [
            (self.id.0 > 0, "id must be at least 1"),
            (self.heartbeat_ticks > 0, "heartbeat_ticks must be at least 1"),
            (
                self.election_timeout_ticks > self.heartbeat_ticks,
                "election_timeout_ticks must exceed heartbeat_ticks",
            ),
            (self.election_timeout_ticks <= u32::MAX / 2, "election_timeout_ticks is too large"),
            (self.inflight_messages_max > 0, "inflight_messages_max must be at least 1"),
            (self.inflight_bytes_max > 0, "inflight_bytes_max must be at least 1"),
            (self.append_bytes_max > 0, "append_bytes_max must be at least 1"),
            (self.uncommitted_bytes_max > 0, "uncommitted_bytes_max must be at least 1"),
            (self.unapplied_bytes_max > 0, "unapplied_bytes_max must be at least 1"),
            (
                self.hurried_election_ticks <= self.election_timeout_ticks,
                "hurried_election_ticks must not exceed election_timeout_ticks",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(ConfigError::Setting(what)),
            None => Ok(()),
        }
    }
}

impl Boot {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(what) = self.configuration.flaw() {
            return Err(ConfigError::Configuration(what));
        }
        let mut last = self.prev;
        for entry in &self.entries {
            if entry.index != last.index.next() || entry.term < last.term {
                return Err(ConfigError::LogBroken(entry.log_id()));
            }
            last = entry.log_id();
        }
        let lost = self.damage.map_or(last, |damage| damage.last);
        if self.hard_state.term < last.term.max(lost.term) {
            return Err(ConfigError::TermBehindLog { hard_state: self.hard_state, last: lost.max(last) });
        }
        let holds_applied =
            self.applied == self.prev || self.entries.iter().any(|entry| entry.log_id() == self.applied);
        if !holds_applied {
            return Err(ConfigError::AppliedNotInLog { applied: self.applied, prev: self.prev, last });
        }
        Ok(())
    }
}
