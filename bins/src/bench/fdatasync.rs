//! How fast the disk is by itself: `fdatasync` after a small write into a file whose space was written before.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use raft::clock::{Clock, RealClock};

use super::histogram::Histogram;

const FILE_BYTES: u64 = 4 << 20;
const WRITE_BYTES: u64 = 512;

/// Times `count` writes, each made durable, in a file of its own in `dir`.
pub(crate) fn measure(dir: &Path, count: u64) -> io::Result<Histogram> {
    let path = dir.join(format!(".raftkv-fdatasync-{}", std::process::id()));
    let measured = measure_file(&path, count);
    // It is in nobody's way if it cannot be removed.
    let _ = std::fs::remove_file(&path);
    measured
}

fn measure_file(path: &Path, count: u64) -> io::Result<Histogram> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&vec![0; FILE_BYTES as usize], 0)?;
    file.sync_all()?;
    let mut histogram = Histogram::new();
    for n in 0..count {
        let begun = RealClock.now();
        file.write_all_at(&[n as u8; WRITE_BYTES as usize], (n * WRITE_BYTES) % FILE_BYTES)?;
        file.sync_data()?;
        histogram.add(RealClock.now().since(begun));
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_counted_and_the_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(measure(dir.path(), 5).unwrap().count(), 5);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(&dir.path().join("nowhere"), 1).is_err());
    }
}
