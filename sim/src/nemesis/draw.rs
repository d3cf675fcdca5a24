//! Draws the faults of a plan from the stream `faults` of its seed.

use std::collections::BTreeSet;

use crate::plan::{Cut, Fault, Moment, ScheduledFault, Step, Target, Voter};
use crate::random::Random;
use crate::scenario::{FaultKind, Scenario};

const MILLISECOND: u64 = 1_000_000;

/// The faults of a world, in order of time.
#[must_use]
pub fn faults(seed: u64, scenario: &Scenario) -> Vec<ScheduledFault> {
    let kinds: Vec<FaultKind> = scenario.faults.iter().copied().collect();
    let mut draw = Draw {
        random: Random::stream(seed, "faults"),
        first: scenario.nodes,
        machines: scenario.machines(),
        drift_ppm_max: scenario.drift_ppm_max(),
        beyond: scenario.lease.is_some_and(|lease| lease.beyond),
        drawn: Vec::new(),
    };
    if scenario.lease.is_some() && !draw.random.chance(100) {
        draw.add(0, Fault::Lease { on: true });
    }
    if kinds.is_empty() {
        return draw.drawn;
    }
    // The first leader has time to be elected, mostly.
    let mut at_ns = draw.random.between(0, 500) * MILLISECOND;
    while at_ns < scenario.chaos_ns {
        let kind = *draw.random.pick(&kinds);
        draw.kind(at_ns, kind);
        at_ns += draw.random.exponential(scenario.fault_gap_ns) + MILLISECOND;
        if matches!(
            kind,
            FaultKind::PowerCut | FaultKind::LostVote | FaultKind::RollingRestart | FaultKind::SplitChange
        ) {
            // A cluster that never comes up shows nothing.
            at_ns += draw.random.between(500, 2_000) * MILLISECOND;
        }
    }
    draw.drawn.sort_by_key(|scheduled| scheduled.at_ns);
    draw.drawn.iter_mut().zip(0..).for_each(|(scheduled, number)| scheduled.number = number);
    draw.drawn
}

struct Draw {
    random: Random,
    /// How many nodes the cluster is formed of: most faults befall one of these.
    first: u8,
    /// How many machines there are: a fault may befall one that is no member yet, or no more.
    machines: u8,
    /// The rate that clocks must keep to, if leases rely on it.
    drift_ppm_max: Option<u32>,
    /// Whether clocks are to run apart further than leases allow.
    beyond: bool,
    drawn: Vec<ScheduledFault>,
}

impl Draw {
    fn add(&mut self, at_ns: u64, fault: Fault) {
        self.drawn.push(ScheduledFault { number: 0, at_ns, fault });
    }

    fn node(&mut self) -> u8 {
        let last = self.last();
        self.random.between(1, u64::from(last)) as u8
    }

    /// The last of those that a fault may befall.
    fn last(&mut self) -> u8 {
        if self.random.chance(600) { self.first } else { self.machines }
    }

    fn target(&mut self) -> Target {
        if self.random.chance(400) { Target::Leader } else { Target::Node(self.node()) }
    }

    /// Mostly about an election timeout; now and then many.
    fn duration(&mut self) -> u64 {
        let mean = *self.random.pick(&[20, 100, 300, 300, 1_000]) * MILLISECOND;
        mean / 4 + self.random.exponential(mean).min(5 * mean)
    }

    fn down(&mut self) -> u64 {
        let most = *self.random.pick(&[10, 200, 1_500]) * MILLISECOND;
        self.random.between(MILLISECOND, most)
    }

    /// A group that is neither empty nor everybody.
    fn group(&mut self) -> BTreeSet<u8> {
        let mut order = self.order();
        order.truncate(self.random.between(1, order.len() as u64 - 1) as usize);
        order.into_iter().collect()
    }

    fn order(&mut self) -> Vec<u8> {
        let mut order: Vec<u8> = (1..=self.last()).collect();
        self.random.shuffle(&mut order);
        order
    }

    fn rest(&self, group: &BTreeSet<u8>) -> BTreeSet<u8> {
        (1..=self.machines).filter(|id| !group.contains(id)).collect()
    }

