//! Who looks for which value, and until when.
//!
//! A value is looked for by the gets that answer it and the cas that expect it, whether they succeed or not (a failed
//! cas makes sure that the state is another). A state's *expiry* is the number of operations that have an end,
//! counted by their ends, which must be placed until nobody is left who looks for it. Where nothing appends a state
//! is looked for as itself; where something does, as a prefix of a value.
//!
//! A cas of unknown outcome looks for what it expects as long as somebody may see what it makes of it.

use super::{
    model::{NEVER, Span, State},
    pieces::Pieces,
    register::Action,
    states::{ABSENT, EMPTY, States, UNSEEN},
};

/// Until when each state is looked for.
pub(crate) struct Looks {
    appends: bool,
    /// The values looked for, in the order of their texts, without absence.
    values: Vec<State>,
    /// The place of each state among the values, or `NONE`.
    place: Vec<u32>,
    /// The expiries of the values: a tree of maxima whose leaves are its second half.
    tree: Vec<u32>,
    /// The same for failed cas alone.
    failed_tree: Vec<u32>,
    /// The states that something can make.
    made: Vec<State>,
    /// The expiry of absence as such.
    absent: u32,
    /// The expiry of the last failed cas.
    failed: u32,
    /// What is known about the states asked for.
    known: Vec<Option<Look>>,
}

/// The values that a state is a prefix of (or equal to), and the last expiry among them.
#[derive(Clone, Copy)]
struct Look {
    expiry: u32,
    /// The last expiry of a failed cas among them.
    failed: u32,
    from: u32,
    to: u32,
}

const NONE: u32 = u32::MAX;

/// How often the expiries of what cas of unknown outcome expect are worked out anew until they are taken as endless.
const ROUNDS_MAX: usize = 16;

impl Looks {
    pub(crate) fn new(states: &States<'_>, actions: &[Action], spans: &[Span], pieces: &Pieces) -> Looks {
        let appends = pieces.count() > 0;
        let value = |action: &Action| match *action {
            Action::Get(value) | Action::Cas(value, _) | Action::CasFailed(value) => Some(value),
            Action::Put(_) | Action::Append(_) => None,
        };
        let mut values: Vec<State> =
            actions.iter().filter_map(value).filter(|value| *value != ABSENT).collect();
        values.sort_unstable();
        values.dedup();
        values.sort_by_key(|value| states.spelled(*value));
        let mut place = vec![NONE; states.count()];
        for (at, value) in values.iter().enumerate() {
            place[*value as usize] = at as u32;
        }
        let tree = vec![0; 2 * values.len()];
        let failed_tree = tree.clone();
        let mut made: Vec<State> = actions.iter().filter_map(Action::makes).chain([ABSENT]).collect();
        made.extend(values.iter().filter(|value| appends && !pieces.endings(states, **value).is_empty()));
        made.sort_unstable();
        made.dedup();
        let mut looks = Looks {
            made,
            appends,
            values,
            place,
            tree,
            failed_tree,
            absent: 0,
            failed: 0,
            known: Vec::new(),
        };

        let mut by_end: Vec<usize> = (0..actions.len()).filter(|at| spans[*at].ret != NEVER).collect();
        by_end.sort_unstable_by_key(|at| spans[*at].ret);
        for (rank, at) in by_end.into_iter().enumerate() {
            let expiry = rank as u32 + 1;
            if let Some(value) = value(&actions[at]) {
                looks.raise(value, expiry);
            }
            if matches!(actions[at], Action::CasFailed(expect) if looks.says_anything(expect)) {
                looks.failed = expiry;
                if let Some(at) = value(&actions[at]).and_then(|value| looks.leaf(value)) {
                    raise(&mut looks.failed_tree, at, expiry);
                }
            }
        }
        looks.raise_unknown(states, actions, spans);
        looks
    }

    /// The expiry of `state`. Of a string of several pieces the one without the last must have been asked for before.
    pub(crate) fn expiry(&mut self, states: &States<'_>, state: State) -> u32 {
        let at = state as usize;
        if at >= self.known.len() {
            self.known.resize(states.count(), None);
        }
        if let Some(look) = self.known[at] {
            return look.expiry;
        }
        let look = self.look(states, state);
        self.known[at] = Some(look);
        look.expiry
    }

    /// The expiry of the last failed cas that fails on `state`, or on what appends can make of it. It must have been
    /// asked for its expiry before.
    pub(crate) fn failed_expiry(&self, state: State) -> u32 {
        self.known.get(state as usize).copied().flatten().map_or(self.failed, |look| look.failed)
    }

    /// For each state that a cas fails on the states that are made and of which it can come about: itself, or, where
    /// keys are appended to, those that it begins with.
    pub(crate) fn beginnings(
        &self,
        states: &States<'_>,
        fails: &[State],
        made: &[State],
    ) -> Vec<Box<[State]>> {
        let mut failed_on = vec![false; states.count()];
        for state in fails {
            failed_on[*state as usize] = true;
        }
        let mut beginnings = vec![Vec::new(); states.count()];
        let mut made: Vec<State> = made.iter().copied().filter(|state| *state != UNSEEN).collect();
        made.sort_unstable();
        made.dedup();
        for state in made {
            if failed_on[state as usize] && (state == ABSENT || !self.appends) {
                beginnings[state as usize].push(state);
            }
            if self.appends {
                let (from, to) =
                    if state == ABSENT { (0, self.values.len() as u32) } else { self.range(states, state) };
                for value in &self.values[from as usize..to as usize] {
                    if failed_on[*value as usize] {
                        beginnings[*value as usize].push(state);
                    }
                }
            }
        }
        beginnings.into_iter().map(Vec::into_boxed_slice).collect()
    }

