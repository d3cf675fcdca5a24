//! See `sim/src/fuzz/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| raftkv_sim::fuzz::run("snapshots", bytes));
