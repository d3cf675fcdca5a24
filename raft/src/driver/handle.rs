//! How the rest of the process talks to a running node.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::SharedClock;
use crate::core::{
    Change, ChangeError, Configuration, Growth, Index, Member, NodeId, RoleName, Term, TransferError,
};
use crate::net::SharedNet;
use crate::snapshot::{ChunkReader, SnapshotDir, SnapshotError, SnapshotFile};
use crate::transport::{self, PeerOptions, Probe};

use super::handover::{HandOverError, HandOverWaiter};
use super::membership::{ChangeWaiter, Membership, MembershipError};
use super::status::NodeStatus;

/// Why a proposal was not answered. The variants say what may be done next: only [`OutcomeUnknown`] and [`Stopped`]
/// leave open whether the command was, or will be, applied (rule 14).
///
/// [`OutcomeUnknown`]: ProposeError::OutcomeUnknown
/// [`Stopped`]: ProposeError::Stopped
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not done. Ask the leader instead.
    #[error("this node is not the leader{}", hint_text(.hint))]
    NotLeader {
        /// Who probably leads.
        hint: Option<NodeId>,
    },
    /// Not done. A queue is full; try again after a little while.
    #[error("overloaded: too much is waiting to be committed or applied; try again later")]
    Overloaded,
    /// Not done, and never will be as it is.
    #[error("the command has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Not done: it would take room that too few voters have on their disks. It may be proposed again once they have.
    #[error("{}", no_space_text(.growth, .full))]
    NoSpace {
        /// What the command was taken for.
        growth: Growth,
        /// The voters that are short of room.
        full: BTreeSet<NodeId>,
    },
    /// Not done: another leader's entry was committed in its place. It may be proposed again.
    #[error("not done: a new leader committed another entry in its place; it may be proposed again")]
    Superseded,
    /// It may have been applied, or may yet be.
    #[error("outcome unknown: the cluster went on without this node telling what became of the command")]
    OutcomeUnknown,
    /// The node stopped while the command was under way; it may have been applied, or may yet be.
    #[error("outcome unknown: the node stopped")]
    Stopped,
}

/// Why a read index was not given. A read changes nothing, so it may always be asked for again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead and knows no leader to ask: ask another, or wait a little while.
    #[error("this node is not the leader{}", hint_text(.hint))]
    NotLeader {
        /// Who probably leads.
        hint: Option<NodeId>,
    },
    /// The leader changed, or did not answer in time.
    #[error("the leadership was lost, or the leader did not answer, while the read was being confirmed")]
    LeadershipLost,
    /// Too many reads wait; try again after a little while.
    #[error("overloaded: too many reads are waiting; try again later")]
    Overloaded,
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
}

fn hint_text(hint: &Option<NodeId>) -> String {
    hint.map_or_else(|| "; no leader is known".to_owned(), |id| format!("; {id} probably is"))
}

/// Names who is full, and the mend.
fn no_space_text(growth: &Growth, full: &BTreeSet<NodeId>) -> String {
    let ids = full.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match growth {
        Growth::Grows => format!(
            "no space: the disks of {ids} are below their low mark of free space, and too few voters have more; make \
             room on them (reads, deletes and compaction still work), and writes are taken again by themselves"
        ),
        Growth::Frees => format!(
            "no space: the disks of {ids} are below their critical mark of free space, and too few voters have more; \
             make room on them (reads still work), and commands are taken again by themselves"
        ),
    }
}

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: Term,
    /// This node's role in it.
    pub role: RoleName,
    /// The leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Whether this node leads and has committed an entry of its own term: everything that earlier leaders
    /// committed is then applied here or on its way.
    pub established: bool,
}

/// Why a node is no longer running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// It was asked to.
    #[error("shut down")]
    Shutdown,
    /// It is no longer a member: a change of membership removed it, and it has applied that, or a member refuses it
    /// because of that.
    #[error(
        "this node was removed from the cluster; to have it back, start it with an empty data directory and an id \
         that was never used, and add it as a new member"
    )]
    Removed,
    /// A disk or store failed: nothing is acknowledged after that (rule 2).
    #[error("stopped: {0}")]
    Failed(String),
}