    fn kind(&mut self, at_ns: u64, kind: FaultKind) {
        match kind {
            FaultKind::Crash
            | FaultKind::CrashAtDiskCall
            | FaultKind::CrashWhen
            | FaultKind::PowerCut
            | FaultKind::RollingRestart
            | FaultKind::Shutdown
            | FaultKind::Pause
            | FaultKind::SlowDisk => self.process(at_ns, kind),
            FaultKind::LostVote => self.lost_vote(at_ns),
            FaultKind::DeposedLeader => self.deposed_leader(at_ns),
            FaultKind::ClockStep | FaultKind::ClockDrift | FaultKind::ClockFreeze => {
                self.clock(at_ns, kind);
            }
            FaultKind::Partition
            | FaultKind::OneWay
            | FaultKind::Bridge
            | FaultKind::Ring
            | FaultKind::Flap
            | FaultKind::CutClients => self.cut(at_ns, kind),
            FaultKind::Reset | FaultKind::SlowLinks | FaultKind::Loss => self.link(at_ns, kind),
            FaultKind::Grow
            | FaultKind::Shrink
            | FaultKind::Reshape
            | FaultKind::Replace
            | FaultKind::Transfer
            | FaultKind::Wipe
            | FaultKind::SwitchLease => self.membership(at_ns, kind),
            FaultKind::SplitChange => self.split_change(at_ns),
        }
    }

    fn process(&mut self, at_ns: u64, kind: FaultKind) {
        let silent = self.random.chance(400);
        // Mostly as a loss of power, which is the harder case.
        let keeps_unsynced = !silent && self.random.chance(250);
        match kind {
            // Into the middle of what it writes next: what is written and not synced lies there only for a moment.
            FaultKind::Crash if self.random.chance(400) => {
                let calls = self.random.between(1, 8);
                let fault = Fault::CrashAtDiskCall { node: self.target(), calls, down_ns: self.down() };
                self.add(at_ns, fault);
            }
            FaultKind::Crash => {
                let (node, down_ns) = (self.target(), self.down());
                // Into its recovery.
                let again_after_calls = if self.random.chance(300) { self.random.between(1, 30) } else { 0 };
                self.add(at_ns, Fault::Crash { node, down_ns, silent, keeps_unsynced, again_after_calls });
            }
            FaultKind::CrashAtDiskCall => {
                let calls = self.random.exponential(20);
                let fault = Fault::CrashAtDiskCall { node: self.target(), calls, down_ns: self.down() };
                self.add(at_ns, fault);
            }
            FaultKind::CrashWhen => {
                let (node, moment) = (self.target(), *self.random.pick(&Moment::ALL));
                let (after_ns, down_ns) = (self.moment_later(), self.down());
                self.add(at_ns, Fault::CrashWhen { node, moment, after_ns, down_ns, isolate_ns: 0 });
            }
            FaultKind::PowerCut => {
                let fault = Fault::PowerCut { down_ns: self.down() };
                self.add(at_ns, fault);
            }
            FaultKind::RollingRestart => {
                let (down_ns, gap_ns) = (self.down(), self.duration());
                for (turn, id) in self.order().into_iter().enumerate() {
                    let (node, again_after_calls) = (Target::Node(id), 0);
                    let fault = Fault::Crash { node, down_ns, silent, keeps_unsynced, again_after_calls };
                    self.add(at_ns + turn as u64 * (down_ns + gap_ns), fault);
                }
            }
            FaultKind::Shutdown => {
                let fault = Fault::Shutdown { node: self.target(), down_ns: self.down() };
                self.add(at_ns, fault);
            }
            FaultKind::Pause => {
                let fault = Fault::Pause { node: self.target(), for_ns: self.duration() };
                self.add(at_ns, fault);
            }
            _ => {
                let factor = *self.random.pick(&[5, 30, 200]);
                let fault = Fault::SlowDisk { node: self.target(), factor, for_ns: self.duration() };
                self.add(at_ns, fault);
            }
        }
    }

    /// Within the time that a job takes, or its answer.
    fn moment_later(&mut self) -> u64 {
        let mean = *self.random.pick(&[0, 10_000, 100_000, 1_000_000]);
        self.random.exponential(mean)
    }

    /// Two halves that do not hear each other, and a node between them whose vote decides. All begin anew. It votes,
    /// and crashes; while the one it voted for leads unheard, the other half asks it again. Had it forgotten its
    /// vote, there would be two leaders in one term (§3.4: the vote is stored before it is given).
    fn lost_vote(&mut self, at_ns: u64) {
        let order = self.order();
        let (left, right) = order[1..].split_at((order.len() - 1) / 2);
        let cut =
            Cut::Between { left: left.iter().copied().collect(), right: right.iter().copied().collect() };
        let for_ns = self.random.between(1_000, 3_000) * MILLISECOND;
        self.add(at_ns, Fault::Cut { cut, for_ns });
        self.add(at_ns + 1, Fault::PowerCut { down_ns: MILLISECOND });
        let (after_ns, down_ns) = (self.moment_later(), self.random.between(1, 10) * MILLISECOND);
        let node = Target::Node(order[0]);
        let isolate_ns = for_ns;
        self.add(at_ns + 2, Fault::CrashWhen { node, moment: Moment::Votes, after_ns, down_ns, isolate_ns });
    }

