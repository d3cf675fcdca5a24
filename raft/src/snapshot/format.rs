//! The bytes of a snapshot file, which are also the bytes of its transfer.
//!
//! ```text
//! file    header frame, data frames, footer frame
//! frame   payload length 4 | crc 4 | kind 1 | number 8 | payload
//! header  number 0: magic 8 | version 4 | cluster 16 | meta (postcard)
//! data    numbers from 1: up to 1 MiB of state
//! footer  the next number: state length 8 | crc of the whole state 4
//! ```
//! Integers are little-endian, checksums CRC32C. The checksum of a frame covers length, kind, number and payload,
//! and but for the header's begins from the header's checksum: a frame out of place, or of another snapshot, does
//! not pass.

use crc32c::crc32c_append;

use crate::core::SnapshotMeta;
use crate::mutant;

/// How much state one data frame holds at most.
pub(super) const CHUNK_BYTES_MAX: usize = 1 << 20;
/// The length of a frame without its payload.
pub(super) const FRAME_HEAD_BYTES: usize = 17;
/// The length of the footer frame.
pub(super) const FOOTER_BYTES: usize = FRAME_HEAD_BYTES + 12;

const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"raftkvSN";
const KIND_HEADER: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_FOOTER: u8 = 3;

/// Why bytes are not what should stand in their place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not a snapshot of this format.
    Version(u32),
    /// A snapshot of another cluster.
    Cluster(u128),
    /// Damaged, cut off, or not from here.
    Damaged(&'static str),
}

/// A frame that fits, without its payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Header(SnapshotMeta),
    /// What follows the frame's head is state.
    Data,
    /// The state is complete.
    Footer,
}

/// Follows the frames of one snapshot, from the first to the last, as they are written or read.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    cluster: u128,
    /// The header's checksum; `None` before the header.
    salt: Option<u32>,
    number: u64,
    state_bytes: u64,
    state_crc: u32,
    complete: bool,
    /// Whether some of the state was passed over.
    skipped: bool,
}

impl Sequence {
    pub(super) const fn new(cluster: u128) -> Self {
        Self { cluster, salt: None, number: 0, state_bytes: 0, state_crc: 0, complete: false, skipped: false }
    }

    /// Goes on behind so many frames that were not looked at, of the file whose header was taken; `complete` if the
    /// footer is one of them. Length and checksum of the whole state are not known then, and its footer is believed.
    pub(super) fn skip(&mut self, frames: u64, complete: bool) {
        assert!(
            self.salt.is_some() && !self.complete,
            "{frames} frames skipped before a header or behind a footer"
        );
        self.number += frames;
        self.skipped |= frames > 0;
        self.complete = complete;
    }

    /// The checksum of all state so far.
    pub(super) const fn state_crc(&self) -> u32 {
        self.state_crc
    }

    /// Whether the footer was there.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The header frame.
    pub(super) fn header(&mut self, meta: &SnapshotMeta) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEAD_BYTES];
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&VERSION.to_le_bytes());
        frame.extend_from_slice(&self.cluster.to_le_bytes());
        match postcard::to_extend(meta, frame) {
            Ok(mut frame) => {
                self.salt = Some(self.seal(KIND_HEADER, &mut frame));
                frame
            }
            Err(error) => panic!("snapshot metadata cannot be encoded: {error}"),
        }
    }

    /// Makes a data frame of `frame`: room for the head, then state.
    pub(super) fn data(&mut self, frame: &mut [u8]) {
        self.seal(KIND_DATA, frame);
        self.count(frame.get(FRAME_HEAD_BYTES..).unwrap_or_default());
    }

    /// The footer frame.
    pub(super) fn footer(&mut self) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEAD_BYTES];
        frame.extend_from_slice(&self.state_bytes.to_le_bytes());
        frame.extend_from_slice(&self.state_crc.to_le_bytes());
        self.seal(KIND_FOOTER, &mut frame);
        self.complete = true;
        frame
    }

    fn count(&mut self, state: &[u8]) {
        self.state_bytes += state.len() as u64;
        self.state_crc = crc32c_append(self.state_crc, state);
    }

    /// Fills in the head of the next frame; returns its checksum.
    fn seal(&mut self, kind: u8, frame: &mut [u8]) -> u32 {
        let number = self.number;
        let salt = self.salt.unwrap_or(0);
        let Some((head, payload)) = frame.split_first_chunk_mut::<FRAME_HEAD_BYTES>() else {
            panic!("a frame of {} bytes", frame.len())
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let crc = checksum(salt, length, kind, number, payload);
        *head = join_head(Head { length, crc, kind, number });
        self.number += 1;
        crc
    }

    /// Checks that `frame` is the next one.
    pub(super) fn take(&mut self, frame: &[u8]) -> Result<Frame, Fault> {
        let (head, payload) =
            frame.split_first_chunk::<FRAME_HEAD_BYTES>().ok_or(Fault::Damaged("a frame is cut off"))?;
        let head = split_head(head);
        if u64::from(head.length) != payload.len() as u64 {
            return Err(Fault::Damaged("a frame is cut off"));
        }
        if self.complete {
            return Err(Fault::Damaged("something follows the footer"));
        }
        if mutant!("chunk-mix") && head.kind == KIND_DATA {
            self.number += 1;
            self.count(payload);
            return Ok(Frame::Data);
        }
        let salt = self.salt.unwrap_or(0);
        if checksum(salt, head.length, head.kind, head.number, payload) != head.crc {
            return Err(Fault::Damaged("a frame's checksum is wrong"));
        }
        if head.number != self.number {
            return Err(Fault::Damaged("a frame is not in its place"));
        }
        let found = match (self.salt, head.kind) {
            (None, KIND_HEADER) => {
                let meta = self.take_header(payload)?;
                self.salt = Some(head.crc);
                Frame::Header(meta)
            }
            (Some(_), KIND_DATA) => {
                self.count(payload);
                Frame::Data
            }
            (Some(_), KIND_FOOTER) => {
                self.take_footer(payload)?;
                self.complete = true;
                Frame::Footer
            }
            _ => return Err(Fault::Damaged("a frame is of the wrong kind")),
        };
        self.number += 1;
        Ok(found)
    }

    fn take_header(&self, payload: &[u8]) -> Result<SnapshotMeta, Fault> {
        let (magic, rest) = payload.split_first_chunk().ok_or(Fault::Damaged("the header is too short"))?;
        if *magic != MAGIC {
            return Err(Fault::Damaged("this is not a snapshot"));
        }
        let (version, rest) = rest.split_first_chunk().ok_or(Fault::Damaged("the header is too short"))?;
        match u32::from_le_bytes(*version) {
            VERSION => {}
            other => return Err(Fault::Version(other)),
        }
        let (cluster, meta) = rest.split_first_chunk().ok_or(Fault::Damaged("the header is too short"))?;
        match u128::from_le_bytes(*cluster) {
            cluster if cluster == self.cluster => {}
            other => return Err(Fault::Cluster(other)),
        }
        match postcard::take_from_bytes(meta) {
            Ok((meta, [])) => Ok(meta),
            Ok(_) | Err(_) => Err(Fault::Damaged("the header makes no sense")),
        }
    }

    fn take_footer(&self, payload: &[u8]) -> Result<(), Fault> {
        let (bytes, crc) = payload.split_first_chunk().ok_or(Fault::Damaged("the footer is too short"))?;
        if self.skipped || mutant!("chunk-mix") {
            return Ok(());
        }
        if u64::from_le_bytes(*bytes) != self.state_bytes {
            return Err(Fault::Damaged("the state is not as long as the footer says"));
        }
        if *crc != self.state_crc.to_le_bytes() {
            return Err(Fault::Damaged("the checksum of the whole state is wrong"));
        }
        Ok(())
    }
}

