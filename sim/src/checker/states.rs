//! The states of one key, each kept once: absent, or a string.
//!
//! A string that was put is one piece; appending adds a piece to a string already there. So a state is a parent and a
//! piece, and an append costs the same however long the string has grown. Different pieces may spell the same string
//! (`ab` + `c`, `a` + `bc`, `abc`); to keep equal strings under one number each state has a hash of what it
//! spells, which can be had from its parent's and its piece's, and where hashes agree the strings are compared.
//! Equality of numbers is therefore equality of strings, not a likelihood.

use crate::{
    checker::model::State,
    history::{
        History, Text,
        table::{Table, mix},
    },
};

/// The key is absent.
pub(crate) const ABSENT: State = 0;
/// The empty string.
pub(crate) const EMPTY: State = 1;
/// Some state that nobody left to be placed can tell from another such.
pub(crate) const UNSEEN: State = 2;

/// A string: that of `parent`, then `piece`.
#[derive(Clone, Copy)]
struct Node {
    parent: State,
    piece: Option<Text>,
    length: usize,
    hash: u64,
    /// The last state that this string was found to be a prefix of.
    prefix_of: State,
}

/// All states of one key.
pub(crate) struct States<'h> {
    history: &'h History,
    nodes: Vec<Node>,
    /// By what a string spells.
    by_hash: Table,
    /// What came out of adding a piece to a state.
    children: Vec<(State, Text, State)>,
    by_piece: Table,
}

/// The modulus of the hashes, a Mersenne prime.
const MODULUS: u64 = (1 << 61) - 1;
/// Their base.
const BASE: u64 = 0x0b5a_2b3c_91d7_e4f3;

impl<'h> States<'h> {
    pub(crate) fn new(history: &'h History) -> States<'h> {
        let node = Node { parent: EMPTY, piece: None, length: 0, hash: 0, prefix_of: ABSENT };
        let mut states = States {
            history,
            nodes: vec![node; 3],
            by_hash: Table::default(),
            children: Vec::new(),
            by_piece: Table::default(),
        };
        states.by_hash.insert(mix(0), EMPTY);
        states
    }

    /// The state of a key that was put, or removed.
    pub(crate) fn value(&mut self, value: Option<Text>) -> State {
        value.map_or(ABSENT, |text| self.append(EMPTY, text))
    }

    /// The state after `piece` is appended to `state`.
    pub(crate) fn append(&mut self, state: State, piece: Text) -> State {
        let parent = match state {
            UNSEEN => return UNSEEN,
            ABSENT => EMPTY,
            other => other,
        };
        let key = mix(u64::from(parent) << 32 | piece.index() as u64);
        let known = |at: u32| {
            let (from, by, _) = self.children[at as usize];
            (from, by) == (parent, piece)
        };
        if let Some(at) = self.by_piece.find(key, known) {
            return self.children[at as usize].2;
        }
        let child = self.spell(parent, piece);
        self.by_piece.insert(key, self.children.len() as u32);
        self.children.push((parent, piece, child));
        child
    }

    /// The state that spells `parent` and then `piece`, found or made.
    fn spell(&mut self, parent: State, piece: Text) -> State {
        let before = self.nodes[parent as usize];
        let text = self.history.text(piece).as_bytes();
        let hash = text.iter().fold(before.hash, |hash, byte| step(hash, *byte));
        let length = before.length + text.len();
        let node = Node { parent, piece: Some(piece), length, hash, prefix_of: ABSENT };
        let next = self.nodes.len() as State;
        self.nodes.push(node);
        let same = |other: u32| self.nodes[other as usize].length == length && self.equal(other, next);
        if let Some(known) = self.by_hash.find(mix(hash), same) {
            self.nodes.pop();
            return known;
        }
        self.by_hash.insert(mix(hash), next);
        next
    }

    /// Whether two strings of one length are equal, compared from their ends.
    fn equal(&self, mut a: State, mut b: State) -> bool {
        let (mut left, mut right): (&[u8], &[u8]) = (&[], &[]);
        loop {
            if left.is_empty() && right.is_empty() && a == b {
                return true;
            }
            // The lengths are equal, so when one string is used up the other is too.
            if left.is_empty() {
                let Some((parent, piece)) = self.last_piece(a) else { return true };
                (a, left) = (parent, piece);
            }
            if right.is_empty() {
                let Some((parent, piece)) = self.last_piece(b) else { return true };
                (b, right) = (parent, piece);
            }
            let common = left.len().min(right.len());
            let (rest_left, tail_left) = left.split_at(left.len() - common);
            let (rest_right, tail_right) = right.split_at(right.len() - common);
            if tail_left != tail_right {
                return false;
            }
            (left, right) = (rest_left, rest_right);
        }
    }

    /// The last piece of a string, and the string before it.
    fn last_piece(&self, state: State) -> Option<(State, &'h [u8])> {
        let node = &self.nodes[state as usize];
        Some((node.parent, self.history.text(node.piece?).as_bytes()))
    }

    /// How long the string is; 0 for an absent key.
    pub(crate) fn length(&self, state: State) -> usize {
        self.nodes[state as usize].length
    }

    /// The string before the last piece, and that piece.
    pub(crate) fn pieces(&self, state: State) -> Option<(State, Text)> {
        let node = &self.nodes[state as usize];
        Some((node.parent, node.piece?))
    }

    /// What a piece says.
    pub(crate) fn text(&self, piece: Text) -> &'h [u8] {
        self.history.text(piece).as_bytes()
    }

