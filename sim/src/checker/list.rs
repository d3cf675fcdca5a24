//! Lists from which things are taken and put back in the opposite order.

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