    /// The expiry of a value that is made.
    pub(crate) fn made_expiry(&self, states: &States<'_>, value: State) -> u32 {
        self.look(states, value).expiry
    }

    /// The expiry of the last failed cas that says anything: it may be in need of any change of state.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// Whether a failed cas that expects `value` says anything: it does not if nothing makes that.
    pub(crate) fn says_anything(&self, value: State) -> bool {
        self.made.binary_search(&value).is_ok()
    }

    /// The values looked for, in the order of their texts, without absence.
    pub(crate) fn values(&self) -> &[State] {
        &self.values
    }

    /// The values that begin with a value that is made.
    pub(crate) fn range(&self, states: &States<'_>, made: State) -> (u32, u32) {
        let look = self.look(states, made);
        (look.from, look.to)
    }

    fn look(&self, states: &States<'_>, state: State) -> Look {
        let all = (0, self.values.len() as u32);
        let (from, to) = match state {
            UNSEEN => (0, 0),
            ABSENT => {
                let grown = if self.appends { self.greatest(all.0, all.1) } else { 0 };
                return Look { expiry: self.absent.max(grown), failed: self.failed, from: 0, to: 0 };
            }
            EMPTY if self.appends => all,
            _ if self.appends => self.narrowed(states, state),
            _ => match self.place.get(state as usize) {
                Some(place) if *place != NONE => (*place, *place + 1),
                _ => (0, 0),
            },
        };
        let failed = greatest(&self.failed_tree, from, to);
        Look { expiry: self.greatest(from, to), failed, from, to }
    }

    /// The values that begin with a string, from those that begin with the string without its last piece.
    fn narrowed(&self, states: &States<'_>, state: State) -> (u32, u32) {
        let Some((parent, piece)) = states.pieces(state) else { return (0, 0) };
        let (from, to) = match self.known.get(parent as usize) {
            Some(Some(look)) if parent != EMPTY => (look.from, look.to),
            _ => {
                assert!(parent == EMPTY, "state {parent} was never looked at, but grew");
                (0, self.values.len() as u32)
            }
        };
        let piece = states.text(piece);
        let begin = states.length(parent);
        let rest = |value: &State| &states.spelled(*value)[begin..];
        let within = &self.values[from as usize..to as usize];
        let skip = within.partition_point(|value| rest(value) < piece);
        let count = within[skip..].partition_point(|value| rest(value).starts_with(piece));
        (from + skip as u32, from + (skip + count) as u32)
    }

    /// The greatest expiry of the values `from..to`.
    pub(crate) fn greatest(&self, from: u32, to: u32) -> u32 {
        greatest(&self.tree, from, to)
    }

    /// `value` is looked for at least until `expiry`. Whether that is news.
    fn raise(&mut self, value: State, expiry: u32) -> bool {
        match self.leaf(value) {
            Some(at) => raise(&mut self.tree, at, expiry),
            None => {
                let news = self.absent < expiry;
                self.absent = self.absent.max(expiry);
                news
            }
        }
    }

    /// The leaf of a value, which absence has not.
    fn leaf(&self, value: State) -> Option<usize> {
        (value != ABSENT).then(|| self.place[value as usize] as usize + self.values.len())
    }

    /// What a cas of unknown outcome expects is looked for as long as what it makes.
    fn raise_unknown(&mut self, states: &States<'_>, actions: &[Action], spans: &[Span]) {
        let mut unknown: Vec<(State, State)> = Vec::new();
        for (action, span) in actions.iter().zip(spans) {
            if let (Action::Cas(expect, value), NEVER) = (*action, span.ret) {
                unknown.push((expect, value));
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        for round in 0.. {
            let mut news = false;
            for (expect, value) in &unknown {
                let seen = self.made_expiry(states, *value).max(self.failed);
                let expiry = if round < ROUNDS_MAX { seen } else { NEVER };
                news |= self.raise(*expect, expiry);
            }
            if !news {
                return;
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.known.capacity() * size_of::<Option<Look>>()
            + (self.tree.len() + self.place.len()) * size_of::<u32>()
    }
}

/// The greatest of the leaves `from..to` of a tree of maxima.
fn greatest(tree: &[u32], from: u32, to: u32) -> u32 {
    let leaves = tree.len() / 2;
    let (mut from, mut to) = (from as usize + leaves, to as usize + leaves);
    let mut greatest = 0;
    while from < to {
        if from % 2 == 1 {
            greatest = greatest.max(tree[from]);
            from += 1;
        }
        if to % 2 == 1 {
            to -= 1;
            greatest = greatest.max(tree[to]);
        }
        (from, to) = (from / 2, to / 2);
    }
    greatest
}

/// Raises a leaf of a tree of maxima. Whether that is news.
fn raise(tree: &mut [u32], leaf: usize, to: u32) -> bool {
    let news = tree[leaf] < to;
    let mut at = leaf;
    while at > 0 && tree[at] < to {
        tree[at] = to;
        at /= 2;
    }
    news
}
