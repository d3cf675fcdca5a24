//! Who is at the other end: settled before anything else is said.
//!
//! The one who dials sends a hello, the one who accepts answers; both are frames. The hello names the sender
//! (cluster, member, incarnation) and whom it means to reach; the answer names who was in fact reached. Each end
//! checks the other's words against its own record of the cluster, so that
//!
//! - an address that now belongs to another cluster, or to another member, is noticed at once,
//! - a member whose disk was wiped is refused under its old id (rule 15; see [`identity`](crate::identity)),
//! - two programs without a protocol version in common part with a clear message.
//!
//! A hello begins with a magic number and the versions, and these two stay where they are in all versions to come;
//! what follows is read only if a version in common was found.
//!
//! The same listener serves the forming of a cluster: a hello for that purpose is answered with what this node knows
//! ([`formation`](crate::formation)).

use std::collections::BTreeSet;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::codec::{FrameError, FrameReader, decode_body, encode_frame};
use crate::core::NodeId;
use crate::identity::{ClusterId, ClusterRecord, Identity};
use crate::mutant;

/// The oldest protocol this program speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest protocol this program speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// "raftkvpr", so that a stranger is told from a peer of another version.
const MAGIC: u64 = u64::from_be_bytes(*b"raftkvpr");

/// The longest hello or answer: the record of a cluster of several hundred members. What a stranger can make this
/// node hold.
pub(crate) const HELLO_BYTES_MAX: u32 = 16 * 1024;

/// What comes first in a hello, in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Preamble {
    magic: u64,
    protocol_min: u16,
    protocol_max: u16,
}

/// What the one who dials says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The sender's cluster; `None` before it is formed.
    pub(crate) cluster: Option<u128>,
    /// The sender.
    pub(crate) member: NodeId,
    /// Which of the sender's disks.
    pub(crate) incarnation: u64,
    /// Whom the sender means to reach.
    pub(crate) to: NodeId,
    /// What the stream is for.
    pub(crate) purpose: Purpose,
}

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Messages of Raft.
    Messages,
    /// One snapshot.
    Snapshot,
    /// Is there a cluster yet? The stream ends with the answer.
    Formation {
        /// The members that the sender's configuration lists.
        listed: BTreeSet<NodeId>,
    },
}

impl Purpose {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Snapshot => "a snapshot",
            Self::Formation { .. } => "formation",
        }
    }
}

/// What the one who accepts says to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Go on, in this protocol.
    Accept { protocol: u16, cluster: u128, member: NodeId, incarnation: u64 },
    /// No.
    Refuse(Refusal),
    /// I am in no cluster. This is who I am, and whom my configuration lists.
    Empty { incarnation: u64, listed: BTreeSet<NodeId> },
    /// This is our cluster.
    Formed(ClusterRecord),
}

/// Why a node does not talk to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// No protocol version in common.
    Version {
        /// The oldest that the refusing node speaks.
        min: u16,
        /// The newest that it speaks.
        max: u16,
    },
    /// The refusing node's cluster is not formed yet.
    NotFormed,
    /// The refusing node is in another cluster.
    WrongCluster {
        /// The cluster of the refusing node.
        cluster: u128,
    },
    /// The refusing node is not the member that was meant.
    WrongMember {
        /// The member that it is.
        member: NodeId,
    },
    /// The sender is no member of the cluster.
    UnknownMember,
    /// The sender's id belongs to another disk.
    WrongIncarnation {
        /// The incarnation of that disk.
        expected: u64,
    },
}

