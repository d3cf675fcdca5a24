//! The operating system's files.
//!
//! A thin layer: each call is the system call of that name, no buffering, no retries. A failed call is reported as
//! it is; what to do about it is the caller's business.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;

use super::{DirLock, Disk, File, OpenMode};

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

/// The name of the file that stands for the lock on its directory.
const LOCK_NAME: &str = "LOCK";

/// The disk of the machine this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut at = self.len()?;
        if at >= len {
            return Ok(());
        }
        // The reservation finds out about a full disk before anything is written. KEEP_SIZE, so that after a crash
        // the length tells how far the zeros came. A file system that cannot reserve still gets the zeros.
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, at, len - at) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; ZEROS_BYTES];
        while at < len {
            let piece = (len - at).min(ZEROS_BYTES as u64);
            let piece = zeros.get(..piece as usize).unwrap_or(&zeros);
            self.file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let at = self.len()?;
        if at >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), at, len - at) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.preallocate(len),
            other => Ok(other?),
        }
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::Write => options.read(true).write(true),
            OpenMode::CreateNew => options.read(true).write(true).create_new(true),
        };
        Ok(Box::new(RealFile { file: options.open(path)? }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // The parent of a relative name of one part is written as the empty path.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use by another process", path.display()),
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        (tempfile::tempdir().unwrap(), RealDisk)
    }

    #[test]
    fn a_file_is_written_read_and_renamed() {
        let (dir, disk) = disk();
        let a = dir.path().join("a");
        let file = disk.open(&a, OpenMode::CreateNew).unwrap();
        assert!(disk.open(&a, OpenMode::CreateNew).is_err(), "CreateNew must not open what is there");
        file.write_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        let mut buf = [9; 16];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(&buf[..8], b"\0\0\0hello");
        let b = dir.path().join("b");
        disk.rename(&a, &b).unwrap();
        disk.sync_dir(dir.path()).unwrap();
        assert_eq!(disk.list(dir.path()).unwrap(), ["b"]);
        disk.remove_file(&b).unwrap();
        assert!(!disk.exists(&b).unwrap());
        assert!(disk.free_bytes(dir.path()).unwrap() > 0);
    }

    #[test]
    fn preallocate_extends_with_zeros_and_keeps_what_is_there() {
        let (dir, disk) = disk();
        let file = disk.open(&dir.path().join("a"), OpenMode::CreateNew).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.preallocate(3 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 3 << 20);
        file.preallocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 3 << 20);
        let mut buf = [9; 2];
        file.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"x\0");
    }

    #[test]
    fn reserve_takes_the_space() {
        use std::os::unix::fs::MetadataExt;
        let (dir, disk) = disk();
        let path = dir.path().join("a");
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        file.reserve(3 << 20).unwrap();
        file.reserve(10).unwrap();
        assert_eq!(file.len().unwrap(), 3 << 20);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 3 << 20, "not a hole");
    }

    #[test]
    fn a_directory_is_locked_until_the_lock_is_dropped() {
        let (dir, disk) = disk();
        let lock = disk.lock_dir(dir.path()).unwrap();
        let second = disk.lock_dir(dir.path()).err().map(|e| e.kind());
        assert_eq!(second, Some(io::ErrorKind::WouldBlock));
        drop(lock);
        disk.lock_dir(dir.path()).unwrap();
    }
}
