//! What clients and servers say to each other.
//!
//! A connection begins with one [`ClientHello`] and one [`ServerHello`]; then the client sends [`Request`]s and the
//! server [`Answer`]s, each in a frame of its own (see [`FrameStream`]). Many requests may be under way at a time;
//! answers come in any order and name their request.
//!
//! Rule 14 of the design stands in [`Outcome`]: done, definitely not done, or unknown, and nothing in between.
//! Whether a thing may be asked for again is the client's decision, and depends on which of the three it got.
//!
//! postcard does not describe itself, so the shapes here are fixed for ever within a protocol version: a new kind
//! of request or answer goes to the end of its enum and raises [`PROTOCOL_MAX`]. The hello is the same in every
//! version.

mod membership;
mod stream;

use bytes::Bytes;
use raft::core::{Change, Lease, NodeId, RoleName, Space};
use serde::{Deserialize, Serialize};

use crate::command::{CommandBody, Range, RangeResult, Refusal, Response, Revision};

pub use membership::{Member, MemberRefusal, MemberRole, Membership};
pub use stream::{FrameStream, WireError};

/// The first bytes of a [`ClientHello`]: tells a client of this store from whatever else may knock.
pub const MAGIC: [u8; 8] = *b"raftkv/c";

/// The oldest protocol version that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;

/// The newest protocol version that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// Frames of the handshake are at most this long, so that a stranger cannot make a server wait for a large one.
pub const HELLO_BYTES_MAX: u32 = 512;

/// No frame is longer than this. Servers take far shorter requests (see [`ServerHello::Welcome`]); answers may be
/// longer than requests, because a transaction may read a lot.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// How a client introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The oldest version the client speaks.
    pub protocol_min: u16,
    /// The newest version the client speaks.
    pub protocol_max: u16,
}

impl ClientHello {
    /// What a client of this build says.
    pub const CURRENT: Self = Self { magic: MAGIC, protocol_min: PROTOCOL_MIN, protocol_max: PROTOCOL_MAX };
}

/// What the server answers to a [`ClientHello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerHello {
    /// Requests may be sent.
    Welcome {
        /// The version to be spoken: the newest that both know.
        protocol: u16,
        /// Who answers.
        node: NodeId,
        /// The most bytes that a [`RequestBody`] may have here.
        request_bytes_max: u64,
    },
    /// The connection ends here.
    Refused {
        /// Why, for a human.
        reason: String,
    },
}

impl ServerHello {
    /// The answer of node `node`, whose requests may have `request_bytes_max` bytes, to `hello`.
    #[must_use]
    pub fn answer(hello: &ClientHello, node: NodeId, request_bytes_max: u64) -> Self {
        if hello.magic != MAGIC {
            return Self::Refused {
                reason: "this is the client port of a raftkv server, and that was not a raftkv client".into(),
            };
        }
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        if min > max || max < PROTOCOL_MIN || min > PROTOCOL_MAX {
            return Self::Refused {
                reason: format!(
                    "the client speaks protocol versions {min} to {max}, this server {PROTOCOL_MIN} to {PROTOCOL_MAX}"
                ),
            };
        }
        Self::Welcome { protocol: max.min(PROTOCOL_MAX), node, request_bytes_max }
    }
}

