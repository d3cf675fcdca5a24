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
//! - *Retirement.* Operations of unknown outcome whose effect nobody can see any more are forgotten.
//!
//! The search keeps its own stack and linked lists of what is not placed; it does not recurse.

use super::{
    memo::{Fingerprint, Memo},
    model::{Model, NEVER, Op, Span, State},
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
}

/// Operations of unknown outcome that do the same, by call.
struct Group {
    operations: Vec<Op>,
    /// How many of them are placed.
    placed: u32,
    /// From this target on nobody sees what they do.
    expiry: u32,
}

/// A doubly linked list of numbers `0..n`; `n` is its head. What is taken out knows its neighbours, and is put back in
/// the opposite order (Knuth's dancing links).
pub(crate) struct List {
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl List {
    /// A list with room for `0..n` that holds `members`, in that order.
    pub(crate) fn new(n: usize, members: impl Iterator<Item = u32>) -> List {
        let head = n as u32;
        let mut list = List { next: vec![head; n + 1], previous: vec![head; n + 1] };
        let mut last = head;
        for member in members {
            list.next[last as usize] = member;
            list.previous[member as usize] = last;
            last = member;
        }
        list.next[last as usize] = head;
        list.previous[head as usize] = last;
        list
    }

    pub(crate) fn head(&self) -> u32 {
        self.next.len() as u32 - 1
    }

    pub(crate) fn behind(&self, member: u32) -> u32 {
        self.next[member as usize]
    }

    pub(crate) fn unlink(&mut self, member: u32) {
        let (previous, next) = (self.previous[member as usize], self.next[member as usize]);
        self.next[previous as usize] = next;
        self.previous[next as usize] = previous;
    }

    pub(crate) fn relink(&mut self, member: u32) {
        let (previous, next) = (self.previous[member as usize], self.next[member as usize]);
        self.next[previous as usize] = member;
        self.previous[next as usize] = member;
    }

    pub(crate) fn first(&self) -> Option<u32> {
        let first = self.behind(self.head());
        (first != self.head()).then_some(first)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.next.len() * 2 * size_of::<u32>()
    }
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
    groups: Vec<Group>,
    /// The groups that have operations left and are not retired, by the call of their first.
    open_groups: List,
    group_of: Vec<u32>,
    /// The groups by expiry, and how many of them are retired.
    expiring: Vec<u32>,
    retired: usize,
    spent: Vec<(u32, u32)>,
    marks: Vec<Mark>,
    frames: Vec<Frame>,
    state: State,
    first: u32,
    fingerprint: Fingerprint,
    memo: Memo,
    /// The longest order so far, if it is wanted.
    furthest: Option<Vec<Op>>,
}

/// Operations not in a group.
const NO_GROUP: u32 = u32::MAX;

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
        let (groups, group_of) = groups(&spans, model);
        let mut expiring: Vec<u32> = (0..groups.len() as u32).collect();
        expiring.sort_by_key(|group| groups[*group as usize].expiry);

        Search {
            pure: List::new(n, all().filter(must).filter(|op| spans[*op as usize].pure)),
            writes: List::new(n, all().filter(must).filter(|op| !spans[*op as usize].pure)),
            twins,
            open_groups: List::new(groups.len(), 0..groups.len() as u32),
            groups,
            group_of,
            expiring,
            retired: 0,
            spent: Vec::new(),
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
            if self.memo.enter(here, &self.spent) {
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
                if next == state && self.group_of[op as usize] != NO_GROUP && !hides {
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
                        frame.next = Choice::GroupBehind(self.open_groups.head());
                        continue;
                    }
                    frame.next = Choice::Behind(op);
                    if op != target && self.first_twin(op, horizon) == op && self.matters(op, horizon) {
                        return Some(op);
                    }
                }
                Choice::GroupBehind(last) => {
                    let group = self.open_groups.behind(last);
                    if group == self.open_groups.head() {
                        return None;
                    }
                    let Group { operations, placed, .. } = &self.groups[group as usize];
                    if self.spans[operations[0] as usize].call >= horizon {
                        return None;
                    }
                    frame.next = Choice::GroupBehind(group);
                    let op = operations[*placed as usize];
                    let next = self.spans[op as usize].call < horizon && self.first_twin(op, horizon) == op;
                    if next && self.matters(op, horizon) {
                        return Some(op);
                    }
                }
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
        let group = self.group_of[at];
        if group == NO_GROUP {
            self.toggle(op);
        } else {
            self.groups[group as usize].placed += 1;
            let Group { operations, placed, .. } = &self.groups[group as usize];
            if operations.len() == *placed as usize {
                self.open_groups.unlink(group);
            }
            match self.spent.binary_search_by_key(&group, |(group, _)| *group) {
                Ok(at) => self.spent[at].1 += 1,
                Err(at) => self.spent.insert(at, (group, 1)),
            }
        }
        if self.spans[at].pure {
            self.pure.unlink(op);
        } else {
            if group == NO_GROUP {
                self.writes.unlink(op);
            }
            self.twins.unlink(op);
        }
        self.model.remove(op);
        self.marks.push(Mark::Placed(op));
    }

