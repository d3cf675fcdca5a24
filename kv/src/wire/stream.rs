//! Frames on a byte stream: buffered both ways, polled, without a task of its own.
//!
//! A frame is a 32-bit length, the CRC32C of the body, and the body: one value in postcard. The length is checked
//! before anything is allocated for it, and a body that does not match its checksum, cannot be read, or has bytes
//! left over ends the connection: after that nothing in the stream can be trusted.
//!
//! Many frames are written with one call and read with one call. That matters: on loopback a system call costs
//! more than everything else that is done for a small request.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use raft::net::BoxStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWrite};

/// Bytes asked for with one read.
const READ_BYTES: usize = 16 * 1024;
/// A buffer that grew beyond this for one large frame is given back when it is empty.
const KEEP_BYTES: usize = 256 * 1024;
const HEADER_BYTES: usize = 8;

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream broke.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The other end closed in the middle of a frame.
    #[error("closed in the middle of a frame")]
    CutOff,
    /// A frame is longer than it may be. Received: this may not be the right kind of client at all.
    #[error("a frame of {bytes} bytes; the limit is {limit}")]
    FrameTooLarge {
        /// As its header says.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The bytes are not what was sent.
    #[error("a frame's checksum does not match")]
    Checksum,
    /// The bytes are not a value of the kind expected.
    #[error("a frame that cannot be read: {0}")]
    Unreadable(String),
    /// The other end does not keep to the protocol.
    #[error("{0}")]
    Protocol(String),
}

/// A stream of frames.
pub struct FrameStream {
    stream: BoxStream,
    input: BytesMut,
    output: BytesMut,
    /// Bytes of the output that the stream has taken, since the beginning.
    written: u64,
    /// Bytes were written and not yet flushed.
    unflushed: bool,
    frame_bytes_max: usize,
}

impl FrameStream {
    /// Frames on `stream`, whose bodies are at most `frame_bytes_max` bytes.
    #[must_use]
    pub fn new(stream: BoxStream, frame_bytes_max: usize) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            written: 0,
            unflushed: false,
            frame_bytes_max,
        }
    }

    /// Changes the limit for what follows: the handshake is kept shorter than the rest.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Adds a frame to the output. Nothing is sent before [`poll_send`](Self::poll_send).
    ///
    /// # Errors
    /// The frame is over the limit; the output is then as it was.
    pub fn push<T: Serialize>(&mut self, value: &T) -> Result<(), WireError> {
        self.push_parts(value, &[])
    }

    /// Adds a frame whose body is `value` and then `rest`, which is encoded already.
    ///
    /// # Errors
    /// The frame is over the limit; the output is then as it was.
    pub fn push_parts<T: Serialize>(&mut self, value: &T, rest: &[u8]) -> Result<(), WireError> {
        let start = self.output.len();
        match encode_frame(&mut self.output, value, rest, self.frame_bytes_max) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.output.truncate(start);
                Err(error)
            }
        }
    }

    /// Takes the next whole frame from the input, if there is one.
    ///
    /// # Errors
    /// The input is not what it should be; the connection cannot go on.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some((value, used)) = decode_frame(&self.input, self.frame_bytes_max)? else { return Ok(None) };
        self.input.advance(used);
        if self.input.is_empty() && self.input.capacity() > KEEP_BYTES {
            self.input = BytesMut::new();
        }
        Ok(Some(value))
    }

    /// Reads more input. `false` is the end of the stream, between two frames.
    ///
    /// # Errors
    /// The stream broke, or ended within a frame.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, WireError>> {
        self.input.reserve(READ_BYTES);
        let read = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))?;
        Poll::Ready(match (read, self.input.is_empty()) {
            (0, true) => Ok(false),
            (0, false) => Err(WireError::CutOff),
            _ => Ok(true),
        })
    }

    /// Sends the output, all of it.
    ///
    /// # Errors
    /// The stream broke.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(WireError::Io(io::ErrorKind::WriteZero.into())));
            }
            self.output.advance(n);
            self.written += n as u64;
            self.unflushed = true;
        }
        if self.output.capacity() > KEEP_BYTES {
            self.output = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.output.len()
    }

    /// Bytes that have left, since the beginning.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Sends the output.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn send(&mut self) -> Result<(), WireError> {
        std::future::poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Waits for one frame; `None` is the end of the stream.
    ///
    /// # Errors
    /// The stream broke, or what came is not a frame of this kind.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        loop {
            if let Some(value) = self.take()? {
                return Ok(Some(value));
            }
            if !std::future::poll_fn(|cx| self.poll_receive(cx)).await? {
                return Ok(None);
            }
        }
    }
}

/// Lets postcard write to the end of a buffer.
struct Tail<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.extend_from_slice(&[byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends `value` to `bytes` in postcard.
fn append<T: Serialize>(bytes: &mut BytesMut, value: &T) -> Result<(), WireError> {
    postcard::serialize_with_flavor(value, Tail(bytes)).map_err(|e| WireError::Unreadable(e.to_string()))
}

/// `value` in postcard.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, WireError> {
    let mut bytes = BytesMut::with_capacity(256);
    append(&mut bytes, value)?;
    Ok(bytes.freeze())
}

fn encode_frame<T: Serialize>(
    out: &mut BytesMut,
    value: &T,
    rest: &[u8],
    limit: usize,
) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    append(out, value)?;
    out.extend_from_slice(rest);
    let body = start + HEADER_BYTES;
    let length = out.len() - body;
    let too_large = WireError::FrameTooLarge { bytes: length as u64, limit: limit as u64 };
    let Some(length) = u32::try_from(length).ok().filter(|_| length <= limit) else { return Err(too_large) };
    let checksum = crc32c::crc32c(out.get(body..).unwrap_or_default());
    if let Some(header) = out.get_mut(start..body).and_then(|h| h.split_first_chunk_mut::<4>()) {
        let (first, second) = header;
        first.copy_from_slice(&length.to_le_bytes());
        second.copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(())
}

/// The value of the first frame in `bytes`, if it is whole, and how many bytes the frame takes.
fn decode_frame<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<Option<(T, usize)>, WireError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > limit {
        return Err(WireError::FrameTooLarge { bytes: length as u64, limit: limit as u64 });
    }
    let Some((checksum, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let Some(body) = rest.get(..length) else { return Ok(None) };
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(WireError::Checksum);
    }
    let (value, left) = postcard::take_from_bytes(body).map_err(|e| WireError::Unreadable(e.to_string()))?;
    if !left.is_empty() {
        return Err(WireError::Unreadable(format!("{} bytes are left over", left.len())));
    }
    Ok(Some((value, HEADER_BYTES + length)))
}
