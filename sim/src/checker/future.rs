//! What is still to come for one key: who will look at which state, and what can still bring it about.

use crate::history::Moment;

use super::{
    list::List,
    looks::Looks,
    model::{Expiry, NEVER, Op, Span, State},
    pieces::Pieces,
    register::Action,
    spelling::Spelling,
    states::{ABSENT, EMPTY, States, UNSEEN},
};

/// What the operations not yet placed can see and do.
pub(crate) struct Future {
    appends: bool,
    /// The state that a get or successful cas which must be placed needs, by operation; else [`UNSEEN`].
    needs: Vec<State>,
    /// The state that a put, delete or cas results in, by operation; else [`UNSEEN`].
    makes: Vec<State>,
    /// The state that a failed cas expects and something can make, by operation; else [`UNSEEN`].
    fails: Vec<State>,
    /// The piece an append adds, by operation; else `NO_PIECE`.
    piece: Vec<u32>,
    /// How many operations not placed need each state, fail on it (or on what appends can make of it), and make it.
    needed: Vec<u32>,
    doubted: Vec<u32>,
    makers: Vec<u32>,
    /// How many appends of each piece are not placed.
    pieces_left: Vec<u32>,
    /// The pieces each state ends with; filled when first asked for.
    endings: Vec<Option<Box<[u32]>>>,
    /// The states that are made and of which each state that a cas fails on can come about, itself included.
    beginnings: Vec<Box<[State]>>,
    pieces: Pieces,
    spelling: Spelling,
    /// Whether a cas of unknown outcome expects each state.
    tried: Vec<bool>,
    /// Those that need a state, by end; those that make one, by call.
    observers: List,
    overwriters: List,
    /// Those that fail, by call; and how many are left.
    failures: List,
    failures_left: u32,
    looks: Looks,
}

const NO_PIECE: u32 = u32::MAX;

