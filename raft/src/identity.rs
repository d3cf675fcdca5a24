//! The identity file: which member of which cluster a data directory belongs to.
//!
//! `<data-dir>/identity` is written at the first start, before anything else in the directory, and once more when
//! the cluster is formed. It holds the member's id, its *incarnation* and, once there is one, the cluster's record.
//!
//! An incarnation is a number drawn when the file is made. It stands for the promises this disk has kept: votes and
//! acknowledged entries. A disk that was wiped, or swapped for an empty one, draws another, and the cluster refuses
//! it under the old id: a voter that forgot its vote could vote twice, and one that forgot its entries could elect a
//! leader without them (rule 15: an empty disk is a new identity).
//!
//! The file is replaced whole: written under another name, fsynced, renamed, and the directory fsynced, so that a
//! crash leaves the old content or the new, never a mixture. A CRC32C covers all of it. A damaged file is an error
//! and not "no identity": the latter would make a wiped disk out of a bit error.
//!
//! ```text
//! "raftkvid"   8 bytes
//! u32 LE       format version, 1
//! body         postcard
//! u32 LE       CRC32C of everything before it; it closes the file in every format version
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::{Configuration, Member, NodeId};
use crate::disk::{Disk, OpenMode};
use crate::random::SplitMix;
use crate::snapshot::Origin;

/// The file's name in the data directory.
pub const IDENTITY_FILE: &str = "identity";

/// The name it is written under before it is renamed.
const STAGED_FILE: &str = "identity.staged";

/// What a node keeps in its data directory beside the identity. If any of it is there, the identity must be too.
const OTHER_ROOMS: [&str; 3] = ["logs", "snapshots", "store"];

const MAGIC: &[u8; 8] = b"raftkvid";
const FORMAT: u32 = 1;

/// Far more than a record of thousands of members takes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What makes a cluster one cluster: its id, and the members it was formed of. Drawn once, by one node, and the same
/// on all for ever; later changes of membership stand in the log. Who joins later gets this record too: its own
/// configuration begins where everyone's does, and the log does the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id.
    pub cluster: u128,
    /// The members it was formed of: which disk each is, and address and context as the forming node had them.
    pub members: BTreeMap<NodeId, Member>,
    /// The state that it began with, if it was restored from a backup: all of `members` had it on their disks.
    pub origin: Option<Origin>,
}

impl ClusterRecord {
    /// The configuration that the cluster begins with: the same on every node, for ever.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        Configuration {
            nodes: self.members.clone(),
            ..Configuration::of_voters(self.members.keys().copied())
        }
    }
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// This member.
    pub member: NodeId,
    /// Which of its disks this is.
    pub incarnation: u64,
    /// The cluster; `None` before it is formed. A node without it never votes.
    pub cluster: Option<ClusterRecord>,
    /// Whether the log was created: from then on a log that is missing is a lost one. The driver sets it, durably,
    /// before the log can hold a promise.
    pub log_created: bool,
}

/// A cluster id, as it is shown to people.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The identity cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error("identity file {}: {source}", path.display())]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file does not hold what was written to it.
    #[error(
        "identity file {} is damaged ({what}): restore it from a backup of this directory; if there is none, this \
         member's disk is lost: remove the member from the cluster and add a new one with an empty directory",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file was written by another version of this program.
    #[error(
        "identity file {} has format version {found}, this program knows {FORMAT}: start it with the version that \
         wrote it, or a newer one",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
    },
    /// There is data here, but nothing says whose.
    #[error(
        "{} holds {room}/ but no identity file: restore {IDENTITY_FILE} from a backup; a directory that is to start \
         empty must be empty",
        dir.display()
    )]
    Missing {
        /// The data directory.
        dir: PathBuf,
        /// What else is in it.
        room: &'static str,
    },
    /// The directory belongs to another member.
    #[error(
        "data directory {} belongs to member {found}, but this node is configured as {expected}: correct the id, or \
         give each node its own directory",
        dir.display()
    )]
    OtherMember {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who this node is to be.
        expected: NodeId,
    },
    /// The directory belongs to another cluster.
    #[error(
        "data directory {} belongs to cluster {}, not to {}: use the directory of this cluster's member, or an empty \
         one",
        dir.display(), ClusterId(*found), ClusterId(*expected)
    )]
    OtherCluster {
        /// The data directory.
        dir: PathBuf,
        /// The cluster it belongs to.
        found: u128,
        /// The cluster that was expected.
        expected: u128,
    },
}

