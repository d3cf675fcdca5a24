//! What a disk may hold after a loss of power, given the calls that were made.
//!
//! The rules, as POSIX leaves them (and no kinder): a write, a change of length, or a change of names is certain once the
//! file, or the directory, was synced after it. Until then each *cell* of a file (a sector of 512 bytes, or the length)
//! holds any of the contents it has had since the last sync, whatever the others hold; and each change of names has
//! happened or not, whatever the others did. Syncing a file says nothing of its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::recorder::{Event, Inode, ROOT};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct FileState {
    durable: Vec<u8>,
    /// Writes and truncations since the last sync, with the number of the event.
    pending: Vec<(usize, FileChange)>,
}

#[derive(Clone)]
enum FileChange {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Default)]
struct DirState {
    durable: BTreeMap<String, Inode>,
    pending: Vec<(usize, DirChange)>,
}

#[derive(Clone)]
enum DirChange {
    Add(String, Inode),
    Remove(String),
    Move(String, String, Inode),
}

/// All files, as the calls so far have left them.
#[derive(Clone, Default)]
pub(crate) struct Platter {
    files: BTreeMap<Inode, FileState>,
    dirs: BTreeMap<Inode, DirState>,
    events: usize,
    /// What was acknowledged as durable so far.
    pub(crate) promised: u64,
}

/// A way to lose what is not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Everything.
    All,
    /// Nothing: the process was killed, the system was not.
    Nothing,
    /// Each cell and each name by itself, by chance.
    Chance,
    /// Names by chance, and of the files nothing.
    Names,
    /// Cells by chance, and of the names nothing.
    Contents,
    /// Each cell by chance, and then mostly the newest.
    Little,
    /// One call alone.
    One(usize),
    /// Everything but one call.
    AllBut(usize),
    /// Everything from one call on, that call's cells by chance.
    TornAt(usize),
}

/// A small generator of numbers that look random.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// The files of an image by path; directories have no content.
pub(crate) type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::SetLen(length) => content.resize(*length, 0),
            Self::Write { offset, data } => {
                if content.len() < offset + data.len() {
                    content.resize(offset + data.len(), 0);
                }
                content[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }
}

/// Which of the contents that a cell has had it holds: the number of changes that count, of those numbered `touching`.
fn version(loss: Loss, touching: &[usize], chance: &mut Chance) -> usize {
    let before = |call: usize| touching.iter().filter(|event| **event < call).count();
    let touched = |call: usize| touching.contains(&call);
    match loss {
        Loss::All => 0,
        Loss::Nothing => touching.len(),
        Loss::Chance | Loss::Names | Loss::Contents => chance.below(touching.len() + 1),
        Loss::Little if chance.below(20) > 0 => touching.len(),
        Loss::Little => chance.below(touching.len() + 1),
        Loss::One(call) if touched(call) => before(call),
        Loss::One(_) => touching.len(),
        Loss::AllBut(call) if touched(call) => before(call) + 1,
        Loss::AllBut(_) => 0,
        Loss::TornAt(call) => before(call) + usize::from(touched(call) && chance.below(2) == 0),
    }
}

impl FileState {
    fn image(&self, loss: Loss, chance: &mut Chance) -> Vec<u8> {
        let loss = if matches!(loss, Loss::Names) { Loss::Nothing } else { loss };
        // Contents after each change. Few are pending at a time: every flush syncs.
        let mut lengths = vec![self.durable.len()];
        let mut touching: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut length = self.durable.len();
        for (at, (_, change)) in self.pending.iter().enumerate() {
            let (from, to) = match change {
                FileChange::Write { offset, data } => (*offset, offset + data.len()),
                FileChange::SetLen(new) => (*new, length.max(*new)),
            };
            length = match change {
                FileChange::SetLen(new) => *new,
                FileChange::Write { .. } => length.max(to),
            };
            lengths.push(length);
            for sector in from / SECTOR..to.div_ceil(SECTOR) {
                touching.entry(sector).or_default().push(at);
            }
        }
        let numbers: Vec<usize> = self.pending.iter().map(|(event, _)| *event).collect();
        let length = lengths[version(loss, &numbers, chance)];
        let mut content = self.durable.clone();
        content.resize(length, 0);
        for (sector, changes) in touching {
            let events: Vec<usize> = changes.iter().map(|at| numbers[*at]).collect();
            let chosen = version(loss, &events, chance);
            let cell = self.sector(sector, &changes[..chosen]);
            let at = sector * SECTOR;
            let end = length.min(at + SECTOR);
            if at < end {
                content[at..end].copy_from_slice(&cell[..end - at]);
            }
        }
        content
    }

    /// A sector after some of the changes.
    fn sector(&self, sector: usize, changes: &[usize]) -> [u8; SECTOR] {
        let at = sector * SECTOR;
        let mut cell = [0; SECTOR];
        if let Some(there) = self.durable.get(at..self.durable.len().min(at + SECTOR)) {
            cell[..there.len()].copy_from_slice(there);
        }
        for change in changes {
            match &self.pending[*change].1 {
                FileChange::SetLen(length) => {
                    let kept = length.saturating_sub(at).min(SECTOR);
                    cell[kept..].fill(0);
                }
                FileChange::Write { offset, data } => {
                    let (from, to) = ((*offset).max(at), (offset + data.len()).min(at + SECTOR));
                    cell[from - at..to - at].copy_from_slice(&data[from - offset..to - offset]);
                }
            }
        }
        cell
    }
}

