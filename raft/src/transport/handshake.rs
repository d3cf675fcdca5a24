//! Who is at the other end: settled before anything else is said.
//!
//! The one who dials sends a hello, the one who accepts answers; both are frames. The hello names the sender
//! (cluster, member, incarnation, and the address at which it is reached) and whom it means to reach; the answer names
//! who was in fact reached. Each end checks the other's words against what it knows of the cluster, so that
//!
//! - an address that now belongs to another cluster, or to another member, is noticed at once,
//! - a member whose disk was wiped is refused under its old id (rule 15; see [`identity`](crate::identity)),
//! - a member that was removed, by a configuration that is committed, is told so, and stops,
//! - two programs without a protocol version in common part with a clear message.
//!
//! Whom this node does not know *yet* it lets in all the same, if it comes from the right cluster: the configuration
//! that names it may be on its way, and a vote for it may be what brings it (§4.1). Only so many of them at a time.
//!
//! A hello begins with a magic number and the versions, and these two stay where they are in all versions to come;
//! what follows is read only if a version in common was found.
//!
//! The same listener serves the forming of a cluster and those who want to join it: a hello for that purpose is
//! answered with what this node knows ([`formation`](crate::formation)). And it tells anyone who it is
//! ([`probe`](super::probe)).

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::codec::{FrameError, FrameReader, decode_body, encode_frame};
use crate::core::NodeId;
use crate::identity::{ClusterId, ClusterRecord, Identity};
use crate::mutant;
use crate::snapshot::Origin;

/// The oldest protocol this program speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest protocol this program speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// "raftkvpr", so that a stranger is told from a peer of another version.
const MAGIC: u64 = u64::from_be_bytes(*b"raftkvpr");

/// The longest hello. What a stranger can make this node hold.
pub(crate) const HELLO_BYTES_MAX: u32 = 16 * 1024;

/// The longest answer: the record of a cluster of a thousand members. It comes from whom this node has dialled.
pub(crate) const ANSWER_BYTES_MAX: u32 = 256 * 1024;

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
    /// Where the sender is reached, for whoever does not know it yet.
    pub(crate) address: String,
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
    /// Am I a member by now? The stream ends with the answer.
    Join,
    /// Who are you? The stream ends with the answer.
    Probe,
}

impl Purpose {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Snapshot => "a snapshot",
            Self::Formation { .. } => "formation",
            Self::Join => "joining",
            Self::Probe => "a probe",
        }
    }

    /// Whether it asks for the record of the cluster.
    const fn asks(&self) -> bool {
        matches!(self, Self::Formation { .. } | Self::Join)
    }
}

/// What the one who accepts says to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Go on, in this protocol.
    Accept { protocol: u16, cluster: u128, member: NodeId, incarnation: u64 },
    /// No.
    Refuse(Refusal),
    /// I am in no cluster. This is who I am, whom my configuration lists, and what I am to begin with.
    Empty { incarnation: u64, listed: BTreeSet<NodeId>, origin: Option<Origin> },
    /// This is our cluster.
    Formed(ClusterRecord),
    /// This is who I am.
    Probed(Probe),
}

/// Who lives at an address, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Its id.
    pub member: NodeId,
    /// Which of its disks it runs on.
    pub incarnation: u64,
    /// The cluster it is in, if any.
    pub cluster: Option<u128>,
    /// Whether it has promised nothing to anyone: it is in no cluster and never had a log.
    pub empty: bool,
    /// Whether it waits to be added to a cluster.
    pub joining: bool,
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
    /// The sender is no member of the cluster, as far as the refusing node knows.
    UnknownMember,
    /// The sender's id belongs to another disk.
    WrongIncarnation {
        /// The incarnation of that disk.
        expected: u64,
    },
    /// The sender was a member, and was removed: a committed configuration says so, and every later one will.
    Removed,
    /// The refusing node does not know the sender, and listens to as many of those as it may already.
    Crowded,
    /// The refusing node waits to be added to a cluster, and takes no part in forming one.
    Joining,
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
            Self::Removed => "removed",
            Self::Crowded => "crowded",
            Self::Joining => "joining",
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
            Self::Removed => format!(
                "{from} was removed from the cluster of {to}: stop it; to have it back, start it with an empty data \
                 directory and an id that was never used, and add it as a new member"
            ),
            Self::Crowded => format!(
                "{to} does not know {from} and hears {STRANGERS_MAX} others it does not know already: remove those \
                 that are no members"
            ),
            Self::Joining => format!(
                "{to} waits to be added to a cluster and forms none: start it without joining, or leave it out of the \
                 list of {from} and add it later"
            ),
        }
    }
}