impl Refusal {
    /// A short name, which does not change with the details.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Version { .. } => "version",
            Self::NotFormed => "not formed",
            Self::WrongCluster { .. } => "wrong cluster",
            Self::WrongMember { .. } => "wrong member",
            Self::UnknownMember => "unknown member",
            Self::WrongIncarnation { .. } => "wrong incarnation",
        }
    }

    /// What happened and how to mend it, in one sentence for the log of either end. `from` was refused by `to`.
    #[must_use]
    pub fn explain(&self, from: NodeId, to: NodeId) -> String {
        match self {
            Self::Version { min, max } => format!(
                "{to} speaks protocol versions {min} to {max}, {from} speaks others: upgrade the older program"
            ),
            Self::NotFormed => {
                format!("{to} is in no cluster yet: it joins when all listed members are reachable")
            }
            Self::WrongCluster { cluster } => format!(
                "{to} is in cluster {}, {from} is not: one of them has another cluster's address or data directory",
                ClusterId(*cluster)
            ),
            Self::WrongMember { member } => format!(
                "{from} dialled {to}, but {member} lives at that address: correct the address of {to} in the \
                 configuration of {from}"
            ),
            Self::UnknownMember => format!(
                "{from} is not a member of the cluster of {to}: add it as a new member, or correct its id or its peers"
            ),
            Self::WrongIncarnation { expected } => format!(
                "{from} has not the disk it joined with (that was {expected:016x}): restore its data directory, or \
                 remove {from} from the cluster and add a new member with another id"
            ),
        }
    }
}

/// Appends a hello, as a frame.
pub(crate) fn encode_hello(hello: &Hello, out: &mut BytesMut) -> Result<(), FrameError> {
    let preamble = Preamble { magic: MAGIC, protocol_min: PROTOCOL_MIN, protocol_max: PROTOCOL_MAX };
    encode_frame(&(preamble, hello), HELLO_BYTES_MAX, out)
}

/// What stands in the first frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// A hello, and the newest protocol that both speak.
    Hello(Hello, u16),
    /// A node of this kind, but of a version we cannot talk to.
    OtherVersion { min: u16, max: u16 },
}

/// Reads the first frame's body.
///
/// # Errors
/// It is not a hello.
fn decode_hello(body: &[u8]) -> Result<Greeting, FrameError> {
    let (preamble, rest) = postcard::take_from_bytes::<Preamble>(body).map_err(FrameError::Body)?;
    let Preamble { magic, protocol_min, protocol_max } = preamble;
    if magic != MAGIC {
        return Err(FrameError::Body(postcard::Error::DeserializeBadEncoding));
    }
    let protocol = protocol_max.min(PROTOCOL_MAX);
    if protocol < protocol_min.max(PROTOCOL_MIN) {
        return Ok(Greeting::OtherVersion { min: protocol_min, max: protocol_max });
    }
    Ok(Greeting::Hello(decode_body(rest)?, protocol))
}

/// Waits for the other end's hello; `None` if it left without a word.
///
/// # Errors
/// It is not a hello, or the stream broke.
pub(crate) async fn read_hello<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Result<Option<Greeting>, FrameError> {
    match reader.read_body().await? {
        Some(body) => decode_hello(body).map(Some),
        None => Ok(None),
    }
}

/// Answers a hello.
///
/// # Errors
/// The stream broke.
pub(crate) async fn write_answer<W: AsyncWrite + Unpin>(
    writer: &mut W,
    answer: &Answer,
) -> Result<(), FrameError> {
    let mut out = BytesMut::new();
    encode_frame(answer, HELLO_BYTES_MAX, &mut out)?;
    writer.write_all(&out).await?;
    writer.flush().await?;
    Ok(())
}

/// Decides about a hello. `listed` are the members that this node's configuration names.
pub(crate) fn judge(local: &Identity, listed: &BTreeSet<NodeId>, hello: &Hello, protocol: u16) -> Answer {
    if hello.to != local.member && !mutant!("cluster-mix") {
        return Answer::Refuse(Refusal::WrongMember { member: local.member });
    }
    let forming = matches!(hello.purpose, Purpose::Formation { .. });
    let Some(record) = &local.cluster else {
        return match forming {
            true => Answer::Empty { incarnation: local.incarnation, listed: listed.clone() },
            false => Answer::Refuse(Refusal::NotFormed),
        };
    };
    // One that asks whether there is a cluster may not know of it yet, but must not be in another.
    if hello.cluster != Some(record.cluster)
        && !(forming && hello.cluster.is_none())
        && !mutant!("cluster-mix")
    {
        return Answer::Refuse(Refusal::WrongCluster { cluster: record.cluster });
    }
    if let Some(refusal) = check_member(record, hello.member, hello.incarnation) {
        return Answer::Refuse(refusal);
    }
    if forming {
        return Answer::Formed(record.clone());
    }
    if !listed.contains(&hello.member) {
        return Answer::Refuse(Refusal::UnknownMember);
    }
    Answer::Accept { protocol, cluster: record.cluster, member: local.member, incarnation: local.incarnation }
}