/// How long the payload is that follows this frame head; an error if it cannot be.
pub(super) fn payload_bytes(head: &[u8; FRAME_HEAD_BYTES]) -> Result<usize, Fault> {
    match usize::try_from(split_head(head).length) {
        Ok(length) if length <= CHUNK_BYTES_MAX => Ok(length),
        _ => Err(Fault::Damaged("a frame is longer than any may be")),
    }
}

/// The cluster that this header frame names, if it could be one. Not verified.
pub(super) fn peek_cluster(frame: &[u8]) -> Option<u128> {
    let payload = frame.get(FRAME_HEAD_BYTES..)?.strip_prefix(&MAGIC)?;
    let (_version, rest) = payload.split_first_chunk::<4>()?;
    rest.first_chunk().map(|cluster| u128::from_le_bytes(*cluster))
}

/// The length and checksum of the state that this footer frame names, if it could be one. Says nothing about the
/// frames before it.
pub(super) fn peek_footer(frame: &[u8]) -> Option<(u64, u32)> {
    let (head, payload) = frame.split_first_chunk::<FRAME_HEAD_BYTES>()?;
    let head = split_head(head);
    let (state_bytes, crc) = payload.split_first_chunk()?;
    let crc = u32::from_le_bytes(*crc.as_array()?);
    (head.kind == KIND_FOOTER && u64::from(head.length) == payload.len() as u64)
        .then(|| (u64::from_le_bytes(*state_bytes), crc))
}

struct Head {
    length: u32,
    crc: u32,
    kind: u8,
    number: u64,
}

fn split_head(head: &[u8; FRAME_HEAD_BYTES]) -> Head {
    let [l0, l1, l2, l3, c0, c1, c2, c3, kind, n0, n1, n2, n3, n4, n5, n6, n7] = *head;
    Head {
        length: u32::from_le_bytes([l0, l1, l2, l3]),
        crc: u32::from_le_bytes([c0, c1, c2, c3]),
        kind,
        number: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
    }
}

fn join_head(head: Head) -> [u8; FRAME_HEAD_BYTES] {
    let [l0, l1, l2, l3] = head.length.to_le_bytes();
    let [c0, c1, c2, c3] = head.crc.to_le_bytes();
    let [n0, n1, n2, n3, n4, n5, n6, n7] = head.number.to_le_bytes();
    [l0, l1, l2, l3, c0, c1, c2, c3, head.kind, n0, n1, n2, n3, n4, n5, n6, n7]
}

fn checksum(salt: u32, length: u32, kind: u8, number: u64, payload: &[u8]) -> u32 {
    let crc = crc32c_append(salt, &length.to_le_bytes());
    let crc = crc32c_append(crc, &[kind]);
    let crc = crc32c_append(crc, &number.to_le_bytes());
    crc32c_append(crc, payload)
}
