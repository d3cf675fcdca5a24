//! Where a search has been.
//!
//! A configuration is (operations placed, state). It is remembered as a fingerprint of 128 bits over the placed
//! operations that had to be placed and the state, together with the exact counts of those placed that need not
//! have been (operations of unknown outcome). Two rules use it:
//!
//! - Lowe's: a configuration seen before is not entered again.
//! - Domination: nor is one that differs from one seen before only in having *spent more* operations of unknown
//!   outcome. Whatever completes the order from here completes it from there too.
//!
//! A fingerprint can collide. Then the search misses an order and may call a linearizable history illegal; it never
//! passes one that is not. With n configurations the odds are below n² / 2¹²⁸: for a thousand million, 10⁻²⁰.

/// The placed operations of unknown outcome: (group, how many), by group; only what still matters.
pub(crate) type Spent = [(u32, u32)];

/// A fingerprint of the placed operations and the state.
pub(crate) type Fingerprint = [u64; 2];

/// The configurations seen.
pub(crate) struct Memo {
    slots: Vec<Slot>,
    taken: usize,
    /// The `Spent` of the slots that have any, each after its length.
    arena: Vec<(u32, u32)>,
}

#[derive(Clone, Copy)]
struct Slot {
    fingerprint: Fingerprint,
    /// `EMPTY`, or where in the arena its `Spent` is; 0 for an empty one.
    spent: u32,
}

const EMPTY: u32 = u32::MAX;

const FREE: Slot = Slot { fingerprint: [0, 0], spent: EMPTY };

/// Slots to begin with.
const SLOTS_MIN: usize = 64;

impl Memo {
    pub(crate) fn new() -> Memo {
        Memo { slots: vec![FREE; SLOTS_MIN], taken: 0, arena: vec![(0, 0)] }
    }

    /// Whether this configuration is new; remembers it if so.
    pub(crate) fn enter(&mut self, fingerprint: Fingerprint, spent: &Spent) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = fingerprint[0] as usize & mask;
        while self.slots[at].spent != EMPTY {
            let slot = self.slots[at];
            if slot.fingerprint == fingerprint {
                let before = self.spent(slot.spent);
                if within(before, spent) {
                    return false;
                }
                if within(spent, before) {
                    self.slots[at].spent = self.keep(spent);
                    return true;
                }
            }
            at = (at + 1) & mask;
        }
        let spent = self.keep(spent);
        self.slots[at] = Slot { fingerprint, spent };
        self.taken += 1;
        if self.taken * 3 > self.slots.len() * 2 {
            self.grow();
        }
        true
    }

    /// What it holds, and, if that is near, what it will hold while it grows: the old slots and twice as many new ones.
    pub(crate) fn bytes(&self) -> usize {
        let grows_soon = self.taken * 2 > self.slots.len();
        let slots = self.slots.len() * if grows_soon { 3 } else { 1 };
        slots * size_of::<Slot>() + 2 * self.arena.capacity() * size_of::<(u32, u32)>()
    }

    fn spent(&self, at: u32) -> &Spent {
        let at = at as usize;
        let length = self.arena[at].0 as usize;
        &self.arena[at + 1..at + 1 + length]
    }

    fn keep(&mut self, spent: &Spent) -> u32 {
        if spent.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.arena.len()).expect("the arena is bounded by the memory limit");
        assert!(at != EMPTY, "the arena is full");
        self.arena.push((spent.len() as u32, 0));
        self.arena.extend_from_slice(spent);
        at
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 2 - 1;
        let mut slots = vec![FREE; self.slots.len() * 2];
        for slot in self.slots.iter().filter(|slot| slot.spent != EMPTY) {
            let mut at = slot.fingerprint[0] as usize & mask;
            while slots[at].spent != EMPTY {
                at = (at + 1) & mask;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

/// Whether `a` spends nothing that `b` does not.
fn within(a: &Spent, b: &Spent) -> bool {
    if a.len() > b.len() {
        return false;
    }
    let mut b = b.iter();
    a.iter().all(|(group, count)| b.any(|(other, more)| group == other && count <= more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_new_once() {
        let mut memo = Memo::new();
        for n in 0..10_000u64 {
            assert!(memo.enter([n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n], &[]));
        }
        for n in 0..10_000u64 {
            assert!(!memo.enter([n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n], &[(1, 1)]));
        }
    }

    #[test]
    fn spending_more_is_not_new_and_spending_less_or_other_is() {
        let mut memo = Memo::new();
        let place = [7, 7];
        assert!(memo.enter(place, &[(1, 2), (3, 1)]));
        assert!(!memo.enter(place, &[(1, 2), (3, 1)]));
        assert!(!memo.enter(place, &[(1, 3), (2, 1), (3, 1)]));
        assert!(memo.enter(place, &[(1, 1), (2, 9)]));
        assert!(memo.enter(place, &[(1, 1)]));
        assert!(!memo.enter(place, &[(1, 2), (3, 1)]));
        assert!(memo.enter(place, &[(3, 1)]));
        assert!(memo.enter(place, &[]));
        assert!(!memo.enter(place, &[(3, 1)]));
    }

    #[test]
    fn within_compares_group_by_group() {
        assert!(within(&[], &[]));
        assert!(within(&[(2, 1)], &[(1, 1), (2, 1)]));
        assert!(!within(&[(2, 2)], &[(1, 1), (2, 1)]));
        assert!(!within(&[(0, 1)], &[(1, 1), (2, 1)]));
        assert!(!within(&[(1, 1), (2, 1)], &[(2, 1)]));
    }
}
