//! What the fuzzer does with its bytes, as plain functions.
//!
//! Each target is a function from bytes to whether they were understood, and panics if something is wrong. The packages
//! under `fuzz/` only hand them to libFuzzer, which needs nightly; `tests/fuzz_corpus.rs` runs the corpus and every
//! former finding through the same functions with `cargo test`.
//!
//! | target | bytes | what must hold |
//! |---|---|---|
//! | `frames` | a frame between members | a message or an error; what was read can be written and read again |
//! | `requests` | a frame of a client, and of a server | the same, and limits are checked without a panic |
//! | `commands` | a log entry; or a list of commands | a command or an error; the state machine answers as its twin does |
//! | `histories` | a recorded history | a history or an error; it is the same after writing and reading |
//! | `wal` | a script for a log, and damage to its files; or whole files | opened or refused, alike each time; never an entry that was not written |
//! | `snapshots` | a snapshot, and damage to its file or its transfer; or a whole file | refused, or the very state; never a panic of who installs it |
//! | `core` | inputs to one member, messages of peers among them | no invariant breaks, and a refused message leaves no trace |
//!
//! The seeds of the corpus are written by `cargo run -p raftkv-sim --example fuzz_seeds`.

mod commands;
mod core;
mod decode;
pub mod seeds;
mod snapshots;
#[expect(dead_code, reason = "the tests of the state machine, where it lives, use all of it")]
#[path = "../../../kv/tests/state_machine/twin.rs"]
mod twin;
mod wal;

/// What the twin looks for in the tests of the state machine, where it comes from.
mod world {
    use kv::state_machine::SessionLimits;

    /// Small, so that they are reached.
    pub(crate) const LIMITS: SessionLimits =
        SessionLimits { sessions_max: 3, responses_max: 4, response_bytes_max: 300 };
}

/// Does what one target does; returns whether the bytes were understood.
pub type Target = fn(&[u8]) -> bool;

/// All targets, by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("frames", decode::frames),
    ("requests", decode::requests),
    ("commands", commands::commands),
    ("histories", decode::histories),
    ("wal", wal::wal),
    ("snapshots", snapshots::snapshots),
    ("core", core::core),
];

/// Runs the target of this name.
///
/// # Panics
/// There is none, or it found something.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(bytes);
}

/// The values that stand in front of `bytes`, as far as they can be read, at most `max`.
fn list<T: serde::de::DeserializeOwned>(mut bytes: &[u8], max: usize) -> Vec<T> {
    let mut values = Vec::new();
    while values.len() < max && !bytes.is_empty() {
        let Ok((value, rest)) = postcard::take_from_bytes(bytes) else { break };
        values.push(value);
        bytes = rest;
    }
    values
}

/// Bytes from which [`list`] reads these values.
fn bytes_of<T: serde::Serialize>(values: &[T]) -> Vec<u8> {
    values.iter().fold(Vec::new(), |bytes, value| {
        postcard::to_extend(value, bytes).expect("a vector has room for everything")
    })
}