impl Future {
    pub(crate) fn new(states: &States<'_>, actions: &[Action], spans: &[Span]) -> Future {
        let must = |op: Op| spans[op as usize].ret != NEVER;
        let ops = || 0..actions.len() as Op;
        let pieces = Pieces::new(states, actions);
        let (mut needs, mut makes) = (vec![UNSEEN; actions.len()], vec![UNSEEN; actions.len()]);
        let (mut fails, mut piece) = (vec![UNSEEN; actions.len()], vec![NO_PIECE; actions.len()]);
        let looks = Looks::new(states, actions, spans, &pieces);
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
                Action::CasFailed(expect) if looks.says_anything(expect) => fails[at] = expect,
                Action::CasFailed(_) => {}
            }
        }
        let mut by_end: Vec<Op> = ops().filter(|op| needs[*op as usize] != UNSEEN).collect();
        by_end.sort_unstable_by_key(|op| spans[*op as usize].ret);
        let mut tried = vec![false; states.count()];
        for op in ops().filter(|op| !must(*op)) {
            if let Action::Cas(expect, _) = actions[op as usize] {
                tried[expect as usize] = true;
            }
        }
        let mut future = Future {
            appends: pieces.count() > 0,
            needed: vec![0; states.count()],
            doubted: vec![0; states.count()],
            makers: vec![0; states.count()],
            pieces_left: vec![0; pieces.count()],
            endings: vec![None; states.count()],
            observers: List::new(actions.len(), by_end.into_iter()),
            overwriters: List::new(actions.len(), ops().filter(|op| makes[*op as usize] != UNSEEN)),
            failures_left: 0,
            failures: List::new(actions.len(), ops().filter(|op| fails[*op as usize] != UNSEEN)),
            beginnings: looks.beginnings(states, &fails, &makes),
            spelling: Spelling::new(states, &looks, &pieces, &makes),
            looks,
            tried,
            pieces,
            needs,
            makes,
            fails,
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
        if self.fails[at] != UNSEEN {
            self.failures.unlink(op);
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
        if self.fails[at] != UNSEEN {
            self.failures.relink(op);
        }
    }

    fn count(&mut self, at: usize, change: impl Fn(&mut u32)) {
        if self.needs[at] != UNSEEN {
            change(&mut self.needed[self.needs[at] as usize]);
        }
        if self.makes[at] != UNSEEN {
            change(&mut self.makers[self.makes[at] as usize]);
        }
        if self.fails[at] != UNSEEN {
            change(&mut self.failures_left);
            for made in self.beginnings[self.fails[at] as usize].iter() {
                change(&mut self.doubted[*made as usize]);
            }
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

    /// Until when somebody can see what an operation of unknown outcome does.
    pub(crate) fn action_expiry(&self, states: &States<'_>, action: Action) -> Expiry {
        match action {
            Action::Append(piece) => {
                let piece =
                    self.pieces.of(piece).map_or(0, |piece| self.spelling.piece_expiry[piece as usize]);
                Expiry { first: piece, spare: true }
            }
            Action::Put(value) => Expiry { first: self.looks.made_expiry(states, value), spare: true },
            // It cannot change any state, only one.
            Action::Cas(_, value) => {
                Expiry { first: self.looks.made_expiry(states, value).max(self.looks.failed()), spare: false }
            }
            Action::Get(_) | Action::CasFailed(_) => Expiry { first: 0, spare: false },
        }
    }

    /// How many failed cas are left that say anything.
    pub(crate) fn failures_left(&self) -> u32 {
        self.failures_left
    }

    /// Whether nobody will see what an operation does, wherever it is placed.
    pub(crate) fn idle(&mut self, states: &States<'_>, op: Op, action: Action, first: u32) -> bool {
        match action {
            Action::Put(value) => self.looks.expiry(states, value) <= first,
            Action::Append(_) => self.spelling.piece_expiry[self.piece[op as usize] as usize] <= first,
            Action::Get(_) | Action::Cas(..) | Action::CasFailed(_) => false,
        }
    }

    /// Whether a failed cas may need `state` to change: one that may stand next and fails on it, or, where appends can
    /// still make of `state` what it fails on, any.
    pub(crate) fn stuck(&self, spans: &[Span], state: State, first: u32, horizon: Moment) -> bool {
        if self.appends {
            return self.looks.failed_expiry(state) > first;
        }
        self.failures.first().is_some_and(|op| spans[op as usize].call < horizon)
    }

    /// Whether nothing called before `ret` can make a state that a failed cas will be in need of leaving.
    pub(crate) fn quiet(&self, spans: &[Span], ret: Moment) -> bool {
        let mut op = self.overwriters.behind(self.overwriters.head());
        while op != self.overwriters.head() && spans[op as usize].call < ret {
            if self.doubted[self.makes[op as usize] as usize] > 0 {
                return false;
            }
            op = self.overwriters.behind(op);
        }
        true
    }

    /// The state that a get or a successful cas needs.
    pub(crate) fn needs(&self, op: Op) -> Option<State> {
        Some(self.needs[op as usize]).filter(|state| *state != UNSEEN)
    }

    /// How many operations are left that must see `value`, if they are all that looks for it.
    pub(crate) fn lookers(&self, value: State) -> Option<u32> {
        let alone = !self.appends && !self.tried[value as usize] && self.doubted[value as usize] == 0;
        alone.then(|| self.needed[value as usize])
    }

    /// Whether nothing can complete the order, now that `op` has made `next` of `state`: see [`super::register`].
    pub(crate) fn hopeless(
        &mut self,
        states: &mut States<'_>,
        spans: &[Span],
        (op, first): (Op, u32),
        state: State,
        next: State,
    ) -> bool {
        next != state && self.loses(states, (op, first), state, next) || self.starves(states, spans, next)
    }

    /// Whether what is needed of `state` is given up for `next` and cannot be had again.
    fn loses(&mut self, states: &States<'_>, (op, first): (Op, u32), state: State, next: State) -> bool {
        let needed = self.needed.get(state as usize).is_some_and(|count| *count > 0);
        if needed && !self.can_be_made(states, state) {
            return true;
        }
        if !self.appends {
            return false;
        }
        let unseen = self.looks.expiry(states, next) <= first;
        let piece = self.piece[op as usize];
        if unseen && piece != NO_PIECE && self.lacks(piece) {
            return true;
        }
        (unseen || piece == NO_PIECE) && self.was_the_last(states, state)
    }

    /// Whether a value that is needed demands more of a piece than is left.
    fn lacks(&self, piece: u32) -> bool {
        let demand = self.spelling.piece_demand[piece as usize];
        demand.value != UNSEEN
            && self.needed[demand.value as usize] > 0
            && self.pieces_left[piece as usize] < demand.times
    }

    /// Whether `state`, which is given up, has something that a value still needed demands, and that is not left.
    fn was_the_last(&self, states: &States<'_>, state: State) -> bool {
        let Some((parent, piece)) = states.pieces(state) else { return false };
        if parent == EMPTY
            && let Some(value) = self.spelling.beginning_demand.get(state as usize)
        {
            let demanded = *value != UNSEEN && self.needed[*value as usize] > 0;
            if demanded && self.makers[state as usize] == 0 {
                return true;
            }
        }
        self.pieces.of(piece).is_some_and(|piece| self.lacks(piece))
    }

    /// Whether the needed value that must be seen first can no longer come about from `next`.
    fn starves(&mut self, states: &mut States<'_>, spans: &[Span], next: State) -> bool {
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
