//! The bytes of a segment: header, records, marks. Encoding and decoding only; no files.
//!
//! ```text
//! segment  header (512 bytes), then records back to back, then zeros or what an earlier use of the file left
//! header   magic 8 | version 4 | cluster 16 | member 8 | incarnation 8 | sequence 8 | origin 1
//!          | prev term 8, index 8 | standing 38 | discards from 8 | zeros | crc 4
//! standing hard state: term 8, voted 1, for 8 | lease 4 | damaged 1, up to term 8, index 8
//! record   crc 4 | payload length 4 | kind 1 | term 8 | index 8 | payload
//! mark     a record whose payload is: check 4 | magic 8 | attested 8 | openings 4 | standing 38
//! ```
//! Integers are little-endian, checksums CRC32C.
//!
//! A record's checksum begins from that of the record before it, the first one's from that of the header, and the
//! header holds the segment's sequence number, which is never used twice. So a record passes only in its place
//! behind the very records it was written behind: not moved, not out of an earlier use of the file.
//!
//! A mark must be found even when what stands before it is damaged, so it carries a check of its own, over its
//! offset and all that it says, and eight bytes that no other segment uses. It tells where the log stood: its last
//! entry (the term and index of the record), the hard state, the longest lease, what was lost to damage before. So
//! what damage took is known in outline. Check and magic are salted with the header's checksum and the sequence
//! number. The check stands first: were it behind what it covers, it would take that out of the chain again, as a
//! CRC behind its message always does.
//!
//! The header fills one sector, although it is shorter: no later write ever touches the sector it stands in.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use crate::core::{Configuration, Entry, HardState, Index, LogId, NodeId, Payload, Term};
use crate::mutant;

use super::WalIdentity;

/// The length of a segment's header: one sector.
pub(super) const HEADER_BYTES: u64 = 512;
/// The length of a record without its payload.
pub(super) const RECORD_BYTES: u64 = 25;
/// The length of a mark with its record.
pub(super) const MARK_BYTES: u64 = RECORD_BYTES + MARK_PAYLOAD_BYTES as u64;
/// The version that this build writes and reads.
pub(super) const VERSION: u32 = 1;

const STANDING_BYTES: usize = 38;
const MARK_PAYLOAD_BYTES: usize = 24 + STANDING_BYTES;
const MAGIC: [u8; 8] = *b"raftkvWL";
const HEADER_BODY_BYTES: usize = HEADER_BYTES as usize - 4;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) identity: WalIdentity,
    /// Grows from segment to segment and is never used twice.
    pub(super) sequence: u64,
    /// Nothing before this segment counts: it begins the log, or a log that replaced an older one.
    pub(super) origin: bool,
    /// Where the log stands before the first record. What earlier segments hold behind that is cut.
    pub(super) standing: Standing,
    /// Segments from this sequence on, and before this one, do not count: they stood behind damage. 0: none.
    pub(super) discards_from: u64,
}

/// Where the log stands at one place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) last: LogId,
    pub(super) hard_state: HardState,
    /// The longest lease of any configuration that was ever in this log, in milliseconds.
    pub(super) lease_ms: u32,
    /// The log lost entries to damage, and has not got them back: it may have held all up to this one.
    pub(super) damage: Option<LogId>,
}

impl Standing {
    /// Takes in the entry behind the last.
    pub(super) fn push(&mut self, entry: &Entry) {
        self.last = entry.log_id();
        if let Payload::Configuration(configuration) = &entry.payload {
            let lease_ms = configuration.lease.map_or(0, |lease| lease.duration_ms);
            self.lease_ms = self.lease_ms.max(lease_ms);
        }
        self.damage = self.damage.filter(|lost| self.last < *lost);
    }
}

/// Why bytes are not a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Short,
    Magic,
    Version(u32),
    Checksum,
    Value,
}