/// Whether `member` is in the cluster, with the disk it joined with.
fn check_member(record: &ClusterRecord, member: NodeId, incarnation: u64) -> Option<Refusal> {
    match record.members.get(&member) {
        None => Some(Refusal::UnknownMember),
        // The planted bugs: a wiped disk comes back as the voter it was; anyone's messages are taken.
        Some(_) if mutant!("wiped-id") || mutant!("cluster-mix") => None,
        Some(expected) if *expected != incarnation => Some(Refusal::WrongIncarnation { expected: *expected }),
        Some(_) => None,
    }
}

/// The dialler's half of the check: whether who answered is whom it meant. What is wrong, if anything.
pub(crate) fn check_accept(record: &ClusterRecord, to: NodeId, answer: &Answer) -> Result<(), String> {
    if mutant!("cluster-mix") {
        return Ok(());
    }
    let Answer::Accept { protocol, cluster, member, incarnation } = answer else {
        return Err("it answered something that was not asked".to_owned());
    };
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(protocol) {
        return Err(format!("it chose protocol {protocol}, which was not offered"));
    }
    if *cluster != record.cluster {
        return Err(format!("it is in cluster {}: correct the address of {to}", ClusterId(*cluster)));
    }
    if *member != to {
        return Err(format!("{member} lives at that address: correct the address of {to}"));
    }
    match check_member(record, to, *incarnation) {
        None => Ok(()),
        Some(refusal) => Err(format!("it is not the {to} that joined ({})", refusal.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ClusterRecord {
        ClusterRecord { cluster: 77, members: [(NodeId(1), 11), (NodeId(2), 22), (NodeId(3), 33)].into() }
    }

    fn local() -> Identity {
        Identity { member: NodeId(2), incarnation: 22, cluster: Some(record()), log_created: true }
    }

    fn listed() -> BTreeSet<NodeId> {
        [NodeId(1), NodeId(2), NodeId(3)].into()
    }

    fn hello() -> Hello {
        Hello {
            cluster: Some(77),
            member: NodeId(1),
            incarnation: 11,
            to: NodeId(2),
            purpose: Purpose::Messages,
        }
    }

    fn refusal(local: &Identity, hello: &Hello) -> Refusal {
        match judge(local, &listed(), hello, 1) {
            Answer::Refuse(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_peer_is_accepted_and_accepts() {
        for purpose in [Purpose::Messages, Purpose::Snapshot] {
            let answer = judge(&local(), &listed(), &Hello { purpose, ..hello() }, 1);
            assert_eq!(
                answer,
                Answer::Accept { protocol: 1, cluster: 77, member: NodeId(2), incarnation: 22 }
            );
            assert_eq!(check_accept(&record(), NodeId(2), &answer), Ok(()));
        }
    }

    #[test]
    fn each_mismatch_has_its_refusal() {
        let other = Hello { cluster: Some(78), ..hello() };
        assert_eq!(refusal(&local(), &other), Refusal::WrongCluster { cluster: 77 });
        let none = Hello { cluster: None, ..hello() };
        assert_eq!(refusal(&local(), &none), Refusal::WrongCluster { cluster: 77 });
        let misdirected = Hello { to: NodeId(3), ..hello() };
        assert_eq!(refusal(&local(), &misdirected), Refusal::WrongMember { member: NodeId(2) });
        let stranger = Hello { member: NodeId(4), ..hello() };
        assert_eq!(refusal(&local(), &stranger), Refusal::UnknownMember);
        let wiped = Hello { incarnation: 12, ..hello() };
        assert_eq!(refusal(&local(), &wiped), Refusal::WrongIncarnation { expected: 11 });
        let unformed = Identity { cluster: None, ..local() };
        assert_eq!(refusal(&unformed, &hello()), Refusal::NotFormed);
    }

    #[test]
    fn who_is_not_a_peer_any_more_is_unknown() {
        let answer = judge(&local(), &[NodeId(2), NodeId(3)].into(), &hello(), 1);
        assert_eq!(answer, Answer::Refuse(Refusal::UnknownMember));
    }

    #[test]
    fn the_record_goes_only_to_the_disk_that_is_in_it() {
        let ask = Hello { cluster: None, purpose: Purpose::Formation { listed: listed() }, ..hello() };
        assert_eq!(judge(&local(), &listed(), &ask, 1), Answer::Formed(record()));
        let wiped = Hello { incarnation: 12, ..ask.clone() };
        assert_eq!(refusal(&local(), &wiped), Refusal::WrongIncarnation { expected: 11 });
        let stranger = Hello { member: NodeId(9), ..ask.clone() };
        assert_eq!(refusal(&local(), &stranger), Refusal::UnknownMember);
        let formed_elsewhere = Hello { cluster: Some(5), ..ask.clone() };
        assert_eq!(refusal(&local(), &formed_elsewhere), Refusal::WrongCluster { cluster: 77 });
        let unformed = Identity { cluster: None, ..local() };
        assert_eq!(judge(&unformed, &listed(), &ask, 1), Answer::Empty { incarnation: 22, listed: listed() });
    }

    #[test]
    fn the_dialler_checks_who_answered() {
        let accept = |cluster, member, incarnation, protocol| Answer::Accept {
            protocol,
            cluster,
            member: NodeId(member),
            incarnation,
        };
        for (answer, word) in [
            (accept(78, 2, 22, 1), "is in cluster"),
            (accept(77, 3, 33, 1), "n3 lives at that address"),
            (accept(77, 2, 23, 1), "wrong incarnation"),
            (accept(77, 2, 22, 2), "protocol 2"),
            (Answer::Formed(record()), "not asked"),
        ] {
            let error = check_accept(&record(), NodeId(2), &answer).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn versions_are_negotiated_and_a_hello_of_the_future_is_still_understood_that_far() {
        let encode = |min: u16, max: u16, magic: u64| {
            let preamble = Preamble { magic, protocol_min: min, protocol_max: max };
            postcard::to_stdvec(&(preamble, hello())).unwrap()
        };
        assert_eq!(decode_hello(&encode(1, 9, MAGIC)).unwrap(), Greeting::Hello(hello(), 1));
        assert_eq!(decode_hello(&encode(2, 9, MAGIC)).unwrap(), Greeting::OtherVersion { min: 2, max: 9 });
        assert_eq!(decode_hello(&encode(0, 0, MAGIC)).unwrap(), Greeting::OtherVersion { min: 0, max: 0 });
        let mut future = encode(2, 3, MAGIC);
        future.truncate(14);
        future.extend_from_slice(b"whatever a hello will hold then");
        assert_eq!(decode_hello(&future).unwrap(), Greeting::OtherVersion { min: 2, max: 3 });
        assert!(decode_hello(&encode(1, 1, MAGIC ^ 1)).unwrap_err().is_garbage());
        assert!(decode_hello(b"GET / HTTP/1.1").unwrap_err().is_garbage());
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for refusal in [
            Refusal::Version { min: 1, max: 2 },
            Refusal::NotFormed,
            Refusal::WrongCluster { cluster: 7 },
            Refusal::WrongMember { member: NodeId(3) },
            Refusal::UnknownMember,
            Refusal::WrongIncarnation { expected: 7 },
        ] {
            let line = refusal.explain(NodeId(1), NodeId(2));
            assert!(line.contains("n2") || line.contains("n1"), "{line}");
            assert!(line.contains(": ") && !line.contains('\n'), "{line}");
        }
    }
}
