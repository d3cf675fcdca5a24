//! Frames: how values travel over a byte stream, between peers and to clients alike.
//!
//! ```text
//! u32 LE  length of the body, 1 ..= the reader's limit
//! u32 LE  CRC32C of the length field and the body
//! body    one value in postcard's encoding, nothing behind it
//! ```
//!
//! The checksum covers the length too, so that a run of zeros is not a frame. TCP's own checksum is too weak to
//! trust log entries to: it passes one in 65,536 of the errors that reach it.
//!
//! Rules:
//! - A reader looks at the length before it allocates anything. A stranger can make it hold no more than its limit.
//! - A bad frame ends the stream: there is no resynchronising, since nothing behind it can be trusted.
//! - Postcard does not describe itself. Versions are agreed on in the handshake, before the first frame that
//!   depends on them.
//!
//! Deliberately absent: compression, encryption, and frames larger than memory (snapshots travel in chunks).

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How many bytes stand before the body of a frame.
pub const FRAME_HEADER_BYTES: usize = 8;

/// How much a [`FrameReader`] asks the stream for at a time, beyond the frame it is in.
const READ_BYTES: usize = 32 * 1024;

/// What is wrong with a frame, or with the stream under it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than the limit. From a stranger this is most often not a frame at all.
    #[error("a frame of {bytes} bytes, over the limit of {bytes_max}")]
    TooLarge {
        /// What the length field says, or what the value would need at least.
        bytes: u64,
        /// The limit.
        bytes_max: u32,
    },
    /// A frame has a body.
    #[error("a frame without a body")]
    Empty,
    /// Length or body changed on the way, or this is not a frame.
    #[error("the checksum of a frame of {bytes} bytes does not fit")]
    Checksum {
        /// The length of the body.
        bytes: usize,
    },
    /// The checksum fits, but the body is not the kind of value that is expected here.
    #[error("a frame whose body cannot be decoded: {0}")]
    Body(postcard::Error),
    /// The body holds more than the value.
    #[error("a frame with {bytes} bytes behind its value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameError {
    /// Whether the bytes are at fault, not the connection: the other end does not speak this protocol, or they
    /// were changed on the way.
    #[must_use]
    pub const fn is_garbage(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Cut)
    }
}

/// Writes into the end of a buffer, up to a limit.
struct Bounded<'a> {
    out: &'a mut BytesMut,
    /// The length that `out` may not pass.
    len_max: usize,
}

impl postcard::ser_flavors::Flavor for Bounded<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.out.len() >= self.len_max {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.put_u8(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > self.len_max.saturating_sub(self.out.len()) {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The checksum of a frame: of its length field, then of its body.
fn checksum(length: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), body)
}

/// Appends `value` to `out` as one frame whose body is at most `frame_bytes_max` long. On an error `out` is as it was.
///
/// # Errors
/// [`FrameError::TooLarge`], [`FrameError::Empty`] for a value that encodes to nothing, or [`FrameError::Body`] for
/// one that postcard cannot encode.
pub fn encode_frame<T: Serialize + ?Sized>(
    value: &T,
    frame_bytes_max: u32,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let start = out.len();
    let body_start = start + FRAME_HEADER_BYTES;
    out.put_bytes(0, FRAME_HEADER_BYTES);
    let len_max = body_start.saturating_add(frame_bytes_max as usize);
    let encoded = postcard::serialize_with_flavor(value, Bounded { out, len_max });
    let result = match encoded {
        Ok(()) => seal(out, start),
        Err(postcard::Error::SerializeBufferFull) => {
            Err(FrameError::TooLarge { bytes: u64::from(frame_bytes_max) + 1, bytes_max: frame_bytes_max })
        }
        Err(error) => Err(FrameError::Body(error)),
    };
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Fills in the header of the frame that begins at `start` and ends where `out` ends.
fn seal(out: &mut BytesMut, start: usize) -> Result<(), FrameError> {
    let Some((header, body)) =
        out.get_mut(start..).and_then(|f| f.split_first_chunk_mut::<FRAME_HEADER_BYTES>())
    else {
        panic!("no room for the header of a frame at {start} in {} bytes", out.len());
    };
    if body.is_empty() {
        return Err(FrameError::Empty);
    }
    let Ok(length) = u32::try_from(body.len()) else {
        return Err(FrameError::TooLarge { bytes: body.len() as u64, bytes_max: u32::MAX });
    };
    let header_value = u64::from(length) | (u64::from(checksum(length, body)) << 32);
    *header = header_value.to_le_bytes();
    Ok(())
}

/// The body of the first frame in `buffer`, checked; `None` if it is not all there yet. The frame is
/// [`FRAME_HEADER_BYTES`] longer than its body: the caller advances by that much to reach the next.
///
/// # Errors
/// [`FrameError::TooLarge`] (as soon as the header is there), [`FrameError::Empty`], [`FrameError::Checksum`].
pub fn first_frame(buffer: &[u8], frame_bytes_max: u32) -> Result<Option<&[u8]>, FrameError> {
    let Some((length, expected, rest)) = split_header(buffer) else { return Ok(None) };
    check_length(length, frame_bytes_max)?;
    let Some(body) = rest.get(..length as usize) else { return Ok(None) };
    if checksum(length, body) != expected {
        return Err(FrameError::Checksum { bytes: body.len() });
    }
    Ok(Some(body))
}

/// Length, checksum, and what stands behind them.
fn split_header(buffer: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (length, rest) = buffer.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*length), u32::from_le_bytes(*expected), rest))
}