impl Header {
    /// The header's bytes, and the checksum that the first record begins from.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend_from_slice(&MAGIC);
        put_u32(&mut out, VERSION);
        out.extend_from_slice(&self.identity.cluster.to_le_bytes());
        put_u64(&mut out, self.identity.member.0);
        put_u64(&mut out, self.identity.incarnation);
        put_u64(&mut out, self.sequence);
        out.push(u8::from(self.origin));
        put_log_id(&mut out, self.prev());
        put_standing(&mut out, self.standing);
        put_u64(&mut out, self.discards_from);
        assert!(out.len() <= HEADER_BODY_BYTES, "a header of {} bytes", out.len());
        out.resize(HEADER_BODY_BYTES, 0);
        let crc = crc32c(&out);
        put_u32(&mut out, crc);
        (out, crc)
    }

    /// The header at the beginning of `bytes`, and its checksum.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32), HeaderFault> {
        let (body, rest) = bytes.split_at_checked(HEADER_BODY_BYTES).ok_or(HeaderFault::Short)?;
        let found = Reader(rest).u32().ok_or(HeaderFault::Short)?;
        let mut reader = Reader(body);
        if reader.array::<8>() != Some(MAGIC) {
            return Err(HeaderFault::Magic);
        }
        // The version comes first, so that another format may put its checksum elsewhere; but a version that
        // came about by damage must not pass for one, so ours is checked when the checksum holds as we place it.
        let crc = crc32c(body);
        match reader.u32() {
            Some(VERSION) if crc == found => {}
            Some(VERSION) => return Err(HeaderFault::Checksum),
            Some(_) if is_ours_but_for_the_version(body, found) => return Err(HeaderFault::Checksum),
            Some(other) => return Err(HeaderFault::Version(other)),
            None => return Err(HeaderFault::Short),
        }
        let header = Self::decode_body(&mut reader).ok_or(HeaderFault::Value)?;
        Ok((header, crc))
    }

    fn decode_body(reader: &mut Reader<'_>) -> Option<Self> {
        let identity = WalIdentity {
            cluster: u128::from_le_bytes(reader.array()?),
            member: NodeId(reader.u64()?),
            incarnation: reader.u64()?,
        };
        let sequence = reader.u64()?;
        let origin = reader.flag()?;
        let prev = reader.log_id()?;
        let standing = reader.standing(prev)?;
        Some(Self { identity, sequence, origin, standing, discards_from: reader.u64()? })
    }

    /// The entry before the first one here.
    pub(super) fn prev(&self) -> LogId {
        self.standing.last
    }
}

/// Whether the checksum holds once the version is ours: then nothing but the version was damaged.
fn is_ours_but_for_the_version(body: &[u8], found: u32) -> bool {
    let Some((before, rest)) = body.split_at_checked(MAGIC.len()) else { return false };
    let Some((_, after)) = rest.split_at_checked(4) else { return false };
    crc32c_append(crc32c_append(crc32c(before), &VERSION.to_le_bytes()), after) == found
}

/// What one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Entry),
    HardState(HardState),
    Mark(Mark),
}

/// How far the log was durable when this was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Every byte of the segment before this offset had been synced.
    pub(super) attested: u64,
    /// How often the segment has been opened for appending; tells records behind a cut tail from new ones.
    pub(super) openings: u32,
    /// Where the log stood here.
    pub(super) standing: Standing,
}

const KIND_NOOP: u8 = 1;
const KIND_COMMAND: u8 = 2;
const KIND_CONFIGURATION: u8 = 3;
const KIND_HARD_STATE: u8 = 4;
const KIND_MARK: u8 = 5;

/// How many bytes the record of `entry` takes.
///
/// A configuration is encoded twice, here and when it is written: there are few, and they are small.
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    RECORD_BYTES
        + match &entry.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len() as u64,
            Payload::Configuration(configuration) => encode_configuration(configuration).len() as u64,
        }
}

/// How many bytes the record of a hard state takes.
pub(super) const HARD_STATE_BYTES: u64 = RECORD_BYTES + 17;

/// What marks one segment's records as its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt {
    /// The header's checksum.
    crc: u32,
    /// What this segment's marks begin with.
    mark_magic: u64,
}

impl Salt {
    pub(super) fn of(header: &Header, crc: u32) -> Self {
        Self::new(header.sequence, header.identity.incarnation, crc)
    }

    fn new(sequence: u64, incarnation: u64, crc: u32) -> Self {
        const MARK_MAGIC: u64 = 0x6d61_726b_9e3d_c15b;
        let own = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ incarnation;
        Self { crc, mark_magic: MARK_MAGIC ^ own }
    }

    /// What the salt may have been of a segment whose header is damaged: its checksum as it stands there, if that
    /// is whole, or as it comes out, if only that is not.
    pub(super) fn guesses(bytes: &[u8], sequence: u64, incarnation: u64) -> Vec<Self> {
        let Some((body, rest)) = bytes.split_at_checked(HEADER_BODY_BYTES) else { return Vec::new() };
        let Some(stored) = Reader(rest).u32() else { return Vec::new() };
        [stored, crc32c(body)].map(|crc| Self::new(sequence, incarnation, crc)).to_vec()
    }