/// What a request's frame holds beside its body, at most.
pub(crate) const REQUEST_OVERHEAD_BYTES: u32 = 16;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; no two requests under way on one connection have the same.
    pub id: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// The kinds of request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Replicate and apply this command. The server stamps its time.
    Propose(CommandBody),
    /// Read.
    Range {
        /// What.
        range: Range,
        /// Which state will do, and who may answer.
        mode: ReadMode,
    },
    /// How is this node?
    Status,
    /// How is the leader? It alone knows how far the others have come.
    LeaderStatus,
    /// Who is in the cluster, and where, as far as this node knows? It answers also while it knows of no leader.
    Members,
    /// Which configuration is in force, after everything that was acknowledged before?
    Membership,
    /// Change the membership, all steps at once. It is done when the configuration after them is committed, and not
    /// joint.
    ChangeMembers {
        /// The steps.
        changes: Vec<Change>,
        /// Only if the newest configuration is the one of this index: whoever reckoned with it reckoned with this.
        expected: Option<u64>,
    },
    /// Ask the node at this address who it is, and make it a learner. The answer is the configuration with it.
    AddMember {
        /// Its id, never used before.
        id: NodeId,
        /// Where its peers reach it.
        peer: String,
        /// Where it serves clients.
        client: String,
        /// Whether the leader is to make it a voter once it has caught up.
        joining: bool,
        /// As in [`ChangeMembers`](Self::ChangeMembers).
        expected: Option<u64>,
    },
    /// Hand the leadership over.
    TransferLeader {
        /// To whom; to whoever is best placed, if left out.
        to: Option<NodeId>,
    },
    /// Make a backup to be read from this node. It holds everything that was acknowledged before.
    BackupBegin,
    /// Give a frame of the backup.
    BackupRead {
        /// Which backup: the number that it was begun with.
        backup: u64,
        /// Which frame, from 0.
        frame: u64,
    },
    /// The backup is not needed any more. One that is not read for a while ends by itself.
    BackupEnd {
        /// Which one.
        backup: u64,
    },
}

/// Which state a read may see, and who may answer it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadMode {
    /// Everything that was acknowledged before; the leader answers.
    #[default]
    Leader,
    /// Everything that was acknowledged before; any member answers, after it has asked the leader up to where it must
    /// have applied (§6.4).
    Any,
    /// A state that may be old: any node answers by itself, without asking the others.
    Serializable,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's id.
    pub id: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request (rule 14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was done; a refusal that is part of the replicated history counts as done too.
    Done(Reply),
    /// It was not done and never will be, as far as this sending of it goes.
    NotDone(NotDone),
    /// Nobody can say whether it was done, or will be.
    Unknown(Unknown),
}

/// The answers proper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Of [`RequestBody::Propose`].
    Command(Response),
    /// Of [`RequestBody::Range`]. `more` is set when the limit, or the server's bound on the bytes of an answer,
    /// left pairs out; in the second case there are fewer pairs than the limit.
    Range(RangeResult),
    /// Of [`RequestBody::Range`], when it cannot be read at that revision.
    RangeRefused(Refusal),
    /// Of [`RequestBody::Status`] and [`RequestBody::LeaderStatus`].
    Status(Box<NodeReport>),
    /// Of [`RequestBody::Members`].
    Members(Vec<Member>),
    /// Of [`RequestBody::Membership`], and of each change of it: the configuration then.
    Membership(Box<Membership>),
    /// Of [`RequestBody::TransferLeader`]: who leads now.
    Leader(NodeId),
    /// Of [`RequestBody::BackupBegin`].
    Backup(BackupBegun),
    /// Of [`RequestBody::BackupRead`]: the frame as it stands in the file; empty behind the last one.
    BackupFrame(Bytes),
    /// Of [`RequestBody::BackupEnd`].
    BackupEnded,
}

/// A backup that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupBegun {
    /// Its number on this node.
    pub backup: u64,
    /// The last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// How many frames.
    pub frames: u64,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NotDone {
    /// Only the leader can do it.
    #[error("the node is not the leader{}", match .leader { Some(a) => format!("; {a} probably is"), None => "; it knows of none".into() })]
    NotLeader {
        /// The client address of the node that probably leads.
        leader: Option<String>,
    },
    /// Too much is under way; try again after a little while.
    #[error("overloaded: {what}")]
    Overloaded {
        /// Which bound was met.
        what: String,
    },
    /// The request is over a limit, and will be next time too.
    #[error("{reason}")]
    TooLarge {
        /// What is too large, how large it is, and the limit.
        reason: String,
    },
    /// The request makes no sense, and will not next time either.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// It would take room that too few members have on their disks. It can be sent again once they have.
    #[error("{reason}")]
    NoSpace {
        /// Who is short of room, and what to do.
        reason: String,
    },
    /// Another leader's entry took its place in the log, or a read lost its leader. It may be sent again.
    #[error("leadership changed before it was done")]
    Superseded,
    /// The node is going down; ask another.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// A change of the membership, or of the leadership, that cannot be.
    #[error("{0}")]
    Refused(MemberRefusal),
}

