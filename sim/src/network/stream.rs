//! One end of a connection, as the code under test holds it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Network;
use super::connection::{Read, Write};
use crate::time::Side;

/// A byte stream. Dropping it closes this end.
pub(super) struct SimStream {
    network: Network,
    number: u64,
    end: usize,
}

impl SimStream {
    pub(super) const fn new(network: Network, number: u64, end: usize) -> Self {
        Self { network, number, end }
    }

    fn reset() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.network.lock();
        match state.read(&self.network.shared, self.number, self.end, buffer) {
            Read::Done => Poll::Ready(Ok(())),
            Read::Broken => Poll::Ready(Err(Self::reset())),
            Read::Wait => {
                if let Some(connection) = state.connections.get(&self.number) {
                    connection.alarm(self.end).register(Side::Read, cx.waker());
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, offered: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.network.lock();
        match state.write(&self.network.shared, self.number, self.end, offered) {
            Write::Taken(bytes) => Poll::Ready(Ok(bytes)),
            Write::Broken => Poll::Ready(Err(Self::reset())),
            Write::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Write::Wait => {
                if let Some(connection) = state.connections.get(&self.number) {
                    connection.alarm(self.end).register(Side::Write, cx.waker());
                }
                Poll::Pending
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.lock().finish(&self.network.shared, self.number, self.end);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.network.lock().close(&self.network.shared, self.number, self.end);
    }
}
