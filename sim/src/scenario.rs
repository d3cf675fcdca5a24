//! The scenario: every option of one world, drawn from its seed.
//!
//! Options are drawn *swarm-style*: each world has a random subset of the kinds of fault and of operation, so that
//! some worlds see nothing but crashes, and some nothing but slow links. A world in which everything happens all
//! the time hides the bugs that need one thing to go on for long enough.
//!
//! Constants are small, so that what is rare in a server (a snapshot, a full queue, a new log segment) happens
//! every few entries. All numbers are integers: a plan that is saved and loaded again is the same plan.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::random::{Delay, Random};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Everything about a world but its faults and operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// How many nodes the cluster is formed of.
    pub nodes: u8,
    /// How many more machines stand ready to join it. They are numbered behind the nodes.
    #[serde(default)]
    pub spares: u8,
    /// What the key-value stores keep their data in.
    pub store: StoreKind,
    /// Whether faults and clients begin with the nodes, and not only once the cluster has formed.
    pub chaos_from_birth: bool,
    /// How long faults and operations go on.
    pub chaos_ns: u64,
    /// The kinds of fault that may happen.
    pub faults: BTreeSet<FaultKind>,
    /// The mean time from one fault to the next.
    pub fault_gap_ns: u64,
    /// The network.
    pub network: NetworkScenario,
    /// How long work on a node's lanes takes.
    pub lanes: LaneScenario,
    /// The machines' clocks when they start; one a machine.
    pub clocks: Vec<ClockScenario>,
    /// Times and limits of the consensus core.
    pub raft: RaftScenario,
    /// The terms on which leaders may answer reads without asking; `None`: they always ask.
    #[serde(default)]
    pub lease: Option<LeaseScenario>,
    /// Log, checkpoints and snapshots.
    pub storage: StorageScenario,
    /// The clients.
    pub workload: WorkloadScenario,
}

/// What a store keeps its data in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// sled, in a directory in memory.
    #[default]
    Sled,
    /// Nothing but memory; saved and restored at checkpoints like sled's directory.
    Memory,
}

impl StoreKind {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }
}

/// The kinds of fault that a plan's faults are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A node loses power, and all that was not synced, and starts again.
    Crash,
    /// The same, in the middle of its disk calls.
    CrashAtDiskCall,
    /// A node crashes right when something happens in its core.
    CrashWhen,
    /// The node whose vote decides crashes as it votes, and is asked again when it is back.
    LostVote,
    /// Every node loses power at once.
    PowerCut,
    /// One node after the other crashes and starts again.
    RollingRestart,
    /// A node is shut down in order, and starts again.
    Shutdown,
    /// A node's process stands still.
    Pause,
    /// The nodes fall into two groups that do not hear each other.
    Partition,
    /// The leader's clock stands still and most nodes do not hear it: it is deposed and does not know.
    DeposedLeader,
    /// Some nodes hear, but are not heard.
    OneWay,
    /// Two groups, and one node that hears both.
    Bridge,
    /// Each node hears only its neighbours.
    Ring,
    /// A node is cut off and joined again, over and over.
    Flap,
    /// Connections break, at one end or both.
    Reset,
    /// Links become slow.
    SlowLinks,
    /// Links lose packets, so that streams stall and go on.
    Loss,
    /// Clients cannot reach a node.
    CutClients,
    /// A node's disk becomes slow.
    SlowDisk,
    /// A call to a node's disk fails, and the node stops.
    DiskError,
    /// A node's disk, or several, has nearly no room left.
    DiskFull,
    /// A clock jumps ahead.
    ClockStep,
    /// A clock runs at another rate.
    ClockDrift,
    /// A clock stands still.
    ClockFreeze,
    /// A spare machine becomes a member.
    Grow,
    /// A member is removed, the leader too.
    Shrink,
    /// Several members change at once.
    Reshape,
    /// A spare machine takes the place of a member.
    Replace,
    /// The leader is asked to hand over.
    Transfer,
    /// A machine loses its disk, and comes back as who it was.
    Wipe,
    /// Leases are switched off, or on again.
    SwitchLease,
    /// Two new members become voters while the leader hears nobody but learners: only one half of the joint
    /// configuration can agree, and the other half elects another leader.
    SplitChange,
    /// One leader after the other is cut off at a moment of its own, and the one before comes back.
    Relay,
    /// A node is cut off when something happens in its core.
    CutWhen,
    /// The leader is cut off, and so is everyone who then stands for election: terms are ahead of logs.
    LostElection,
    /// The leader's place is taken by another machine, and it is cut off with some others while that happens.
    LostChange,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 36] = [
        Self::Crash,
        Self::CrashAtDiskCall,
        Self::CrashWhen,
        Self::LostVote,
        Self::PowerCut,
        Self::RollingRestart,
        Self::Shutdown,
        Self::Pause,
        Self::Partition,
        Self::DeposedLeader,
        Self::OneWay,
        Self::Bridge,
        Self::Ring,
        Self::Flap,
        Self::Reset,
        Self::SlowLinks,
        Self::Loss,
        Self::CutClients,
        Self::SlowDisk,
        Self::DiskError,
        Self::DiskFull,
        Self::ClockStep,
        Self::ClockDrift,
        Self::ClockFreeze,
        Self::Grow,
        Self::Shrink,
        Self::Reshape,
        Self::Replace,
        Self::Transfer,
        Self::Wipe,
        Self::SwitchLease,
        Self::SplitChange,
        Self::Relay,
        Self::CutWhen,
        Self::LostElection,
        Self::LostChange,
    ];

    /// Whether it is about who is a member, or leads.
    #[must_use]
    pub const fn is_of_membership(self) -> bool {
        matches!(
            self,
            Self::Grow
                | Self::Shrink
                | Self::Reshape
                | Self::Replace
                | Self::Transfer
                | Self::Wipe
                | Self::SwitchLease
                | Self::SplitChange
                | Self::LostChange
        )
    }
}