    /// What the first record's checksum begins from.
    pub(super) const fn chain(self) -> u32 {
        self.crc
    }

    fn check(self, mark: Mark, offset: u64) -> u32 {
        let crc = crc32c_append(self.crc, &offset.to_le_bytes());
        let crc = crc32c_append(crc, &mark.attested.to_le_bytes());
        let crc = crc32c_append(crc, &mark.openings.to_le_bytes());
        let mut rest = Vec::with_capacity(16 + STANDING_BYTES);
        put_log_id(&mut rest, mark.standing.last);
        put_standing(&mut rest, mark.standing);
        crc32c_append(crc, &rest)
    }
}

/// Appends the record of `entry` to `out`; returns its checksum, from which the next one begins.
pub(super) fn put_entry(out: &mut Vec<u8>, chain: u32, entry: &Entry) -> u32 {
    let id = entry.log_id();
    match &entry.payload {
        Payload::Noop => put_record(out, chain, KIND_NOOP, id, &[]),
        Payload::Command(command) => put_record(out, chain, KIND_COMMAND, id, command),
        Payload::Configuration(configuration) => {
            put_record(out, chain, KIND_CONFIGURATION, id, &encode_configuration(configuration))
        }
    }
}

/// Appends the record of `hard_state`, which stands behind the entry at `last`.
pub(super) fn put_hard_state_record(
    out: &mut Vec<u8>,
    chain: u32,
    hard_state: HardState,
    last: Index,
) -> u32 {
    let mut payload = Vec::with_capacity(17);
    put_hard_state(&mut payload, hard_state);
    put_record(out, chain, KIND_HARD_STATE, LogId { term: hard_state.term, index: last }, &payload)
}

/// Appends a mark, which stands at `offset` in the segment.
pub(super) fn put_mark(out: &mut Vec<u8>, chain: u32, mark: Mark, salt: Salt, offset: u64) -> u32 {
    let mut payload = Vec::with_capacity(MARK_PAYLOAD_BYTES);
    put_u32(&mut payload, salt.check(mark, offset));
    put_u64(&mut payload, salt.mark_magic);
    put_u64(&mut payload, mark.attested);
    put_u32(&mut payload, mark.openings);
    put_standing(&mut payload, mark.standing);
    put_record(out, chain, KIND_MARK, mark.standing.last, &payload)
}

fn put_record(out: &mut Vec<u8>, chain: u32, kind: u8, id: LogId, payload: &[u8]) -> u32 {
    let Ok(len) = u32::try_from(payload.len()) else { panic!("a payload of {} bytes", payload.len()) };
    let mut head = [0; RECORD_BYTES as usize - 4];
    let (len_at, rest) = head.split_at_mut(4);
    let (kind_at, rest) = rest.split_at_mut(1);
    let (term_at, index_at) = rest.split_at_mut(8);
    len_at.copy_from_slice(&len.to_le_bytes());
    kind_at.copy_from_slice(&[kind]);
    term_at.copy_from_slice(&id.term.0.to_le_bytes());
    index_at.copy_from_slice(&id.index.0.to_le_bytes());
    let crc = seal(chain, &head, payload);
    put_u32(out, crc);
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    crc
}

/// The checksum of a record behind one whose checksum is `chain`.
fn seal(chain: u32, head: &[u8], payload: &[u8]) -> u32 {
    if mutant!("misdirect") {
        return crc32c(payload);
    }
    crc32c_append(crc32c_append(chain, head), payload)
}

/// The record at the beginning of `bytes`, how long it is, and its checksum; `None` if there is no valid one.
///
/// `offset` is where in the segment `bytes` begins.
pub(super) fn decode_record(bytes: &[u8], chain: u32, salt: Salt, offset: u64) -> Option<(Record, u64, u32)> {
    let (record, rest) = bytes.split_at_checked(RECORD_BYTES as usize)?;
    let (_, head) = record.split_at_checked(4)?;
    let mut reader = Reader(record);
    let found = reader.u32()?;
    let len = reader.u32()?;
    let payload = rest.get(..usize::try_from(len).ok()?)?;
    if seal(chain, head, payload) != found {
        return None;
    }
    let kind = reader.array::<1>()?;
    let id = LogId { term: Term(reader.u64()?), index: Index(reader.u64()?) };
    let entry = |payload| Record::Entry(Entry { term: id.term, index: id.index, payload });
    let record = match kind {
        [KIND_NOOP] if payload.is_empty() => entry(Payload::Noop),
        // Copied, so that one small entry kept in memory does not keep the whole segment there.
        [KIND_COMMAND] => entry(Payload::Command(Bytes::copy_from_slice(payload))),
        [KIND_CONFIGURATION] => entry(Payload::Configuration(postcard::from_bytes(payload).ok()?)),
        [KIND_HARD_STATE] => Record::HardState(Reader(payload).hard_state()?),
        [KIND_MARK] => Record::Mark(decode_mark(id, payload, salt, offset)?),
        _ => return None,
    };
    Some((record, RECORD_BYTES + u64::from(len), found))
}

