//! Reading a snapshot back: as state, or frame by frame for a transfer.

use std::io;
use std::path::PathBuf;

use bytes::{Buf, Bytes};

use super::error::Context;
use super::format::{FOOTER_BYTES, FRAME_HEAD_BYTES, Fault, Frame, Sequence, payload_bytes};
use super::{FRAME_BYTES_MAX, SnapshotError};
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

    /// Passes over the first `frames` frames without reading more of them than the header.
    /// To be called before anything else; the rest is then read frame by frame, each one verified, but the state as a
    /// whole is not: whoever has the frames passed over does that.
    ///
    /// # Errors
    /// The header is damaged, there are not as many frames, or the disk failed.
    pub fn skip(&mut self, frames: u64) -> Result<(), SnapshotError> {
        assert_eq!(self.at, 0, "frames are passed over at the beginning");
        let Some(behind_header) = frames.checked_sub(1) else { return Ok(()) };
        self.header()?;
        let full = FRAME_BYTES_MAX as u64;
        let (data, footer_at, bytes) = self.measure()?;
        self.at = match behind_header {
            n if n < data => self.at + n * full,
            n if n == data => footer_at,
            n if n == data + 1 => bytes,
            _ => {
                return Err(SnapshotError::in_file(
                    Fault::Damaged("it ends before that"),
                    &self.path,
                    bytes,
                    0,
                ));
            }
        };
        self.sequence.skip(behind_header, behind_header > data);
        Ok(())
    }

    /// How many frames there are. To be called before anything else; afterwards the header has been read.
    ///
    /// # Errors
    /// The header is damaged, or the disk failed.
    pub fn count(&mut self) -> Result<u64, SnapshotError> {
        assert_eq!(self.at, 0, "frames are counted at the beginning");
        self.header()?;
        let (data, ..) = self.measure()?;
        Ok(data + 2)
    }

    /// How many data frames follow the header, which was read; where the footer is; how long the file is.
    fn measure(&self) -> Result<(u64, u64, u64), SnapshotError> {
        let bytes = self.file.len().during("measure", &self.path)?;
        let footer_at = bytes.saturating_sub(FOOTER_BYTES as u64);
        // Data frames are full, but for the last; then comes the footer.
        Ok((footer_at.saturating_sub(self.at).div_ceil(FRAME_BYTES_MAX as u64), footer_at, bytes))
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

    pub(super) fn into_chunks(self) -> ChunkReader {
        self.chunks
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