/// The network without faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkScenario {
    /// How long a segment takes from one node to another.
    pub latency: Delay,
    /// Bytes in a second on each link; 0 is no limit.
    pub bandwidth: u64,
    /// How many of 1,000 segments are lost and sent again.
    pub loss_per_mille: u32,
    /// How long a sender waits before it sends a lost segment again; doubled each time.
    pub retransmit_ns: u64,
    /// How many bytes a connection holds between its two ends, in each direction.
    pub buffer_bytes: u32,
    /// How many of 1,000 reads and writes take fewer bytes than they could.
    pub partial_per_mille: u32,
}

/// How long jobs take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneScenario {
    /// Appending to the log and syncing it.
    pub wal: Delay,
    /// Applying entries.
    pub apply: Delay,
    /// Writing checkpoints and snapshots.
    pub checkpoint: Delay,
    /// Reading.
    pub reads: Delay,
}

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockScenario {
    /// What it shows when the node first starts.
    pub offset_ns: u64,
    /// How many parts in a million it runs too fast.
    pub drift_ppm: i64,
}

/// Reads by lease, and how true the clocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseScenario {
    /// How long a promise holds.
    pub duration_ms: u32,
    /// How much faster than another a clock may run, in millionths: what the cluster is told.
    pub drift_ppm: u32,
    /// Whether clocks run apart by more than that. Then stale reads are to be expected.
    pub beyond: bool,
}

/// Times and limits of the consensus core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftScenario {
    /// The length of a tick.
    pub tick_ns: u64,
    /// The least election timeout.
    pub election_ticks: u32,
    /// The time between heartbeats.
    pub heartbeat_ticks: u32,
    /// The most bytes in one AppendEntries.
    pub append_bytes_max: u64,
    /// The most AppendEntries on their way to one follower.
    pub inflight_messages_max: u32,
    /// The most bytes on their way to one follower.
    pub inflight_bytes_max: u64,
    /// The most bytes of log in memory.
    pub log_bytes_max: u64,
    /// The most messages waiting to be sent to one peer.
    pub peer_queue_messages: u32,
    /// The most bytes waiting to be sent to one peer.
    pub peer_queue_bytes: u64,
    /// The most bytes of log that are not committed.
    #[serde(default = "unbounded")]
    pub uncommitted_bytes_max: u64,
    /// The most bytes of committed log that are not applied.
    #[serde(default = "unbounded")]
    pub unapplied_bytes_max: u64,
    /// The most ticks before an election of which the timeout need not be waited out.
    #[serde(default = "hurried")]
    pub hurried_election_ticks: u32,
}

const fn unbounded() -> u64 {
    u64::MAX
}

const fn hurried() -> u32 {
    3
}

/// Log, checkpoints and snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageScenario {
    /// The size of a log segment.
    pub segment_bytes: u64,
    /// A checkpoint is written when about this much was applied since the last.
    pub checkpoint_bytes: u64,
    /// A snapshot is written after this many entries.
    pub snapshot_entries: u64,
    /// How many bytes of log behind the applied index are kept in memory for followers.
    pub retain_log_bytes: u64,
    /// How many bytes of snapshots a node sends in a second; 0 is no limit.
    #[serde(default)]
    pub snapshot_bytes_per_second: u64,
}

