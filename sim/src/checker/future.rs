//! What is still to come for one key: who will look at which state, and what can still bring it about.

use super::{
    looks::Looks,
    model::{NEVER, Op, Span, State},
    register::Action,
    search::List,
    states::{ABSENT, States, UNSEEN},
};
use crate::history::Text;

/// What the operations not yet placed can see and do.
pub(crate) struct Future {
    appends: bool,
    /// The state that a get or successful cas which must be placed needs, by operation; else [`UNSEEN`].
    needs: Vec<State>,
    /// The state that a put, delete or cas results in, by operation; else [`UNSEEN`].
    makes: Vec<State>,
    /// The piece an append adds, by operation; else `NO_PIECE`.
    piece: Vec<u32>,
    /// How many operations not placed need, and make, each state.
    needed: Vec<u32>,
    makers: Vec<u32>,
    /// How many appends of each piece are not placed.
    pieces_left: Vec<u32>,
    /// The pieces each needed state ends with; filled when first asked for.
    endings: Vec<Option<Box<[u32]>>>,
    pieces: Pieces,
    /// Those that need a state, by end; those that make one, by call.
    observers: List,
    overwriters: List,
    looks: Looks,
}

const NO_PIECE: u32 = u32::MAX;

impl Future {
    pub(crate) fn new(states: &States<'_>, actions: &[Action], spans: &[Span]) -> Future {
        let must = |op: Op| spans[op as usize].ret != NEVER;
        let ops = || 0..actions.len() as Op;
        let pieces = Pieces::new(states, actions);
        let (mut needs, mut makes) = (vec![UNSEEN; actions.len()], vec![UNSEEN; actions.len()]);
        let mut piece = vec![NO_PIECE; actions.len()];
        for (at, action) in actions.iter().enumerate() {
            match *action {
                Action::Get(value) => needs[at] = value,
                Action::Put(value) => makes[at] = value,
                Action::Append(text) => piece[at] = pieces.of(text).unwrap_or(NO_PIECE),
                Action::Cas(expect, value) => {
                    if must(at as Op) {
                        needs[at] = expect;
                    }
                    if expect != value {
                        makes[at] = value;
                    }
                }
                Action::CasFailed(_) => {}
            }
        }
        let mut by_end: Vec<Op> = ops().filter(|op| needs[*op as usize] != UNSEEN).collect();
        by_end.sort_unstable_by_key(|op| spans[*op as usize].ret);
        let mut future = Future {
            appends: !pieces.texts.is_empty(),
            needed: vec![0; states.count()],
            makers: vec![0; states.count()],
            pieces_left: vec![0; pieces.texts.len()],
            endings: vec![None; states.count()],
            observers: List::new(actions.len(), by_end.into_iter()),
            overwriters: List::new(actions.len(), ops().filter(|op| makes[*op as usize] != UNSEEN)),
            looks: Looks::new(states, actions, spans, !pieces.texts.is_empty()),
            pieces,
            needs,
            makes,
            piece,
        };
        for op in ops() {
            future.count(op as usize, |count| *count += 1);
        }
        future
    }

    pub(crate) fn remove(&mut self, op: Op) {
        let at = op as usize;
        self.count(at, |count| *count -= 1);
        if self.needs[at] != UNSEEN {
            self.observers.unlink(op);
        }
        if self.makes[at] != UNSEEN {
            self.overwriters.unlink(op);
        }
    }

    pub(crate) fn restore(&mut self, op: Op) {
        let at = op as usize;
        self.count(at, |count| *count += 1);
        if self.needs[at] != UNSEEN {
            self.observers.relink(op);
        }
        if self.makes[at] != UNSEEN {
            self.overwriters.relink(op);
        }
    }

    fn count(&mut self, at: usize, change: impl Fn(&mut u32)) {
        if self.needs[at] != UNSEEN {
            change(&mut self.needed[self.needs[at] as usize]);
        }
        if self.makes[at] != UNSEEN {
            change(&mut self.makers[self.makes[at] as usize]);
        }
        if self.piece[at] != NO_PIECE {
            change(&mut self.pieces_left[self.piece[at] as usize]);
        }
    }

