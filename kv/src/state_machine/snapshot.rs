//! The state as a stream of bytes: written from one cut, read at install.
//!
//! ```text
//! "rkvS"  format: u32
//! length: u32  metadata                       applied position, revisions, cluster time, hash
//! count: u64  { id: u64  length: u32  session }*
//! { 1  length: u32  key  mod: u64  create: u64  version: u64  live: u8  [ length: u32  value ] }*
//! 0  rows: u64  crc32c: u32
//! ```
//!
//! Numbers are little-endian. Rows are sorted by key, newest first within a key. It holds what can be read and nothing
//! else: of each key, the versions above the compaction point, and the newest at or below it unless that is a
//! deletion. So equal states give equal bytes, whatever the store has or has not removed yet, and a store of one kind
//! can be restored from a snapshot of another.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::meta::{Chain, Meta};
use super::sessions::Session;
use crate::command::{Revision, SessionId};
use crate::limits::KEY_BYTES_MAX;
use crate::store::StoreError;
use crate::store::layers::{Bounds, Layers, Window};
use crate::store::rows::{Version, escaped_len};

const MAGIC: &[u8; 4] = b"rkvS";
const FORMAT: u32 = 1;
const ROW: u8 = 1;
const END: u8 = 0;
const BUFFER_BYTES: usize = 64 << 10;
/// Metadata and sessions are at most so large: a damaged length must not be allocated.
const HEAD_BYTES_MAX: u32 = 64 << 20;

/// Shows every version that can be read, in order.
fn for_each_version(
    layers: &Layers,
    (compacted, revision): (Revision, Revision),
    mut visit: impl FnMut(Bytes, Version) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let window = Window { floor: compacted, ceiling: revision };
    let mut scan = layers.scan(&Bounds::ALL, window, true);
    while let Some((key, version)) = scan.next_version()? {
        let invisible = version.value.is_none() && version.mod_revision <= compacted;
        if !invisible {
            visit(key, version)?;
        }
    }
    Ok(())
}

/// A hash over every version that can be read.
pub(crate) fn audit(layers: &Layers, compacted: Revision, revision: Revision) -> Result<u64, StoreError> {
    let mut hash = Chain::default();
    hash.word(compacted);
    hash.word(revision);
    for_each_version(layers, (compacted, revision), |key, version| {
        hash.version(&key, &version);
        Ok(())
    })?;
    Ok(hash.0)
}

/// What a snapshot is made from.
pub(crate) struct Cut {
    pub(crate) meta: Meta,
    pub(crate) sessions: BTreeMap<SessionId, Arc<Session>>,
    pub(crate) layers: Layers,
}

/// Collects bytes, counts them into the checksum, and passes them on in large pieces.
struct Output<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    crc: u32,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.pass_on() } else { Ok(()) }
    }

    fn put_sized(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Ok(length) = u32::try_from(bytes.len()) else {
            panic!("{} bytes do not fit a snapshot's record", bytes.len())
        };
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }

    fn pass_on(&mut self) -> Result<(), StoreError> {
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.out.write_all(&self.buffer).map_err(|e| StoreError::io("write a snapshot", e))?;
        self.buffer.clear();
        Ok(())
    }
}

impl Cut {
    /// Writes the stream.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<(), StoreError> {
        let nothing = BTreeMap::new();
        let sessions = if raft::mutant!("snap-sessions") { &nothing } else { &self.sessions };
        let mut stream = Stream::begin(out, &self.meta, sessions)?;
        for_each_version(&self.layers, (self.meta.compacted, self.meta.revision), |key, version| {
            stream.row(&key, version)
        })?;
        stream.end()
    }
}

/// Writes a stream: first the head, then row after row, then the end.
pub(crate) struct Stream<'a> {
    out: Output<'a>,
    rows: u64,
}

impl<'a> Stream<'a> {
    pub(crate) fn begin(
        out: &'a mut dyn Write,
        meta: &Meta,
        sessions: &BTreeMap<SessionId, Arc<Session>>,
    ) -> Result<Self, StoreError> {
        let mut out = Output { out, buffer: Vec::with_capacity(2 * BUFFER_BYTES), crc: 0 };
        out.put(MAGIC)?;
        out.put(&FORMAT.to_le_bytes())?;
        // The configuration is the label's, which every snapshot carries: the state of two nodes is the same
        // whether they have it from an entry, from an install, or from the beginning.
        out.put_sized(&Meta { configuration: None, ..meta.clone() }.encode())?;
        out.put(&(sessions.len() as u64).to_le_bytes())?;
        for (id, session) in sessions {
            out.put(&id.0.to_le_bytes())?;
            out.put_sized(&session.encode())?;
        }
        Ok(Self { out, rows: 0 })
    }

    /// The next row, in order.
    pub(crate) fn row(&mut self, key: &[u8], version: Version) -> Result<(), StoreError> {
        let out = &mut self.out;
        self.rows += 1;
        out.put(&[ROW])?;
        out.put_sized(key)?;
        for number in [version.mod_revision, version.create_revision, version.version] {
            out.put(&number.to_le_bytes())?;
        }
        out.put(&[u8::from(version.value.is_some())])?;
        version.value.map_or(Ok(()), |value| out.put_sized(&value))
    }