/// The clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadScenario {
    /// How many clients.
    pub clients: u16,
    /// How many of them work under a session.
    pub with_session: u16,
    /// How many keys they share.
    pub keys: u16,
    /// About how long a client waits from one operation to the next.
    pub pause_ns: u64,
    /// How long a client waits for an answer.
    pub timeout_ns: u64,
    /// How long a session lives without a request.
    pub session_ttl_ns: u64,
    /// After which part of that a client asks again, or another node.
    #[serde(default = "thirds")]
    pub attempts: u32,
    /// At least how many bytes a written value has.
    #[serde(default)]
    pub value_bytes: u32,
    /// How many sessions may be open at once; 0 is 16.
    #[serde(default)]
    pub sessions_max: u32,
    /// How many answers are kept for one session; 0 is 16.
    #[serde(default)]
    pub responses_max: u32,
    /// What they do.
    pub mix: OperationMix,
}

const fn thirds() -> u32 {
    3
}

/// How often each kind of operation is drawn, relative to the others; 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationMix {
    /// Reads of one key.
    pub get: u32,
    /// Writes of one key.
    pub put: u32,
    /// Removals of one key.
    pub delete: u32,
    /// Writes that depend on the value.
    pub cas: u32,
    /// Additions to the end of a value.
    pub append: u32,
    /// Reads of all keys.
    pub range: u32,
    /// Transactions over two keys.
    pub txn: u32,
    /// Compactions of history.
    pub compact: u32,
    /// Reads of one key, as fresh as any, at a node that need not lead.
    #[serde(default)]
    pub get_at: u32,
    /// Reads of one key as one node has it, however old.
    #[serde(default)]
    pub get_stale: u32,
}

/// What the command line fixes of a scenario; the rest is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// How many nodes.
    pub nodes: Option<u8>,
    /// Which store.
    pub store: StoreKind,
    /// Whether there are leases.
    pub leases: Leases,
}

/// What the command line says of leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Leases {
    /// In some worlds; the clocks keep to what the cluster was told of them.
    #[default]
    Drawn,
    /// In every world; the clocks keep to it.
    Within,
    /// In every world, and the clocks do not keep to it: some of these worlds must fail.
    Beyond,
}

impl Leases {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drawn => "drawn",
            Self::Within => "within",
            Self::Beyond => "beyond",
        }
    }
}

impl Scenario {
    /// Draws the scenario of a seed.
    #[must_use]
    pub fn draw(seed: u64, fixed: Fixed) -> Self {
        let mut random = Random::stream(seed, "scenario");
        let drawn_nodes = *random.pick(&[3, 3, 5]);
        let nodes = fixed.nodes.unwrap_or(drawn_nodes);
        let network = draw_network(&mut random);
        let raft = draw_raft(&mut random, &network);
        let mut faults = draw_faults(&mut random);
        let spares = *random.pick(&[0, 2, 3, 4]);
        let lease = draw_lease(&mut random, fixed.leases, &raft);
        if lease.is_some_and(|lease| lease.beyond) {
            faults.extend([FaultKind::DeposedLeader, FaultKind::ClockDrift]);
        }
        Self {
            nodes,
            spares,
            store: fixed.store,
            chaos_from_birth: random.chance(200),
            chaos_ns: random.between(4, 12) * SECOND,
            faults,
            fault_gap_ns: *random.pick(&[150, 300, 600, 1_200]) * MILLISECOND,
            network,
            lanes: draw_lanes(&mut random),
            clocks: (0..nodes + spares).map(|_| draw_clock(&mut random, lease)).collect(),
            raft,
            lease,
            storage: draw_storage(&mut random),
            workload: draw_workload(&mut random),
        }
    }

    /// How many machines there are: nodes and spares.
    #[must_use]
    pub const fn machines(&self) -> u8 {
        self.nodes + self.spares
    }

    /// By how many parts in a million clocks may run too fast while leases rely on them; `None` if nothing does.
    #[must_use]
    pub fn drift_ppm_max(&self) -> Option<u32> {
        self.lease.filter(|lease| !lease.beyond).map(|lease| lease.drift_ppm)
    }
}

fn draw_faults(random: &mut Random) -> BTreeSet<FaultKind> {
    // Few kinds, half of them, or nearly all; and now and then a world without any.
    let per_mille = *random.pick(&[0, 150, 300, 300, 500, 500, 800]);
    // Changes of membership go with any of these, or with nothing else going wrong.
    let of_membership = *random.pick(&[0, 300, 500, 800]);
    let chance = |kind: &FaultKind| if kind.is_of_membership() { of_membership } else { per_mille };
    FaultKind::ALL.into_iter().filter(|kind| random.chance(chance(kind))).collect()
}