    /// What a string says that is one piece, as all are that stand in the history itself.
    pub(crate) fn spelled(&self, state: State) -> &'h [u8] {
        let node = &self.nodes[state as usize];
        assert!(node.parent == EMPTY, "state {state} is more than one piece");
        node.piece.map_or(&[], |piece| self.text(piece))
    }

    /// Whether the string `state` is a prefix of the string `whole`, which is one piece.
    pub(crate) fn is_prefix(&mut self, state: State, whole: State) -> bool {
        let text = self.spelled(whole);
        if self.length(state) > text.len() {
            return false;
        }
        let mut at = state;
        while at != whole && self.nodes[at as usize].prefix_of != whole {
            let Some((parent, piece)) = self.last_piece(at) else { break };
            if !text[self.length(parent)..].starts_with(piece) {
                return false;
            }
            at = parent;
        }
        self.nodes[state as usize].prefix_of = whole;
        true
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.children.capacity() * size_of::<(State, Text, State)>()
            + self.by_hash.bytes()
            + self.by_piece.bytes()
    }
}

/// The hash of a string with one more byte: a polynomial over the bytes, each plus 1 so that zeroes count.
fn step(hash: u64, byte: u8) -> u64 {
    let product = u128::from(hash) * u128::from(BASE) + u128::from(byte) + 1;
    let folded = (product as u64 & MODULUS) + (product >> 61) as u64;
    if folded >= MODULUS { folded - MODULUS } else { folded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Request, generate::Chance};

    #[test]
    fn equal_strings_are_one_state_however_they_were_put_together() {
        const PIECES: [&str; 6] = ["", "a", "b", "ab", "ba", "aab"];
        let mut history = History::new();
        let mut texts = Vec::new();
        for (process, piece) in (0..).zip(PIECES) {
            history.invoke(process, Request::Append { key: "x", value: piece }).unwrap();
        }
        for operation in history.operations() {
            let Request::Append { value, .. } = operation.request else { panic!("only appends") };
            texts.push(value);
        }
        let mut states = States::new(&history);
        let mut known: Vec<(String, State)> = Vec::new();
        for seed in 0..3_000 {
            let mut chance = Chance::new(seed);
            let (mut text, mut state) = (String::new(), EMPTY);
            for _ in 0..chance.below(6) {
                let piece = chance.below(PIECES.len());
                text.push_str(PIECES[piece]);
                state = states.append(state, texts[piece]);
            }
            known.push((text, state));
        }
        for (text, state) in &known {
            for (other, other_state) in known.iter().take(200) {
                assert_eq!(text == other, state == other_state, "{text:?} {other:?}");
            }
        }
        // Prefixes are found whatever the pieces.
        for (whole, piece) in PIECES.iter().zip(&texts) {
            let whole_state = states.append(EMPTY, *piece);
            for (text, state) in known.iter().take(500) {
                assert_eq!(states.is_prefix(*state, whole_state), whole.starts_with(text.as_str()));
            }
        }
    }

    #[test]
    fn an_absent_key_and_an_empty_string_differ_but_grow_alike() {
        let mut history = History::new();
        history.invoke(1, Request::Append { key: "x", value: "a" }).unwrap();
        let Request::Append { value, .. } = history.operations()[0].request else { panic!("an append") };
        let mut states = States::new(&history);
        assert_ne!(ABSENT, EMPTY);
        assert_eq!(states.value(None), ABSENT);
        assert_eq!(states.append(ABSENT, value), states.append(EMPTY, value));
        assert_eq!(states.append(UNSEEN, value), UNSEEN);
    }
}