    pub(crate) fn end(mut self) -> Result<(), StoreError> {
        let out = &mut self.out;
        out.put(&[END])?;
        out.put(&self.rows.to_le_bytes())?;
        out.pass_on()?;
        let crc = out.crc;
        out.put(&crc.to_le_bytes())?;
        out.pass_on()
    }
}

/// Reads a stream: first the head, then row after row, then the end.
pub(crate) struct Input<'a> {
    from: io::BufReader<&'a mut dyn Read>,
    crc: u32,
    rows: u64,
    last: Option<(Bytes, Revision)>,
    revision: Revision,
}

/// What stands in front of the rows.
pub(crate) struct Head {
    pub(crate) meta: Meta,
    pub(crate) sessions: BTreeMap<SessionId, Arc<Session>>,
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::corrupt("read a snapshot", what)
}

impl<'a> Input<'a> {
    /// Reads the head.
    pub(crate) fn open(from: &'a mut dyn Read) -> Result<(Head, Self), StoreError> {
        let from = io::BufReader::with_capacity(BUFFER_BYTES, from);
        let mut input = Self { from, crc: 0, rows: 0, last: None, revision: 0 };
        if input.array::<4>()? != *MAGIC {
            return Err(damaged("it is not a snapshot of this store"));
        }
        let format = u32::from_le_bytes(input.array()?);
        if format != FORMAT {
            return Err(damaged(format!(
                "its format is {format}, this version knows {FORMAT}; use a newer raftkv"
            )));
        }
        let meta = Meta::decode(&input.sized(HEAD_BYTES_MAX)?).map_err(damaged)?;
        let mut sessions = BTreeMap::new();
        for _ in 0..u64::from_le_bytes(input.array()?) {
            let id = SessionId(u64::from_le_bytes(input.array()?));
            let session = Session::decode(&input.sized(HEAD_BYTES_MAX)?).map_err(damaged)?;
            if sessions.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(damaged(format!("session {} is out of order", id.0)));
            }
            sessions.insert(id, Arc::new(session));
        }
        input.revision = meta.revision;
        Ok((Head { meta, sessions }, input))
    }

    /// The next row; `None` at the end, which is verified.
    pub(crate) fn next_row(&mut self) -> Result<Option<(Bytes, Version)>, StoreError> {
        match self.array::<1>()? {
            [ROW] => self.row().map(Some),
            [END] => self.end().map(|()| None),
            [other] => Err(damaged(format!("a record of the unknown kind {other} after {} rows", self.rows))),
        }
    }

    fn row(&mut self) -> Result<(Bytes, Version), StoreError> {
        let key = Bytes::from(self.sized(KEY_BYTES_MAX as u32)?);
        let [mod_revision, create_revision, version] = [self.number()?, self.number()?, self.number()?];
        let value = match self.array::<1>()? {
            [0] => None,
            [1] => Some(Bytes::from(self.sized(u32::MAX)?)),
            [other] => return Err(damaged(format!("a row of the unknown kind {other}"))),
        };
        let fits = (1..=KEY_BYTES_MAX).contains(&escaped_len(&key))
            && (1..=self.revision).contains(&mod_revision)
            && create_revision <= mod_revision;
        let in_order = self.last.as_ref().is_none_or(|(last, revision)| {
            (last, std::cmp::Reverse(revision)) < (&key, std::cmp::Reverse(&mod_revision))
        });
        if !fits || !in_order {
            return Err(damaged(format!("row {} is out of order or beyond its bounds", self.rows + 1)));
        }
        self.rows += 1;
        self.last = Some((key.clone(), mod_revision));
        Ok((key, Version { mod_revision, create_revision, version, value }))
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let rows = self.number()?;
        if rows != self.rows {
            return Err(damaged(format!("it has {} rows and should have {rows}", self.rows)));
        }
        let expected = self.crc;
        let crc = u32::from_le_bytes(self.array()?);
        if crc != expected {
            return Err(damaged(format!("its checksum is {expected:08x} and should be {crc:08x}")));
        }
        let more = self.from.read(&mut [0]).map_err(|e| StoreError::io("read a snapshot", e))?;
        if more > 0 { Err(damaged("it goes on behind its end")) } else { Ok(()) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|e| StoreError::io("read a snapshot", e))?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_le_bytes)
    }

    fn sized(&mut self, max: u32) -> Result<Vec<u8>, StoreError> {
        let length = u32::from_le_bytes(self.array()?);
        if length > max {
            return Err(damaged(format!("a record of {length} bytes, the limit is {max}")));
        }
        // Grows with what is really there: a damaged length allocates nothing.
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(u64::from(length)).read_to_end(&mut bytes);
        let read = read.map_err(|e| StoreError::io("read a snapshot", e))?;
        if read as u64 != u64::from(length) {
            return Err(damaged("it ends early"));
        }
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }
}