fn draw_lease(random: &mut Random, leases: Leases, raft: &RaftScenario) -> Option<LeaseScenario> {
    let drawn = random.chance(350);
    // Shorter than an election timeout or longer: then the promises are all that holds up the next leader.
    let timeout_ms = raft.tick_ns * u64::from(raft.election_ticks) / MILLISECOND;
    let duration_ms = timeout_ms * *random.pick(&[3, 10, 20, 40]) / 10;
    let drift_ppm = *random.pick(&[1_000, 300_000, 800_000]);
    let beyond = leases == Leases::Beyond;
    (drawn || leases != Leases::Drawn).then_some(LeaseScenario {
        duration_ms: duration_ms as u32,
        drift_ppm,
        beyond,
    })
}

fn draw_network(random: &mut Random) -> NetworkScenario {
    let base = *random.pick(&[50, 200, 1_000, 3_000]) * MICROSECOND;
    let latency = match random.below(3) {
        0 => Delay::Uniform { low_ns: base / 2, high_ns: base * 3 / 2 },
        1 => Delay::Exponential { low_ns: base / 4, mean_ns: base },
        _ => Delay::Bimodal { fast_ns: base, slow_ns: base * 10, slow_per_mille: 20 },
    };
    NetworkScenario {
        latency,
        bandwidth: *random.pick(&[0, 0, 1 << 20, 16 << 20]),
        loss_per_mille: *random.pick(&[0, 0, 0, 1, 10]),
        retransmit_ns: *random.pick(&[10, 50, 200]) * MILLISECOND,
        buffer_bytes: *random.pick(&[2 << 10, 16 << 10, 64 << 10, 256 << 10]),
        partial_per_mille: *random.pick(&[0, 0, 10, 200]),
    }
}

fn draw_raft(random: &mut Random, network: &NetworkScenario) -> RaftScenario {
    let tick_ns = *random.pick(&[5, 10, 20]) * MILLISECOND;
    let slow = matches!(network.latency, Delay::Exponential { mean_ns: n, .. } | Delay::Bimodal { fast_ns: n, .. }
        if n >= 3 * MILLISECOND);
    // An election timeout must be many round trips long, or nobody can ever lead.
    let election_ticks = random.between(8, 15) as u32 * if slow { 3 } else { 1 };
    RaftScenario {
        tick_ns,
        election_ticks,
        heartbeat_ticks: random.between(1, 2) as u32,
        append_bytes_max: *random.pick(&[256, 1 << 10, 8 << 10, 64 << 10]),
        inflight_messages_max: *random.pick(&[1, 2, 8, 64]),
        inflight_bytes_max: *random.pick(&[1 << 10, 16 << 10, 256 << 10]),
        log_bytes_max: *random.pick(&[16 << 10, 64 << 10, 1 << 20]),
        peer_queue_messages: *random.pick(&[4, 16, 128]),
        peer_queue_bytes: *random.pick(&[16 << 10, 64 << 10, 1 << 20]),
        uncommitted_bytes_max: *random.pick(&[u64::MAX, 64 << 10, 4 << 10]),
        unapplied_bytes_max: *random.pick(&[u64::MAX, 64 << 10, 4 << 10]),
        hurried_election_ticks: random.between(0, 4) as u32,
    }
}

fn draw_lanes(random: &mut Random) -> LaneScenario {
    let mut lane = |fast: &[u64]| {
        let base = *random.pick(fast) * MICROSECOND;
        match random.below(3) {
            0 => Delay::Uniform { low_ns: base / 2, high_ns: base * 2 },
            1 => Delay::Exponential { low_ns: base / 4, mean_ns: base },
            _ => Delay::Bimodal { fast_ns: base, slow_ns: base * 30, slow_per_mille: 20 },
        }
    };
    LaneScenario {
        wal: lane(&[20, 100, 500, 2_000]),
        apply: lane(&[5, 20, 200]),
        checkpoint: lane(&[200, 2_000, 10_000]),
        reads: lane(&[5, 50]),
    }
}

fn draw_clock(random: &mut Random, lease: Option<LeaseScenario>) -> ClockScenario {
    let spread = *random.pick(&[0, 100, 10_000, 100_000]);
    let free = random.between(0, 2 * spread) as i64 - spread as i64;
    let drift_ppm = match lease {
        // From the true rate up to what the cluster was told: any two of them are within the bound, by no margin.
        Some(LeaseScenario { drift_ppm, beyond: false, .. }) => {
            *random.pick(&[0, i64::from(drift_ppm), i64::from(drift_ppm) / 2])
        }
        _ => free,
    };
    ClockScenario { offset_ns: random.below(1_000_000) * SECOND, drift_ppm }
}