    /// How many of the operations that have an end, counted by their ends, must be placed until nobody can tell
    /// `state` from any other such.
    pub(crate) fn expiry(&mut self, states: &States<'_>, state: State) -> u32 {
        self.looks.expiry(states, state)
    }

    /// The same for what an operation does.
    pub(crate) fn action_expiry(&self, states: &States<'_>, action: Action) -> u32 {
        self.looks.action_expiry(states, action)
    }

    /// Whether nothing can complete the order, now that `state` has become `next`: see [`super::register`].
    pub(crate) fn hopeless(
        &mut self,
        states: &mut States<'_>,
        spans: &[Span],
        state: State,
        next: State,
    ) -> bool {
        let needed = self.needed.get(state as usize).is_some_and(|count| *count > 0);
        if next != state && needed && !self.can_be_made(states, state) {
            return true;
        }
        let Some(observer) = self.observers.first() else { return false };
        let wanted = self.needs[observer as usize];
        if next == wanted {
            return false;
        }
        let mut overwriter = self.overwriters.behind(self.overwriters.head());
        if overwriter == observer {
            overwriter = self.overwriters.behind(overwriter);
        }
        let end = spans[observer as usize].ret;
        if overwriter != self.overwriters.head() && spans[overwriter as usize].call < end {
            return !self.can_be_made(states, wanted);
        }
        !self.can_grow(states, next, wanted)
    }

    /// Whether something is left whose result may be `state`, which is needed.
    fn can_be_made(&mut self, states: &States<'_>, state: State) -> bool {
        let at = state as usize;
        if self.makers[at] > 0 {
            return true;
        }
        if !self.appends || state == ABSENT {
            return false;
        }
        let endings = self.endings[at].get_or_insert_with(|| self.pieces.endings(states, state));
        endings.iter().any(|piece| self.pieces_left[*piece as usize] > 0)
    }

    /// Whether appends alone may lead from `state` to `wanted`.
    fn can_grow(&self, states: &mut States<'_>, state: State, wanted: State) -> bool {
        if !self.appends || state == UNSEEN || wanted == ABSENT {
            return false;
        }
        state == ABSENT || states.is_prefix(state, wanted)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.needs.len() * 3 * size_of::<u32>()
            + self.needed.len() * (2 * size_of::<u32>() + size_of::<Box<[u32]>>())
            + self.observers.bytes()
            + self.overwriters.bytes()
            + self.looks.bytes()
    }
}

/// The distinct pieces that are appended.
struct Pieces {
    /// By id.
    texts: Vec<Text>,
    /// The ids in the order of what they spell.
    sorted: Vec<u32>,
    /// Their distinct lengths, without 0.
    lengths: Vec<usize>,
    /// The id of the empty piece.
    empty: Option<u32>,
}

impl Pieces {
    fn new(states: &States<'_>, actions: &[Action]) -> Pieces {
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
        let mut sorted: Vec<u32> = (0..texts.len() as u32).collect();
        sorted.sort_unstable_by_key(|id| states.text(texts[*id as usize]));
        let empty = sorted.first().copied().filter(|id| states.text(texts[*id as usize]).is_empty());
        Pieces { texts, sorted, lengths, empty }
    }

    fn of(&self, text: Text) -> Option<u32> {
        self.texts.binary_search(&text).ok().map(|at| at as u32)
    }

    /// The pieces that may have been the last to be added when the string became `state`. The empty piece makes
    /// nothing but the empty string of an absent key.
    fn endings(&self, states: &States<'_>, state: State) -> Box<[u32]> {
        let whole = states.spelled(state);
        if whole.is_empty() {
            return self.empty.into_iter().collect();
        }
        let found = |length: &usize| {
            let ending = whole.get(whole.len().checked_sub(*length)?..)?;
            let at =
                self.sorted.binary_search_by_key(&ending, |id| states.text(self.texts[*id as usize])).ok()?;
            Some(self.sorted[at])
        };
        self.lengths.iter().filter_map(found).collect()
    }
}
