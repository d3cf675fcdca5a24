//! What makes a plan simpler without taking anything out of it.

use crate::plan::{Cut, Fault, OperationKind, Plan};
use crate::random::Delay;
use crate::scenario::{ClockScenario, OperationMix, StoreKind};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
/// Gaps shorter than this stay.
const GAP_NS_MIN: u64 = 20 * MILLISECOND;

/// A change that makes an option plain.
pub(super) type Setting = fn(&mut Plan);

const fn always(ns: u64) -> Delay {
    Delay::Uniform { low_ns: ns, high_ns: ns }
}

/// The options, those first whose absence makes a run easiest to read.
pub(super) const OPTIONS: &[Setting] = &[
    // What a scenario says of kinds is for drawing, and everything is drawn.
    |plan| {
        plan.scenario.faults.clear();
        plan.scenario.workload.mix = OperationMix::default();
    },
    |plan| plan.scenario.store = StoreKind::Memory,
    |plan| plan.scenario.chaos_from_birth = false,
    |plan| plan.scenario.lease = plan.scenario.lease.filter(|_| speaks_of_leases(plan)),
    |plan| plan.scenario.network.loss_per_mille = 0,
    |plan| plan.scenario.network.partial_per_mille = 0,
    |plan| plan.scenario.network.bandwidth = 0,
    |plan| plan.scenario.network.buffer_bytes = 256 << 10,
    |plan| plan.scenario.network.latency = always(MILLISECOND),
    |plan| plan.scenario.network.latency = always(200 * MICROSECOND),
    |plan| plan.scenario.lanes.wal = always(100 * MICROSECOND),
    |plan| plan.scenario.lanes.apply = always(10 * MICROSECOND),
    |plan| plan.scenario.lanes.checkpoint = always(MILLISECOND),
    |plan| plan.scenario.lanes.reads = always(10 * MICROSECOND),
    |plan| plan.scenario.clocks.fill(ClockScenario { offset_ns: 0, drift_ppm: 0 }),
    |plan| plan.scenario.clocks.iter_mut().for_each(|clock| clock.offset_ns = 0),
    |plan| plan.scenario.raft.append_bytes_max = 64 << 10,
    |plan| {
        plan.scenario.raft.inflight_messages_max = 64;
        plan.scenario.raft.inflight_bytes_max = 256 << 10;
    },
    |plan| plan.scenario.raft.log_bytes_max = 1 << 20,
    |plan| {
        plan.scenario.raft.peer_queue_messages = 128;
        plan.scenario.raft.peer_queue_bytes = 1 << 20;
    },
    |plan| {
        plan.scenario.raft.uncommitted_bytes_max = u64::MAX;
        plan.scenario.raft.unapplied_bytes_max = u64::MAX;
    },
    |plan| plan.scenario.raft.hurried_election_ticks = 0,
    |plan| plan.scenario.storage.segment_bytes = 32 << 10,
    |plan| plan.scenario.storage.checkpoint_bytes = 16 << 10,
    |plan| plan.scenario.storage.snapshot_entries = 1_000,
    |plan| plan.scenario.storage.retain_log_bytes = 4 << 10,
    |plan| plan.scenario.storage.snapshot_bytes_per_second = 0,
    |plan| plan.scenario.workload.with_session = 0,
    |plan| plan.scenario.workload.session_ttl_ns = 60 * SECOND,
    |plan| {
        let used = plan.operations.iter().map(|operation| operation.client).max();
        plan.scenario.workload.clients = used.unwrap_or(1);
        plan.scenario.workload.with_session =
            plan.scenario.workload.with_session.min(plan.scenario.workload.clients);
    },
];

fn speaks_of_leases(plan: &Plan) -> bool {
    plan.faults.iter().any(|scheduled| matches!(scheduled.fault, Fault::Lease { .. }))
}

/// What makes operations plain.
pub(super) const OPERATIONS: &[fn(&mut OperationKind)] = &[
    |kind| {
        if let OperationKind::Append { key }
        | OperationKind::Cas { key }
        | OperationKind::Delete { key }
        | OperationKind::Txn { put: key, .. } = *kind
        {
            *kind = OperationKind::Put { key };
        }
    },
    |kind| {
        if let OperationKind::GetAt { key, .. } | OperationKind::GetStale { key, .. } = *kind {
            *kind = OperationKind::Get { key };
        }
    },
    |kind| match kind {
        OperationKind::Get { key }
        | OperationKind::Put { key }
        | OperationKind::Delete { key }
        | OperationKind::Cas { key }
        | OperationKind::Append { key }
        | OperationKind::GetAt { key, .. }
        | OperationKind::GetStale { key, .. } => *key = 0,
        OperationKind::Range | OperationKind::Txn { .. } | OperationKind::Compact { .. } => {}
    },
];