/// What the record at the beginning of `bytes` claims to be and how long, valid or not; `None` if nothing known.
pub(super) fn peek_record(bytes: &[u8]) -> Option<(LogId, u64)> {
    let mut reader = Reader(bytes);
    let (_crc, len, [kind]) = (reader.u32()?, reader.u32()?, reader.array()?);
    let id = LogId { term: Term(reader.u64()?), index: Index(reader.u64()?) };
    (KIND_NOOP..=KIND_MARK).contains(&kind).then_some((id, RECORD_BYTES + u64::from(len)))
}

fn decode_mark(last: LogId, payload: &[u8], salt: Salt, offset: u64) -> Option<Mark> {
    let mut reader = Reader(payload);
    let check = reader.u32()?;
    if reader.u64()? != salt.mark_magic {
        return None;
    }
    let (attested, openings) = (reader.u64()?, reader.u32()?);
    let mark = Mark { attested, openings, standing: reader.standing(last)? };
    (check == salt.check(mark, offset)).then_some(mark)
}

/// A mark that was found by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundMark {
    pub(super) mark: Mark,
    /// Where the mark ends.
    pub(super) end: u64,
    /// The checksum in its record, from which the next one begins. It is not verified: what it begins from is lost.
    pub(super) chain: u32,
}

/// The marks that can be told for this segment's own wherever in `bytes` they stand. `offset` is where in the segment
/// `bytes` begins.
pub(super) fn find_marks(bytes: &[u8], salt: Salt, offset: u64) -> Vec<FoundMark> {
    const BLOCK: usize = 4096;
    let magic = salt.mark_magic.to_le_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= magic.len()) {
        // Most of a young segment is zeros, and comparing blocks is quick.
        if rest.get(..BLOCK).is_some_and(|block| block == [0; BLOCK]) {
            at += BLOCK + 1 - magic.len();
            continue;
        }
        let window = rest.get(..BLOCK + magic.len() - 1).unwrap_or(rest);
        let Some(hit) = window.windows(magic.len()).position(|w| w == magic) else {
            at += window.len() + 1 - magic.len();
            continue;
        };
        found.extend(mark_around(bytes, at + hit, salt, offset));
        at += hit + 1;
    }
    found
}

/// The mark whose magic stands at `at`, if it is one.
fn mark_around(bytes: &[u8], at: usize, salt: Salt, offset: u64) -> Option<FoundMark> {
    let record_at = at.checked_sub(4 + RECORD_BYTES as usize)?;
    let (record, payload) = bytes.get(record_at..)?.split_at_checked(RECORD_BYTES as usize)?;
    let mut reader = Reader(record);
    let (chain, _len, _kind) = (reader.u32()?, reader.u32()?, reader.array::<1>()?);
    let last = reader.log_id()?;
    let start = offset + record_at as u64;
    let mark = decode_mark(last, payload, salt, start)?;
    Some(FoundMark { mark, end: start + MARK_BYTES, chain })
}

fn encode_configuration(configuration: &Configuration) -> Vec<u8> {
    match postcard::to_stdvec(configuration) {
        Ok(bytes) => bytes,
        Err(error) => panic!("a configuration cannot be encoded: {error}"),
    }
}

fn put_hard_state(out: &mut Vec<u8>, hard_state: HardState) {
    put_u64(out, hard_state.term.0);
    out.push(u8::from(hard_state.voted_for.is_some()));
    put_u64(out, hard_state.voted_for.map_or(0, |id| id.0));
}

fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    put_u64(out, id.term.0);
    put_u64(out, id.index.0);
}