/// Reads the identity in `dir`, or makes a new one there, durably. Creates the directory if need be; it must be
/// locked by the caller if others could use it at the same time.
///
/// `seed` is what a new incarnation is drawn from. It must be fresh at every start: with a seed used before, a wiped
/// disk would draw the incarnation of the old one.
///
/// # Errors
/// The directory belongs to another member, holds data without an identity, or the file cannot be read.
pub fn open(disk: &dyn Disk, dir: &Path, member: NodeId, seed: u64) -> Result<Identity, IdentityError> {
    disk.create_dir_all(dir).map_err(|source| IdentityError::Io { path: dir.to_owned(), source })?;
    if let Some(identity) = load(disk, dir)? {
        if identity.member != member {
            return Err(IdentityError::OtherMember {
                dir: dir.to_owned(),
                found: identity.member,
                expected: member,
            });
        }
        // A rename that a crash cut short may be seen and not be durable yet; from here on others rely on it.
        sync_dir(disk, dir)?;
        return Ok(identity);
    }
    refuse_orphans(disk, dir)?;
    sync_ancestors(disk, dir)?;
    let identity =
        Identity { member, incarnation: SplitMix::new(seed).draw(), cluster: None, log_created: false };
    store(disk, dir, &identity)?;
    Ok(identity)
}

/// Reads the identity in `dir`; `None` if there is none.
///
/// # Errors
/// The file cannot be read, or does not hold what was written to it.
pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    let io = |source| IdentityError::Io { path: path.clone(), source };
    if !disk.exists(&path).map_err(io)? {
        return Ok(None);
    }
    let file = disk.open(&path, OpenMode::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    if len > FILE_BYTES_MAX {
        return Err(IdentityError::Damaged { path, what: "it is far too long" });
    }
    let mut content = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    if file.read_at(&mut content, 0).map_err(io)? != content.len() {
        return Err(IdentityError::Damaged { path, what: "it is shorter than its length" });
    }
    decode(&path, &content).map(Some)
}

/// Replaces the identity in `dir`. When this returns, it is durable; after an error either may be there, and the
/// caller stops (rule 2).
///
/// # Errors
/// The disk failed.
pub fn store(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    let staged = dir.join(STAGED_FILE);
    let write = || {
        if disk.exists(&staged)? {
            disk.remove_file(&staged)?;
        }
        let file = disk.open(&staged, OpenMode::CreateNew)?;
        file.write_at(&encode(identity), 0)?;
        file.sync_data()?;
        disk.rename(&staged, &path)?;
        disk.sync_dir(dir)
    };
    write().map_err(|source| IdentityError::Io { path: path.clone(), source })
}

impl Identity {
    /// That this node is a member of `cluster`, or of none yet.
    ///
    /// # Errors
    /// It is a member of another one; `dir` is named in the message.
    pub fn expect_cluster(&self, dir: &Path, cluster: u128) -> Result<(), IdentityError> {
        match &self.cluster {
            Some(record) if record.cluster != cluster => Err(IdentityError::OtherCluster {
                dir: dir.to_owned(),
                found: record.cluster,
                expected: cluster,
            }),
            _ => Ok(()),
        }
    }
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut content = Vec::with_capacity(256);
    content.extend_from_slice(MAGIC);
    content.extend_from_slice(&FORMAT.to_le_bytes());
    let Ok(mut content) = postcard::to_extend(identity, content) else {
        panic!("an identity always has an encoding: {identity:?}");
    };
    let crc = crc32c::crc32c(&content);
    content.extend_from_slice(&crc.to_le_bytes());
    content
}