/// The plan with fewer machines. What befell only those that went is left out; operations that asked one of them ask
/// another.
pub(super) fn with_machines(plan: &Plan, nodes: u8, spares: u8) -> Plan {
    let mut smaller = plan.clone();
    let old = &plan.scenario;
    let machines = nodes + spares;
    smaller.scenario.nodes = nodes;
    smaller.scenario.spares = spares;
    smaller.scenario.clocks = (0..old.machines())
        .zip(&old.clocks)
        .filter(|(at, _)| *at < nodes || (*at >= old.nodes && *at < old.nodes + spares))
        .map(|(_, clock)| *clock)
        .collect();
    for scheduled in &mut smaller.faults {
        if let Fault::Cut { cut, .. } = &mut scheduled.fault {
            without_machines_above(cut, machines);
        }
    }
    smaller.faults.retain(|scheduled| scheduled.fault.nodes().iter().all(|id| *id <= machines));
    for operation in &mut smaller.operations {
        if let OperationKind::GetAt { node, .. } | OperationKind::GetStale { node, .. } = &mut operation.kind
            && *node > machines
        {
            *node = (*node - 1) % machines + 1;
        }
    }
    smaller
}

fn without_machines_above(cut: &mut Cut, machines: u8) {
    match cut {
        Cut::Apart(group) => group.retain(|id| *id <= machines),
        Cut::OneWay { from: left, to: right } | Cut::Between { left, right } => {
            left.retain(|id| *id <= machines);
            right.retain(|id| *id <= machines);
        }
        Cut::Ring(order) => order.retain(|id| *id <= machines),
        Cut::LeaderSide { .. } | Cut::LeaderAndLearners | Cut::Clients(_) => {}
    }
}

/// A time in which nothing of the plan begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) ends_at_ns: u64,
    pub(super) length_ns: u64,
}

/// The gaps before faults and pinned operations, the longest first.
pub(super) fn gaps(plan: &Plan) -> Vec<Gap> {
    let operations = plan.operations.iter().filter_map(|operation| operation.at_ns);
    let mut times: Vec<u64> = plan.faults.iter().map(|scheduled| scheduled.at_ns).chain(operations).collect();
    times.push(0);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| Gap { ends_at_ns: pair[1], length_ns: pair[1] - pair[0] });
    let mut gaps: Vec<Gap> = gaps.filter(|gap| gap.length_ns >= GAP_NS_MIN).collect();
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.length_ns));
    gaps
}

/// Everything from this time on happens so much earlier.
pub(super) fn with_gap_closed(plan: &Plan, ends_at_ns: u64, by_ns: u64) -> Plan {
    let mut closer = plan.clone();
    let operations = closer.operations.iter_mut().filter_map(|operation| operation.at_ns.as_mut());
    let faults = closer.faults.iter_mut().map(|scheduled| &mut scheduled.at_ns);
    for at_ns in faults.chain(operations).filter(|at_ns| **at_ns >= ends_at_ns) {
        *at_ns -= by_ns;
    }
    closer.scenario.chaos_ns = closer.scenario.chaos_ns.saturating_sub(by_ns);
    closer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{FORMAT, Operation, ScheduledFault, Target};
    use crate::scenario::{Fixed, Scenario};

    fn plan() -> Plan {
        let mut scenario = Scenario::draw(4, Fixed { nodes: Some(5), ..Fixed::default() });
        scenario.spares = 2;
        scenario.clocks = (0..7).map(|at| ClockScenario { offset_ns: at, drift_ppm: 0 }).collect();
        let fault = |number, at_ns, fault| ScheduledFault { number, at_ns, fault };
        Plan {
            format: FORMAT,
            seed: 4,
            violates: None,
            mutant: None,
            scenario,
            faults: vec![
                fault(0, SECOND, Fault::Pause { node: Target::Node(5), for_ns: 1 }),
                fault(1, 3 * SECOND, Fault::Cut { cut: Cut::Apart([2, 7].into()), for_ns: 1 }),
            ],
            operations: vec![Operation {
                number: 1,
                client: 1,
                pause_ns: 0,
                at_ns: Some(4 * SECOND),
                kind: OperationKind::GetAt { key: 0, node: 7 },
            }],
        }
    }

    #[test]
    fn fewer_machines_have_their_clocks_and_nothing_names_those_that_went() {
        let smaller = with_machines(&plan(), 3, 1);
        let offsets: Vec<u64> = smaller.scenario.clocks.iter().map(|clock| clock.offset_ns).collect();
        assert_eq!(offsets, [0, 1, 2, 5]);
        assert_eq!(smaller.faults.len(), 1);
        assert_eq!(smaller.faults[0].fault, Fault::Cut { cut: Cut::Apart([2].into()), for_ns: 1 });
        assert_eq!(smaller.operations[0].kind, OperationKind::GetAt { key: 0, node: 3 });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        smaller.save(&path).unwrap();
        assert_eq!(Plan::load(&path).unwrap(), smaller);
    }

    #[test]
    fn closing_a_gap_moves_what_comes_after_it_and_nothing_before() {
        let plan = plan();
        let gaps = gaps(&plan);
        assert_eq!(gaps[0], Gap { ends_at_ns: 3 * SECOND, length_ns: 2 * SECOND });
        let closer = with_gap_closed(&plan, 3 * SECOND, SECOND);
        assert_eq!(closer.faults.iter().map(|fault| fault.at_ns).collect::<Vec<_>>(), [SECOND, 2 * SECOND]);
        assert_eq!(closer.operations[0].at_ns, Some(3 * SECOND));
        assert_eq!(closer.scenario.chaos_ns, plan.scenario.chaos_ns - SECOND);
    }
}
