//! Arbitrary bytes on a connection: a frame or an error, never a panic; and what was read as a message can be written.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use raft::codec;
use raft::core::Message;

const FRAME_BYTES_MAX: u32 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(body)) = codec::first_frame(bytes, FRAME_BYTES_MAX) {
        let _ = codec::decode_body::<Message>(body);
    }
    // Without the checksum in the way.
    if let Ok(message) = codec::decode_body::<Message>(bytes) {
        let mut out = BytesMut::new();
        if codec::encode_frame(&message, FRAME_BYTES_MAX, &mut out).is_ok() {
            let body = codec::first_frame(&out, FRAME_BYTES_MAX).expect("a whole frame").expect("a whole frame");
            assert_eq!(codec::decode_body::<Message>(body).expect("what was written"), message);
        }
    }
});
