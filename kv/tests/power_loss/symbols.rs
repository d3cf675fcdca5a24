//! The C symbols through which the standard library, and with it sled, reaches files: defined here, so that this test
//! binary sees every call. Each does what the C library's own does, by a system call of rustix, and tells the recorder.
//!
//! `rename` and `sync_file_range` are not here: the store defines them (`kv::store::power_safe`). The first ends
//! in `renameat` and `fsync`, which are here; the second never reaches the system.

#![expect(unsafe_code, reason = "C symbols can be defined only so")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::recorder::{self, Ignore};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

fn answer(done: Result<isize, Errno>) -> isize {
    done.unwrap_or_else(|errno| {
        // SAFETY: the address of this thread's errno.
        unsafe { *__errno_location() = errno.raw_os_error() };
        -1
    })
}

fn status(done: Result<(), Errno>) -> c_int {
    answer(done.map(|()| 0)) as c_int
}

/// The descriptor as rustix wants it.
fn borrowed<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the caller of the C function holds it open. Only -1 is not allowed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn path<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: the caller of the C function hands in a C string that lives as long as the call.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

fn open(dir: RawFd, name: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let path = path(name);
    let oflags = OFlags::from_bits_retain(flags as u32);
    let done = recorder::open(dir, path, flags, || {
        let mode = Mode::from_raw_mode(mode);
        let opened = if dir == AT_FDCWD || path.is_absolute() {
            rustix::fs::openat(CWD, path, oflags, mode)
        } else {
            rustix::fs::openat(borrowed(dir), path, oflags, mode)
        };
        opened.map(IntoRawFd::into_raw_fd)
    });
    answer(done.map(|fd| fd as isize)) as c_int
}

const AT_FDCWD: RawFd = -100;

// The C functions take the mode as a variable argument: on Linux it comes where a fixed one would.
#[unsafe(no_mangle)]
extern "C" fn open64(name: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open(AT_FDCWD, name, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn openat64(dir: c_int, name: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open(dir, name, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    recorder::close(fd, || {
        // SAFETY: whoever closes owns it.
        unsafe { rustix::io::close(fd) };
    });
    0
}

fn bytes<'a>(data: *const c_void, length: usize) -> &'a [u8] {
    // SAFETY: the caller of the C function hands in that many bytes.
    unsafe { std::slice::from_raw_parts(data.cast(), length) }
}

#[unsafe(no_mangle)]
extern "C" fn write(fd: c_int, data: *const c_void, length: usize) -> isize {
    let data = bytes(data, length);
    let offset = || rustix::fs::tell(borrowed(fd)).unwrap_or(0);
    answer(recorder::write(fd, data, offset, || rustix::io::write(borrowed(fd), data)).map(|n| n as isize))
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(fd: c_int, data: *const c_void, length: usize, offset: i64) -> isize {
    let (data, at) = (bytes(data, length), offset as u64);
    answer(
        recorder::write(fd, data, || at, || rustix::io::pwrite(borrowed(fd), data, at)).map(|n| n as isize),
    )
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, length: i64) -> c_int {
    status(recorder::set_len(fd, length as u64, || rustix::fs::ftruncate(borrowed(fd), length as u64)))
}

// Nothing here is lost by a real power cut: the real call would only take time.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    status(recorder::sync(fd, || rustix::fs::fsync(borrowed(fd))))
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    status(recorder::sync(fd, || rustix::fs::fdatasync(borrowed(fd))))
}

#[unsafe(no_mangle)]
extern "C" fn mkdir(name: *const c_char, mode: c_uint) -> c_int {
    let path = path(name);
    status(recorder::make_dir(path, || rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode))))
}

fn remove(dir: RawFd, name: *const c_char, flags: AtFlags, single: bool) -> c_int {
    let path = path(name);
    let done = recorder::remove(dir, path, single, |ignore| match ignore {
        Ignore::Yes => Ok(()),
        Ignore::No if dir == AT_FDCWD || path.is_absolute() => rustix::fs::unlinkat(CWD, path, flags),
        Ignore::No => rustix::fs::unlinkat(borrowed(dir), path, flags),
    });
    status(done)
}

#[unsafe(no_mangle)]
extern "C" fn unlink(name: *const c_char) -> c_int {
    remove(AT_FDCWD, name, AtFlags::empty(), true)
}

#[unsafe(no_mangle)]
extern "C" fn rmdir(name: *const c_char) -> c_int {
    remove(AT_FDCWD, name, AtFlags::REMOVEDIR, false)
}

#[unsafe(no_mangle)]
extern "C" fn unlinkat(dir: c_int, name: *const c_char, flags: c_int) -> c_int {
    remove(dir, name, AtFlags::from_bits_retain(flags as u32), false)
}

#[unsafe(no_mangle)]
extern "C" fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int {
    let (from, to) = (path(from), path(to));
    assert!(from_dir == AT_FDCWD && to_dir == AT_FDCWD, "the store renames by whole paths");
    status(recorder::rename(from, to, || rustix::fs::renameat(CWD, from, CWD, to)))
}