fn check_length(length: u32, frame_bytes_max: u32) -> Result<(), FrameError> {
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if length > frame_bytes_max {
        return Err(FrameError::TooLarge { bytes: u64::from(length), bytes_max: frame_bytes_max });
    }
    Ok(())
}

/// Decodes a frame's body. All of it must belong to the value.
///
/// # Errors
/// [`FrameError::Body`] or [`FrameError::Trailing`].
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let (value, rest) = postcard::take_from_bytes(body).map_err(FrameError::Body)?;
    if !rest.is_empty() {
        return Err(FrameError::Trailing { bytes: rest.len() });
    }
    Ok(value)
}

/// Reads frames from a stream, through one reused buffer.
///
/// Its methods may be cancelled at any await point without losing bytes, so they can stand in a `select!`.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    /// How long, header included, the frame was that was given out last and still stands at the front of `buffer`.
    given_bytes: usize,
    frame_bytes_max: u32,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames whose bodies are at most `frame_bytes_max` long.
    pub fn new(stream: R, frame_bytes_max: u32) -> Self {
        Self { stream, buffer: BytesMut::new(), given_bytes: 0, frame_bytes_max }
    }

    /// Changes the limit, from the next frame on: strangers get a lower one until they have said who they are.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// The next value; `None` if the stream ended between two frames.
    ///
    /// # Errors
    /// Any [`FrameError`]; the stream is of no more use then.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        Ok(self.read_sized().await?.map(|(value, _)| value))
    }

    /// Like [`read`](Self::read), and tells how many bytes the value took on the wire.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_sized<T: DeserializeOwned>(&mut self) -> Result<Option<(T, usize)>, FrameError> {
        let Some(body) = self.read_body().await? else { return Ok(None) };
        let bytes = body.len() + FRAME_HEADER_BYTES;
        Ok(Some((decode_body(body)?, bytes)))
    }

    /// The body of the next frame, checked but not decoded; `None` if the stream ended between two frames.
    ///
    /// # Errors
    /// Any [`FrameError`] except those of decoding.
    pub async fn read_body(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.buffer.advance(std::mem::take(&mut self.given_bytes));
        let length = loop {
            if let Some(body) = first_frame(&self.buffer, self.frame_bytes_max)? {
                break body.len();
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
        };
        self.given_bytes = FRAME_HEADER_BYTES + length;
        Ok(self.buffer.get(FRAME_HEADER_BYTES..self.given_bytes))
    }

    /// How much of the next frame has come so far: by this one sees that a long frame is on its way, though slowly.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.given_bytes
    }

    /// Reads once; whether anything came. Room is made for the frame at the front if its length is known, and it
    /// has been checked by then.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        let frame =
            split_header(&self.buffer).map_or(0, |(length, _, _)| FRAME_HEADER_BYTES + length as usize);
        self.buffer.reserve(
            frame.saturating_sub(self.buffer.len()).max(READ_BYTES.min(self.frame_bytes_max as usize)),
        );
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::core::{Entry, Index, LogId, Message, MessageBody, NodeId, Payload, Term};

    const LIMIT: u32 = 1000;

    fn message(command: &[u8]) -> Message {
        let payload = Payload::Command(Bytes::copy_from_slice(command));
        let entry = Entry { term: Term(3), index: Index(8), payload };
        let body =
            MessageBody::AppendEntries { prev: LogId::new(2, 7), entries: vec![entry], commit: Index(6) };
        Message { from: NodeId(1), to: NodeId(2), term: Term(3), body }
    }

    fn frame(message: &Message) -> BytesMut {
        let mut out = BytesMut::new();
        encode_frame(message, LIMIT, &mut out).unwrap();
        out
    }

    #[test]
    fn the_bytes_of_a_frame_are_these() {
        // Nodes of different releases talk to each other: a change here is a new protocol version.
        let hex: String = frame(&message(b"put")).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0f000000a06e18ad010203040207010308010370757406");
    }

    #[test]
    fn a_frame_that_is_too_large_leaves_the_buffer_as_it_was() {
        let mut out = frame(&message(b"first"));
        let before = out.clone();
        let error = encode_frame(&message(&[0; 1000]), LIMIT, &mut out).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { bytes_max: LIMIT, .. }), "{error}");
        assert_eq!(out, before);
        assert!(matches!(encode_frame(&(), LIMIT, &mut out), Err(FrameError::Empty)));
        assert_eq!(out, before);
    }

    #[test]
    fn the_limit_is_exact() {
        let value = vec![7u8; 900];
        let mut out = BytesMut::new();
        encode_frame(&value, LIMIT, &mut out).unwrap();
        let body = u32::try_from(out.len() - FRAME_HEADER_BYTES).unwrap();
        out.clear();
        encode_frame(&value, body, &mut out).unwrap();
        assert!(first_frame(&out, body).unwrap().is_some());
        assert!(matches!(first_frame(&out, body - 1), Err(FrameError::TooLarge { .. })));
        assert!(matches!(encode_frame(&value, body - 1, &mut out), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = frame(&message(b"some command"));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                // A longer length may leave the frame incomplete; nothing may be given out.
                if let Ok(Some(_)) = first_frame(&bad, LIMIT) {
                    panic!("byte {at}, bit {bit} was not noticed");
                }
            }
        }
    }

    #[test]
    fn zeros_are_not_a_frame() {
        assert!(matches!(first_frame(&[0; 64], LIMIT), Err(FrameError::Empty)));
        // Nor is a length whose checksum was left out.
        assert!(matches!(
            first_frame(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], LIMIT),
            Err(FrameError::Checksum { .. })
        ));
    }

    #[test]
    fn a_body_with_something_behind_its_value_is_refused() {
        let error = decode_body::<u8>(&[1, 2, 3]).unwrap_err();
        assert!(matches!(error, FrameError::Trailing { bytes: 2 }), "{error}");
        assert!(matches!(decode_body::<Message>(&[1]), Err(FrameError::Body(_))));
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_before_anything_is_allocated_for_it() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).await.unwrap();
        let mut reader = FrameReader::new(far, LIMIT);
        let error = reader.read::<Message>().await.unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { bytes: 0xffff_ffff, bytes_max: LIMIT }), "{error}");
        assert!(error.is_garbage());
        assert!(reader.buffer.capacity() < 4096, "allocated {}", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn the_end_between_frames_is_an_end_and_within_one_an_error() {
        let whole = frame(&message(b"x"));
        for cut in 0..=whole.len() {
            let mut reader = FrameReader::new(&whole[..cut], LIMIT);
            match reader.read::<Message>().await {
                Ok(None) => assert_eq!(cut, 0),
                Ok(Some(read)) => {
                    assert_eq!((cut, read), (whole.len(), message(b"x")));
                    assert!(reader.read::<Message>().await.unwrap().is_none());
                }
                Err(error) => {
                    assert!(cut > 0 && matches!(error, FrameError::Cut), "{cut}: {error}");
                    assert!(!error.is_garbage());
                }
            }
        }
    }

    #[tokio::test]
    async fn a_reader_loses_nothing_when_it_is_cancelled() {
        let (mut near, far) = tokio::io::duplex(1024);
        let mut reader = FrameReader::new(far, LIMIT);
        let bytes = frame(&message(b"cancelled many times"));
        for byte in &bytes[..bytes.len() - 1] {
            near.write_all(&[*byte]).await.unwrap();
            tokio::select! {
                biased;
                read = reader.read::<Message>() => panic!("too early: {read:?}"),
                () = std::future::ready(()) => {}
            }
        }
        near.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
        assert_eq!(reader.read::<Message>().await.unwrap(), Some(message(b"cancelled many times")));
    }

    #[tokio::test]
    async fn one_buffer_serves_many_frames() {
        let mut stream = BytesMut::new();
        for i in 0..10_000u32 {
            encode_frame(&vec![1u8; (i % 700) as usize], LIMIT, &mut stream).unwrap();
        }
        let mut reader = FrameReader::new(&stream[..], LIMIT);
        for i in 0..10_000u32 {
            let (value, bytes) = reader.read_sized::<Vec<u8>>().await.unwrap().unwrap();
            assert_eq!(value.len(), (i % 700) as usize);
            assert!(bytes > value.len() + FRAME_HEADER_BYTES);
        }
        assert!(reader.buffer.capacity() < 64 * 1024, "grew to {}", reader.buffer.capacity());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_come_back_however_the_stream_is_cut_up(
            commands in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
            cuts in proptest::collection::vec(1usize..200, 1..20),
        ) {
            let mut stream = BytesMut::new();
            for command in &commands {
                encode_frame(&message(command), LIMIT, &mut stream).unwrap();
            }
            let mut buffer = BytesMut::new();
            let (mut found, mut rest, mut cuts) = (Vec::new(), &stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = behind;
                buffer.extend_from_slice(piece);
                while let Some(body) = first_frame(&buffer, LIMIT).unwrap() {
                    let length = body.len();
                    found.push(decode_body::<Message>(body).unwrap());
                    buffer.advance(FRAME_HEADER_BYTES + length);
                }
            }
            prop_assert_eq!(found, commands.iter().map(|c| message(c)).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_is_never_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Decoding anything must neither panic nor allocate what a length in it asks for.
            let _ = decode_body::<Message>(&bytes);
            prop_assert!(!matches!(first_frame(&bytes, LIMIT), Ok(Some(_))));
        }
    }
}
