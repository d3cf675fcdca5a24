//! Bytes from the outside that are only decoded.

use std::fmt::Debug;

use bytes::BytesMut;
use kv::command::CommandBody;
use kv::limits::Limits;
use kv::wire::{Answer, ClientHello, Request, RequestBody, ServerHello};
use raft::codec;
use raft::core::{Message, NodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::history::History;

const FRAME_BYTES_MAX: u32 = 1 << 16;

/// Reads a frame around a `T`, and the bytes as a `T` without the checksum in the way. What was read comes back as it
/// was.
fn framed<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    if let Ok(Some(body)) = codec::first_frame(bytes, FRAME_BYTES_MAX) {
        let _ = codec::decode_body::<T>(body);
    }
    let value = codec::decode_body::<T>(bytes).ok()?;
    let mut out = BytesMut::new();
    if codec::encode_frame(&value, FRAME_BYTES_MAX, &mut out).is_ok() {
        let body = codec::first_frame(&out, FRAME_BYTES_MAX).expect("a whole frame").expect("a whole frame");
        assert_eq!(codec::decode_body::<T>(body).expect("what was written"), value);
        for cut in [0, 1, out.len() / 2, out.len() - 1] {
            let part = &out[..cut];
            assert_eq!(codec::first_frame(part, FRAME_BYTES_MAX).expect("the beginning of a frame"), None);
        }
    }
    Some(value)
}

pub(super) fn frames(bytes: &[u8]) -> bool {
    framed::<Message>(bytes).is_some()
}

pub(super) fn requests(bytes: &[u8]) -> bool {
    let hello = framed::<ClientHello>(bytes);
    if let Some(hello) = &hello {
        let _ = ServerHello::answer(hello, NodeId(1), 1);
    }
    let request = framed::<Request>(bytes);
    match request.as_ref().map(|request| &request.body) {
        Some(RequestBody::Propose(CommandBody::Operate { operation, .. })) => {
            let _ = Limits::default().check(operation);
        }
        Some(RequestBody::Range { range, .. }) => {
            let _ = Limits::default().check_read(range);
        }
        _ => {}
    }
    let answers = [framed::<Answer>(bytes).is_some(), framed::<ServerHello>(bytes).is_some()];
    hello.is_some() || request.is_some() || answers.contains(&true)
}

/// A history, or an error that names the line.
pub(super) fn histories(bytes: &[u8]) -> bool {
    let Ok(history) = History::read(bytes) else { return false };
    let mut written = Vec::new();
    history.write(&mut written).expect("a vector takes everything");
    let again = History::read(written.as_slice()).expect("what was written");
    assert_eq!(again.operations().len(), history.operations().len());
    true
}
