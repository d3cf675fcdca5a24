//! Arbitrary text as a recorded history: a history or an error that names the line, never a panic; a small history
//! that is read gets the same verdict after it was written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_sim::history::History;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(history) = History::read(bytes) {
        let mut written = Vec::new();
        history.write(&mut written).expect("a vector takes everything");
        let again = History::read(written.as_slice()).expect("what was written");
        assert_eq!(again.operations().len(), history.operations().len());
    }
});
