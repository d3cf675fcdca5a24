//! How the state is laid out in rows.
//!
//! One key space; the first byte says which table:
//!
//! | row | key | value |
//! |---|---|---|
//! | data | `D`, user key escaped, `00 00`, big-endian `!revision` | flags, create revision, version, value |
//! | part | `P`, the data row's key without its tag, number | one part of a value too large for one row |
//! | session | `S`, session id, part number | part of an encoded session |
//! | meta | `M` | applied position, configuration, revisions, cluster time, hash |
//! | swept | `L` | up to which revision history was physically removed (this node's own affair) |
//!
//! The escaping keeps order: a zero byte of the user key becomes `00 FF`, and `00 00` ends it, so that a key sorts
//! before every longer key it is a prefix of. The revision is stored inverted, so that the newest version of a key
//! comes first, and "the newest version at or below R" is the first row from `key, !R` on.
//!
//! Rows are small on purpose. sled stores what does not fit a quarter segment (128 KiB) outside its log and never
//! syncs it. A leaf holds about 16 rows and an inner node about 256 keys; both must stay below that.

use bytes::Bytes;

use crate::command::Revision;

/// No row is larger, key and value together: 20 of these, more than a leaf ever holds, fit into 128 KiB.
pub(crate) const ROW_BYTES_MAX: usize = 6 * 1024;
/// No row key is longer: 260 of these, more than an inner node ever holds, fit into 128 KiB.
pub(crate) const ROW_KEY_BYTES_MAX: usize = 480;

pub(crate) const META: &[u8] = b"M";
pub(crate) const SWEPT: &[u8] = b"L";
const DATA: u8 = b'D';
const PART: u8 = b'P';
const SESSION: u8 = b'S';

const TOMBSTONE: u8 = 1;
const IN_PARTS: u8 = 2;
const HEADER: usize = 1 + 8 + 8;

/// One version of a key. A version without a value is a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// The revision that made it.
    pub(crate) mod_revision: Revision,
    /// The revision that created the key; 0 of a deletion.
    pub(crate) create_revision: Revision,
    /// How many changes since creation, the creation included; 0 of a deletion.
    pub(crate) version: u64,
    /// The value; empty where it was not asked for.
    pub(crate) value: Option<Bytes>,
}

impl Version {
    /// The deletion of a key.
    pub(crate) const fn tombstone(revision: Revision) -> Self {
        Self { mod_revision: revision, create_revision: 0, version: 0, value: None }
    }
}

fn escape_into(out: &mut Vec<u8>, key: &[u8]) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
}

/// How many bytes a user key takes in a row key; what its length limit counts.
pub(crate) fn escaped_len(key: &[u8]) -> usize {
    key.len() + key.iter().filter(|&&byte| byte == 0).count()
}

/// The row key of `key` at `revision`.
pub(crate) fn data_key(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 12);
    out.push(DATA);
    escape_into(&mut out, key);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(!revision).to_be_bytes());
    out
}

/// Not above any row of `key` or of a later key, and above every row of an earlier one.
pub(crate) fn data_bound(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 12);
    out.push(DATA);
    escape_into(&mut out, key);
    out
}

/// Above every row of `key`, and not above any row of a later key.
pub(crate) fn data_bound_after(key: &[u8]) -> Vec<u8> {
    let mut out = data_bound(key);
    out.extend_from_slice(&[0, 1]);
    out
}

/// Above every data row.
pub(crate) const DATA_END: &[u8] = &[DATA + 1];

/// The part of a data row's key that all versions of one user key share.
pub(crate) fn data_key_group(row: &[u8]) -> Option<&[u8]> {
    row.split_last_chunk::<8>().map(|(group, _)| group)
}

/// Takes a data row's key apart: the user key and the revision.
pub(crate) fn parse_data_key(row: &[u8]) -> Option<(Bytes, Revision)> {
    let (group, revision) = row.split_last_chunk::<8>()?;
    let escaped = group.strip_prefix(&[DATA])?.strip_suffix(&[0, 0])?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        key.push(byte);
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    Some((Bytes::from(key), !u64::from_be_bytes(*revision)))
}

/// The revision of a data row.
pub(crate) fn row_revision(row: &[u8]) -> Option<Revision> {
    row.split_last_chunk::<8>().map(|(_, revision)| !u64::from_be_bytes(*revision))
}

/// A data row's value, taken apart.
pub(crate) struct RowValue<'a> {
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
    pub(crate) body: RowBody<'a>,
}

/// Where a row's value is.
pub(crate) enum RowBody<'a> {
    /// The key is deleted.
    Tombstone,
    /// Here.
    Inline(&'a [u8]),
    /// In part rows, so many bytes in all.
    Parts(u32),
}

/// Reads a data row's value.
pub(crate) fn parse_data_value(value: &[u8]) -> Option<RowValue<'_>> {
    let (&flags, rest) = value.split_first()?;
    let (create, rest) = rest.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let body = match flags {
        0 => RowBody::Inline(rest),
        TOMBSTONE if rest.is_empty() => RowBody::Tombstone,
        IN_PARTS => RowBody::Parts(u32::from_le_bytes(rest.try_into().ok()?)),
        _ => return None,
    };
    Some(RowValue {
        create_revision: u64::from_le_bytes(*create),
        version: u64::from_le_bytes(*version),
        body,
    })
}

