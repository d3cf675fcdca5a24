//! Room on this node's disk: measured, held in reserve, and told to the core.
//!
//! A failed write ends the node (rule 2), and a node that was ended by a full disk must be able to come back: to open
//! its log, which may need a new segment, to write a checkpoint and a snapshot, and then to drop the log behind them.
//! So part of the disk is kept occupied by a file that holds nothing, the *ballast*. It is given up at a start that
//! finds less room than the low mark, and is put back once there is room for it.
//!
//! What the ballast takes, or is to take, does not count as free. So giving it up changes nothing about how much room
//! there is: else each start of a full node would find room, take proposals, and eat up its own reserve.
//!
//! Between its measurements the node knows nothing: the marks must leave room for what can be written in that time,
//! and for a segment of the log, which is taken whole. That the disk cannot be measured is no reason to stop, since
//! nothing was lost by it: the last measurement stands.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::blocking::Lane;
use crate::core::Space;
use crate::disk::{Disk, OpenMode, SharedDisk};

use super::event_loop::Completion;

/// The ballast's name in the data directory.
const BALLAST_NAME: &str = "ballast";

/// How much room a node wants on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceOptions {
    /// Below so many free bytes, commands that make the state grow are refused once too few other voters have more.
    /// 0: never; else at least a segment of the log.
    pub low_bytes: u64,
    /// Below so many, all commands are. Less than `low_bytes`.
    pub critical_bytes: u64,
    /// What is kept in reserve for the start after a disk was full. It does not count as free. 0: nothing.
    pub ballast_bytes: u64,
    /// How many ticks lie between two measurements.
    pub check_ticks: u32,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self { low_bytes: 256 * MIB, critical_bytes: 128 * MIB, ballast_bytes: 64 * MIB, check_ticks: 50 }
    }
}

impl SpaceOptions {
    /// What is wrong with them, for a log of segments of this size.
    pub(super) fn flaw(&self, segment_bytes: u64) -> Option<String> {
        let Self { low_bytes, critical_bytes, check_ticks, .. } = *self;
        // What stops a node is often a segment that does not fit: if the rest then counted as ample, the next start
        // would not give up the ballast, and stop at the same place.
        if low_bytes > 0 && low_bytes < segment_bytes {
            return Some(format!(
                "the low mark of free space ({low_bytes} bytes) must not be below the size of a log segment \
                 ({segment_bytes} bytes)"
            ));
        }
        if critical_bytes > low_bytes {
            return Some(format!(
                "the critical mark of free space ({critical_bytes} bytes) must not be above the low one ({low_bytes})"
            ));
        }
        (check_ticks == 0)
            .then(|| "the free space must be measured every so many ticks, and not every 0".into())
    }

    /// What `free_bytes` are.
    pub(super) fn space(&self, free_bytes: u64) -> Space {
        if free_bytes < self.critical_bytes {
            Space::Critical
        } else if free_bytes < self.low_bytes {
            Space::Low
        } else {
            Space::Ample
        }
    }
}

/// Bytes free in `dir` beside the ballast, whether that is there or not.
fn measure(disk: &dyn Disk, dir: &Path, options: &SpaceOptions) -> io::Result<u64> {
    let free = disk.free_bytes(dir)?;
    if options.ballast_bytes == 0 {
        return Ok(free);
    }
    let held = ballast_bytes(disk, dir)?.unwrap_or(0);
    Ok((free + held.min(options.ballast_bytes)).saturating_sub(options.ballast_bytes))
}