impl NotDone {
    /// Whether the same request may fare better elsewhere or later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NotLeader { .. } | Self::Overloaded { .. } | Self::Superseded | Self::ShuttingDown => true,
            // It takes somebody to make room: whoever asked is to know now.
            Self::NoSpace { .. } | Self::TooLarge { .. } | Self::Invalid { .. } => false,
            Self::Refused(refusal) => refusal.is_temporary(),
        }
    }
}

/// Why the outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Unknown {
    /// The cluster went on without this node learning what became of the command.
    #[error("the node was overtaken by a snapshot before it learnt what became of the command")]
    Overtaken,
    /// The node stopped while the command was under way.
    #[error("the node stopped while the command was under way")]
    Stopped,
    /// It was done, but its answer does not fit into a frame.
    #[error("the command was done, but its answer is too large to be sent")]
    AnswerTooLarge,
    /// The node ceased to lead while the change was under way: the next leader may finish it, or undo it.
    #[error(
        "the node ceased to lead while the change was under way; the list of members shows what became of it"
    )]
    LeadershipLost,
}

/// One node's state, as it sees itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its id.
    pub id: u64,
    /// The version of its program.
    pub version: String,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: u64,
    /// The leader of the term, if it knows one.
    pub leader: Option<u64>,
    /// The highest index that it knows to be committed.
    pub commit: u64,
    /// The last index applied.
    pub applied: u64,
    /// The last index in its log.
    pub last: u64,
    /// Its log lost entries to damage, up to this index, and has not got them back: it stands for no election.
    pub damaged: Option<u64>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Segments of the log on disk.
    pub log_segments: u64,
    /// The last index in the newest snapshot; 0 without one.
    pub snapshot: u64,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: u64,
    /// The last index that the store holds durably.
    pub checkpoint: u64,
    /// The store's revision.
    pub revision: Revision,
    /// Revisions below this are compacted.
    pub compacted: Revision,
    /// Bytes of the store on disk.
    pub store_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Bytes free on the disk of the data directory, beside the ballast, when the node last looked.
    pub free_bytes: Option<u64>,
    /// What the node makes of that.
    pub space: Space,
    /// Bytes of the data directory, if the node can tell.
    pub disk_bytes: Option<u64>,
    /// CPU time of the node's process so far, in microseconds, if the node can tell.
    pub cpu_us: Option<u64>,
    /// The voters of the configuration in force; of a joint one, those of the new half.
    pub voters: Vec<u64>,
    /// The voters of the old half of a joint configuration; otherwise none.
    pub voters_outgoing: Vec<u64>,
    /// The other members.
    pub learners: Vec<u64>,
    /// Those of them that become voters by themselves once they have caught up.
    pub joining: Vec<u64>,
    /// On what terms reads are answered by lease, if they are.
    pub lease: Option<Lease>,
    /// On a leader: to whom it is handing over.
    pub transferring: Option<u64>,
    /// On a leader: up to where all members are known to have the same state.
    pub agreed: u64,
    /// The first index at which the node's state was found to differ from another's.
    pub diverged: Option<u64>,
    /// On a leader: how far the others have come.
    pub peers: Vec<PeerReport>,
}

/// How far a member has come, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Which one.
    pub id: u64,
    /// The highest index known to be in its log.
    pub matched: u64,
    /// The next index to be sent to it.
    pub next: u64,
    /// Ticks since it last answered.
    pub silent_ticks: u32,
    /// How much room it last said that its disk has.
    pub space: Space,
    /// Whether it answered within the last election timeout.
    pub answers: bool,
}

#[cfg(test)]
mod tests;
