//! Operations of unknown outcome: they may be placed anywhere after their call, or never.
//!
//! Those that do the same form a *group* and are placed in the order of their calls. A group whose effect nobody can
//! see any more is *retired*. What is left of it is *spare*: it can still change the state for the sake of an operation
//! that would be wrong in it (a failed cas), and in this all spare ones are alike. So only their number counts, and only as
//! far as there are fewer of them than operations that could be in need of one.

use super::{
    list::List,
    memo::Spent,
    model::{Expiry, NEVER, Op, Span},
};
use crate::history::Moment;

/// Operations of unknown outcome that do the same, by call.
struct Group {
    operations: Vec<Op>,
    /// How many of them are placed.
    placed: u32,
    expiry: Expiry,
}

/// The operations of unknown outcome, and which of them are placed.
pub(crate) struct Unknown {
    groups: Vec<Group>,
    group_of: Vec<u32>,
    /// The groups that have operations left and are not retired, by the call of their first.
    open: List,
    /// The groups by expiry, and how many of them are retired.
    expiring: Vec<u32>,
    retired: usize,
    /// What is placed, of groups that are not retired; and room for what is missing of the spare ones.
    spent: Vec<(u32, u32)>,
    /// The operations that become spare, by the rank of the target from which on they are, and that rank.
    spares: Vec<(u32, Op)>,
    /// How many of them are placed, at any time.
    spares_placed: u32,
    is_spare: Vec<bool>,
}

const NO_GROUP: u32 = u32::MAX;

/// Stands for all groups retired.
const SPARES: u32 = u32::MAX - 1;

impl Unknown {
    pub(crate) fn new(spans: &[Span], by_end: &[Op], expiry: impl Fn(Op) -> Expiry) -> Unknown {
        let classes = spans.iter().map(|span| span.class as usize + 1).max().unwrap_or(0);
        let mut group_of_class = vec![NO_GROUP; classes];
        let mut group_of = vec![NO_GROUP; spans.len()];
        let mut groups: Vec<Group> = Vec::new();
        for (at, span) in spans.iter().enumerate().filter(|(_, span)| span.ret == NEVER) {
            assert!(!span.pure, "operation {at} of unknown outcome changes nothing: it should be left out");
            let group = &mut group_of_class[span.class as usize];
            if *group == NO_GROUP {
                *group = groups.len() as u32;
                groups.push(Group { operations: Vec::new(), placed: 0, expiry: expiry(at as Op) });
            }
            group_of[at] = *group;
            groups[*group as usize].operations.push(at as Op);
        }
        let mut expiring: Vec<u32> = (0..groups.len() as u32).collect();
        expiring.sort_by_key(|group| groups[*group as usize].expiry.first);

        // An operation may be placed once a target ends after its call.
        let callable = |op: Op| {
            let call = spans[op as usize].call;
            by_end.partition_point(|target| spans[*target as usize].ret <= call) as u32
        };
        let mut spares = Vec::new();
        for group in groups.iter().filter(|group| group.expiry.spare) {
            spares.extend(group.operations.iter().map(|op| (group.expiry.first.max(callable(*op)), *op)));
        }
        spares.sort_unstable();
        Unknown {
            open: List::new(groups.len(), 0..groups.len() as u32),
            groups,
            group_of,
            expiring,
            retired: 0,
            spent: Vec::new(),
            spares,
            spares_placed: 0,
            is_spare: vec![false; spans.len()],
        }
    }

    /// Whether `op` is one of them.
    pub(crate) fn has(&self, op: Op) -> bool {
        self.group_of[op as usize] != NO_GROUP
    }

    /// Where the walk over the groups begins.
    pub(crate) fn head(&self) -> u32 {
        self.open.head()
    }

    /// The next group, and its operation to be placed next, if that was called before `horizon`. `None` at the end.
    pub(crate) fn behind(&self, group: u32, spans: &[Span], horizon: Moment) -> Option<(u32, Option<Op>)> {
        let group = self.open.behind(group);
        if group == self.open.head() {
            return None;
        }
        let Group { operations, placed, .. } = &self.groups[group as usize];
        let called = |op: Op| spans[op as usize].call < horizon;
        // The groups stand in the order of their first calls.
        called(operations[0]).then(|| (group, Some(operations[*placed as usize]).filter(|op| called(*op))))
    }

