//! Keys and values, each kept once.

use super::table::{Table, hash_bytes};

/// A key or a value of one [`History`](super::History): equal texts have equal ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(std::num::NonZeroU32);

impl Text {
    /// Dense, from 0.
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Every distinct text, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strings {
    texts: String,
    /// Where each text ends; it begins where the one before it ends.
    ends: Vec<usize>,
    table: Table,
}

impl Strings {
    pub(crate) fn intern(&mut self, text: &str) -> Text {
        let hash = hash_bytes(text.as_bytes());
        if let Some(index) = self.table.find(hash, |index| self.at(index as usize) == text) {
            return Self::id(index);
        }
        let index = u32::try_from(self.ends.len()).expect("fewer than 2^32 distinct texts");
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        self.table.insert(hash, index);
        Self::id(index)
    }

    pub(crate) fn get(&self, text: Text) -> &str {
        self.at(text.index())
    }

    /// How many distinct texts there are.
    pub(crate) fn count(&self) -> usize {
        self.ends.len()
    }

    fn at(&self, index: usize) -> &str {
        let begin = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.texts[begin..self.ends[index]]
    }

    fn id(index: u32) -> Text {
        Text(std::num::NonZeroU32::new(index + 1).expect("index + 1 is not 0"))
    }
}
