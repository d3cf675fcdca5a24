//! What one schedule is like: drawn from its seed, so that some schedules are all partitions, some all crashes, some
//! all snapshots, and some calm.

use raft::core::{Config, Configuration, Lease, NodeId};

use crate::common::Rng;

/// The settings of one schedule. Chances are parts in a thousand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Members, and machines that may become members.
    pub(crate) nodes: usize,
    pub(crate) configuration: Configuration,
    pub(crate) actions: usize,
    /// How many messages arrive at a time.
    pub(crate) hurry: usize,
    pub(crate) drop: usize,
    pub(crate) duplicate: usize,
    pub(crate) reorder: usize,
    pub(crate) crash: usize,
    pub(crate) restart: usize,
    pub(crate) partition: usize,
    pub(crate) compact: usize,
    pub(crate) propose: usize,
    pub(crate) read: usize,
    pub(crate) campaign: usize,
    pub(crate) hand_over: usize,
    pub(crate) change: usize,
    /// How often someone is told that a connection came or broke, true or not.
    pub(crate) report: usize,
    /// How much each node's clock is ahead of the slowest possible one, in millionths of the time that has passed.
    pub(crate) fast_ppm: Vec<u64>,
    /// The lease of this schedule, if leases come into it.
    pub(crate) lease: Option<Lease>,
    /// How often a leader is cut off: hears nobody, is heard by nobody, or both.
    pub(crate) isolate: usize,
    /// The most time that passes from one action to the next.
    pub(crate) step_ns: usize,
    /// How often a Ready is made durable at once, rather than later.
    pub(crate) prompt_disk: usize,
    /// How often each node's clock ticks, in parts of the whole.
    pub(crate) tick: Vec<usize>,
    pub(crate) config: Config,
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let nodes = *rng.pick(&[1, 2, 3, 3, 3, 3, 3, 5, 5, 5]);
        let sometimes = |rng: &mut Rng, most: usize| {
            if rng.chance(400) { 0 } else { rng.below(most + 1) }
        };
        let append_bytes_max = if rng.chance(300) { 1 } else { 1 + rng.below(400) as u64 };
        let has_bounds = rng.chance(200);
        let bound = |rng: &mut Rng| if has_bounds { 40 + rng.below(400) as u64 } else { u64::MAX };
        let config = Config {
            election_timeout_ticks: 3 + rng.below(4) as u32,
            heartbeat_ticks: 1 + rng.below(2) as u32,
            append_bytes_max,
            inflight_messages_max: 1 + rng.below(5),
            inflight_bytes_max: 1 + rng.below(800) as u64,
            log_bytes_max: if rng.chance(700) { 20_000 } else { 200 + rng.below(1500) as u64 },
            uncommitted_bytes_max: bound(rng),
            unapplied_bytes_max: bound(rng),
            hurried_election_ticks: rng.below(4) as u32,
            reads_pending_max: 1 + rng.below(8),
            seed: rng.next(),
            ..Config::new(NodeId(1))
        };
        let members = nodes;
        let change = if rng.chance(400) { 0 } else { 10 + rng.below(100) };
        let nodes = if change > 0 { members + rng.below(4) } else { members };
        let lease = rng.chance(400).then(|| Lease {
            duration_ms: 20 + rng.below(400) as u32,
            drift_ppm: if rng.chance(500) { 0 } else { rng.below(1_000_000) as u32 },
        });
        let drift = lease.map_or(0, |lease| lease.drift_ppm as usize);
        let mut configuration = draw_configuration(rng, members);
        configuration.lease = lease.filter(|_| rng.chance(800));
        let mut plan = Self {
            nodes,
            configuration,
            actions: 500 + rng.below(3000),
            hurry: 1 + rng.below(4),
            drop: sometimes(rng, 250),
            duplicate: sometimes(rng, 200),
            reorder: sometimes(rng, 1000),
            crash: sometimes(rng, 150),
            restart: 30 + rng.below(300),
            partition: sometimes(rng, 200),
            compact: sometimes(rng, 200),
            propose: 10 + rng.below(100),
            read: sometimes(rng, 100),
            campaign: sometimes(rng, 15),
            hand_over: sometimes(rng, 60),
            change,
            report: sometimes(rng, 40),
            // Some at either end: that is where the bound is used up.
            fast_ppm: (0..nodes).map(|_| *rng.pick(&[0, drift as u64, drift as u64 / 2])).collect(),
            lease,
            step_ns: 1 + rng.below(4_000_000),
            isolate: sometimes(rng, 30),
            prompt_disk: rng.below(1001),
            tick: (0..nodes).map(|_| rng.below(6)).collect(),
            config,
        };
        if plan.lease.is_some() && rng.chance(500) {
            plan.lean_on_leases(rng);
        }
        plan
    }

    /// What makes a lease matter: leaders that are cut off, and asked; elections as soon as a promise has run out.
    fn lean_on_leases(&mut self, rng: &mut Rng) {
        self.actions = 2000 + rng.below(3000);
        self.isolate = 1 + rng.below(4);
        self.read = 100 + rng.below(300);
        self.propose = 50 + rng.below(100);
        self.crash /= 8;
        self.compact /= 4;
        self.drop /= 4;
        self.report /= 4;
        self.change /= 8;
        self.hand_over = 1 + rng.below(6);
        if rng.chance(500) {
            self.partition /= 8;
            self.hurry = 4;
        } else {
            // Answers that arrive late, and twice, from some of them only.
            self.partition = 20 + rng.below(60);
            self.duplicate = 100 + rng.below(200);
            self.reorder = 500 + rng.below(500);
        }
        // One clock is slow, in ticks too: if that is the leader's, it believes in itself for long.
        let slow = rng.below(self.nodes);
        self.tick = vec![10; self.nodes];
        self.tick[slow] = 1;
        self.campaign = 15;
        self.config.election_timeout_ticks = 12;
        self.config.heartbeat_ticks = 1;
        let Some(mut lease) = self.lease else { return };
        if lease.drift_ppm > 0 {
            lease.drift_ppm = lease.drift_ppm.max(500_000);
            self.fast_ppm.fill(u64::from(lease.drift_ppm));
            self.fast_ppm[slow] = 0;
        }
        self.lease = Some(lease);
        self.configuration.lease = self.configuration.lease.and(self.lease);
        // So long that others may be elected before the leader notices that it is alone.
        let actions = 200 + rng.below(300);
        self.step_ns = 2_000_000 * lease.duration_ms as usize / actions;
        self.prompt_disk = 900;
        self.config.reads_pending_max = 8;
    }
}

/// Mostly plain voters; sometimes a learner, or two halves that must agree.
fn draw_configuration(rng: &mut Rng, nodes: usize) -> Configuration {
    let ids = |from: usize, to: usize| (from..=to).map(|id| NodeId(id as u64));
    let mut configuration = Configuration::of_voters(ids(1, nodes));
    if nodes == 5 && rng.chance(300) {
        configuration.voters = ids(1, 3).collect();
        configuration.voters_outgoing = ids(3, 5).collect();
    } else if nodes > 2 && rng.chance(150) {
        configuration.voters = ids(1, nodes - 1).collect();
        configuration.learners = ids(nodes, nodes).collect();
    }
    configuration
}
