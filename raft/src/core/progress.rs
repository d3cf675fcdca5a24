//! What a leader knows of one follower, and what it may send it.
//!
//! The dissertation gives a leader `next_index` and `match_index` for each follower (§3.5) and lets it pipeline
//! (§10.2.1). As in etcd's raft, a follower is in one of three states: *probe*, one append at a time until the
//! logs are known to meet; *replicate*, many appends in flight within a window; *snapshot*, none until the transfer
//! has ended. Lost appends are found by the answers to the regular heartbeats, never by a timer per message.
//!
//! Late and duplicated answers are harmless: `matched` only grows, and a rejection counts only if it answers what
//! was sent last (rule 6). Nothing here sends: [`replication`](super::replication) asks and tells.

use std::collections::VecDeque;

use super::types::{Index, LogId};

/// The appends on their way to one follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Inflights {
    /// The last index of each message and its size. Invariant: indexes ascend.
    messages: VecDeque<(Index, u64)>,
    /// Invariant: the sum of the sizes.
    bytes: u64,
    messages_max: usize,
    bytes_max: u64,
}

impl Inflights {
    pub(super) fn new(messages_max: usize, bytes_max: u64) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, messages_max, bytes_max }
    }

    /// Whether the window has no room. The last message may overrun the byte bound: else one larger than the
    /// window could never be sent.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= self.messages_max || self.bytes >= self.bytes_max
    }

    fn add(&mut self, last: Index, bytes: u64) {
        assert!(!self.is_full(), "{} messages, {} bytes already in flight", self.messages.len(), self.bytes);
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Frees every message that ends at or below `matched`.
    fn free(&mut self, matched: Index) {
        while let Some((_, bytes)) = self.messages.pop_front_if(|(last, _)| *last <= matched) {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// How a follower is being supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ProgressState {
    /// One append at a time, to find where the logs meet.
    Probe,
    /// Appends in a pipeline.
    Replicate,
    /// A snapshot is on its way; no appends.
    Snapshot,
}

/// What the leader knows of one follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    /// The follower durably holds the leader's log up to here. Invariant: `matched < next`; falls only when the follower
    /// says that it lost entries to damage.
    pub(super) matched: Index,
    /// The next entry to send. Invariant: `next <= last + 1`.
    pub(super) next: Index,
    pub(super) state: ProgressState,
    /// Empty unless in `Replicate`.
    pub(super) inflights: Inflights,
    /// An append is wanted even without entries or room for them.
    append_due: bool,
    /// A regular heartbeat was sent and not yet answered.
    heartbeat_open: bool,
    /// Ticks since the follower last answered; what check-quorum counts.
    pub(super) silent_ticks: u32,
    /// The latest reading round it has answered.
    pub(super) acked_round: u64,
    /// The latest round it has answered with the promise of a lease. Invariant: `leased_round <= acked_round`.
    pub(super) leased_round: u64,
    /// The commit index last sent, as far as the follower could use it.
    told_commit: Index,
}

impl Progress {
    /// A follower of whom nothing is known but where to begin.
    pub(super) fn new(next: Index, inflights: Inflights) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            state: ProgressState::Probe,
            inflights,
            append_due: true,
            heartbeat_open: false,
            silent_ticks: 0,
            acked_round: 0,
            leased_round: 0,
            told_commit: Index::ZERO,
        }
    }

    /// Whether an append should be sent now, to a log that ends at `last`.
    pub(super) fn wants_append(&self, last: Index) -> bool {
        match self.state {
            ProgressState::Probe => self.append_due,
            ProgressState::Replicate => self.append_due || self.has_room(last),
            ProgressState::Snapshot => false,
        }
    }

    /// Whether an append sent now may carry entries.
    pub(super) fn may_carry_entries(&self) -> bool {
        self.state == ProgressState::Probe || !self.inflights.is_full()
    }

    fn has_room(&self, last: Index) -> bool {
        self.next <= last && !self.inflights.is_full()
    }

    /// An append went out whose last entry is `last` (its `prev` if it carries none).
    pub(super) fn sent_append(&mut self, last: Index, bytes: u64, commit: Index) {
        self.append_due = false;
        self.told_commit = self.told_commit.max(commit.min(last));
        if self.state == ProgressState::Replicate && last >= self.next {
            self.inflights.add(last, bytes);
            self.next = last.next();
        }
    }

    /// A heartbeat went out; a `regular` one is also the question whether appends were lost.
    pub(super) fn sent_heartbeat(&mut self, commit: Index, regular: bool) {
        self.told_commit = self.told_commit.max(commit);
        self.heartbeat_open |= regular;
    }

    /// A tick went by. A follower that could commit more is told so, if nothing else was sent that says it.
    pub(super) fn tick(&mut self, commit: Index) {
        self.silent_ticks = self.silent_ticks.saturating_add(1);
        if self.state == ProgressState::Replicate && self.told_commit < commit.min(self.matched) {
            self.append_due = true;
        }
    }

    /// The follower answered, whatever it said.
    pub(super) fn heard(&mut self) {
        self.silent_ticks = 0;
    }

    /// The follower holds everything up to `matched`; says whether that is news.
    ///
    /// `reachable` is the compaction point: a follower at or above it needs no snapshot (any more).
    pub(super) fn accepted(&mut self, matched: Index, reachable: Index) -> bool {
        let is_news = matched > self.matched;
        let settles_probe = self.state == ProgressState::Probe && matched >= self.matched;
        let settles_snapshot = self.state == ProgressState::Snapshot && matched >= reachable;
        if is_news || crate::mutant!("index-regress") {
            self.matched = matched;
            self.next = self.next.max(matched.next());
            self.inflights.free(matched);
        }
        if settles_probe || settles_snapshot {
            self.state = ProgressState::Replicate;
            self.next = self.matched.next();
            self.append_due = false;
        }
        is_news
    }

    /// The follower has no entry `prev_index` as it was named. `meet` is the last entry of the leader's log where
    /// the two logs could still meet.
    ///
    /// A rejection that answers anything but the last question is ignored: it was answered before.
    pub(super) fn rejected(&mut self, prev_index: Index, meet: LogId) {
        if prev_index <= self.matched || prev_index >= self.next {
            return;
        }
        match self.state {
            ProgressState::Replicate => self.become_probe(),
            ProgressState::Probe if prev_index == self.next.prev() => {
                self.next = meet.index.next().min(prev_index).max(self.matched.next());
                self.append_due = true;
            }
            ProgressState::Probe | ProgressState::Snapshot => {}
        }
    }

    /// The follower lost entries that it had acknowledged; the logs can meet at `meet` at most. The rejection that
    /// follows then finds where.
    ///
    /// A late one of these, from before the follower was repaired, costs a question and no more: to know less of a
    /// follower than there is to know harms nothing.
    pub(super) fn forget(&mut self, prev_index: Index, meet: Index) {
        if prev_index < self.next && self.state != ProgressState::Snapshot {
            self.matched = self.matched.min(meet);
        }
    }

    /// The follower says that it lost entries: ask how far it is, also when nothing is to be sent.
    pub(super) fn ask(&mut self) {
        self.append_due |= self.state == ProgressState::Replicate;
    }

    /// A heartbeat was answered: once for each regular one, see whether an append was lost.
    pub(super) fn answered_heartbeat(&mut self, round: u64, regular_round: u64, last: Index) {
        self.acked_round = self.acked_round.max(round);
        if !self.heartbeat_open || round < regular_round {
            return;
        }
        self.heartbeat_open = false;
        match self.state {
            ProgressState::Probe => self.append_due = true,
            ProgressState::Replicate => self.append_due |= self.matched < last,
            ProgressState::Snapshot => {}
        }
    }

    /// Messages may have been lost. A probe is repeated anyway, and a transfer reports its own end.
    pub(super) fn lost(&mut self) {
        if self.state == ProgressState::Replicate {
            self.become_probe();
        }
    }

    /// Begin again behind what is known to have arrived.
    fn become_probe(&mut self) {
        self.state = ProgressState::Probe;
        self.inflights.clear();
        self.next = self.matched.next();
        self.append_due = true;
    }

    /// A snapshot must come first.
    pub(super) fn become_snapshot(&mut self) {
        self.state = ProgressState::Snapshot;
        self.inflights.clear();
        self.append_due = false;
    }

    /// The transfer has ended; go on behind `delivered`, or where it was. The next append waits for a sign of life:
    /// the acknowledgement of the install, or the answer to a heartbeat. Else a failing transfer would be asked for
    /// again at once, for ever.
    pub(super) fn snapshot_ended(&mut self, delivered: Option<Index>) {
        if self.state != ProgressState::Snapshot {
            return;
        }
        self.become_probe();
        self.next = self.next.max(delivered.map_or(Index::ZERO, Index::next));
        self.append_due = false;
    }

    /// Whether the follower holds everything up to `index` and was told that it is committed.
    pub(super) fn knows_committed(&self, index: Index) -> bool {
        self.matched >= index && self.told_commit >= index
    }

    /// Wait for the answer to a heartbeat before anything more is sent.
    pub(super) fn pause(&mut self) {
        self.append_due = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGES_MAX: usize = 3;
    const BYTES_MAX: u64 = 100;

    #[derive(Clone, Debug)]
    enum Step {
        /// The log grows.
        Grow(u64),
        /// An append goes out, if one is wanted, with up to so many entries of 30 bytes.
        Send(u64),
        /// The oldest append but so many arrives, in a log that matches up to so much of it; the answer arrives.
        Arrive(usize),
        /// An acknowledgement comes late.
        Late(u64),
        Lost,
        Heartbeat,
        Snapshot(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u64..4).prop_map(Step::Grow),
            8 => (0u64..3).prop_map(Step::Send),
            8 => (0usize..3).prop_map(Step::Arrive),
            2 => (0u64..10).prop_map(Step::Late),
            1 => Just(Step::Lost),
            2 => Just(Step::Heartbeat),
            1 => any::<bool>().prop_map(Step::Snapshot),
        ]
    }

    /// The twin remembers everything: what the follower holds, every append sent and not yet answered, in order.
    struct Twin {
        last: u64,
        /// The follower's log is the leader's up to here, and ends here.
        held: u64,
        acknowledged: u64,
        /// `prev` and last index of appends on their way.
        sent: Vec<(u64, u64)>,
        /// Last index and bytes of those in the window.
        window: Vec<(u64, u64)>,
    }

    fn run(step: Step, progress: &mut Progress, twin: &mut Twin) {
        let last = Index(twin.last);
        match step {
            Step::Grow(by) => twin.last += by,
            Step::Send(count) if progress.wants_append(last) => {
                let prev = progress.next.0 - 1;
                let count = if progress.may_carry_entries() { count.min(twin.last - prev) } else { 0 };
                let is_replicating = progress.state == ProgressState::Replicate;
                progress.sent_append(Index(prev + count), 30 * count, Index::ZERO);
                if is_replicating && count > 0 {
                    twin.window.push((prev + count, 30 * count));
                }
                twin.sent.push((prev, prev + count));
            }
            Step::Arrive(at) if at < twin.sent.len() => {
                let (prev, end) = twin.sent.remove(at);
                if prev <= twin.held {
                    twin.held = twin.held.max(end);
                    accept(end, progress, twin);
                } else {
                    let was_replicating = progress.state == ProgressState::Replicate;
                    progress.rejected(Index(prev), LogId::new(1, twin.held));
                    if was_replicating && progress.state == ProgressState::Probe {
                        twin.window.clear();
                    }
                }
            }
            Step::Late(back) => {
                let matched = twin.acknowledged.saturating_sub(back);
                accept(matched, progress, twin);
            }
            Step::Lost => {
                twin.sent.clear();
                twin.window.clear();
                progress.lost();
            }
            Step::Heartbeat => {
                progress.sent_heartbeat(Index::ZERO, true);
                progress.answered_heartbeat(1, 1, last);
            }
            Step::Snapshot(is_delivered) => {
                progress.become_snapshot();
                twin.window.clear();
                assert!(!progress.wants_append(last), "no append while a snapshot is on its way");
                if is_delivered {
                    twin.held = twin.held.max(twin.last);
                }
                progress.snapshot_ended(is_delivered.then_some(last));
                assert!(!progress.wants_append(last), "the next append waits for a sign of life");
            }
            Step::Send(_) | Step::Arrive(_) => {}
        }
    }

    fn accept(matched: u64, progress: &mut Progress, twin: &mut Twin) {
        let is_news = progress.accepted(Index(matched), Index::ZERO);
        assert_eq!(is_news, matched > twin.acknowledged);
        if is_news {
            twin.acknowledged = matched;
        }
        twin.window.retain(|(last, _)| *last > twin.acknowledged);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn knows_what_its_twin_knows(steps in prop::collection::vec(step(), 0..120), behind in 0u64..9) {
            let mut progress = Progress::new(Index(10), Inflights::new(MESSAGES_MAX, BYTES_MAX));
            let mut twin =
                Twin { last: 9, held: 9 - behind, acknowledged: 0, sent: Vec::new(), window: Vec::new() };
            for step in steps {
                run(step, &mut progress, &mut twin);
                prop_assert_eq!(progress.matched.0, twin.acknowledged);
                prop_assert!(progress.matched.0 <= twin.held, "more noted than there is");
                prop_assert!(progress.matched < progress.next && progress.next.0 <= twin.last + 1);
                prop_assert_eq!(progress.inflights.len(), twin.window.len());
                prop_assert_eq!(progress.inflights.bytes(), twin.window.iter().map(|(_, b)| b).sum::<u64>());
                prop_assert!(progress.inflights.len() <= MESSAGES_MAX);
            }
            // Once messages arrive, it ends with everything acknowledged (rule 15).
            for _ in 0..400 {
                run(Step::Heartbeat, &mut progress, &mut twin);
                run(Step::Send(2), &mut progress, &mut twin);
                run(Step::Arrive(0), &mut progress, &mut twin);
            }
            prop_assert_eq!(progress.matched.0, twin.last);
        }
    }

    #[test]
    fn a_regular_heartbeat_wakes_a_probe_once() {
        let mut progress = Progress::new(Index(2), Inflights::new(1, 1));
        progress.sent_append(Index(1), 0, Index::ZERO);
        progress.sent_heartbeat(Index::ZERO, true);
        assert!(!progress.wants_append(Index(1)));
        progress.answered_heartbeat(1, 1, Index(1));
        assert!(progress.wants_append(Index(1)));
        progress.sent_append(Index(1), 0, Index::ZERO);
        progress.answered_heartbeat(1, 1, Index(1));
        progress.answered_heartbeat(2, 1, Index(1));
        assert!(!progress.wants_append(Index(1)), "reading rounds do not repeat probes");
    }

    /// Asked about the entry before `next`, with nothing of the answer known.
    fn probing(next: u64, matched: u64) -> Progress {
        let mut progress = Progress::new(Index(next), Inflights::new(1, 1));
        progress.matched = Index(matched);
        progress.sent_append(Index(next - 1), 0, Index::ZERO);
        progress
    }

    #[test]
    fn an_answer_to_an_earlier_round_wakes_no_probe() {
        let mut progress = probing(2, 0);
        progress.sent_heartbeat(Index::ZERO, true);
        progress.answered_heartbeat(4, 5, Index(1));
        assert!(!progress.wants_append(Index(1)), "the regular round 5 is not answered yet");
        progress.answered_heartbeat(6, 5, Index(1));
        assert!(progress.wants_append(Index(1)), "a later round answers for it");
    }

    #[test]
    fn a_rejection_counts_only_for_the_question_that_is_open() {
        for stale in [3, 4, 8, 10, 11] {
            let mut progress = probing(10, 4);
            let before = progress.clone();
            progress.rejected(Index(stale), LogId::new(1, 1));
            assert_eq!(progress, before, "the open question is about 9, not {stale}");
        }
        for stale in [3, 4, 10, 11] {
            let mut progress = probing(10, 4);
            progress.state = ProgressState::Replicate;
            progress.rejected(Index(stale), LogId::new(1, 1));
            assert_eq!(progress.state, ProgressState::Replicate, "4 is held and 10 was not sent; {stale}");
        }
        let mut progress = probing(10, 4);
        progress.rejected(Index(9), LogId::new(1, 6));
        assert_eq!((progress.next, progress.wants_append(Index(20))), (Index(7), true));
    }

    #[test]
    fn a_follower_that_reaches_the_log_needs_no_snapshot_any_more() {
        let mut progress = probing(3, 0);
        progress.become_snapshot();
        progress.accepted(Index(7), Index(8));
        assert_eq!(progress.state, ProgressState::Snapshot, "the log begins behind 8");
        progress.accepted(Index(8), Index(8));
        assert_eq!((progress.state, progress.next), (ProgressState::Replicate, Index(9)));
    }
}
