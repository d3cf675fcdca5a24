//! Making a stream to another member and introducing oneself on it.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::PeerOptions;
use super::handshake::{ANSWER_BYTES_MAX, Answer, Hello, Probe, Purpose, Refusal, encode_hello};
use crate::clock::{Clock, timeout};
use crate::codec::{FrameError, FrameReader};
use crate::core::NodeId;
use crate::net::{BoxStream, Net};

/// A stream whose other end has answered the hello.
pub(crate) struct Dialled {
    pub(crate) reader: FrameReader<ReadHalf<BoxStream>>,
    pub(crate) writer: WriteHalf<BoxStream>,
    pub(crate) answer: Answer,
}

/// Why a member was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no connection: no answer in time")]
    ConnectTimeout,
    #[error("connected, but there was no answer to the hello in time")]
    HandshakeTimeout,
    #[error("the connection was closed without an answer to the hello")]
    Closed,
    #[error("the answer to the hello is no such thing: {0}")]
    Handshake(FrameError),
    #[error("refused: {}", .0.name())]
    Refused(Refusal),
    #[error("{0}")]
    Mismatch(String),
}

impl DialError {
    /// For rate-limited logging: a name that does not change with the details.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::ConnectTimeout => "no connection",
            Self::HandshakeTimeout | Self::Closed | Self::Handshake(_) => "no handshake",
            Self::Refused(refusal) => refusal.name(),
            Self::Mismatch(_) => "mismatch",
        }
    }

    /// The whole story in one line, for the dialler's log.
    pub(crate) fn explain(&self, from: NodeId, to: NodeId) -> String {
        match self {
            Self::Refused(refusal) => refusal.explain(from, to),
            other => other.to_string(),
        }
    }
}

/// Connects to `address`, says `hello` and waits for the answer. A refusal is an error; whether any other answer is
/// the right one is for the caller to say.
pub(crate) async fn dial(
    clock: &dyn Clock,
    net: &dyn Net,
    address: &str,
    hello: &Hello,
    options: &PeerOptions,
) -> Result<Dialled, DialError> {
    let stream = match timeout(clock, options.connect_timeout, net.connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(DialError::Connect(error)),
        Err(_) => return Err(DialError::ConnectTimeout),
    };
    match timeout(clock, options.handshake_timeout, greet(stream, hello)).await {
        Ok(Ok(dialled)) => match dialled.answer {
            Answer::Refuse(refusal) => Err(DialError::Refused(refusal)),
            _ => Ok(dialled),
        },
        Ok(Err(error)) => Err(error),
        Err(_) => Err(DialError::HandshakeTimeout),
    }
}

/// Asks who lives at `address`, before it is made a member: whether it can be reached there, and with which disk.
///
/// `from` is who asks, for the other end's log. Whether the one found may become a member (its disk empty, the
/// cluster none) is for the caller to say.
///
/// # Errors
/// Nobody answers there, or it is not `expected`; the message says what to do.
pub async fn probe(
    clock: &dyn Clock,
    net: &dyn Net,
    options: &PeerOptions,
    from: NodeId,
    address: &str,
    expected: NodeId,
) -> Result<Probe, String> {
    let hello = Hello {
        cluster: None,
        member: from,
        incarnation: 0,
        address: String::new(),
        to: expected,
        purpose: Purpose::Probe,
    };
    let dialled = match dial(clock, net, address, &hello, options).await {
        Ok(dialled) => dialled,
        Err(error) => {
            let why = error.explain(from, expected);
            return Err(format!(
                "{expected} is not reached at {address}: {why}; start it, or correct the address"
            ));
        }
    };
    match dialled.answer {
        Answer::Probed(probe) if probe.member == expected => Ok(probe),
        Answer::Probed(Probe { member, .. }) => {
            Err(format!("{member} lives at {address}, not {expected}: correct the id or the address"))
        }
        _ => Err(format!("what lives at {address} does not say who it is: is it a member of this version?")),
    }
}

async fn greet(stream: BoxStream, hello: &Hello) -> Result<Dialled, DialError> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, ANSWER_BYTES_MAX);
    let mut out = BytesMut::new();
    encode_hello(hello, &mut out).map_err(DialError::Handshake)?;
    let said = async {
        writer.write_all(&out).await?;
        writer.flush().await
    };
    said.await.map_err(|error| DialError::Handshake(error.into()))?;
    match reader.read::<Answer>().await {
        Ok(Some(answer)) => Ok(Dialled { reader, writer, answer }),
        Ok(None) => Err(DialError::Closed),
        Err(error) => Err(DialError::Handshake(error)),
    }
}