/// How many bytes of a value go into one part row of this data row.
const fn part_bytes(row_key_len: usize) -> usize {
    ROW_BYTES_MAX - row_key_len - 4
}

/// The key of a part row.
pub(crate) fn part_key(data_row: &[u8], number: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(data_row.len() + 4);
    out.push(PART);
    out.extend_from_slice(data_row.get(1..).unwrap_or_default());
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// How many part rows a value of `total` bytes has behind a data row's key of this length.
pub(crate) fn part_count(row_key_len: usize, total: u32) -> u32 {
    u32::try_from((total as usize).div_ceil(part_bytes(row_key_len))).unwrap_or(u32::MAX)
}

/// The rows of one version: its data row, and its parts, which go to another table.
pub(crate) struct EncodedVersion {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) parts: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Lays a version out in rows.
pub(crate) fn encode_version(key: &[u8], version: &Version) -> EncodedVersion {
    let row = data_key(key, version.mod_revision);
    assert!(row.len() + 4 <= ROW_KEY_BYTES_MAX, "a row key of {} bytes is over the limit", row.len());
    let body = version.value.as_deref();
    let inline = body.is_none_or(|value| row.len() + HEADER + value.len() <= ROW_BYTES_MAX);
    let mut head = Vec::with_capacity(HEADER + if inline { body.map_or(0, <[u8]>::len) } else { 4 });
    head.push(match body {
        None => TOMBSTONE,
        Some(_) if inline => 0,
        Some(_) => IN_PARTS,
    });
    head.extend_from_slice(&version.create_revision.to_le_bytes());
    head.extend_from_slice(&version.version.to_le_bytes());
    let mut parts = Vec::new();
    match body {
        Some(value) if inline => head.extend_from_slice(value),
        Some(value) => {
            let Ok(total) = u32::try_from(value.len()) else {
                panic!("a value of {} bytes is over the limit", value.len())
            };
            head.extend_from_slice(&total.to_le_bytes());
            for (number, part) in (0..).zip(value.chunks(part_bytes(row.len()))) {
                parts.push((part_key(&row, number), part.to_vec()));
            }
        }
        None => {}
    }
    EncodedVersion { key: row, value: head, parts }
}

/// The key of one part of a session.
pub(crate) fn session_key(id: u64, part: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(13);
    out.push(SESSION);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&part.to_be_bytes());
    out
}

/// The session id and part number of a session row's key.
pub(crate) fn parse_session_key(row: &[u8]) -> Option<(u64, u32)> {
    let (id, part) = row.strip_prefix(&[SESSION])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*id), u32::from_be_bytes(part.try_into().ok()?)))
}

/// The bounds of the session table.
pub(crate) const SESSIONS: (&[u8], &[u8]) = (&[SESSION], &[SESSION + 1]);

/// How many bytes of a session go into one row.
pub(crate) const SESSION_PART_BYTES: usize = ROW_BYTES_MAX - 13;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 1..8)
    }

    proptest! {
        #[test]
        fn rows_sort_as_keys_do_and_newest_first(a in key(), b in key(), r in 0..4_u64, s in 0..4_u64) {
            let (left, right) = (data_key(&a, r), data_key(&b, s));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b).then(s.cmp(&r)));
            prop_assert_eq!(parse_data_key(&left), Some((Bytes::from(a.clone()), r)));
            prop_assert_eq!(data_bound(&b) <= left, b <= a);
            prop_assert_eq!(data_bound_after(&b) <= left, b < a);
        }

        #[test]
        fn bytes_that_are_no_row_are_refused(bytes in vec(any::<u8>(), 0..24)) {
            let _ = parse_data_key(&bytes);
            let _ = parse_data_value(&bytes);
            let _ = parse_session_key(&bytes);
        }
    }

    // sled keeps what is over its limits in files that it never syncs.
    #[test]
    fn no_row_is_over_the_limits() {
        use crate::limits::KEY_BYTES_MAX;
        let keys = [vec![b'k'; 1], vec![b'k'; KEY_BYTES_MAX], vec![0; KEY_BYTES_MAX / 2]];
        for (key, bytes) in
            keys.iter().flat_map(|key| [0, 5_600, 5_700, 6_100, 6_200, 90_000].map(|n| (key, n)))
        {
            let value = Some(Bytes::from(vec![b'v'; bytes]));
            let encoded =
                encode_version(key, &Version { mod_revision: 7, create_revision: 7, version: 1, value });
            let rows = std::iter::once((&encoded.key, &encoded.value))
                .chain(encoded.parts.iter().map(|(key, value)| (key, value)));
            for (key, value) in rows {
                assert!(key.len() <= ROW_KEY_BYTES_MAX, "{}", key.len());
                assert!(key.len() + value.len() <= ROW_BYTES_MAX, "{}", key.len() + value.len());
            }
        }
        let (segment, quarter) = (512 * 1024, 4);
        let message_max = segment / quarter - 20 - 32;
        assert!(20 * ROW_BYTES_MAX <= message_max);
        assert!(260 * (ROW_KEY_BYTES_MAX + 12) + 2 * ROW_KEY_BYTES_MAX <= message_max);
    }
}