/// How large the ballast is, if there is one.
fn ballast_bytes(disk: &dyn Disk, dir: &Path) -> io::Result<Option<u64>> {
    match disk.open(&dir.join(BALLAST_NAME), OpenMode::Read) {
        Ok(file) => file.len().map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// At a start: gives the ballast up if there is less room than there should be.
pub(super) fn release_if_low(disk: &dyn Disk, dir: &Path, options: &SpaceOptions) -> io::Result<()> {
    let free = measure(disk, dir, options)?;
    if options.space(free) == Space::Ample || ballast_bytes(disk, dir)?.is_none() {
        return Ok(());
    }
    tracing::warn!(
        dir = %dir.display(), free_bytes = free,
        "the disk is short of room: giving up the ballast, so that the node can start"
    );
    disk.remove_file(&dir.join(BALLAST_NAME))?;
    disk.sync_dir(dir)
}

/// Measures; and puts the ballast back if it is missing and there is room for it.
fn look(disk: &dyn Disk, dir: &Path, options: &SpaceOptions) -> io::Result<u64> {
    let free = measure(disk, dir, options)?;
    let wants_ballast = options.ballast_bytes > 0 && options.space(free) == Space::Ample;
    if wants_ballast && ballast_bytes(disk, dir)?.is_none_or(|bytes| bytes < options.ballast_bytes) {
        put_back(disk, dir, options.ballast_bytes);
    }
    Ok(free)
}

/// Puts the ballast back. It holds nothing, so a failure loses nothing; it is tried again with the next measurement.
fn put_back(disk: &dyn Disk, dir: &Path, bytes: u64) {
    let path = dir.join(BALLAST_NAME);
    let write = || {
        let file = match disk.open(&path, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&path, OpenMode::CreateNew)?,
            other => other?,
        };
        file.reserve(bytes)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "cannot reserve the ballast");
        // Half of one is worse than none: it would count as what it is, and leave no room to try again.
        let _ = disk.remove_file(&path);
    }
}

/// Looks at the disk from time to time.
pub(super) struct SpaceWatch {
    lane: Arc<dyn Lane>,
    disk: SharedDisk,
    dir: PathBuf,
    options: SpaceOptions,
    completions: mpsc::UnboundedSender<Completion>,
    measuring: bool,
    ticks_left: u32,
    /// By the last measurement.
    free_bytes: Option<u64>,
}

impl SpaceWatch {
    pub(super) fn new(
        lane: Arc<dyn Lane>,
        disk: SharedDisk,
        dir: PathBuf,
        options: SpaceOptions,
        completions: mpsc::UnboundedSender<Completion>,
    ) -> Self {
        Self { lane, disk, dir, options, completions, measuring: false, ticks_left: 0, free_bytes: None }
    }

    /// Bytes free beside the ballast, by the last measurement.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.free_bytes
    }

    /// A tick went by.
    pub(super) fn tick(&mut self) {
        self.ticks_left = self.ticks_left.saturating_sub(1);
        if self.ticks_left > 0 || self.measuring || self.options.low_bytes == 0 {
            return;
        }
        self.measuring = true;
        self.ticks_left = self.options.check_ticks;
        let (disk, dir, options) = (Arc::clone(&self.disk), self.dir.clone(), self.options);
        let completions = self.completions.clone();
        self.lane.submit(Box::new(move || {
            let free_bytes = look(disk.as_ref(), &dir, &options).inspect_err(
                |error| tracing::warn!(dir = %dir.display(), %error, "cannot measure the free space"),
            );
            // The receiver is gone only when the node has stopped.
            let _ = completions.send(Completion::SpaceMeasured { free_bytes: free_bytes.ok() });
        }));
    }

    /// The measurement is there; returns what it means, if it could be made.
    pub(super) fn measured(&mut self, free_bytes: Option<u64>) -> Option<Space> {
        self.measuring = false;
        self.free_bytes = free_bytes.or(self.free_bytes);
        free_bytes.map(|bytes| self.options.space(bytes))
    }

    /// Whether a file of so many bytes can be written without going below the critical mark.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.free_bytes.is_none_or(|free| free >= bytes.saturating_add(self.options.critical_bytes))
    }
}