/// What waits for a proposal's response.
pub(super) type ProposalWaiter<R> = oneshot::Sender<Result<R, ProposeError>>;
/// What waits for a read index.
pub(super) type ReadWaiter = oneshot::Sender<Result<Index, ReadError>>;

pub(super) enum Request<R> {
    Propose { command: Bytes, growth: Growth, waiter: ProposalWaiter<R> },
    Read { waiter: ReadWaiter },
    Status { waiter: oneshot::Sender<NodeStatus> },
    Change { changes: Vec<Change>, waiter: ChangeWaiter },
    Transfer { to: Option<NodeId>, waiter: HandOverWaiter },
    Snapshot { at_least: Index, waiter: oneshot::Sender<SnapshotFile> },
    Shutdown,
}

/// What a handle needs to look for other nodes by itself.
pub(super) struct Outside {
    pub(super) cluster: Option<u128>,
    pub(super) clock: SharedClock,
    pub(super) net: SharedNet,
    pub(super) options: PeerOptions,
    pub(super) snapshots: Arc<SnapshotDir>,
}

/// A running node. Clones are handles to the same node; it goes on running when all of them are dropped, until
/// [`shutdown`](Self::shutdown).
pub struct RaftHandle<R> {
    pub(super) id: NodeId,
    pub(super) command_bytes_max: u64,
    pub(super) requests: mpsc::Sender<Request<R>>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) membership: watch::Receiver<Membership>,
    pub(super) stopped: watch::Receiver<Option<Arc<StopReason>>>,
    pub(super) outside: Arc<Outside>,
}

impl<R> Clone for RaftHandle<R> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            command_bytes_max: self.command_bytes_max,
            requests: self.requests.clone(),
            leadership: self.leadership.clone(),
            membership: self.membership.clone(),
            stopped: self.stopped.clone(),
            outside: Arc::clone(&self.outside),
        }
    }
}