    /// How many nodes are with the leader on the smaller side.
    fn beside_leader(&mut self) -> u8 {
        self.random.below(u64::from(self.first).div_ceil(2)) as u8
    }

    /// The leader does not notice that time passes, nor hear that another is elected. What clients ask of it, it must
    /// not answer out of its own head (§6.4).
    fn deposed_leader(&mut self, at_ns: u64) {
        let for_ns = self.random.between(300, 2_000) * MILLISECOND;
        let node = Target::Leader;
        match self.drift_ppm_max {
            // The fastest followers that are allowed, and the slowest leader: its lease ends when the first promise
            // does, at the latest.
            Some(most) => {
                for id in 1..=self.machines {
                    self.add(at_ns, Fault::ClockDrift { node: Target::Node(id), ppm: i64::from(most) });
                }
                self.add(at_ns, Fault::ClockDrift { node, ppm: 0 });
            }
            None if self.beyond => self.add(at_ns, Fault::ClockDrift { node, ppm: -900_000 }),
            None => self.add(at_ns, Fault::ClockFreeze { node, for_ns }),
        }
        let cut = Cut::LeaderSide { with: self.beside_leader() };
        self.add(at_ns + 1, Fault::Cut { cut, for_ns });
    }

    fn clock(&mut self, at_ns: u64, kind: FaultKind) {
        let node = self.target();
        if let Some(most) = self.drift_ppm_max {
            // Leases rely on the clocks' rates: all that may change is which of them is fast.
            let ppm = *self.random.pick(&[0, i64::from(most), i64::from(most) / 3]);
            return self.add(at_ns, Fault::ClockDrift { node, ppm });
        }
        let fault = match kind {
            FaultKind::ClockStep => {
                let most = *self.random.pick(&[50, 1_000, 60_000]) * MILLISECOND;
                Fault::ClockStep { node, by_ns: self.random.between(1, most) }
            }
            FaultKind::ClockDrift => {
                let spread = *self.random.pick(&[1_000, 50_000, 400_000]);
                Fault::ClockDrift { node, ppm: self.random.between(0, 2 * spread) as i64 - spread as i64 }
            }
            _ => Fault::ClockFreeze { node, for_ns: self.duration() },
        };
        self.add(at_ns, fault);
    }

    fn cut(&mut self, at_ns: u64, kind: FaultKind) {
        let for_ns = self.duration();
        let cut = match kind {
            FaultKind::Partition => match self.random.below(3) {
                0 => Cut::LeaderSide { with: self.beside_leader() },
                1 => Cut::Apart(self.group()),
                _ => {
                    let left = self.group();
                    let right = self.rest(&left);
                    Cut::Between { left, right }
                }
            },
            FaultKind::OneWay => {
                let from = self.group();
                let to = self.rest(&from);
                Cut::OneWay { from, to }
            }
            FaultKind::Bridge => {
                let order = self.order();
                let (left, right) = order[1..].split_at((order.len() - 1) / 2);
                Cut::Between { left: left.iter().copied().collect(), right: right.iter().copied().collect() }
            }
            FaultKind::Ring if self.first > 3 => Cut::Ring(self.order()),
            // A ring of three is whole. Its like is a chain: one link is cut.
            FaultKind::Ring => {
                let order = self.order();
                Cut::Between { left: BTreeSet::from([order[0]]), right: BTreeSet::from([order[1]]) }
            }
            FaultKind::Flap => {
                let node = BTreeSet::from([self.node()]);
                let period = self.random.between(20, 200) * MILLISECOND;
                for turn in 1..self.random.between(3, 8) {
                    let cut = Cut::Apart(node.clone());
                    self.add(at_ns + turn * 2 * period, Fault::Cut { cut, for_ns: period });
                }
                return self.add(at_ns, Fault::Cut { cut: Cut::Apart(node), for_ns: period });
            }
            _ => Cut::Clients(self.node()),
        };
        self.add(at_ns, Fault::Cut { cut, for_ns });
    }

