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

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::NodeId;
use crate::disk::{Disk, OpenMode};
use crate::random::SplitMix;

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

/// What makes a cluster one cluster: its id, and the disks it was formed with. Drawn once, by one node, and the same
/// on all for ever; later changes of membership stand in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id.
    pub cluster: u128,
    /// The members it was formed of, with their incarnations.
    pub members: BTreeMap<NodeId, u64>,
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
