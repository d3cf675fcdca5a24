//! The simulated disk and the real one give the same answers.
//!
//! The same drawn calls are made to both, and after each one the two answers are compared, down to the kind of the
//! error; at the end, every name and every byte. So what holds on the simulated disk holds on the real one, as far as programs that
//! are not interrupted can tell. What a crash leaves is not compared: no test can take the power from a machine.
//!
//! Known differences, which nothing above the seam depends on; `Outcome` and `Twins` make them equal:
//! - what may not be done to a file opened for reading is refused with another kind of error (`EBADF`, `EINVAL`);
//! - Linux opens a directory as if it were a file for reading, and refuses the read; the simulated disk refuses to open it;
//! - `sync_dir` of a file syncs the file, where the simulated disk refuses;
//! - `..` in a path is refused by the simulated disk, as are names that are not UTF-8;
//! - no user and no file system refuses anything: `EACCES`, `EROFS`, `EMFILE`, limits of length and links do not exist.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use raft::disk::{DirLock, Disk, File, OpenMode, RealDisk};
use raftkv_sim::disk::SimDisk;

/// How many files and locks are open at most.
const SLOTS: usize = 4;
/// Few, so that calls meet: names of files, of directories, and of what lies below both.
const PATHS: [&str; 9] = ["", "a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "a/x"];

#[derive(Clone, Debug)]
enum Step {
    CreateDir(usize),
    Open(usize, OpenMode, usize),
    Close(usize),
    Rename(usize, usize),
    Remove(usize),
    SyncDir(usize),
    List(usize),
    Exists(usize),
    Lock(usize, usize),
    Unlock(usize),
    Free(usize),
    Write { slot: usize, offset: u64, bytes: usize },
    Read { slot: usize, offset: u64, bytes: usize },
    Sync(usize),
    SetLen(usize, u64),
    Preallocate(usize, u64),
    Reserve(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (path, slot) = (|| 0..PATHS.len(), || 0..SLOTS);
    let mode = prop_oneof![
        5 => Just(OpenMode::CreateNew),
        3 => Just(OpenMode::Write),
        1 => Just(OpenMode::Read),
    ];
    // Around the borders of sectors and of pages, and anywhere.
    let offset = || prop_oneof![Just(0), Just(511), Just(512), Just(4096), 0..6000_u64];
    let bytes = || prop_oneof![Just(0), Just(1), Just(512), 0..2000_usize];
    let step = prop_oneof![
        2 => path().prop_map(Step::CreateDir),
        6 => (path(), mode, slot()).prop_map(|(path, mode, slot)| Step::Open(path, mode, slot)),
        1 => slot().prop_map(Step::Close),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => path().prop_map(Step::Remove),
        1 => path().prop_map(Step::SyncDir),
        1 => path().prop_map(Step::List),
        1 => path().prop_map(Step::Exists),
        1 => (path(), slot()).prop_map(|(path, slot)| Step::Lock(path, slot)),
        1 => slot().prop_map(Step::Unlock),
        1 => path().prop_map(Step::Free),
        5 => (slot(), offset(), bytes()).prop_map(|(slot, offset, bytes)| Step::Write { slot, offset, bytes }),
        4 => (slot(), offset(), bytes()).prop_map(|(slot, offset, bytes)| Step::Read { slot, offset, bytes }),
        1 => slot().prop_map(Step::Sync),
        2 => (slot(), offset()).prop_map(|(slot, len)| Step::SetLen(slot, len)),
        1 => (slot(), offset()).prop_map(|(slot, len)| Step::Preallocate(slot, len)),
        1 => (slot(), offset()).prop_map(|(slot, len)| Step::Reserve(slot, len)),
    ];
    prop::collection::vec(step, 1..60)
}

/// What a call answered, as text.
type Outcome = String;

fn outcome<T: Debug>(result: io::Result<T>) -> Outcome {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// One disk and what is open on it.
struct Twin<'d> {
    disk: &'d dyn Disk,
    root: PathBuf,
    files: [Option<(Box<dyn File>, OpenMode)>; SLOTS],
    locks: [Option<DirLock>; SLOTS],
}

impl<'d> Twin<'d> {
    fn new(disk: &'d dyn Disk, root: &Path) -> Self {
        Self { disk, root: root.to_owned(), files: Default::default(), locks: Default::default() }
    }

    fn path(&self, number: usize) -> PathBuf {
        // Without a slash at the end, which would say more than the name.
        self.root.join(PATHS[number]).components().collect()
    }

    /// Calls something that changes a file: refused is refused, whatever the kind.
    fn change(&self, slot: usize, change: impl FnOnce(&dyn File) -> io::Result<()>) -> Outcome {
        match &self.files[slot] {
            None => "not open".into(),
            Some((_, OpenMode::Read)) => "not for writing".into(),
            Some((file, _)) => outcome(change(&**file)),
        }
    }

    fn open(&mut self, path: usize, mode: OpenMode, slot: usize) -> Outcome {
        let path = self.path(path);
        self.files[slot] = None;
        // A directory is not a file, however it is opened.
        if mode == OpenMode::Read && self.disk.list(&path).is_ok() {
            return "a directory".into();
        }
        let opened = self.disk.open(&path, mode);
        outcome(opened.map(|file| self.files[slot] = Some((file, mode))))
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match *step {
            Step::CreateDir(path) => outcome(self.disk.create_dir_all(&self.path(path))),
            Step::Open(path, mode, slot) => self.open(path, mode, slot),
            Step::Close(slot) => {
                self.files[slot] = None;
                "closed".into()
            }
            Step::Rename(from, to) => outcome(self.disk.rename(&self.path(from), &self.path(to))),
            Step::Remove(path) => outcome(self.disk.remove_file(&self.path(path))),
            Step::SyncDir(path) => {
                let path = self.path(path);
                if self.disk.list(&path).err().is_some_and(|e| e.kind() == io::ErrorKind::NotADirectory) {
                    return "not a directory".into();
                }
                outcome(self.disk.sync_dir(&path))
            }
            Step::List(path) => outcome(self.disk.list(&self.path(path))),
            Step::Exists(path) => outcome(self.disk.exists(&self.path(path))),
            Step::Lock(path, slot) => {
                self.locks[slot] = None;
                let lock = self.disk.lock_dir(&self.path(path));
                outcome(lock.map(|lock| self.locks[slot] = Some(lock)))
            }
            Step::Unlock(slot) => {
                self.locks[slot] = None;
                "unlocked".into()
            }
            Step::Free(path) => outcome(self.disk.free_bytes(&self.path(path)).map(|free| free > 0)),
            Step::Write { slot, offset, bytes } => {
                let data: Vec<u8> = (0..bytes).map(|at| (offset as usize + at) as u8 | 1).collect();
                self.change(slot, |file| file.write_at(&data, offset))
            }
            Step::Read { slot, offset, bytes } => self.read(slot, offset, bytes),
            Step::Sync(slot) => self.change(slot, |file| file.sync_data()),
            Step::SetLen(slot, len) => self.change(slot, |file| file.set_len(len)),
            Step::Preallocate(slot, len) => self.change(slot, |file| file.preallocate(len)),
            Step::Reserve(slot, len) => self.change(slot, |file| file.reserve(len)),
        }
    }

    fn read(&self, slot: usize, offset: u64, bytes: usize) -> Outcome {
        let Some((file, _)) = &self.files[slot] else { return "not open".into() };
        let mut buffer = vec![0xee; bytes];
        let read = file.read_at(&mut buffer, offset);
        let whole = (outcome(file.len()), outcome(file.is_empty()));
        outcome(read.map(|n| (n, buffer))) + &format!(" of {whole:?}")
    }

    /// Every name below the root, and what the files hold.
    fn everything(&self) -> Vec<(String, Outcome)> {
        let mut found = Vec::new();
        let mut left = vec![String::new()];
        while let Some(path) = left.pop() {
            match self.disk.list(&self.root.join(&path)) {
                Ok(names) => left.extend(
                    names
                        .into_iter()
                        .map(|name| format!("{path}/{name}").replacen('/', "", usize::from(path.is_empty()))),
                ),
                Err(_) => {
                    let file = self.disk.open(&self.root.join(&path), OpenMode::Read).unwrap();
                    let mut content = vec![0; file.len().unwrap() as usize];
                    file.read_at(&mut content, 0).unwrap();
                    found.push((path.clone(), format!("{content:?}")));
                }
            }
            found.push((path, "is there".into()));
        }
        found.sort();
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_simulated_disk_answers_as_the_real_one(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let simulated = SimDisk::new(1);
        let root = Path::new("/root");
        simulated.create_dir_all(root).unwrap();
        let mut real = Twin::new(&RealDisk, directory.path());
        let mut simulated = Twin::new(&simulated, root);
        for (number, step) in steps.iter().enumerate() {
            prop_assert_eq!(real.step(step), simulated.step(step), "real, simulated: {}: {:?}", number, step);
        }
        prop_assert_eq!(real.everything(), simulated.everything());
    }
}