#[cfg(test)]
impl SpaceWatch {
    /// That of a disk with so many free bytes.
    pub(super) fn having(free_bytes: Option<u64>, critical_bytes: u64) -> Self {
        let options = SpaceOptions { critical_bytes, ..SpaceOptions::default() };
        let lane = crate::blocking::Blocking::lane(&crate::blocking::RealBlocking, "space");
        let (completions, _) = mpsc::unbounded_channel();
        let watch = Self::new(lane, Arc::new(crate::disk::RealDisk), "d".into(), options, completions);
        Self { free_bytes, ..watch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    const MIB: u64 = 1 << 20;

    #[test]
    fn marks_are_in_order() {
        let options = SpaceOptions { low_bytes: 20, critical_bytes: 10, ballast_bytes: 0, check_ticks: 1 };
        assert_eq!(options.flaw(20), None);
        assert!(options.flaw(21).is_some());
        assert_eq!(
            [9, 10, 19, 20].map(|free| options.space(free)),
            [Space::Critical, Space::Low, Space::Low, Space::Ample]
        );
        assert!(SpaceOptions { critical_bytes: 21, ..options }.flaw(20).is_some());
        assert!(SpaceOptions { check_ticks: 0, ..options }.flaw(20).is_some());
        assert_eq!(SpaceOptions::default().flaw(64 * MIB), None);
    }

    #[test]
    fn the_ballast_is_put_back_when_there_is_room_and_given_up_at_a_start_without() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, dir) = (RealDisk, dir.path());
        let ample = SpaceOptions { low_bytes: 1, critical_bytes: 0, ballast_bytes: MIB, check_ticks: 1 };
        release_if_low(&disk, dir, &ample).unwrap();
        assert_eq!(ballast_bytes(&disk, dir).unwrap(), None, "a start puts nothing there");
        look(&disk, dir, &ample).unwrap();
        assert_eq!(ballast_bytes(&disk, dir).unwrap(), Some(MIB));
        release_if_low(&disk, dir, &ample).unwrap();
        assert_eq!(ballast_bytes(&disk, dir).unwrap(), Some(MIB), "a start with room leaves it");
        let short = SpaceOptions { low_bytes: u64::MAX, ..ample };
        release_if_low(&disk, dir, &short).unwrap();
        assert_eq!(ballast_bytes(&disk, dir).unwrap(), None);
        look(&disk, dir, &short).unwrap();
        assert_eq!(ballast_bytes(&disk, dir).unwrap(), None, "it stays away until there is room");
    }

    /// A disk with so much free, of which the ballast takes its part.
    struct Measured {
        ballast: Option<u64>,
        free: u64,
    }

    struct Held(u64);

    impl crate::disk::File for Held {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(self.0)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn preallocate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk for Measured {
        fn create_dir_all(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn list(&self, _: &Path) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn exists(&self, _: &Path) -> io::Result<bool> {
            Ok(self.ballast.is_some())
        }
        fn open(&self, _: &Path, _: OpenMode) -> io::Result<Box<dyn crate::disk::File>> {
            match self.ballast {
                Some(bytes) => Ok(Box::new(Held(bytes))),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        }
        fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn remove_file(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn sync_dir(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn lock_dir(&self, _: &Path) -> io::Result<crate::disk::DirLock> {
            Ok(Box::new(()))
        }
        fn free_bytes(&self, _: &Path) -> io::Result<u64> {
            Ok(self.free)
        }
    }

    // Else a node whose disk is full would find room at its next start, take proposals, and eat up its reserve.
    #[test]
    fn giving_up_the_ballast_makes_no_room() {
        let options = SpaceOptions { low_bytes: 200, critical_bytes: 100, ballast_bytes: 50, check_ticks: 1 };
        let measured =
            |ballast, free| measure(&Measured { ballast, free }, Path::new("d"), &options).unwrap();
        assert_eq!(measured(Some(50), 120), 120);
        assert_eq!(measured(None, 170), 120, "the same disk without its ballast");
        assert_eq!(measured(Some(20), 150), 120, "half a ballast");
        assert_eq!(measured(Some(90), 120), 120, "one from before the option was made smaller");
        assert_eq!(measured(None, 30), 0);
    }

    #[test]
    fn a_measurement_that_fails_leaves_the_last_one() {
        let (completions, _received) = mpsc::unbounded_channel();
        let options = SpaceOptions { low_bytes: 20, critical_bytes: 10, ballast_bytes: 0, check_ticks: 3 };
        let jobs = Arc::new(Jobs::default());
        let mut watch =
            SpaceWatch::new(Arc::clone(&jobs) as _, Arc::new(RealDisk), "d".into(), options, completions);
        assert!(watch.fits(u64::MAX), "nothing is known yet");
        watch.tick();
        watch.tick();
        assert_eq!(jobs.count(), 1, "one at a time");
        assert_eq!(watch.measured(Some(15)), Some(Space::Low));
        assert!(watch.fits(5) && !watch.fits(6));
        assert_eq!(watch.measured(None), None);
        assert_eq!(watch.free_bytes(), Some(15));
        watch.tick();
        watch.tick();
        assert_eq!(jobs.count(), 2, "and every so many ticks");
    }

    #[derive(Default)]
    struct Jobs(std::sync::Mutex<usize>);

    impl Jobs {
        fn count(&self) -> usize {
            *self.0.lock().unwrap()
        }
    }

    impl Lane for Jobs {
        fn submit(&self, _: crate::blocking::Job) {
            *self.0.lock().unwrap() += 1;
        }
    }
}
