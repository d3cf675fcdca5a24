//! The disk seam: files and directories, with nothing assumed about what survives a crash but what was synced.
//!
//! All calls are synchronous; who must not block calls them through [`Blocking`](crate::blocking::Blocking).
//!
//! What an implementation promises, and no more:
//! - Written data survives a crash once [`File::sync_data`] of that file has returned. Before that, any subset of
//!   the written 512-byte sectors may be there, in any of their versions.
//! - A created, renamed or removed name survives once [`Disk::sync_dir`] of its directory has returned.
//! - After a failed sync nothing is known about the file's content. The caller stops (rule 2); it does not try again.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

mod real;

pub use real::RealDisk;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist yet.
    CreateNew,
}

/// An open file. Positions are explicit: there is no cursor.
pub trait File: Send + Sync {
    /// Reads at `offset` into `buf`; returns how many bytes were read, fewer than asked only at the end.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset`, growing the file if need be.
    ///
    /// # Errors
    /// As the operating system reports them; part of the data may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the data (and the length) durable: `fdatasync`.
    ///
    /// # Errors
    /// As the operating system reports them; see the [module](self) on what is then known.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds nothing.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends the file to `len` bytes; new bytes are zero.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends the file to `len` bytes of reserved space with zeros really written to it, so that later writes
    /// within it change no metadata and their `fdatasync` needs no journal commit. What the file already holds is
    /// left alone; a file that is long enough is not touched. Not durable until synced.
    ///
    /// # Errors
    /// `StorageFull` if the space is not there.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// Extends the file to `len` bytes whose space is taken, whatever they hold: for a file that only keeps others from
    /// taking it.
    ///
    /// # Errors
    /// `StorageFull` if the space is not there.
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.preallocate(len)
    }
}

/// A directory, held by this process alone until dropped.
pub type DirLock = Box<dyn Any + Send + Sync>;

/// One node's disk.
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory and its parents; one that exists is left alone. Not durable until
    /// [`sync_dir`](Self::sync_dir) of each parent.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Whether anything has this name.
    ///
    /// # Errors
    /// As the operating system reports them, except "not found".
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, or as the operating system reports them.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;

    /// Gives a file or directory another name, replacing a file of that name. Durable only after
    /// [`sync_dir`](Self::sync_dir) of both directories.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// As the operating system reports them.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes the directory for this process alone.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it.
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock>;

    /// Bytes free for this user on the file system of `path`.
    ///
    /// # Errors
    /// As the operating system reports them.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// A disk that many parts share.
pub type SharedDisk = Arc<dyn Disk>;