/// How many members that this node does not know yet may have a stream of messages to it.
pub(crate) const STRANGERS_MAX: usize = 16;

/// Whom a node lets in, by what it has come to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roster {
    /// The cluster is to be formed of these, and to begin with this state.
    Forming { listed: BTreeSet<NodeId>, origin: Option<Origin> },
    /// It waits to be added to a cluster.
    Joining,
    /// It is in a cluster.
    Formed(Members),
}

/// The members as this node's newest configuration has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Which disk each one is, 0 if that is not known. Those that are leaving and are still to get entries are here.
    pub(crate) incarnations: BTreeMap<NodeId, u64>,
    /// Those that were members once, by what is committed.
    pub(crate) removed: BTreeSet<NodeId>,
    /// Whether one more that is neither may be heard.
    pub(crate) room: bool,
}

impl Members {
    /// What is wrong with a member that says it is this one.
    fn check(&self, member: NodeId, incarnation: u64) -> Result<(), Refusal> {
        check_member(&self.incarnations, &self.removed, member, incarnation)
    }
}

/// What speaks against one that says it is this member, with this disk.
pub(crate) fn check_member(
    incarnations: &BTreeMap<NodeId, u64>,
    removed: &BTreeSet<NodeId>,
    member: NodeId,
    incarnation: u64,
) -> Result<(), Refusal> {
    match incarnations.get(&member) {
        // The planted bugs: a wiped disk comes back as the voter it was; anyone's messages are taken.
        Some(_) if mutant!("wiped-id") || mutant!("cluster-mix") => Ok(()),
        Some(0) => Ok(()),
        Some(expected) if *expected != incarnation => Err(Refusal::WrongIncarnation { expected: *expected }),
        Some(_) => Ok(()),
        None if removed.contains(&member) => Err(Refusal::Removed),
        None => Err(Refusal::UnknownMember),
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
    encode_frame(answer, ANSWER_BYTES_MAX, &mut out)?;
    writer.write_all(&out).await?;
    writer.flush().await?;
    Ok(())
}

/// Decides about a hello.
pub(crate) fn judge(local: &Identity, roster: &Roster, hello: &Hello, protocol: u16) -> Answer {
    let Identity { member, incarnation, .. } = *local;
    if matches!(hello.purpose, Purpose::Probe) {
        let cluster = local.cluster.as_ref().map(|record| record.cluster);
        let empty = cluster.is_none() && !local.log_created;
        let joining = matches!(roster, Roster::Joining);
        return Answer::Probed(Probe { member, incarnation, cluster, empty, joining });
    }
    if hello.to != member && !mutant!("cluster-mix") {
        return Answer::Refuse(Refusal::WrongMember { member });
    }
    let members = match (roster, &hello.purpose) {
        (Roster::Forming { listed, origin }, Purpose::Formation { .. }) => {
            return Answer::Empty { incarnation, listed: listed.clone(), origin: *origin };
        }
        (Roster::Joining, Purpose::Formation { .. }) => return Answer::Refuse(Refusal::Joining),
        (Roster::Forming { .. } | Roster::Joining, _) => return Answer::Refuse(Refusal::NotFormed),
        (Roster::Formed(members), _) => members,
    };
    let Some(record) = &local.cluster else { return Answer::Refuse(Refusal::NotFormed) };
    let asks = hello.purpose.asks();
    // One that asks for the cluster may not know of it yet, but must not be in another.
    if hello.cluster != Some(record.cluster) && !(asks && hello.cluster.is_none()) && !mutant!("cluster-mix")
    {
        return Answer::Refuse(Refusal::WrongCluster { cluster: record.cluster });
    }
    match members.check(hello.member, hello.incarnation) {
        Ok(()) if asks => Answer::Formed(record.clone()),
        Err(Refusal::UnknownMember) if !asks && !members.room => Answer::Refuse(Refusal::Crowded),
        Err(refusal) if asks || refusal != Refusal::UnknownMember => Answer::Refuse(refusal),
        _ => Answer::Accept { protocol, cluster: record.cluster, member, incarnation },
    }
}

/// The dialler's half of the check: whether who answered is whom it meant, of which `incarnation` is known if it is
/// not 0. What is wrong, if anything.
pub(crate) fn check_accept(
    cluster: u128,
    to: NodeId,
    incarnation: u64,
    answer: &Answer,
) -> Result<(), String> {
    if mutant!("cluster-mix") {
        return Ok(());
    }
    let Answer::Accept { protocol, cluster: its_cluster, member, incarnation: its_incarnation } = answer
    else {
        return Err("it answered something that was not asked".to_owned());
    };
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(protocol) {
        return Err(format!("it chose protocol {protocol}, which was not offered"));
    }
    if *its_cluster != cluster {
        return Err(format!("it is in cluster {}: correct the address of {to}", ClusterId(*its_cluster)));
    }
    if *member != to {
        return Err(format!("{member} lives at that address: correct the address of {to}"));
    }
    if incarnation != 0 && *its_incarnation != incarnation && !mutant!("wiped-id") {
        return Err(format!("it is not the {to} that joined (wrong incarnation)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Member;

    fn record() -> ClusterRecord {
        let member = |id: u64| Member { incarnation: 11 * id, ..Member::at(format!("n{id}")) };
        ClusterRecord {
            cluster: 77,
            members: [1, 2, 3].map(|id| (NodeId(id), member(id))).into(),
            origin: None,
        }
    }

    fn local() -> Identity {
        Identity { member: NodeId(2), incarnation: 22, cluster: Some(record()), log_created: true }
    }

    fn listed() -> BTreeSet<NodeId> {
        [NodeId(1), NodeId(2), NodeId(3)].into()
    }

    /// n1 and n3 are members, n4 with a disk that is not known; n8 was one.
    fn members() -> Members {
        Members {
            incarnations: [(NodeId(1), 11), (NodeId(3), 33), (NodeId(4), 0)].into(),
            removed: [NodeId(8)].into(),
            room: true,
        }
    }

    fn hello() -> Hello {
        Hello {
            cluster: Some(77),
            member: NodeId(1),
            incarnation: 11,
            address: "n1".to_owned(),
            to: NodeId(2),
            purpose: Purpose::Messages,
        }
    }

    fn answer(hello: &Hello) -> Answer {
        judge(&local(), &Roster::Formed(members()), hello, 1)
    }

    fn refusal(hello: &Hello) -> Refusal {
        refused(answer(hello))
    }

    fn refused(answer: Answer) -> Refusal {
        match answer {
            Answer::Refuse(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_peer_is_accepted_and_accepts() {
        for purpose in [Purpose::Messages, Purpose::Snapshot] {
            let answer = answer(&Hello { purpose, ..hello() });
            assert_eq!(
                answer,
                Answer::Accept { protocol: 1, cluster: 77, member: NodeId(2), incarnation: 22 }
            );
            for known in [22, 0] {
                assert_eq!(check_accept(77, NodeId(2), known, &answer), Ok(()));
            }
        }
    }

    #[test]
    fn each_mismatch_has_its_refusal() {
        let other = Hello { cluster: Some(78), ..hello() };
        assert_eq!(refusal(&other), Refusal::WrongCluster { cluster: 77 });
        let none = Hello { cluster: None, ..hello() };
        assert_eq!(refusal(&none), Refusal::WrongCluster { cluster: 77 });
        let misdirected = Hello { to: NodeId(3), ..hello() };
        assert_eq!(refusal(&misdirected), Refusal::WrongMember { member: NodeId(2) });
        let wiped = Hello { incarnation: 12, ..hello() };
        assert_eq!(refusal(&wiped), Refusal::WrongIncarnation { expected: 11 });
        let removed = Hello { member: NodeId(8), ..hello() };
        assert_eq!(refusal(&removed), Refusal::Removed);
        let unformed = Identity { cluster: None, ..local() };
        for roster in [Roster::Forming { listed: listed(), origin: None }, Roster::Joining] {
            assert_eq!(refused(judge(&unformed, &roster, &hello(), 1)), Refusal::NotFormed);
        }
    }

    #[test]
    fn one_that_is_not_known_yet_is_heard_while_there_is_room() {
        let stranger = Hello { member: NodeId(5), ..hello() };
        assert!(matches!(answer(&stranger), Answer::Accept { .. }));
        let full = Roster::Formed(Members { room: false, ..members() });
        assert_eq!(refused(judge(&local(), &full, &stranger, 1)), Refusal::Crowded);
        assert!(matches!(judge(&local(), &full, &hello(), 1), Answer::Accept { .. }), "a member always is");
        let foreign = Hello { cluster: Some(78), ..stranger };
        assert_eq!(refusal(&foreign), Refusal::WrongCluster { cluster: 77 });
    }

    #[test]
    fn a_disk_that_is_not_known_may_be_any_and_one_that_is_leaving_is_a_member_still() {
        assert!(matches!(answer(&Hello { member: NodeId(4), ..hello() }), Answer::Accept { .. }));
        let mut leaving = members();
        leaving.removed.insert(NodeId(1));
        let roster = Roster::Formed(leaving);
        assert!(matches!(judge(&local(), &roster, &hello(), 1), Answer::Accept { .. }));
    }

    #[test]
    fn the_record_goes_only_to_the_disk_that_is_in_the_configuration() {
        for purpose in [Purpose::Formation { listed: listed() }, Purpose::Join] {
            let ask = Hello { cluster: None, purpose, ..hello() };
            assert_eq!(answer(&ask), Answer::Formed(record()));
            let added = Hello { member: NodeId(3), incarnation: 33, ..ask.clone() };
            assert_eq!(answer(&added), Answer::Formed(record()));
            let wiped = Hello { incarnation: 12, ..ask.clone() };
            assert_eq!(refusal(&wiped), Refusal::WrongIncarnation { expected: 11 });
            let stranger = Hello { member: NodeId(9), ..ask.clone() };
            assert_eq!(refusal(&stranger), Refusal::UnknownMember);
            let removed = Hello { member: NodeId(8), ..ask.clone() };
            assert_eq!(refusal(&removed), Refusal::Removed);
            let formed_elsewhere = Hello { cluster: Some(5), ..ask.clone() };
            assert_eq!(refusal(&formed_elsewhere), Refusal::WrongCluster { cluster: 77 });
        }
    }

    #[test]
    fn a_node_without_a_cluster_says_what_it_waits_for() {
        let unformed = Identity { cluster: None, ..local() };
        let forms = Hello { cluster: None, purpose: Purpose::Formation { listed: listed() }, ..hello() };
        let joins = Hello { cluster: None, purpose: Purpose::Join, ..hello() };
        let forming = Roster::Forming { listed: listed(), origin: None };
        let empty = Answer::Empty { incarnation: 22, listed: listed(), origin: None };
        assert_eq!(judge(&unformed, &forming, &forms, 1), empty);
        assert_eq!(refused(judge(&unformed, &forming, &joins, 1)), Refusal::NotFormed);
        assert_eq!(
            refused(judge(&unformed, &Roster::Joining, &forms, 1)),
            Refusal::Joining,
            "it forms nothing"
        );
        assert_eq!(refused(judge(&unformed, &Roster::Joining, &joins, 1)), Refusal::NotFormed);
    }

    #[test]
    fn anyone_is_told_who_lives_here() {
        let ask =
            Hello { cluster: None, member: NodeId(9), to: NodeId(7), purpose: Purpose::Probe, ..hello() };
        let probe =
            Probe { member: NodeId(2), incarnation: 22, cluster: Some(77), empty: false, joining: false };
        assert_eq!(answer(&ask), Answer::Probed(probe.clone()));
        let unformed = Identity { cluster: None, log_created: false, ..local() };
        let empty = Probe { cluster: None, empty: true, ..probe };
        assert_eq!(
            judge(&unformed, &Roster::Forming { listed: listed(), origin: None }, &ask, 1),
            Answer::Probed(empty.clone())
        );
        let joining = Probe { joining: true, ..empty };
        assert_eq!(judge(&unformed, &Roster::Joining, &ask, 1), Answer::Probed(joining));
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
            let error = check_accept(77, NodeId(2), 22, &answer).unwrap_err();
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
            Refusal::Removed,
            Refusal::Crowded,
            Refusal::Joining,
        ] {
            let line = refusal.explain(NodeId(1), NodeId(2));
            assert!(line.contains("n2") || line.contains("n1"), "{line}");
            assert!(line.contains(": ") && !line.contains('\n'), "{line}");
        }
    }
}