fn draw_storage(random: &mut Random) -> StorageScenario {
    StorageScenario {
        segment_bytes: *random.pick(&[4 << 10, 8 << 10, 32 << 10]),
        checkpoint_bytes: *random.pick(&[1 << 10, 4 << 10, 16 << 10]),
        snapshot_entries: random.between(5, 40),
        retain_log_bytes: *random.pick(&[0, 512, 4 << 10]),
        // A snapshot takes a good part of an election timeout at most: else none may ever arrive.
        snapshot_bytes_per_second: *random.pick(&[0, 64 << 10, 1 << 20]),
    }
}

fn draw_workload(random: &mut Random) -> WorkloadScenario {
    let clients = random.between(2, 8) as u16;
    let mut weight = |weights: &[u32]| *random.pick(weights);
    let mix = OperationMix {
        get: weight(&[0, 2, 4, 8]),
        put: weight(&[2, 4, 8]),
        delete: weight(&[0, 1, 2]),
        cas: weight(&[0, 2, 4]),
        append: weight(&[0, 2, 4, 8]),
        range: weight(&[0, 0, 1]),
        txn: weight(&[0, 1, 2]),
        compact: weight(&[0, 0, 1]),
        get_at: weight(&[0, 2, 4]),
        get_stale: weight(&[0, 1, 2]),
    };
    WorkloadScenario {
        clients,
        with_session: random.between(0, u64::from(clients)) as u16,
        keys: random.between(1, 6) as u16,
        pause_ns: *random.pick(&[2, 10, 40, 100]) * MILLISECOND,
        timeout_ns: *random.pick(&[300, 1_000, 3_000]) * MILLISECOND,
        session_ttl_ns: *random.pick(&[1, 5, 60]) * SECOND,
        attempts: *random.pick(&[3, 3, 10]),
        value_bytes: *random.pick(&[0, 0, 0, 100, 400, 2_000]),
        sessions_max: *random.pick(&[0, 0, 3]),
        responses_max: *random.pick(&[0, 0, 1]),
        mix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_json() {
        for seed in 0..200 {
            let scenario = Scenario::draw(seed, Fixed::default());
            let json = serde_json::to_string(&scenario).unwrap();
            assert_eq!(serde_json::from_str::<Scenario>(&json).unwrap(), scenario);
        }
    }

    #[test]
    fn scenarios_differ_and_repeat_and_every_kind_of_fault_is_drawn() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let scenario = Scenario::draw(seed, Fixed::default());
            assert_eq!(scenario, Scenario::draw(seed, Fixed::default()));
            assert_ne!(scenario, Scenario::draw(seed + 1, Fixed::default()));
            seen.extend(scenario.faults);
        }
        assert_eq!(seen.len(), FaultKind::ALL.len());
    }

    #[test]
    fn what_is_fixed_changes_nothing_else() {
        let fixed = Fixed { nodes: Some(5), store: StoreKind::Memory, ..Fixed::default() };
        let (free, five) = (Scenario::draw(9, Fixed::default()), Scenario::draw(9, fixed));
        assert_eq!(five.nodes, 5);
        assert_eq!((five.network, five.raft), (free.network, free.raft));
    }

    #[test]
    fn clocks_keep_to_the_bound_that_leases_rely_on_unless_they_are_meant_to_break_it() {
        let mut with_lease = 0;
        for seed in 0..200 {
            let scenario = Scenario::draw(seed, Fixed::default());
            let Some(lease) = scenario.lease else { continue };
            with_lease += 1;
            assert!(lease.duration_ms > 0 && !lease.beyond);
            let bound = 0..=i64::from(lease.drift_ppm);
            assert!(scenario.clocks.iter().all(|clock| bound.contains(&clock.drift_ppm)), "{scenario:?}");
            for scheduled in crate::nemesis::draw::faults(seed, &scenario) {
                match scheduled.fault {
                    crate::plan::Fault::ClockDrift { ppm, .. } => assert!(bound.contains(&ppm), "{ppm}"),
                    crate::plan::Fault::ClockStep { .. } | crate::plan::Fault::ClockFreeze { .. } => {
                        panic!("seed {seed}: {scheduled:?}")
                    }
                    _ => {}
                }
            }
        }
        assert!(with_lease > 40, "{with_lease}");
        let beyond = Fixed { leases: Leases::Beyond, ..Fixed::default() };
        assert!(Scenario::draw(1, beyond).lease.unwrap().beyond);
    }
}