    fn membership(&mut self, at_ns: u64, kind: FaultKind) {
        let fault = match kind {
            FaultKind::Grow => {
                let joining = Step::AddLearner { joining: true };
                let step = *self.random.pick(&[
                    joining,
                    joining,
                    Step::AddLearner { joining: false },
                    Step::AddVoter,
                    Step::Promote(0),
                ]);
                Fault::Change { steps: vec![step] }
            }
            FaultKind::Shrink => {
                let n = self.random.below(8) as u8;
                let voter = self.voter();
                let step =
                    *self.random.pick(&[Step::Remove(voter), Step::Demote(voter), Step::RemoveLearner(n)]);
                Fault::Change { steps: vec![step] }
            }
            FaultKind::Reshape => {
                let count = self.random.between(2, 4);
                Fault::Change { steps: (0..count).map(|_| self.step()).collect() }
            }
            FaultKind::Replace => Fault::Replace { old: self.voter() },
            FaultKind::Transfer => {
                let to = if self.random.chance(500) { Some(self.node()) } else { None };
                if self.random.chance(400) {
                    // The old leader does not hear how it went.
                    let at_ns = at_ns + self.random.between(100, 10_000) * 1_000;
                    let for_ns = self.random.between(300, 1_500) * MILLISECOND;
                    self.add(at_ns, Fault::Cut { cut: Cut::LeaderSide { with: 0 }, for_ns });
                }
                Fault::Transfer { to }
            }
            FaultKind::Wipe => Fault::Wipe { node: self.target() },
            _ => {
                // Off for a while.
                let later_ns = self.random.between(50, 1_000) * MILLISECOND;
                self.add(at_ns + later_ns, Fault::Lease { on: true });
                Fault::Lease { on: false }
            }
        };
        self.add(at_ns, fault);
    }

    /// Two learners are made voters together while the leader hears no other voter (§4.3: both majorities must agree,
    /// each on its own).
    fn split_change(&mut self, at_ns: u64) {
        let learner = Step::AddLearner { joining: false };
        self.add(at_ns, Fault::Change { steps: vec![learner, learner] });
        let at_ns = at_ns + self.random.between(300, 1_000) * MILLISECOND;
        let for_ns = self.random.between(300, 2_000) * MILLISECOND;
        self.add(at_ns, Fault::Cut { cut: Cut::LeaderAndLearners, for_ns });
        self.add(at_ns + 1, Fault::Change { steps: vec![Step::Promote(0), Step::Promote(1)] });
    }

    fn voter(&mut self) -> Voter {
        if self.random.chance(400) { Voter::Leader } else { Voter::Nth(self.random.below(8) as u8) }
    }

    fn step(&mut self) -> Step {
        let n = self.random.below(8) as u8;
        match self.random.below(8) {
            0 => Step::AddLearner { joining: true },
            1 => Step::AddLearner { joining: false },
            2 => Step::AddVoter,
            3 | 4 => Step::Promote(n),
            5 => Step::Demote(self.voter()),
            6 => Step::Remove(self.voter()),
            _ => Step::RemoveLearner(n),
        }
    }

    fn link(&mut self, at_ns: u64, kind: FaultKind) {
        let node = self.target();
        let fault = match kind {
            FaultKind::Reset => Fault::Reset { node, peer: self.node(), both: self.random.chance(500) },
            FaultKind::SlowLinks => {
                Fault::SlowLinks { node, factor: *self.random.pick(&[5, 20, 100]), for_ns: self.duration() }
            }
            _ => {
                let per_mille = *self.random.pick(&[20, 100, 300]);
                Fault::Loss { node, per_mille, for_ns: self.duration() }
            }
        };
        self.add(at_ns, fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Fixed;

    #[test]
    fn faults_are_of_the_drawn_kinds_in_order_and_name_existing_nodes() {
        for seed in 0..300 {
            let scenario = Scenario::draw(seed, Fixed::default());
            let faults = faults(seed, &scenario);
            assert!(faults.is_sorted_by_key(|fault| fault.at_ns));
            assert!(faults.is_empty() || !scenario.faults.is_empty() || scenario.lease.is_some());
            for scheduled in &faults {
                let named = scheduled.fault.nodes();
                assert!(named.iter().all(|id| (1..=scenario.machines()).contains(id)), "{scheduled:?}");
                assert!(!matches!(&scheduled.fault, Fault::Cut { cut: Cut::Apart(all), .. }
                    if all.len() == usize::from(scenario.machines())));
            }
        }
    }
}
