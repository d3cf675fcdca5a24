//! The state beside keys and sessions: how far it has come, and the hash that tells whether two nodes agree.

use raft::core::{Configuration, LogId};
use serde::{Deserialize, Serialize};

use crate::command::Revision;
use crate::store::rows::Version;

const FORMAT: u8 = 1;

/// The replicated state that is neither a key nor a session. One row of the store, and the head of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The last entry applied.
    pub(crate) applied: LogId,
    /// The configuration in force there, if an entry or a snapshot brought one.
    pub(crate) configuration: Option<Configuration>,
    /// Time, as far as the state knows: the greatest stamp of any command.
    pub(crate) cluster_time_ms: u64,
    /// How many commands changed a key.
    pub(crate) revision: Revision,
    /// The oldest revision that can be read. Invariant: `compacted <= revision`.
    pub(crate) compacted: Revision,
    /// The [chain](Chain) over everything applied.
    pub(crate) chain: Chain,
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match postcard::to_extend(self, vec![FORMAT]) {
            Ok(bytes) => bytes,
            Err(error) => panic!("the state's metadata cannot be encoded: {error}"),
        }
    }

    /// Reads what `encode` wrote; says what is wrong if that cannot be.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let meta: Self = match bytes.split_first() {
            Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
                Ok((meta, [])) => meta,
                _ => return Err("the state's metadata is malformed".to_owned()),
            },
            Some((&format, _)) => {
                return Err(format!("the state's metadata has the unknown format {format}"));
            }
            None => return Err("the state's metadata is empty".to_owned()),
        };
        if meta.compacted > meta.revision {
            return Err(format!("compacted {} is beyond revision {}", meta.compacted, meta.revision));
        }
        Ok(meta)
    }
}

/// A hash that runs along the log: each entry's effects are mixed into what stood before. Two nodes with the same hash at
/// the same index did the same; from the first difference on they stay different.
///
/// It covers effects, not commands: a node that does something else with the same command shows, also one that does
/// a command that another takes for a retry, even if the keys come out the same. It is no protection against anyone
/// who wants a collision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain(pub(crate) u64);

impl Chain {
    pub(crate) fn word(&mut self, word: u64) {
        // One multiplication to twice the width, folded: every bit of the word reaches every bit of the hash.
        let product =
            u128::from(self.0 ^ word ^ 0x9E37_79B9_7F4A_7C15) * u128::from(0xD1B5_4A32_D192_ED03_u64);
        let bytes = product.to_le_bytes();
        let (low, high) = bytes.split_at(8);
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        self.0 = word(low) ^ word(high);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(chunk.try_into().map_or(0, u64::from_le_bytes));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(chunks.remainder()) {
            *to = *from;
        }
        self.word(u64::from_le_bytes(last));
    }

    pub(crate) fn version(&mut self, key: &[u8], version: &Version) {
        self.bytes(key);
        self.word(version.mod_revision);
        self.word(version.create_revision);
        self.word(version.version);
        match &version.value {
            Some(value) => self.bytes(value),
            None => self.word(u64::MAX),
        }
    }
}
