//! What is appended to one key.

use super::{model::State, register::Action, states::States};
use crate::history::{
    Text,
    table::{Table, hash_bytes},
};

/// The distinct pieces that are appended.
pub(crate) struct Pieces {
    /// By id.
    texts: Vec<Text>,
    /// Their distinct lengths, without 0.
    lengths: Vec<usize>,
    /// The id of the empty piece.
    empty: Option<u32>,
    /// By what they spell.
    by_hash: Table,
}

impl Pieces {
    pub(crate) fn new(states: &States<'_>, actions: &[Action]) -> Pieces {
        let piece = |action: &Action| match action {
            Action::Append(piece) => Some(*piece),
            _ => None,
        };
        let mut texts: Vec<Text> = actions.iter().filter_map(piece).collect();
        texts.sort_unstable();
        texts.dedup();
        let mut lengths: Vec<usize> = texts.iter().map(|text| states.text(*text).len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths.retain(|length| *length > 0);
        let mut by_hash = Table::default();
        let mut empty = None;
        for (id, text) in (0..).zip(&texts) {
            let text = states.text(*text);
            by_hash.insert(hash_bytes(text), id);
            empty = if text.is_empty() { Some(id) } else { empty };
        }
        Pieces { texts, lengths, empty, by_hash }
    }

    pub(crate) fn of(&self, text: Text) -> Option<u32> {
        self.texts.binary_search(&text).ok().map(|at| at as u32)
    }

    /// The pieces that may have been the last to be added when the string became `state`. The empty piece makes
    /// nothing but the empty string of an absent key.
    pub(crate) fn endings(&self, states: &States<'_>, state: State) -> Box<[u32]> {
        let whole = states.spelled(state);
        if whole.is_empty() {
            return self.empty.into_iter().collect();
        }
        let ending = |length: &usize| self.find(states, whole.get(whole.len().checked_sub(*length)?..)?);
        self.lengths.iter().filter_map(ending).collect()
    }

    /// The piece that spells `text`.
    fn find(&self, states: &States<'_>, text: &[u8]) -> Option<u32> {
        self.by_hash.find(hash_bytes(text), |id| states.text(self.texts[id as usize]) == text)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.texts.len()
    }

    /// Calls `found` for each piece that stands in `text` and ends behind `begin`, with where it begins and ends; by
    /// end.
    pub(crate) fn occurrences(
        &self,
        states: &States<'_>,
        text: &[u8],
        begin: usize,
        mut found: impl FnMut(u32, usize, usize),
    ) {
        for to in begin + 1..=text.len() {
            for from in self.lengths.iter().filter_map(|length| to.checked_sub(*length)) {
                if let Some(piece) = self.find(states, &text[from..to]) {
                    found(piece, from, to);
                }
            }
        }
    }

    /// The empty piece.
    pub(crate) fn empty(&self) -> Option<u32> {
        self.empty
    }

    /// How many different lengths there are, without 0.
    pub(crate) fn lengths(&self) -> usize {
        self.lengths.len()
    }
}
