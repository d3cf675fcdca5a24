//! One simulated file: what programs read, what is durable, and every version in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draw::Draw;
use super::fate::Fate;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

type Sector = Arc<[u8; SECTOR_BYTES as usize]>;
/// Sectors by number; one that is not here is full of zeros. Shared between images until written.
type Sectors = Arc<BTreeMap<u64, Sector>>;

/// A file's content.
///
/// Invariant: no sector of `cached` or `durable` holds anything behind `len` or `durable_len`.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    /// What programs read: the page cache.
    cached: Sectors,
    len: u64,
    /// What is on the platter for certain.
    durable: Sectors,
    durable_len: u64,
    /// Each version a sector had since the last sync, with its call; `None` is zeros.
    dirty: BTreeMap<u64, Vec<(u64, Option<Sector>)>>,
    /// Each length since the last sync, with its call.
    lens: Vec<(u64, u64)>,
}

impl FileState {
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The oldest call whose change is not synced.
    pub(super) fn oldest_unsynced(&self) -> Option<u64> {
        let sectors = self.dirty.values().filter_map(|versions| versions.first()).map(|(call, _)| *call);
        sectors.chain(self.lens.first().map(|(call, _)| *call)).min()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64);
        let buf = &mut buf[..n as usize];
        buf.fill(0);
        let end = offset + n;
        for (number, sector) in self.cached.range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)) {
            let start = number * SECTOR_BYTES;
            let (from, to) = (start.max(offset), (start + SECTOR_BYTES).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
        }
        n as usize
    }

    /// Nothing written is nothing done: the file does not grow up to `offset`.
    pub(super) fn write(&mut self, data: &[u8], offset: u64, call: u64) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        self.grow(end, call);
        let cached = Arc::make_mut(&mut self.cached);
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let start = number * SECTOR_BYTES;
            let (from, to) = (start.max(offset), (start + SECTOR_BYTES).min(end));
            let mut sector = cached.get(&number).map_or([0; SECTOR_BYTES as usize], |sector| **sector);
            sector[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            let sector = Arc::new(sector);
            cached.insert(number, Arc::clone(&sector));
            self.dirty.entry(number).or_default().push((call, Some(sector)));
        }
    }

    /// Extends the file with zeros, unless it is long enough.
    pub(super) fn grow(&mut self, len: u64, call: u64) {
        if len > self.len {
            self.len = len;
            self.lens.push((call, len));
        }
    }

    pub(super) fn set_len(&mut self, len: u64, call: u64) {
        if len >= self.len {
            return self.grow(len, call);
        }
        for (number, sector) in cut(&mut self.cached, len) {
            self.dirty.entry(number).or_default().push((call, sector));
        }
        self.len = len;
        self.lens.push((call, len));
    }

    pub(super) fn sync(&mut self) {
        self.settle(&Fate::Kept, &mut Draw::new(0));
    }

    /// What a failed sync does: some of it reached the platter, and the rest counts as clean all the same. It is
    /// still read, but no later sync will write it.
    pub(super) fn sync_badly(&mut self, draw: &mut Draw) {
        let percent = [0, 50][draw.below(2) as usize];
        self.settle(&Fate::Scattered(percent), draw);
    }

    fn settle(&mut self, fate: &Fate, draw: &mut Draw) {
        if !self.dirty.is_empty() {
            let durable = Arc::make_mut(&mut self.durable);
            for (number, versions) in std::mem::take(&mut self.dirty) {
                match fate.choose(draw, &versions) {
                    Some(Some(sector)) => drop(durable.insert(number, Arc::clone(sector))),
                    Some(None) => drop(durable.remove(&number)),
                    None => {}
                }
            }
        }
        let lens = std::mem::take(&mut self.lens);
        if let Some(len) = fate.choose(draw, &lens) {
            self.durable_len = *len;
        }
        cut(&mut self.durable, self.durable_len);
    }

    /// The file as it is found after a power loss.
    pub(super) fn after_power_loss(&self, fate: &Fate, draw: &mut Draw) -> Self {
        let mut file = self.clone();
        file.settle(fate, draw);
        file.cached = Arc::clone(&file.durable);
        file.len = file.durable_len;
        file
    }

    /// Changes bytes behind everyone's back, in the page cache and on the platter.
    pub(super) fn rot(&mut self, data: &[u8], offset: u64) {
        let mut whole = self.clone();
        whole.write(data, offset, 0);
        let touched = std::mem::take(&mut whole.dirty);
        for (number, versions) in touched {
            let Some((0, Some(sector))) = versions.into_iter().next_back() else { continue };
            Arc::make_mut(&mut self.cached).insert(number, Arc::clone(&sector));
            Arc::make_mut(&mut self.durable).insert(number, sector);
            self.dirty.remove(&number);
        }
    }
}

/// Cuts what lies behind `len`; returns the sectors that changed, as they are now.
fn cut(sectors: &mut Sectors, len: u64) -> Vec<(u64, Option<Sector>)> {
    let whole = len.div_ceil(SECTOR_BYTES);
    let partial = (!len.is_multiple_of(SECTOR_BYTES)).then_some(len / SECTOR_BYTES);
    let behind: Vec<u64> = sectors.range(whole..).map(|(number, _)| *number).collect();
    let mut changed = Vec::new();
    if !behind.is_empty() {
        let sectors = Arc::make_mut(sectors);
        for number in behind {
            sectors.remove(&number);
            changed.push((number, None));
        }
    }
    let kept = (len % SECTOR_BYTES) as usize;
    if let Some(number) = partial
        && let Some(sector) = sectors.get(&number)
        && sector[kept..].iter().any(|byte| *byte != 0)
    {
        let mut sector = **sector;
        sector[kept..].fill(0);
        let sector = Arc::new(sector);
        Arc::make_mut(sectors).insert(number, Arc::clone(&sector));
        changed.push((number, Some(sector)));
    }
    changed
}
