//! Makes sled's file calls survive a loss of power, by defining two C symbols for the whole process.
//!
//! sled 0.34 makes its log durable with `sync_file_range`, which writes pages back but neither commits the file's
//! metadata nor flushes the disk's cache; where the call answers `ENOSYS`, sled falls back to `fsync`. It also
//! renames its page-table snapshots into place without syncing the directory. Replaying random subsets of its
//! unsynced writes, 299 of 800 crash images of unmodified sled did not open, or opened with wrong or no data; with
//! these two symbols, and the rest of the recipe in [`sled`](super::sled_engine), none of 33,761 did not.
//!
//! So this module, the only one in the workspace with `unsafe` code, defines
//!
//! - `sync_file_range`: always fails with `ENOSYS`;
//! - `rename`: renames, then syncs the directory it renamed into (and, if another, the one it renamed from).
//!
//! Both keep the contracts of the calls they replace: a caller of the first must cope with `ENOSYS`, a caller of
//! the second gets more than it asked for. They hold for every `std::fs::rename` in the process, too. A definition
//! in the executable wins over one in a shared C library; `assert_active` proves at start-up that it did.
//!
//! On other systems than Linux sled calls `fsync` anyway, and only `rename` is defined.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static RENAMES: AtomicU64 = AtomicU64::new(0);
static RANGE_SYNCS: AtomicU64 = AtomicU64::new(0);

/// How often sled has asked for a `sync_file_range` and was given `ENOSYS`. The power-loss harness needs it to tell the
/// `fsync` that follows from others.
#[must_use]
pub fn range_syncs() -> u64 {
    RANGE_SYNCS.load(Ordering::Relaxed)
}

#[expect(
    unsafe_code,
    reason = "C symbols can be defined and called only so; the module's docs say why they must be"
)]
mod symbols {
    use std::ffi::{CStr, OsStr, c_char, c_int};
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::atomic::Ordering;

    #[cfg(target_os = "linux")]
    unsafe extern "C" {
        fn __errno_location() -> *mut c_int;
    }

    #[cfg(not(target_os = "linux"))]
    unsafe extern "C" {
        #[link_name = "__error"]
        fn __errno_location() -> *mut c_int;
    }

    unsafe extern "C" {
        /// Not `rename`, which is defined below; and not rustix's, which is a system call of its own: what records
        /// the file calls of a process must see this one too.
        fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int;
    }

    fn fail(errno: c_int) -> c_int {
        // SAFETY: the C library answers with the address of this thread's errno, which is always valid.
        unsafe { *__errno_location() = errno };
        -1
    }

    /// Refuses, so that the caller falls back to `fsync`.
    #[cfg(target_os = "linux")]
    #[unsafe(no_mangle)]
    extern "C" fn sync_file_range(_fd: c_int, _offset: i64, _bytes: i64, _flags: u32) -> c_int {
        super::RANGE_SYNCS.fetch_add(1, Ordering::Relaxed);
        fail(rustix::io::Errno::NOSYS.raw_os_error())
    }

    fn sync_parent(path: &Path) -> std::io::Result<()> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) => Path::new("."),
            None => return Ok(()),
        };
        File::open(parent)?.sync_all()
    }

    fn durable_rename(from: &CStr, to: &CStr) -> Result<(), c_int> {
        let (here, io_error) = (rustix::fs::CWD.as_raw_fd(), rustix::io::Errno::IO.raw_os_error());
        // SAFETY: two strings that end with a zero byte, and the number that stands for the working directory.
        if unsafe { renameat(here, from.as_ptr(), here, to.as_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(io_error));
        }
        let (from, to) =
            (Path::new(OsStr::from_bytes(from.to_bytes())), Path::new(OsStr::from_bytes(to.to_bytes())));
        sync_parent(to).map_err(|e| e.raw_os_error().unwrap_or(io_error))?;
        if from.parent() != to.parent() {
            sync_parent(from).map_err(|e| e.raw_os_error().unwrap_or(io_error))?;
        }
        Ok(())
    }

    /// Renames, and makes the new name durable.
    ///
    /// # Safety
    /// As of the C function: both are strings that end with a zero byte.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
        super::RENAMES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller of `rename` hands in two C strings.
        let (from, to) = unsafe { (CStr::from_ptr(from), CStr::from_ptr(to)) };
        durable_rename(from, to).map_or_else(fail, |()| 0)
    }
}

/// Proves, once a process, that `std::fs::rename` is the one above. A file is renamed in `dir` for it.
///
/// That `sync_file_range` is ours, each sled store proves when it is created: its first flush must have called it.
///
/// # Errors
/// The probe file cannot be written.
///
/// # Panics
/// If it is not: this executable was linked so that sled would not be safe in it.
pub(crate) fn assert_active(dir: &Path) -> io::Result<()> {
    static PROVEN: AtomicBool = AtomicBool::new(false);
    if PROVEN.load(Ordering::Acquire) {
        return Ok(());
    }
    let (from, to) = (dir.join("rename-probe.a"), dir.join("rename-probe.b"));
    std::fs::write(&from, b"")?;
    let before = RENAMES.load(Ordering::Relaxed);
    std::fs::rename(&from, &to)?;
    let after = RENAMES.load(Ordering::Relaxed);
    std::fs::remove_file(&to)?;
    assert!(
        after > before,
        "std::fs::rename is the C library's own in this executable: its stores would not survive a power cut"
    );
    PROVEN.store(true, Ordering::Release);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // A rename of the standard library goes through ours, works, and reports what a rename reports.
    #[test]
    fn rename_is_ours_and_still_renames() {
        let dir = tempfile::tempdir().unwrap();
        assert_active(dir.path()).unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, b"x").unwrap();
        let before = RENAMES.load(Ordering::Relaxed);
        std::fs::rename(&a, &b).unwrap();
        assert!(RENAMES.load(Ordering::Relaxed) > before);
        assert_eq!(std::fs::read(&b).unwrap(), b"x");
        assert!(!a.exists());
        assert_eq!(std::fs::rename(&a, &b).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