    /// Notes that `op`, the next of its group, is placed.
    pub(crate) fn place(&mut self, op: Op) {
        let group = self.group_of[op as usize];
        let Group { operations, placed, .. } = &mut self.groups[group as usize];
        assert_eq!(operations.get(*placed as usize), Some(&op), "a group's operations are placed by call");
        *placed += 1;
        if operations.len() == *placed as usize {
            self.open.unlink(group);
        }
        match self.spent.binary_search_by_key(&group, |(group, _)| *group) {
            Ok(at) => self.spent[at].1 += 1,
            Err(at) => self.spent.insert(at, (group, 1)),
        }
    }

    /// Notes that `op`, the last placed of its group, no longer is.
    pub(crate) fn lift(&mut self, op: Op) {
        let group = self.group_of[op as usize];
        let Group { operations, placed, .. } = &mut self.groups[group as usize];
        if operations.len() == *placed as usize {
            self.open.relink(group);
        }
        *placed -= 1;
        let at = self.spent.binary_search_by_key(&group, |(group, _)| *group);
        let at = at.expect("a placed operation of a group that is not retired is spent");
        self.spent[at].1 -= 1;
        if self.spent[at].1 == 0 {
            self.spent.remove(at);
        }
    }

    /// A group that nobody can see any more, with the target of rank `first`, and that is not retired.
    pub(crate) fn expired(&self, first: u32) -> Option<u32> {
        let group = self.expiring.get(self.retired).copied();
        group.filter(|group| self.groups[*group as usize].expiry.first <= first)
    }

    /// Retires what [`expired`](Unknown::expired) gave. What is left of it.
    pub(crate) fn retire(&mut self, group: u32) -> &[Op] {
        let Group { operations, placed, expiry } = &self.groups[group as usize];
        self.retired += 1;
        if operations.len() > *placed as usize {
            self.open.unlink(group);
        }
        if *placed > 0 {
            let at = self.spent.binary_search_by_key(&group, |(group, _)| *group);
            self.spent.remove(at.expect("placed operations of a group are spent"));
        }
        let left = &operations[*placed as usize..];
        if expiry.spare {
            self.spares_placed += placed;
            left.iter().for_each(|op| self.is_spare[*op as usize] = true);
        }
        left
    }

    /// Undoes the last [`retire`](Unknown::retire).
    pub(crate) fn restore(&mut self, group: u32) -> &[Op] {
        let Group { operations, placed, expiry } = &self.groups[group as usize];
        let left = &operations[*placed as usize..];
        if expiry.spare {
            self.spares_placed -= placed;
            left.iter().for_each(|op| self.is_spare[*op as usize] = false);
        }
        if *placed > 0 {
            let at = self.spent.binary_search_by_key(&group, |(group, _)| *group);
            self.spent.insert(at.expect_err("a retired group is not spent"), (group, *placed));
        }
        if operations.len() > *placed as usize {
            self.open.relink(group);
        }
        self.retired -= 1;
        left
    }

    /// Whether `op` is left of a retired group.
    pub(crate) fn is_spare(&self, op: Op) -> bool {
        self.is_spare[op as usize]
    }

    /// A spare operation that may be placed, with the target of rank `first`.
    pub(crate) fn spare(&self, first: u32, placed: &[bool]) -> Option<Op> {
        let spares = self.spares.iter().take_while(|(from, _)| *from <= first);
        spares.map(|(_, op)| *op).find(|op| !placed[*op as usize])
    }

    /// Notes that a spare one is placed.
    pub(crate) fn place_spare(&mut self) {
        self.spares_placed += 1;
    }

    /// Notes that it no longer is.
    pub(crate) fn lift_spare(&mut self) {
        self.spares_placed -= 1;
    }

    /// What is spent, as far as it matters, where `needs` operations may be in need of a spare one.
    pub(crate) fn spent(&mut self, first: u32, needs: u32) -> &Spent {
        if self.spent.last().is_some_and(|(group, _)| *group == SPARES) {
            self.spent.pop();
        }
        if needs > 0 && !self.spares.is_empty() {
            let there = self.spares.partition_point(|(from, _)| *from <= first) as u32;
            let missing = (needs + self.spares_placed).saturating_sub(there);
            if missing > 0 {
                self.spent.push((SPARES, missing));
            }
        }
        &self.spent
    }

    pub(crate) fn bytes(&self) -> usize {
        self.group_of.len() * (size_of::<u32>() + size_of::<bool>() + size_of::<(u32, Op)>())
            + self.groups.len() * size_of::<Group>()
    }
}
