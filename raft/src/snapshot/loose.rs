//! Snapshot files that stand alone: a backup, in nobody's data directory.
//!
//! The bytes are those of any snapshot file. What differs is who reads them: one that belongs to no cluster, or not to
//! this one. So the cluster is taken from the header, where everything else has it given and compares.

use std::path::{Path, PathBuf};

use super::SnapshotError;
use super::error::Context;
use super::format::{FRAME_HEAD_BYTES, Fault, Sequence, peek_cluster};
use super::reader::{ChunkReader, SnapshotReader};
use crate::core::{LogId, SnapshotMeta};
use crate::disk::{OpenMode, SharedDisk};

/// What the header of a snapshot file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotLabel {
    /// The cluster that it was taken in.
    pub cluster: u128,
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The length of the file.
    pub bytes: u64,
}

/// Opens a snapshot file wherever it lies; its header is verified, and the rest while it is read.
///
/// # Errors
/// It is not a snapshot, its header is damaged, or the disk failed.
pub fn open_loose(disk: &SharedDisk, path: &Path) -> Result<(SnapshotLabel, SnapshotReader), SnapshotError> {
    let file = disk.open(path, OpenMode::Read).during("open", path)?;
    let bytes = file.len().during("measure", path)?;
    let mut head = [0; FRAME_HEAD_BYTES + 64];
    let read = file.read_at(&mut head, 0).during("read", path)?;
    let Some(cluster) = head.get(..read).and_then(peek_cluster) else {
        return Err(SnapshotError::in_file(Fault::Damaged("this is not a snapshot"), path, 0, 0));
    };
    let mut chunks = ChunkReader::new(file, path.to_owned(), cluster);
    let meta = chunks.header()?;
    Ok((SnapshotLabel { cluster, meta, bytes }, SnapshotReader::new(chunks)))
}

/// Follows the frames of a snapshot as they come, of whatever cluster, and verifies each.
#[derive(Clone, Debug, Default)]
pub struct FrameCheck {
    sequence: Option<Sequence>,
    frames: u64,
}

impl FrameCheck {
    /// Takes the next frame; the first one must be the header.
    ///
    /// # Errors
    /// It is not the next frame of the snapshot.
    pub fn take(&mut self, frame: &[u8]) -> Result<(), SnapshotError> {
        let number = self.frames;
        let wrong = |fault| SnapshotError::in_transfer(fault, number);
        if self.sequence.is_none() {
            let cluster =
                peek_cluster(frame).ok_or_else(|| wrong(Fault::Damaged("this is not a snapshot")))?;
            self.sequence = Some(Sequence::new(cluster));
        }
        let Some(sequence) = &mut self.sequence else { panic!("a sequence was just begun") };
        sequence.take(frame).map_err(wrong)?;
        self.frames += 1;
        Ok(())
    }

    /// Whether the footer has confirmed that everything was there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sequence.as_ref().is_some_and(Sequence::is_complete)
    }
}

/// Verifies a whole file of snapshot frames, and returns the label.
///
/// # Errors
/// Some of it is damaged or missing, or the disk failed.
pub fn verify_loose(disk: &SharedDisk, path: &Path) -> Result<SnapshotLabel, SnapshotError> {
    let (label, reader) = open_loose(disk, path)?;
    reader.verify()?;
    Ok(label)
}

/// What a cluster begins with that is restored from a backup. All members that form it must have been given the same:
/// equal origins stand for equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// The entry that the restored state stands for. The log begins behind it.
    pub last: LogId,
    /// The length of the file.
    pub bytes: u64,
    /// The checksum of the state.
    pub checksum: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the state at {} ({} bytes, checksum {:08x})", self.last, self.bytes, self.checksum)
    }
}

/// Where a data directory holds a state that is to be restored, until its node has begun with it.
#[must_use]
pub fn restore_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("restore")
}

/// The cluster that the header of a file names which is to be restored: none yet.
pub const NO_CLUSTER: u128 = 0;

impl SnapshotReader {
    /// Reads what is left of the file, and verifies it.
    ///
    /// # Errors
    /// Some of it is damaged or missing, or the disk failed.
    pub fn verify(self) -> Result<(), SnapshotError> {
        let mut chunks = self.into_chunks();
        while chunks.next_frame()?.is_some() {}
        Ok(())
    }
}
