//! Writing a snapshot: from state, or from the frames of a transfer.
//!
//! Both go to a file under a staged name, which gets its own name only when it is complete and durable.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::Context;
use super::format::{CHUNK_BYTES_MAX, FRAME_HEAD_BYTES, Frame, Sequence};
use super::{Folder, SnapshotError, SnapshotFile};
use crate::core::SnapshotMeta;
use crate::disk::File;

/// A file under a staged name; removed when dropped, unless it was committed.
pub(super) struct Staged {
    pub(super) folder: Arc<Folder>,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
    pub(super) meta: SnapshotMeta,
    pub(super) written: u64,
    pub(super) committed: bool,
    /// A call failed: what the file holds is not known.
    failed: bool,
}

impl Staged {
    pub(super) fn new(folder: Arc<Folder>, path: PathBuf, file: Box<dyn File>, meta: SnapshotMeta) -> Self {
        Self { folder, path, file, meta, written: 0, committed: false, failed: false }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.usable()?;
        let result = self.file.write_at(bytes, self.written).during("write", &self.path);
        self.written += bytes.len() as u64;
        self.failed = result.is_err();
        result
    }

    fn usable(&self) -> Result<(), SnapshotError> {
        if self.failed { Err(SnapshotError::Incomplete { meta: self.meta.last }) } else { Ok(()) }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // If this fails, the next start removes it.
            let _ = self.folder.disk.remove_file(&self.path);
        }
    }
}

/// Takes the state of a snapshot and frames it. Dropping it without [`commit`](Self::commit) leaves nothing behind.
pub struct SnapshotWriter {
    staged: Staged,
    sequence: Sequence,
    /// Room for a frame's head, then the state collected for it.
    frame: Vec<u8>,
}

impl SnapshotWriter {
    pub(super) fn new(mut staged: Staged) -> Result<Self, SnapshotError> {
        let mut sequence = Sequence::new(staged.folder.cluster);
        staged.append(&sequence.header(&staged.meta))?;
        Ok(Self { staged, sequence, frame: vec![0; FRAME_HEAD_BYTES] })
    }

    fn end_frame(&mut self) -> Result<(), SnapshotError> {
        self.sequence.data(&mut self.frame);
        self.staged.append(&self.frame)?;
        self.frame.truncate(FRAME_HEAD_BYTES);
        Ok(())
    }

    /// Completes the snapshot, makes it durable under its name, and then removes older ones. Returns the newest
    /// snapshot: this one, unless one at least as new has been committed meanwhile.
    ///
    /// # Errors
    /// The disk failed, now or before. What was the newest snapshot before still is.
    pub fn commit(mut self) -> Result<SnapshotFile, SnapshotError> {
        if self.frame.len() > FRAME_HEAD_BYTES {
            self.end_frame()?;
        }
        let footer = self.sequence.footer();
        self.staged.append(&footer)?;
        Folder::commit(self.staged, self.sequence.state_crc())
    }
}

impl io::Write for SnapshotWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = FRAME_HEAD_BYTES + CHUNK_BYTES_MAX - self.frame.len();
        let taken = data.get(..room).unwrap_or(data);
        self.frame.extend_from_slice(taken);
        if taken.len() == room {
            self.end_frame()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the frames of a transfer, in order, and verifies each before it is written. Dropping it without
/// [`commit`](Self::commit) leaves nothing behind.
pub struct SnapshotReceiver {
    staged: Staged,
    sequence: Sequence,
    frames: u64,
}

impl SnapshotReceiver {
    pub(super) fn new(staged: Staged) -> Self {
        let sequence = Sequence::new(staged.folder.cluster);
        Self { staged, sequence, frames: 0 }
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// It is not the next frame of the snapshot that was announced, or the disk failed. The transfer is then over.
    pub fn chunk(&mut self, frame: &[u8]) -> Result<(), SnapshotError> {
        self.staged.usable()?;
        let number = self.frames;
        match self.sequence.take(frame) {
            Ok(Frame::Header(meta)) if meta != self.staged.meta => {
                self.staged.failed = true;
                let (found, announced) = (meta.last, self.staged.meta.last);
                let reason = format!("it holds the snapshot {found}, announced was {announced}");
                Err(SnapshotError::BadTransfer { frame: number, reason })
            }
            Ok(_) => {
                self.staged.append(frame)?;
                self.frames += 1;
                Ok(())
            }
            Err(fault) => {
                self.staged.failed = true;
                Err(SnapshotError::in_transfer(fault, number))
            }
        }
    }

    /// How many frames were taken.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether it can still be completed: every frame so far was good and is written.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        !self.staged.failed
    }

    /// Whether the last frame has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sequence.is_complete()
    }

    /// As [`SnapshotWriter::commit`].
    ///
    /// # Errors
    /// The transfer is not complete or had failed, or the disk failed.
    pub fn commit(self) -> Result<SnapshotFile, SnapshotError> {
        self.staged.usable()?;
        if !self.sequence.is_complete() {
            return Err(SnapshotError::Incomplete { meta: self.staged.meta.last });
        }
        Folder::commit(self.staged, self.sequence.state_crc())
    }
}