impl<R: Send + 'static> RaftHandle<R> {
    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Has `command` replicated and applied; answers what the state machine answered. The command is taken for one that
    /// may make the state grow.
    ///
    /// Dropping the future does not take the command back.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: Bytes) -> Result<R, ProposeError> {
        self.propose_start(command, Growth::Grows)?.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Like [`propose`](Self::propose), but told what the command does to the size of the state, and returns as soon as
    /// it is handed in; the receiver answers, or
    /// fails if the node stops.
    ///
    /// # Errors
    /// Those that are known at once.
    pub fn propose_start(
        &self,
        command: Bytes,
        growth: Growth,
    ) -> Result<oneshot::Receiver<Result<R, ProposeError>>, ProposeError> {
        let bytes = command.len() as u64;
        if bytes > self.command_bytes_max {
            return Err(ProposeError::TooLarge { bytes, limit: self.command_bytes_max });
        }
        let (waiter, answer) = oneshot::channel();
        match self.requests.try_send(Request::Propose { command, growth, waiter }) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ProposeError::Overloaded),
            // It never reached the event loop; but the caller cannot do better than with any stopped node.
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ProposeError::NotLeader { hint: None }),
        }
    }

    /// Waits until everything that was committed anywhere before the call is applied here: a read of the state machine
    /// after that is linearizable (§6.4). Any member can be asked; one that does not lead asks the leader.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self) -> Result<Index, ReadError> {
        let (waiter, answer) = oneshot::channel();
        match self.requests.try_send(Request::Read { waiter }) {
            Ok(()) => answer.await.unwrap_or(Err(ReadError::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReadError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReadError::Stopped),
        }
    }

    /// A snapshot file that holds everything that was committed anywhere before the call: the newest one, if it does,
    /// else one that is made for it. The file stays as long as it is held. Any member can be asked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn snapshot(&self) -> Result<SnapshotFile, ReadError> {
        let at_least = self.read_index().await?;
        let (waiter, answer) = oneshot::channel();
        match self.requests.try_send(Request::Snapshot { at_least, waiter }) {
            Ok(()) => answer.await.map_err(|_| ReadError::Stopped),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReadError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReadError::Stopped),
        }
    }

    /// Reads the frames of a snapshot file that is held. Reading blocks: it belongs on a lane.
    ///
    /// # Errors
    /// The disk failed.
    pub fn snapshot_frames(&self, file: &SnapshotFile) -> Result<ChunkReader, SnapshotError> {
        self.outside.snapshots.chunks(file)
    }

    /// Changes the membership: several members at once if need be (§4.3). Answers when the change has ended, with the
    /// configuration that is then committed. To be asked of the leader.
    ///
    /// Dropping the future does not take the change back.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn change_membership(&self, changes: Vec<Change>) -> Result<Configuration, MembershipError> {
        let (waiter, answer) = oneshot::channel();
        match self.requests.try_send(Request::Change { changes, waiter }) {
            Ok(()) => answer.await.unwrap_or(Err(MembershipError::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(MembershipError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(MembershipError::Refused(ChangeError::NotLeader { hint: None }))
            }
        }
    }

    /// Adds a learner (§4.2.1): looks for it at `address` first, and takes down which disk it has. With `joining` the
    /// leader makes it a voter by itself, once it has caught up; [`membership`](Self::membership) shows when. The node
    /// must have been started to join, with an empty data directory, and must be reachable. To be asked of the leader.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_member(
        &self,
        id: NodeId,
        address: String,
        context: Bytes,
        joining: bool,
    ) -> Result<Configuration, MembershipError> {
        let now = *self.leadership.borrow();
        if now.role != RoleName::Leader {
            return Err(MembershipError::Refused(ChangeError::NotLeader { hint: now.leader }));
        }
        let found = self.probe_member(id, &address).await?;
        let member = Member { incarnation: found.incarnation, address, context };
        self.change_membership(vec![Change::AddLearner { id, member, joining }]).await
    }

    /// Looks for a node that is to be added: whether it is reached at `address`, is `id`, and waits to be added or is in
    /// this cluster already.
    ///
    /// # Errors
    /// [`MembershipError::NotReady`].
    pub async fn probe_member(&self, id: NodeId, address: &str) -> Result<Probe, MembershipError> {
        let Outside { cluster, clock, net, options, .. } = &*self.outside;
        let not_ready = |why: String| MembershipError::NotReady { id, address: address.to_owned(), why };
        let probe = transport::probe(clock.as_ref(), net.as_ref(), options, self.id, address, id);
        let found = probe.await.map_err(not_ready)?;
        let why = match found.cluster {
            None if found.joining => return Ok(found),
            Some(_) if found.cluster == *cluster => return Ok(found),
            None => "it does not wait to be added: start it so that it joins",
            Some(_) => {
                "it belongs to another cluster: start it with an empty data directory, so that it joins"
            }
        };
        Err(not_ready(why.to_owned()))
    }

    /// Hands the leadership over (§3.10): to `to`, or to the voter that has most of the log. Answers when another
    /// node leads, with that node: nearly always, but not certainly, the one that was asked for.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, HandOverError> {
        let (waiter, answer) = oneshot::channel();
        match self.requests.try_send(Request::Transfer { to, waiter }) {
            Ok(()) => answer.await.unwrap_or(Err(HandOverError::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(HandOverError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(HandOverError::Refused(TransferError::NotLeader { hint: None }))
            }
        }
    }

    /// The configuration in force on this node; the receiver can wait for changes.
    #[must_use]
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// What the node is doing. `None` once it has stopped.
    pub async fn status(&self) -> Option<NodeStatus> {
        let (waiter, answer) = oneshot::channel();
        self.requests.send(Request::Status { waiter }).await.ok()?;
        answer.await.ok()
    }

    /// Who leads, as far as this node knows; the receiver can wait for changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Asks the node to stop, and waits until it has. One that leads hands the leadership over first, and answers
    /// what is under way; that takes an election timeout at most.
    pub async fn shutdown(&self) -> Arc<StopReason> {
        // An error means that it has stopped already.
        let _ = self.requests.send(Request::Shutdown).await;
        self.stopped().await
    }

    /// Waits until the node has stopped, for whatever reason.
    pub async fn stopped(&self) -> Arc<StopReason> {
        let mut stopped = self.stopped.clone();
        let reason = stopped.wait_for(Option::is_some).await.ok().and_then(|r| r.clone());
        reason.unwrap_or_else(|| Arc::new(StopReason::Failed("the node's event loop is gone".to_owned())))
    }
}