/// All of a standing but its last entry.
fn put_standing(out: &mut Vec<u8>, standing: Standing) {
    let lost = standing.damage.filter(|_| !mutant!("damage-forgotten"));
    put_hard_state(out, standing.hard_state);
    put_u32(out, standing.lease_ms);
    out.push(u8::from(lost.is_some()));
    put_log_id(out, lost.unwrap_or_default());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Takes integers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn log_id(&mut self) -> Option<LogId> {
        Some(LogId { term: Term(self.u64()?), index: Index(self.u64()?) })
    }

    fn standing(&mut self, last: LogId) -> Option<Standing> {
        let (hard_state, lease_ms) = (self.hard_state()?, self.u32()?);
        let (is_damaged, lost) = (self.flag()?, self.log_id()?);
        Some(Standing { last, hard_state, lease_ms, damage: is_damaged.then_some(lost) })
    }

    fn hard_state(&mut self) -> Option<HardState> {
        let term = Term(self.u64()?);
        let voted = self.flag()?;
        let id = NodeId(self.u64()?);
        Some(HardState { term, voted_for: voted.then_some(id) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            identity: WalIdentity { cluster: 77, member: NodeId(3), incarnation: 5 },
            sequence: 9,
            origin: true,
            standing: Standing {
                last: LogId::new(4, 40),
                hard_state: HardState { term: Term(6), voted_for: Some(NodeId(2)) },
                lease_ms: 250,
                damage: Some(LogId::new(5, 77)),
            },
            discards_from: 4,
        }
    }

    #[test]
    fn a_header_comes_back_and_every_flipped_bit_is_seen() {
        let (bytes, crc) = header().encode();
        assert_eq!(bytes.len() as u64, HEADER_BYTES);
        assert_eq!(Header::decode(&bytes), Ok((header(), crc)));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let fault = Header::decode(&bad).unwrap_err();
            assert!(matches!(fault, HeaderFault::Checksum | HeaderFault::Magic), "bit {bit}: {fault:?}");
        }
        assert_eq!(Header::decode(&bytes[..511]), Err(HeaderFault::Short));
    }

    fn records() -> Vec<Entry> {
        let payloads = [
            Payload::Noop,
            Payload::Command(Bytes::from_static(b"put")),
            Payload::Command(Bytes::new()),
            Payload::Configuration(Configuration::of_voters([NodeId(1), NodeId(3)])),
        ];
        (41..).zip(payloads).map(|(i, payload)| Entry { term: Term(6), index: Index(i), payload }).collect()
    }

    #[test]
    fn records_come_back_in_their_place_and_nowhere_else() {
        let (_, crc) = header().encode();
        let salt = Salt::of(&header(), crc);
        let mut out = Vec::new();
        let mut chain = salt.chain();
        let mut starts = Vec::new();
        for entry in records() {
            starts.push((out.len(), chain));
            chain = put_entry(&mut out, chain, &entry);
            assert_eq!(out.len() as u64 - starts.last().unwrap().0 as u64, entry_bytes(&entry));
        }
        for (entry, (at, chain)) in records().iter().zip(&starts) {
            let (record, len, _) = decode_record(&out[*at..], *chain, salt, 0).unwrap();
            assert_eq!(record, Record::Entry(entry.clone()));
            assert_eq!(len, entry_bytes(entry));
            let elsewhere = starts.iter().filter(|(other, _)| other != at);
            for (_, chain) in elsewhere {
                assert_eq!(decode_record(&out[*at..], *chain, salt, 0), None, "a record out of its place");
            }
        }
    }

    #[test]
    fn marks_are_found_behind_damage_but_only_at_their_own_offset_and_in_their_own_segment() {
        let (_, crc) = header().encode();
        let salt = Salt::of(&header(), crc);
        let standing = Standing { last: LogId::new(6, 44), lease_ms: 9, ..header().standing };
        let mark = Mark { attested: 600, openings: 2, standing };
        let mut out = vec![0xee; 5000];
        let at = 512 + out.len() as u64;
        let chain = put_mark(&mut out, 1, mark, salt, at);
        out.extend([0; 9000]);
        assert_eq!(find_marks(&out, salt, 512), [FoundMark { mark, end: at + MARK_BYTES, chain }]);
        for byte in 4..MARK_BYTES as usize {
            // The record's length and kind say nothing that a mark found by itself is read for.
            if !(4..9).contains(&byte) {
                let mut bad = out.clone();
                bad[5000 + byte] ^= 1;
                assert_eq!(find_marks(&bad, salt, 512), [], "byte {byte} is not covered");
            }
        }
        assert_eq!(find_marks(&out, salt, 513), [], "moved by a byte");
        let other = Header { sequence: 10, ..header() };
        let other_salt = Salt::of(&other, other.encode().1);
        assert_eq!(find_marks(&out, other_salt, 512), [], "of another segment");
        for cut in 0..(MARK_BYTES as usize) {
            let short = &out[..5000 + cut];
            assert_eq!(find_marks(short, salt, 512), [], "cut after {cut} bytes");
        }
    }
}
