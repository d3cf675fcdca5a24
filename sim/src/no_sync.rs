//! Keeps sled's fsyncs from real disks, by defining two C symbols for the whole process.
//!
//! In a simulated world nothing that sled writes needs to survive the machine this runs on: what is left after a
//! simulated crash is an image taken in memory. So `fsync` and `fdatasync` succeed at once. A definition in the
//! executable wins over one in a shared C library. Compiled only into the simulated world, where nothing else
//! has files worth keeping.

#![expect(unsafe_code, reason = "C symbols can be defined only so")]

use std::ffi::c_int;

/// Succeeds and does nothing.
#[unsafe(no_mangle)]
extern "C" fn fsync(_fd: c_int) -> c_int {
    0
}

/// Succeeds and does nothing.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(_fd: c_int) -> c_int {
    0
}
