//! The search for an order: Wing and Gong's algorithm with Lowe's memory, just in time.
//!
//! **The rule.** A history is linearizable if its operations can be put in an order in which each answer is right
//! and no operation stands before one that had ended when it was called. (Herlihy and Wing 1990.) Operations of
//! unknown outcome may stand anywhere after their call, or be left out.
//!
//! **The search** (Wing and Gong 1993) places operations one after the other, and takes back what leads nowhere. The
//! *target* is the operation that ends first among those that must be placed and are not. Only operations called
//! before the target's end can be next. Where it has been it does not go again (Lowe 2017, and [`super::memo`]).
//!
//! **What makes it fast**, all of it exact:
//!
//! - *Just in time.* The target is tried first, the others by their call, and operations of unknown outcome last.
//!   So nothing is placed before it is needed, and a wrong guess is found out near the place where it was made.
//! - *Reads are free.* A pure operation whose answer is right in this state is placed at once and is no choice: it
//!   changes nothing, and whatever can follow without it can follow with it.
//! - *Idle writes.* What nobody will see is placed where it costs nothing: in a state that is unseen itself, or
//!   right before something that overwrites the state. The same goes for a write together with all who see it.
//! - *Twins.* Of operations that do the same, only the one that ends first is tried (of those of unknown outcome,
//!   the one called first). If another is right here, the two can change places.
//! - *The future.* The model says what cannot be completed, and which states nobody will ever tell apart.
//! - *Retirement.* Operations of unknown outcome whose effect nobody can see any more are forgotten, but for what they
//!   may still do for an operation that needs the state to change ([`super::unknown`]).
//!
//! The search keeps its own stack and linked lists of what is not placed; it does not recurse.

use super::{
    list::List,
    memo::{Fingerprint, Memo},
    model::{Model, NEVER, Op, Span, State},
    unknown::Unknown,
};
use crate::{checker::Patience, history::Moment, history::table::mix};

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An order: the operations in it, without those left out.
    Order(Vec<Op>),
    /// There is none.
    Nothing,
    /// A bound was reached.
    GaveUp(super::Bound),
}

/// Something that can be taken back.
#[derive(Clone, Copy)]
enum Mark {
    Placed(Op),
    Spared(Op),
    Retired(u32),
}

/// A configuration whose choices are being tried.
struct Frame {
    state: State,
    /// The rank of the target.
    first: u32,
    /// How many marks to keep when the next choice is tried.
    marks: u32,
    next: Choice,
}

/// What to try next in a frame.
#[derive(Clone, Copy)]
enum Choice {
    /// The target.
    Target,
    /// The first operation behind this place in the list of those that change something and must be placed.
    Behind(u32),
    /// The first group of operations of unknown outcome behind this place.
    GroupBehind(u32),
    /// An operation of unknown outcome that does nothing but change the state.
    Spare,
    /// Nothing.
    End,
}

/// A search under way.
pub(crate) struct Search<'m, M> {
    model: &'m mut M,
    spans: Vec<Span>,
    /// The operations that must be placed, by their end.
    by_end: Vec<Op>,
    placed: Vec<bool>,
    /// What must be placed and is not, by call: what changes nothing, and what changes something.
    pure: List,
    writes: List,
    /// What changes something and is not placed: for each class a list by end, then call. Heads follow operations.
    twins: List,
    unknown: Unknown,
    marks: Vec<Mark>,
    frames: Vec<Frame>,
    state: State,
    first: u32,
    fingerprint: Fingerprint,
    memo: Memo,
    /// The longest order so far, if it is wanted.
    furthest: Option<Vec<Op>>,
}