fn decode(path: &Path, content: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |what| IdentityError::Damaged { path: path.to_owned(), what };
    let Some((covered, crc)) = content.split_last_chunk::<4>() else {
        return Err(damaged("it is too short"));
    };
    if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
        return Err(damaged("its checksum does not fit"));
    }
    let Some(rest) = covered.strip_prefix(MAGIC) else {
        return Err(damaged("it does not begin like one"));
    };
    let Some((format, body)) = rest.split_first_chunk::<4>() else {
        return Err(damaged("it is too short"));
    };
    let found = u32::from_le_bytes(*format);
    if found != FORMAT {
        return Err(IdentityError::Format { path: path.to_owned(), found });
    }
    match postcard::take_from_bytes(body) {
        Ok((identity, [])) => Ok(identity),
        _ => Err(damaged("its content cannot be decoded")),
    }
}

/// Makes the names that lead to `dir` durable: a crash must not take the directory with all that is in it.
///
/// This is done at every start that finds no identity, not only when the directory was created: the start that
/// created it may have crashed right after. An ancestor that may not be read is the operator's own.
fn sync_ancestors(disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
    for ancestor in dir.ancestors().skip(1) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match disk.sync_dir(ancestor) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
                return Err(IdentityError::Io { path: ancestor.to_owned(), source: e });
            }
            _ => {}
        }
    }
    Ok(())
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
    disk.sync_dir(dir).map_err(|source| IdentityError::Io { path: dir.to_owned(), source })
}

