//! Snapshot files: the state up to one entry, written once, verified whenever they are read.
//!
//! # What it is
//! A snapshot stands for all entries up to and including one (§5.1 of Ongaro's dissertation). Its file is a
//! sequence of frames: a header that says what it stands for, the state in chunks of up to 1 MiB, a footer. The same
//! frames, byte for byte, are a transfer to a follower (§5.3): the sender gives out what stands in the file, the
//! receiver stages what it verified. `format` describes the bytes.
//!
//! # Rules
//! - A snapshot is there whole or not at all: it is written under a staged name, synced, renamed, and the directory
//!   is synced. Only then are older ones removed. Staged files that a crash left behind go at the next start.
//! - Only newer replaces older: committing a snapshot that is not newer than the newest changes nothing.
//! - A file stays as long as somebody holds its [`SnapshotFile`], to send or to install it; once it is no longer the
//!   newest, it is removed at the first commit after that.
//! - Nothing of a chunk is given out, or written on behalf of a peer, before its checksum was right; the end of the
//!   state is reported only after the footer has confirmed length and checksum of the whole.
//! - Chunks of different snapshots or transfers never mix: every checksum begins from the header's, and counts the
//!   chunks (logcabin#174, openraft#1113).
//!
//! # Deliberately absent
//! Staged files that outlive their process: a transfer that the receiver's crash broke off begins anew. Reading and verifying the whole file at start: header and footer are looked
//! at then, the rest when it is read.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod error;
mod format;
mod loose;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::{Index, LogId, SnapshotMeta};
use crate::disk::{OpenMode, SharedDisk};

pub use error::SnapshotError;
pub use loose::{FrameCheck, NO_CLUSTER, Origin, SnapshotLabel, open_loose, restore_dir, verify_loose};
pub use reader::{ChunkReader, SnapshotReader};
pub use writer::{SnapshotReceiver, SnapshotWriter};

use error::Context;
use format::{CHUNK_BYTES_MAX, FOOTER_BYTES, FRAME_HEAD_BYTES, peek_footer};
use writer::Staged;

/// How long a frame of a transfer can be.
pub const FRAME_BYTES_MAX: usize = FRAME_HEAD_BYTES + CHUNK_BYTES_MAX;

const SUFFIX: &str = ".snap";
const STAGED_SUFFIX: &str = ".tmp";

/// A snapshot that is complete and durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// The checksum of the state. With `meta` and `bytes` it tells the file from one that another node, or another
    /// run, has made of the same entries.
    pub checksum: u32,
    /// Shared by all clones: as long as there is one, the file is not removed.
    path: Arc<Path>,
}

impl SnapshotFile {
    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a cluster begins with that is restored from this file.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { last: self.meta.last, bytes: self.bytes, checksum: self.checksum }
    }
}

/// The directory of a node's snapshots. Shared by those who write, read, send and receive them.
#[derive(Debug)]
pub struct SnapshotDir {
    folder: Arc<Folder>,
}

/// What the directory's writers and receivers share.
struct Folder {
    disk: SharedDisk,
    dir: PathBuf,
    cluster: u128,
    /// Never held over a disk call.
    state: Mutex<State>,
    /// Held while a commit changes names, so that of two at a time the newer one stays.
    committing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<SnapshotFile>,
    /// Older ones that may still be in use.
    replaced: Vec<Arc<Path>>,
    /// Names the next staged file.
    staged: u64,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("dir", &self.dir).field("state", &self.state).finish_non_exhaustive()
    }
}

impl SnapshotDir {
    /// Opens the directory, or makes it. Removes staged files and all but the newest snapshot, of which header,
    /// footer and length are checked.
    ///
    /// # Errors
    /// The newest snapshot is damaged or another cluster's, or the disk failed.
    pub fn open(disk: SharedDisk, dir: &Path, cluster: u128) -> Result<Self, SnapshotError> {
        disk.create_dir_all(dir).during("create directory", dir)?;
        let parent = dir.parent().unwrap_or(dir);
        disk.sync_dir(parent).during("sync directory", parent)?;
        // A name that another process gave and did not sync must be durable before older ones are removed.
        disk.sync_dir(dir).during("sync directory", dir)?;
        let folder = Folder {
            disk,
            dir: dir.to_owned(),
            cluster,
            state: Mutex::default(),
            committing: Mutex::default(),
        };
        let mut newest: Option<(LogId, String)> = None;
        let mut unneeded = Vec::new();
        for name in folder.disk.list(dir).during("list", dir)? {
            if let Some(last) = named(&name) {
                let newer = newest.as_ref().is_none_or(|(other, _)| other.index < last.index);
                let older = if newer { newest.replace((last, name)) } else { Some((last, name)) };
                unneeded.extend(older.map(|(_, name)| name));
            } else if name.ends_with(STAGED_SUFFIX) {
                unneeded.push(name);
            }
        }
        if let Some((last, name)) = newest {
            let file = folder.inspect(folder.dir.join(name), last)?;
            folder.lock().newest = Some(file);
        }
        for name in unneeded {
            // Not synced: should the name come back, it is removed again.
            let path = folder.dir.join(name);
            folder.disk.remove_file(&path).during("remove", &path)?;
        }
        Ok(Self { folder: Arc::new(folder) })
    }

    /// The newest snapshot, if there is any.
    #[must_use]
    pub fn newest(&self) -> Option<SnapshotFile> {
        self.folder.lock().newest.clone()
    }

