//! Frames on a byte stream: buffered both ways, polled, without a task of its own.
//!
//! The frames are those of [`raft::codec`]. Many are written with one call and read with one call. That matters: on
//! loopback a system call costs more than everything else that is done for a small request.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use raft::codec::{self, FRAME_HEADER_BYTES, FrameError};
use raft::net::BoxStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWrite};

/// Bytes asked for with one read.
const READ_BYTES: usize = 16 * 1024;
/// A buffer that grew beyond this for one large frame is given back when it is empty.
const KEEP_BYTES: usize = 256 * 1024;

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A frame is not what it should be, or the stream under it broke.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other end does not keep to the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Frame(FrameError::Io(error))
    }
}

impl WireError {
    /// Whether the other end is at fault, not the connection.
    #[must_use]
    pub fn is_garbage(&self) -> bool {
        match self {
            Self::Frame(error) => error.is_garbage(),
            Self::Protocol(_) => true,
        }
    }
}

/// A stream of frames.
pub struct FrameStream {
    stream: BoxStream,
    input: BytesMut,
    output: BytesMut,
    /// Bytes that the stream has given, since the beginning.
    received: u64,
    /// Bytes of the output that the stream has taken, since the beginning.
    written: u64,
    /// Bytes were written and not yet flushed.
    unflushed: bool,
    input_bytes_max: u32,
    output_bytes_max: u32,
}

impl FrameStream {
    /// Frames on `stream`, whose bodies are at most `frame_bytes_max` bytes.
    #[must_use]
    pub fn new(stream: BoxStream, frame_bytes_max: u32) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            received: 0,
            written: 0,
            unflushed: false,
            input_bytes_max: frame_bytes_max,
            output_bytes_max: frame_bytes_max,
        }
    }

    /// Changes the limits of frames received and sent from now on: the handshake is kept shorter than the rest.
    pub fn set_limits(&mut self, input_bytes_max: u32, output_bytes_max: u32) {
        self.input_bytes_max = input_bytes_max;
        self.output_bytes_max = output_bytes_max;
    }

    /// Adds a frame to the output. Nothing is sent before [`poll_send`](Self::poll_send).
    ///
    /// # Errors
    /// The frame is over the limit; the output is then as it was.
    pub fn push<T: Serialize>(&mut self, value: &T) -> Result<(), WireError> {
        Ok(codec::encode_frame(value, self.output_bytes_max, &mut self.output)?)
    }

    /// Takes the next whole frame from the input, if there is one.
    ///
    /// # Errors
    /// The input is not what it should be; the connection cannot go on.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some(body) = codec::first_frame(&self.input, self.input_bytes_max)? else { return Ok(None) };
        let (value, used) = (codec::decode_body(body)?, FRAME_HEADER_BYTES + body.len());
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
        self.received += read as u64;
        Poll::Ready(match (read, self.input.is_empty()) {
            (0, true) => Ok(false),
            (0, false) => Err(FrameError::Cut.into()),
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
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
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

    /// Bytes that came and went, since the beginning.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.received + self.written
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