    fn lift(&mut self, op: Op) {
        let at = op as usize;
        self.model.restore(op);
        self.placed[at] = false;
        let group = self.group_of[at];
        if self.spans[at].pure {
            self.pure.relink(op);
        } else {
            self.twins.relink(op);
            if group == NO_GROUP {
                self.writes.relink(op);
            }
        }
        if group == NO_GROUP {
            self.toggle(op);
            return;
        }
        let Group { operations, placed, .. } = &mut self.groups[group as usize];
        if operations.len() == *placed as usize {
            self.open_groups.relink(group);
        }
        *placed -= 1;
        let at = self.spent.binary_search_by_key(&group, |(group, _)| *group);
        let at = at.expect("a placed operation of a group that is not retired is spent");
        self.spent[at].1 -= 1;
        if self.spent[at].1 == 0 {
            self.spent.remove(at);
        }
    }

    /// Forgets the groups whose operations nobody can see any more.
    fn retire(&mut self) {
        while let Some(group) = self.expiring.get(self.retired).copied() {
            let Group { operations, placed, expiry } = &self.groups[group as usize];
            if *expiry > self.first {
                return;
            }
            if operations.len() > *placed as usize {
                self.open_groups.unlink(group);
            }
            for op in &operations[*placed as usize..] {
                self.model.remove(*op);
            }
            if *placed > 0 {
                let at = self.spent.binary_search_by_key(&group, |(group, _)| *group);
                self.spent.remove(at.expect("placed operations of a group are spent"));
            }
            self.retired += 1;
            self.marks.push(Mark::Retired(group));
        }
    }

    fn restore(&mut self, group: u32) {
        let Group { operations, placed, .. } = &self.groups[group as usize];
        for op in operations[*placed as usize..].iter().rev() {
            self.model.restore(*op);
        }
        if operations.len() > *placed as usize {
            self.open_groups.relink(group);
        }
        if *placed > 0 {
            let at = self.spent.binary_search_by_key(&group, |(group, _)| *group);
            self.spent.insert(at.expect_err("a retired group is not spent"), (group, *placed));
        }
        self.retired -= 1;
    }

    fn take_back(&mut self, marks: u32) {
        while self.marks.len() > marks as usize {
            match self.marks.pop() {
                Some(Mark::Placed(op)) => self.lift(op),
                Some(Mark::Retired(group)) => self.restore(group),
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
            Mark::Placed(op) => Some(*op),
            Mark::Retired(_) => None,
        };
        self.marks.iter().filter_map(placed).collect()
    }

    fn note_furthest(&mut self) {
        if let Some(furthest) = &self.furthest {
            let must =
                |order: &[Op]| order.iter().filter(|op| self.group_of[**op as usize] == NO_GROUP).count();
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

/// The operations of unknown outcome, by class; the groups in the order of their first calls.
fn groups<M: Model>(spans: &[Span], model: &M) -> (Vec<Group>, Vec<u32>) {
    let classes = spans.iter().map(|span| span.class as usize + 1).max().unwrap_or(0);
    let mut group_of_class = vec![NO_GROUP; classes];
    let mut group_of = vec![NO_GROUP; spans.len()];
    let mut groups: Vec<Group> = Vec::new();
    for (at, span) in spans.iter().enumerate().filter(|(_, span)| span.ret == NEVER) {
        let group = &mut group_of_class[span.class as usize];
        if *group == NO_GROUP {
            *group = groups.len() as u32;
            groups.push(Group { operations: Vec::new(), placed: 0, expiry: model.expiry(at as Op) });
        }
        group_of[at] = *group;
        groups[*group as usize].operations.push(at as Op);
    }
    (groups, group_of)
}
