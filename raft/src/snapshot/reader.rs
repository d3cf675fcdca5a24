//! Reading a snapshot back: as state, or frame by frame for a transfer.

use std::io;
use std::path::PathBuf;

use bytes::{Buf, Bytes};

use super::SnapshotError;
use super::error::Context;
use super::format::{FRAME_HEAD_BYTES, Frame, Sequence, payload_bytes};
use crate::core::SnapshotMeta;
use crate::disk::File;

/// Reads a snapshot frame by frame, as its bytes stand in the file, each one verified.
///
/// The file stays readable while this is held, also when a newer snapshot has replaced it.
pub struct ChunkReader {
    file: Box<dyn File>,
    path: PathBuf,
    cluster: u128,
    at: u64,
    sequence: Sequence,
}

impl ChunkReader {
    pub(super) fn new(file: Box<dyn File>, path: PathBuf, cluster: u128) -> Self {
        Self { file, path, cluster, at: 0, sequence: Sequence::new(cluster) }
    }

    /// The next frame, from the header to the footer; `None` after that.
    ///
    /// # Errors
    /// The file is cut off or damaged, or the disk failed.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        Ok(self.next_frame()?.map(|(_, bytes)| bytes))
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<(Frame, Bytes)>, SnapshotError> {
        let mut frame = vec![0; FRAME_HEAD_BYTES];
        let read = self.file.read_at(&mut frame, self.at).during("read", &self.path)?;
        if self.sequence.is_complete() && read == 0 {
            return Ok(None);
        }
        let wrong = |fault| SnapshotError::in_file(fault, &self.path, self.at, self.cluster);
        frame.truncate(read);
        if let Some(head) = frame.first_chunk::<FRAME_HEAD_BYTES>() {
            let payload = payload_bytes(head).map_err(wrong)?;
            frame.resize(FRAME_HEAD_BYTES + payload, 0);
            let rest = frame.get_mut(FRAME_HEAD_BYTES..).unwrap_or_default();
            let at = self.at + FRAME_HEAD_BYTES as u64;
            let read = self.file.read_at(rest, at).during("read", &self.path)?;
            frame.truncate(FRAME_HEAD_BYTES + read);
        }
        let kind = self.sequence.take(&frame).map_err(wrong)?;
        self.at += frame.len() as u64;
        Ok(Some((kind, frame.into())))
    }

    /// What the snapshot stands for: the header, which must be the next frame.
    pub(super) fn header(&mut self) -> Result<SnapshotMeta, SnapshotError> {
        match self.next_frame()? {
            Some((Frame::Header(meta), _)) => Ok(meta),
            // A sequence takes nothing else first.
            other => panic!("a snapshot begins with {other:?}"),
        }
    }
}

/// Reads the state of a snapshot, verifying each frame before anything of it is given out.
///
/// The end is reported only once the footer has confirmed that the state is whole. An error carries a
/// [`SnapshotError`].
pub struct SnapshotReader {
    chunks: ChunkReader,
    chunk: Bytes,
}

impl SnapshotReader {
    /// Of chunks whose header has been read.
    pub(super) fn new(chunks: ChunkReader) -> Self {
        Self { chunks, chunk: Bytes::new() }
    }
}

impl io::Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !buf.is_empty() {
            match self.chunks.next_frame()? {
                Some((Frame::Data, mut bytes)) => {
                    bytes.advance(FRAME_HEAD_BYTES);
                    self.chunk = bytes;
                }
                Some((Frame::Header(_) | Frame::Footer, _)) => {}
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.chunk.len());
        let taken = self.chunk.split_to(n);
        if let Some(buf) = buf.get_mut(..n) {
            buf.copy_from_slice(&taken);
        }
        Ok(n)
    }
}