impl DirChange {
    fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        match self {
            Self::Add(name, inode) => _ = names.insert(name.clone(), *inode),
            Self::Remove(name) => _ = names.remove(name),
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl DirState {
    fn image(&self, loss: Loss, chance: &mut Chance) -> BTreeMap<String, Inode> {
        let loss = if matches!(loss, Loss::Contents) { Loss::Nothing } else { loss };
        let mut names = self.durable.clone();
        for (event, change) in &self.pending {
            if version(loss, &[*event], chance) == 1 {
                change.apply(&mut names);
            }
        }
        names
    }
}

impl Platter {
    /// A disk that holds this, durably.
    pub(crate) fn holding(root: &Path, image: &Image, names: &BTreeMap<PathBuf, (Inode, bool)>) -> Self {
        let mut platter = Self::default();
        platter.dirs.insert(ROOT, DirState::default());
        for (path, (inode, is_dir)) in names {
            if *is_dir {
                platter.dirs.entry(*inode).or_default();
            } else {
                let durable = image[path.strip_prefix(root).unwrap()].clone().unwrap();
                platter.files.insert(*inode, FileState { durable, pending: Vec::new() });
            }
            if let Some((parent, _)) = path.parent().and_then(|parent| names.get(parent)) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                platter.dirs.entry(*parent).or_default().durable.insert(name, *inode);
            }
        }
        platter
    }

    /// One more call was made.
    pub(crate) fn step(&mut self, event: &Event) {
        let number = self.events;
        self.events += 1;
        let changed = match event.clone() {
            Event::Make { dir, name, inode, is_dir } => {
                if is_dir {
                    self.dirs.insert(inode, DirState::default());
                } else {
                    self.files.insert(inode, FileState::default());
                }
                Some((dir, DirChange::Add(name, inode)))
            }
            Event::Remove { dir, name } => Some((dir, DirChange::Remove(name))),
            Event::Rename { from: (dir, from), to: (other, to) } => {
                assert_eq!(dir, other, "the store renames within a directory");
                let inode = self.names(dir)[&from];
                Some((dir, DirChange::Move(from, to, inode)))
            }
            Event::Write { inode, offset, data } => {
                let change = FileChange::Write { offset: offset as usize, data };
                self.files.get_mut(&inode).unwrap().pending.push((number, change));
                None
            }
            Event::SetLen { inode, length } => {
                let change = FileChange::SetLen(length as usize);
                self.files.get_mut(&inode).unwrap().pending.push((number, change));
                None
            }
            Event::Sync { inode } => {
                self.sync(inode);
                None
            }
            Event::Promised { index } => {
                self.promised = index;
                None
            }
        };
        if let Some((dir, change)) = changed {
            self.dirs.get_mut(&dir).unwrap().pending.push((number, change));
        }
    }

    fn sync(&mut self, inode: Inode) {
        if let Some(file) = self.files.get_mut(&inode) {
            for (_, change) in file.pending.drain(..) {
                change.apply(&mut file.durable);
            }
        }
        if let Some(dir) = self.dirs.get_mut(&inode) {
            for (_, change) in dir.pending.drain(..) {
                change.apply(&mut dir.durable);
            }
        }
    }

    /// The names that a running process sees.
    fn names(&self, dir: Inode) -> BTreeMap<String, Inode> {
        let mut names = self.dirs[&dir].durable.clone();
        self.dirs[&dir].pending.iter().for_each(|(_, change)| change.apply(&mut names));
        names
    }

    /// The numbers of the calls that a loss of power could take back.
    pub(crate) fn pending(&self) -> Vec<usize> {
        let files = self.files.values().flat_map(|file| file.pending.iter().map(|(event, _)| *event));
        let dirs = self.dirs.values().flat_map(|dir| dir.pending.iter().map(|(event, _)| *event));
        files.chain(dirs).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What is there after a loss of power now.
    pub(crate) fn image(&self, loss: Loss, chance: &mut Chance) -> Image {
        let mut image = Image::new();
        let mut left = vec![(PathBuf::new(), ROOT)];
        while let Some((path, dir)) = left.pop() {
            for (name, inode) in self.dirs[&dir].image(loss, chance) {
                let path = path.join(name);
                match self.files.get(&inode) {
                    Some(file) => _ = image.insert(path, Some(file.image(loss, chance))),
                    None => {
                        image.insert(path.clone(), None);
                        left.push((path, inode));
                    }
                }
            }
        }
        image
    }
}

/// Writes an image to a directory.
pub(crate) fn write_out(image: &Image, root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    for (path, content) in image {
        match content {
            Some(bytes) => std::fs::write(root.join(path), bytes).unwrap(),
            None => std::fs::create_dir(root.join(path)).unwrap(),
        }
    }
}

/// Reads a directory as an image.
pub(crate) fn read_in(root: &Path) -> Image {
    let mut image = Image::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                image.insert(name, None);
                left.push(path);
            } else {
                image.insert(name, Some(std::fs::read(&path).unwrap()));
            }
        }
    }
    image
}