impl<'m, M: Model> Search<'m, M> {
    /// Makes ready.
    pub(crate) fn new(model: &'m mut M) -> Search<'m, M> {
        let spans = model.spans().to_vec();
        let n = spans.len();
        let must = |op: &Op| spans[*op as usize].ret != NEVER;
        let all = || 0..n as u32;

        let mut by_end: Vec<Op> = all().filter(must).collect();
        by_end.sort_unstable_by_key(|op| spans[*op as usize].ret);

        let twins = twins(&spans);
        let unknown = Unknown::new(&spans, &by_end, |op| model.expiry(op));
        Search {
            pure: List::new(n, all().filter(must).filter(|op| spans[*op as usize].pure)),
            writes: List::new(n, all().filter(must).filter(|op| !spans[*op as usize].pure)),
            twins,
            unknown,
            marks: Vec::with_capacity(n),
            frames: Vec::with_capacity(n),
            state: model.initial(),
            first: 0,
            fingerprint: [0, 0],
            memo: Memo::new(),
            furthest: None,
            placed: vec![false; n],
            by_end,
            model,
            spans,
        }
    }

    /// Remembers the furthest it comes.
    pub(crate) fn tracing(mut self) -> Self {
        self.furthest = Some(Vec::new());
        self
    }

    /// Searches, and gives the longest order it saw.
    pub(crate) fn furthest(mut self, patience: &mut Patience) -> Vec<Op> {
        match self.run(patience) {
            Found::Order(order) => order,
            Found::Nothing | Found::GaveUp(_) => self.furthest.take().unwrap_or_default(),
        }
    }

    /// Searches.
    pub(crate) fn run(&mut self, patience: &mut Patience) -> Found {
        loop {
            self.settle();
            if self.first as usize == self.by_end.len() {
                return Found::Order(self.order());
            }
            if let Some(bound) = patience.spend(|| self.bytes()) {
                return Found::GaveUp(bound);
            }
            let state = u64::from(self.state);
            let here =
                [self.fingerprint[0] ^ mix(state | 1 << 40), self.fingerprint[1] ^ mix(state | 1 << 41)];
            let spent = self.unknown.spent(self.first, self.model.failures_left());
            if self.memo.enter(here, spent) {
                self.note_furthest();
                let marks = self.marks.len() as u32;
                self.frames.push(Frame { state: self.state, first: self.first, marks, next: Choice::Target });
            }
            if !self.choose() {
                return Found::Nothing;
            }
        }
    }

    /// Places what needs no choice, and moves the target on.
    fn settle(&mut self) {
        loop {
            while self.by_end.get(self.first as usize).is_some_and(|op| self.placed[*op as usize]) {
                self.first += 1;
            }
            self.retire();
            self.state = self.model.normal(self.state, self.first);
            let horizon = self.horizon();
            let head = self.pure.head();
            let mut op = self.pure.behind(head);
            while op != head && self.spans[op as usize].call < horizon {
                if self.model.step(self.state, op).is_some() {
                    self.place(op);
                }
                op = self.pure.behind(op);
            }
            if self.model.unseen(self.state) {
                self.tidy(None);
            }
            match self.by_end.get(self.first as usize) {
                Some(target) if self.placed[*target as usize] => {}
                _ => return,
            }
        }
    }

    /// Places writes that nobody sees, and those seen only by operations that may stand next too, together with these:
    /// all but `except`. In an unseen state, or right before something overwrites the state, this costs nothing.
    fn tidy(&mut self, except: Option<Op>) {
        let horizon = self.horizon();
        let head = self.writes.head();
        let mut op = self.writes.behind(head);
        while op != head && self.spans[op as usize].call < horizon {
            if except != Some(op) {
                if self.model.idle(op, self.first) {
                    if self.model.quiet(op) {
                        self.place(op);
                    }
                } else if let Some((state, lookers)) = self.model.visit(op)
                    && self.model.quiet(op)
                {
                    self.visit(op, state, lookers, horizon);
                }
            }
            op = self.writes.behind(op);
        }
    }

    /// Places `op`, which makes `state`, and those who look at it, if all of the `lookers` may stand next.
    fn visit(&mut self, op: Op, state: State, lookers: u32, horizon: Moment) {
        let (marks, mut left) = (self.marks.len() as u32, lookers);
        self.place(op);
        let head = self.pure.head();
        let mut look = self.pure.behind(head);
        while look != head && self.spans[look as usize].call < horizon {
            if self.model.needs(look) == Some(state) {
                self.place(look);
                left -= 1;
            }
            look = self.pure.behind(look);
        }
        if left > 0 {
            self.take_back(marks);
        }
    }

    /// Takes the next choice of the last frame that has one. False if there is none.
    fn choose(&mut self) -> bool {
        while let Some(frame) = self.frames.last() {
            let (state, first, marks) = (frame.state, frame.first, frame.marks);
            self.take_back(marks);
            self.state = state;
            self.first = first;
            while let Some(op) = self.next_choice() {
                let Some(next) = self.model.step(state, op) else { continue };
                if self.model.overwrites(op) {
                    self.tidy(Some(op));
                }
                // What need not be done and changes nothing is not done, unless it hides something.
                let hides = self.marks.len() > marks as usize;
                if next == state && self.unknown.has(op) && !hides {
                    continue;
                }
                self.place(op);
                if self.model.hopeless(op, first, state, next) {
                    self.take_back(marks);
                    continue;
                }
                self.state = next;
                return true;
            }
            self.frames.pop();
        }
        false
    }

    /// The next operation that may stand next in the last frame's configuration.
    fn next_choice(&mut self) -> Option<Op> {
        let target = self.by_end[self.first as usize];
        let horizon = self.horizon();
        loop {
            let frame = self.frames.last_mut().expect("choices are taken within a frame");
            match frame.next {
                Choice::Target => {
                    frame.next = Choice::Behind(self.writes.head());
                    if !self.spans[target as usize].pure {
                        return Some(target);
                    }
                }
                Choice::Behind(last) => {
                    let op = self.writes.behind(last);
                    if op == self.writes.head() || self.spans[op as usize].call >= horizon {
                        frame.next = Choice::GroupBehind(self.unknown.head());
                        continue;
                    }
                    frame.next = Choice::Behind(op);
                    if op != target && self.first_twin(op, horizon) == op && self.matters(op, horizon) {
                        return Some(op);
                    }
                }
                Choice::GroupBehind(last) => match self.unknown.behind(last, &self.spans, horizon) {
                    Some((group, op)) => {
                        frame.next = Choice::GroupBehind(group);
                        if let Some(op) = op.filter(|op| self.first_twin(*op, horizon) == *op) {
                            return Some(op);
                        }
                    }
                    None => frame.next = Choice::Spare,
                },
                Choice::Spare => {
                    frame.next = Choice::End;
                    if self.model.stuck(self.state, self.first, horizon)
                        && let Some(op) = self.unknown.spare(self.first, &self.placed)
                    {
                        return Some(op);
                    }
                }
                Choice::End => return None,
            }
        }
    }

    /// Whether it can matter that `op`, which is not the target, is placed here: somebody will see it, or an operation
    /// needs the state to change, now or later. Else it can wait until something overwrites the state, or until it is
    /// the target.
    fn matters(&mut self, op: Op, horizon: Moment) -> bool {
        !self.model.idle(op, self.first)
            || self.model.stuck(self.state, self.first, horizon)
            || !self.model.quiet(op)
    }

    /// Of the operations that do what `op` does and may stand next, the one that ends first.
    fn first_twin(&self, op: Op, horizon: Moment) -> Op {
        let mut twin = self.twins.behind(self.spans.len() as u32 + self.spans[op as usize].class);
        while self.spans[twin as usize].call >= horizon {
            twin = self.twins.behind(twin);
        }
        twin
    }

    /// Operations called from here on must stand behind the target.
    fn horizon(&self) -> Moment {
        self.by_end.get(self.first as usize).map_or(NEVER, |target| self.spans[*target as usize].ret)
    }

    fn place(&mut self, op: Op) {
        let at = op as usize;
        self.placed[at] = true;
        if self.unknown.is_spare(op) {
            // It was taken out of all lists when its group was retired.
            self.unknown.place_spare();
            self.marks.push(Mark::Spared(op));
            return;
        }
        self.marks.push(Mark::Placed(op));
        self.model.remove(op);
        if self.spans[at].pure {
            self.pure.unlink(op);
        } else {
            self.twins.unlink(op);
        }
        if self.unknown.has(op) {
            self.unknown.place(op);
        } else {
            self.toggle(op);
            if !self.spans[at].pure {
                self.writes.unlink(op);
            }
        }
    }

    fn lift(&mut self, op: Op) {
        let at = op as usize;
        self.placed[at] = false;
        if self.unknown.has(op) {
            self.unknown.lift(op);
        } else {
            self.toggle(op);
            if !self.spans[at].pure {
                self.writes.relink(op);
            }
        }
        if self.spans[at].pure {
            self.pure.relink(op);
        } else {
            self.twins.relink(op);
        }
        self.model.restore(op);
    }

    /// Forgets the groups whose operations nobody can see any more.
    fn retire(&mut self) {
        while let Some(group) = self.unknown.expired(self.first) {
            for op in self.unknown.retire(group) {
                self.twins.unlink(*op);
                self.model.remove(*op);
            }
            self.marks.push(Mark::Retired(group));
        }
    }

    fn take_back(&mut self, marks: u32) {
        while self.marks.len() > marks as usize {
            match self.marks.pop() {
                Some(Mark::Placed(op)) => self.lift(op),
                Some(Mark::Spared(op)) => {
                    self.placed[op as usize] = false;
                    self.unknown.lift_spare();
                }
                Some(Mark::Retired(group)) => {
                    for op in self.unknown.restore(group).iter().rev() {
                        self.model.restore(*op);
                        self.twins.relink(*op);
                    }
                }
                None => {}
            }
        }
    }

    /// Adds `op` to the fingerprint, or takes it out.
    fn toggle(&mut self, op: Op) {
        self.fingerprint[0] ^= mix(u64::from(op) | 1 << 42);
        self.fingerprint[1] ^= mix(u64::from(op) | 1 << 43);
    }

    fn order(&self) -> Vec<Op> {
        let placed = |mark: &Mark| match mark {
            Mark::Placed(op) | Mark::Spared(op) => Some(*op),
            Mark::Retired(_) => None,
        };
        self.marks.iter().filter_map(placed).collect()
    }

    fn note_furthest(&mut self) {
        if let Some(furthest) = &self.furthest {
            let must = |order: &[Op]| order.iter().filter(|op| !self.unknown.has(**op)).count();
            let order = self.order();
            if must(&order) > must(furthest) {
                self.furthest = Some(order);
            }
        }
    }

    fn bytes(&self) -> usize {
        self.memo.bytes()
            + self.model.bytes()
            + self.frames.capacity() * size_of::<Frame>()
            + self.marks.capacity() * size_of::<Mark>()
            + self.spans.len() * size_of::<Span>()
            + self.unknown.bytes()
            + [&self.pure, &self.writes, &self.twins].into_iter().map(List::bytes).sum::<usize>()
    }
}

/// For each class a list of its operations that change something, by end, then by call.
fn twins(spans: &[Span]) -> List {
    let n = spans.len();
    let classes = spans.iter().map(|span| span.class as usize + 1).max().unwrap_or(0);
    let mut ops: Vec<Op> = (0..n as u32).filter(|op| !spans[*op as usize].pure).collect();
    ops.sort_unstable_by_key(|op| {
        let span = &spans[*op as usize];
        (span.class, span.ret, span.call)
    });
    // One ring for all: a class's head stands before its operations, and the search never walks past the last of
    // them, since it asks only for classes that have an operation which may stand next.
    let mut ring = Vec::with_capacity(n + classes);
    let mut ops = ops.into_iter().peekable();
    for class in 0..classes as u32 {
        ring.push(n as u32 + class);
        while let Some(op) = ops.next_if(|op| spans[*op as usize].class == class) {
            ring.push(op);
        }
    }
    List::new(n + classes, ring.into_iter())
}