/// Refuses a directory that holds data but no identity: a lost file must not turn a member into a new one.
fn refuse_orphans(disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
    for room in OTHER_ROOMS {
        let path = dir.join(room);
        let io = |source| IdentityError::Io { path: path.clone(), source };
        if disk.exists(&path).map_err(io)? && !disk.list(&path).map_err(io)?.is_empty() {
            return Err(IdentityError::Missing { dir: dir.to_owned(), room });
        }
    }
    Ok(())
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::transport::testing::{CrashDisk, Unsynced};

    const DIR: &str = "/var/raftkv/n2";

    fn dir() -> &'static Path {
        Path::new(DIR)
    }

    fn file() -> PathBuf {
        dir().join(IDENTITY_FILE)
    }

    fn record() -> ClusterRecord {
        let member = |id: u64| Member {
            incarnation: 11 * id,
            address: format!("n{id}:9"),
            context: bytes::Bytes::from(vec![id as u8]),
        };
        let members = [1, 2].map(|id| (NodeId(id), member(id))).into();
        ClusterRecord { cluster: 0x0123_4567_89ab_cdef, members, origin: None }
    }

    fn formed() -> Identity {
        Identity { member: NodeId(2), incarnation: 22, cluster: Some(record()), log_created: true }
    }

    #[test]
    fn the_first_start_draws_an_incarnation_and_the_next_ones_find_it() {
        let disk = CrashDisk::default();
        let first = open(&disk, dir(), NodeId(2), 1).unwrap();
        assert_eq!((first.member, &first.cluster, first.log_created), (NodeId(2), &None, false));
        for unsynced in [Unsynced::Lost, Unsynced::Kept] {
            assert_eq!(open(&disk.crash(unsynced), dir(), NodeId(2), 99).unwrap(), first);
        }
        let wiped = open(&CrashDisk::default(), dir(), NodeId(2), 2).unwrap();
        assert_ne!(wiped.incarnation, first.incarnation);
    }

    #[test]
    fn a_crash_at_any_call_leaves_the_old_identity_or_the_new_one() {
        for unsynced in [Unsynced::Lost, Unsynced::Kept] {
            for calls in 0.. {
                let disk = CrashDisk::default();
                let before = open(&disk, dir(), NodeId(2), 1).unwrap();
                let after = Identity { cluster: Some(record()), ..before.clone() };
                disk.fail_after(calls);
                let stored = store(&disk, dir(), &after);
                let found = load(&disk.crash(unsynced), dir()).unwrap().unwrap();
                if stored.is_ok() {
                    assert_eq!(found, after, "stored, so it is durable");
                    break;
                }
                assert!(found == before || found == after, "{calls}: {found:?}");
                // And it can be written again over whatever was left behind.
                let disk = disk.crash(unsynced);
                store(&disk, dir(), &after).unwrap();
                assert_eq!(load(&disk.crash(Unsynced::Lost), dir()).unwrap(), Some(after));
            }
        }
    }

    #[test]
    fn a_crash_at_any_call_of_the_first_start_is_no_start_or_a_whole_one() {
        for unsynced in [Unsynced::Lost, Unsynced::Kept] {
            for calls in 0.. {
                let disk = CrashDisk::default();
                disk.fail_after(calls);
                let first = open(&disk, dir(), NodeId(2), 1);
                let disk = disk.crash(unsynced);
                let second = open(&disk, dir(), NodeId(2), 2).unwrap();
                if let Ok(first) = first {
                    assert_eq!(second, first, "whoever was told this identity may rely on it");
                    break;
                }
                assert_eq!(open(&disk.crash(Unsynced::Lost), dir(), NodeId(2), 3).unwrap(), second);
            }
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_damage_and_says_what_to_do() {
        let good = encode(&formed());
        assert_eq!(decode(&file(), &good).unwrap(), formed());
        let check = |bytes: &[u8], what: String| {
            let disk = CrashDisk::default();
            disk.plant(&file(), bytes);
            let error = open(&disk, dir(), NodeId(2), 1).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{what}: {error}");
            let line = error.to_string();
            assert!(line.contains("/var/raftkv/n2/identity") && line.contains("restore it"), "{line}");
            assert_eq!(disk.bytes(&file()).unwrap(), bytes, "{what}: the evidence is left alone");
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            check(&bad, format!("byte {at}"));
            check(&good[..at], format!("cut at {at}"));
        }
        check(&[good.as_slice(), &[0]].concat(), "one byte more".to_owned());
        check(&vec![0; (FILE_BYTES_MAX + 1) as usize], "a giant".to_owned());
    }

    #[test]
    fn the_format_of_today_is_still_read() {
        // Format 1, as written by the first release.
        let hex = "726166746b76696401000000021601ef9bafcdf8acd1910102010b046e313a3901010216046e323a3901020001acb391b7";
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let now: String = encode(&formed()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(now, hex, "the format changed without a new version");
        assert_eq!(decode(&file(), &bytes).unwrap(), formed());
    }

    #[test]
    fn a_format_of_the_future_is_not_taken_for_damage() {
        let mut bytes = encode(&formed());
        bytes.truncate(bytes.len() - 4);
        bytes[8] = 2;
        bytes.extend_from_slice(b"what we cannot know");
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let error = decode(&file(), &bytes).unwrap_err();
        assert!(matches!(error, IdentityError::Format { found: 2, .. }), "{error}");
    }

    #[test]
    fn the_configuration_that_a_cluster_begins_with_knows_every_members_disk_and_address() {
        let configuration = record().configuration();
        assert_eq!(configuration.voters, [NodeId(1), NodeId(2)].into());
        assert_eq!(configuration.nodes, record().members);
        let bare = Configuration { nodes: BTreeMap::new(), ..configuration };
        assert_eq!(bare, Configuration::of_voters([NodeId(1), NodeId(2)]), "and nothing else");
    }

    #[test]
    fn another_members_directory_is_refused() {
        let disk = CrashDisk::default();
        open(&disk, dir(), NodeId(2), 1).unwrap();
        let line = open(&disk, dir(), NodeId(3), 1).unwrap_err().to_string();
        assert!(line.contains("n2") && line.contains("n3") && line.contains(DIR), "{line}");
    }

    #[test]
    fn another_clusters_directory_is_refused() {
        assert!(formed().expect_cluster(dir(), record().cluster).is_ok());
        assert!(Identity { cluster: None, ..formed() }.expect_cluster(dir(), 9).is_ok());
        let line = formed().expect_cluster(dir(), 9).unwrap_err().to_string();
        assert!(line.contains("00000000000000000123456789abcdef") && line.contains(DIR), "{line}");
    }

    #[test]
    fn data_without_an_identity_is_not_an_empty_directory() {
        for room in OTHER_ROOMS {
            let disk = CrashDisk::default();
            disk.plant(&dir().join(room).join("something"), b"data");
            let error = open(&disk, dir(), NodeId(2), 1).unwrap_err();
            assert!(
                matches!(&error, IdentityError::Missing { room: found, .. } if *found == room),
                "{error}"
            );
        }
    }
}
