//! Arbitrary bytes in a log entry: a command or an error, never a panic; and what was read comes back as it was.
#![no_main]

use kv::command::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(Command::decode(&command.encode()).expect("what was written"), command);
    }
});
