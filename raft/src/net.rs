//! The network seam: byte streams to an address, for peers and clients alike.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::BoxFuture;

/// An ordered, reliable stream of bytes in both directions, which may break at any time.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream of either world.
pub type BoxStream = Box<dyn Stream>;

/// Accepts connections on one address. Dropping it closes the address, not the accepted streams.
pub trait Listener: Send {
    /// Waits for the next connection; also tells the other end's address, for logs.
    ///
    /// # Errors
    /// As the operating system reports them. Most pass by themselves (too many open files): the caller waits a
    /// little and tries again.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>>;

    /// The address in fact listened on: useful when port 0 was asked for.
    fn local_address(&self) -> String;
}

/// One node's network.
pub trait Net: Send + Sync + 'static {
    /// Opens a stream to `address` (`host:port`; a name is resolved anew each time).
    ///
    /// # Errors
    /// The address cannot be resolved, or nobody answers there. May also hang: use a timeout.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxStream>>;

    /// Begins to listen on `address`.
    ///
    /// # Errors
    /// The address cannot be resolved or is taken.
    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

/// A network that many tasks share.
pub type SharedNet = Arc<dyn Net>;

/// The real network: TCP, without Nagle's delay.
///
/// Deliberately absent: TLS (its own issue), and keep-alive probes of the operating system. Both ends of a peer
/// stream probe each other themselves, in seconds where TCP takes hours.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNet;

struct TcpAcceptor {
    listener: TcpListener,
    local: String,
}

impl Listener for TcpAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            // It fails only on a stream that is broken already, which its reader will notice.
            let _ = stream.set_nodelay(true);
            Ok((Box::new(stream) as BoxStream, from.to_string()))
        })
    }

    fn local_address(&self) -> String {
        self.local.clone()
    }
}

impl Net for RealNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxStream>> {
        let address = address.to_owned();
        Box::pin(async move {
            // Tries each address that the name resolves to, in turn.
            let stream = TcpStream::connect(address.as_str()).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let listener = TcpListener::bind(address.as_str()).await?;
            let local = listener.local_addr()?.to_string();
            Ok(Box::new(TcpAcceptor { listener, local }) as Box<dyn Listener>)
        })
    }
}