    /// Removes the newest snapshot, durably, if it holds the entry at `from`: what is in it is wrong.
    ///
    /// # Errors
    /// The disk failed.
    pub fn discard(&self, from: Index) -> Result<(), SnapshotError> {
        let folder = &self.folder;
        let _committing = folder.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = folder.lock().newest.take_if(|file| file.meta.last.index >= from) else {
            return Ok(());
        };
        folder.disk.remove_file(&file.path).during("remove", &file.path)?;
        folder.disk.sync_dir(&folder.dir).during("sync directory", &folder.dir)
    }

    /// Begins to write a snapshot.
    ///
    /// # Errors
    /// The disk failed.
    pub fn create(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::new(Folder::stage(&self.folder, meta)?)
    }

    /// Bytes free on the disk of this directory.
    ///
    /// # Errors
    /// The disk cannot be asked.
    pub fn free_bytes(&self) -> Result<u64, SnapshotError> {
        let dir = &self.folder.dir;
        self.folder.disk.free_bytes(dir).during("measure", dir)
    }

    /// Begins to receive a snapshot.
    ///
    /// # Errors
    /// The disk failed.
    pub fn receive(&self, meta: &SnapshotMeta) -> Result<SnapshotReceiver, SnapshotError> {
        Ok(SnapshotReceiver::new(Folder::stage(&self.folder, meta)?))
    }

    /// Reads the state of a snapshot.
    ///
    /// # Errors
    /// Its header is damaged, it was replaced by a newer one, or the disk failed.
    pub fn reader(&self, file: &SnapshotFile) -> Result<SnapshotReader, SnapshotError> {
        let mut chunks = self.chunks(file)?;
        chunks.header()?;
        Ok(SnapshotReader::new(chunks))
    }

    /// Reads the frames of a snapshot, to send them.
    ///
    /// # Errors
    /// It was replaced by a newer one, or the disk failed.
    pub fn chunks(&self, file: &SnapshotFile) -> Result<ChunkReader, SnapshotError> {
        self.folder.chunks(&file.path)
    }
}

impl Folder {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks(&self, path: &Path) -> Result<ChunkReader, SnapshotError> {
        let file = self.disk.open(path, OpenMode::Read).during("open", path)?;
        Ok(ChunkReader::new(file, path.to_owned(), self.cluster))
    }

    /// Checks header, footer and length of a snapshot.
    fn inspect(&self, path: PathBuf, last: LogId) -> Result<SnapshotFile, SnapshotError> {
        let meta = self.chunks(&path)?.header()?;
        let corrupt = |offset, reason: &str| {
            Err(SnapshotError::Corrupt { path: path.clone(), offset, reason: reason.to_owned() })
        };
        if meta.last != last {
            return corrupt(0, "its header does not fit its name");
        }
        let file = self.disk.open(&path, OpenMode::Read).during("open", &path)?;
        let bytes = file.len().during("measure", &path)?;
        let mut footer = vec![0; FOOTER_BYTES];
        let at = bytes.saturating_sub(FOOTER_BYTES as u64);
        let read = file.read_at(&mut footer, at).during("read", &path)?;
        match footer.get(..read).and_then(peek_footer) {
            Some((state_bytes, checksum)) if state_bytes < bytes => {
                Ok(SnapshotFile { meta, bytes, checksum, path: path.into() })
            }
            _ => corrupt(at, "it does not end with a footer"),
        }
    }

    fn stage(folder: &Arc<Self>, meta: &SnapshotMeta) -> Result<Staged, SnapshotError> {
        let number = {
            let mut state = folder.lock();
            state.staged += 1;
            state.staged
        };
        let path = folder.dir.join(format!("{number}{STAGED_SUFFIX}"));
        let file = folder.disk.open(&path, OpenMode::CreateNew).during("create", &path)?;
        Ok(Staged::new(Arc::clone(folder), path, file, meta.clone()))
    }

    /// Gives a complete staged file its name, if it is newer than what is there, and removes older ones.
    fn commit(mut staged: Staged, checksum: u32) -> Result<SnapshotFile, SnapshotError> {
        staged.file.sync_data().during("sync", &staged.path)?;
        let folder = Arc::clone(&staged.folder);
        let _committing = folder.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = folder.lock().newest.clone();
        if let Some(old) = &old
            && old.meta.last.index >= staged.meta.last.index
        {
            return Ok(old.clone());
        }
        let path = folder.dir.join(name_of(staged.meta.last));
        folder.disk.rename(&staged.path, &path).during("rename to a snapshot", &staged.path)?;
        staged.committed = true;
        folder.disk.sync_dir(&folder.dir).during("sync directory", &folder.dir)?;
        let (meta, bytes) = (staged.meta.clone(), staged.written);
        let file = SnapshotFile { meta, bytes, checksum, path: path.into() };
        drop(old);
        for path in folder.replace_newest(file.clone()) {
            // Not synced: should the name come back, the next start removes it again.
            folder.disk.remove_file(&path).during("remove", &path)?;
        }
        Ok(file)
    }

    /// Makes `file` the newest; returns those that were replaced, now or earlier, and are in nobody's hands.
    fn replace_newest(&self, file: SnapshotFile) -> Vec<Arc<Path>> {
        let mut state = self.lock();
        if let Some(old) = state.newest.replace(file) {
            state.replaced.push(old.path);
        }
        let (unused, used) =
            std::mem::take(&mut state.replaced).into_iter().partition(|path| Arc::strong_count(path) == 1);
        state.replaced = used;
        unused
    }
}

fn name_of(last: LogId) -> String {
    format!("{:016x}-{:016x}{SUFFIX}", last.index.0, last.term.0)
}

fn named(name: &str) -> Option<LogId> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let last = LogId::new(number(term)?, number(index)?);
    (name_of(last) == name).then_some(last)
}
