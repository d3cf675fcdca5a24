//! A cluster that does what a story says.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft::core::{
    Change, Config, Configuration, Index, Lease, Member, Message, MessageBody, NodeId, Raft, SnapshotMeta,
    SnapshotOutcome,
};

use crate::common::{Machine, Node};
use crate::show;

/// A snapshot on its way.
struct Transfer {
    message: Message,
    meta: SnapshotMeta,
    machine: Machine,
}

/// The cluster of one story.
#[derive(Default)]
pub(crate) struct Story {
    nodes: BTreeMap<NodeId, Node>,
    /// On their way, in the order they were sent.
    messages: Vec<Message>,
    transfers: Vec<Transfer>,
    /// Links that lose everything.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Links on which everything waits until it is released.
    held: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose disk does not answer by itself.
    slow: BTreeSet<NodeId>,
    /// The election timeouts of nodes that were given one.
    timeouts: BTreeMap<NodeId, u32>,
}

fn node_id(word: &str) -> NodeId {
    NodeId(word.parse().unwrap_or_else(|_| panic!("`{word}` is no node")))
}

/// `ms:ppm`, or `off`.
fn lease(word: &str) -> Option<Lease> {
    let (duration_ms, drift_ppm) = word.split_once(':')?;
    Some(Lease { duration_ms: number(duration_ms) as u32, drift_ppm: number(drift_ppm) as u32 })
}

/// One step of a change: see `Story::run`.
fn change(word: &str) -> Change {
    let (verb, rest) = word.split_once(':').unwrap_or_else(|| panic!("`{word}` is no change"));
    let member = |address: &str| Member { incarnation: 1, address: address.to_owned(), ..Member::default() };
    match verb {
        "learner" => Change::AddLearner { id: node_id(rest), member: member(""), joining: false },
        "joining" => Change::AddLearner { id: node_id(rest), member: member(""), joining: true },
        "voter" => Change::AddVoter { id: node_id(rest), member: member("") },
        "promote" => Change::Promote(node_id(rest)),
        "demote" => Change::Demote(node_id(rest)),
        "remove" => Change::Remove(node_id(rest)),
        "address" => {
            let (id, address) = rest.split_once(':').expect("an address");
            Change::Update { id: node_id(id), member: member(address) }
        }
        "lease" => Change::SetLease(lease(rest)),
        _ => panic!("`{word}` is no change"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}

impl Story {
    /// Runs one command; returns what it shows.
    ///
    /// - `cluster N [key=value ...]` begins: `election` (ticks; exactly, not at random), `heartbeat`, `append_bytes`,
    ///   `inflight`, `log_bytes`, `uncommitted`, `unapplied`, `reads`, `voters=1,2`, `outgoing=..`, `learners=..`,
    ///   `lease=ms:ppm`; an election that is hurried begins with the next tick
    /// - `leader N` makes N lead, with its no-op committed everywhere, and shows nothing of it
    /// - `campaign N`, `tick N,M [times]`, `timeout N ticks`, `propose N text`, `read N context`
    /// - `elapse N,M ticks`: `tick N,M` and `stabilize`, so many times; `quietly ..` runs a command and shows nothing
    /// - `transfer N [to]` hands over; `transfer_to A B` has A send TimeoutNow, without more ado
    /// - `change N step ..`: `learner:4`, `joining:4`, `voter:4`, `promote:4`, `demote:2`, `remove:2`, `address:2:text`,
    ///   `lease:ms:ppm`, `lease:off`; `configuration N`
    /// - `time N,M ms`: what their clocks show; `connected A B`, `disconnected A B`: A is told so about B
    /// - `stabilize [N ...]` moves messages, disks and applies on (of these nodes) until nothing moves
    /// - `ready N`, `persist N [writes]`, `apply N`, `deliver A B [count]`: the single steps of it; `pass A B` takes A's Ready,
    ///   makes it durable and delivers what is on its way to B; `deliver_last A B` lets the newest message overtake
    /// - `hold A B`, `release A B`: what is sent from A to B waits; `lose A B`, `double A B`: what is on its way
    /// - `cut N` (off all others), `split A,B` (these off the others), `cut_link A B` (one direction), `heal`
    /// - `slow N`, `prompt N`: its disk answers only to `persist`, or by itself
    /// - `crash N`, `restart N`, `save N` (what it applied survives), `compact N index`, `unreachable A B`
    /// - `damage N index`: its log loses the entries from there on; only while it is down
    /// - `snapshot A B ok|fail`: ends a transfer; `send_snapshot A B`: begins one nobody asked for
    /// - `status N`, `log N`
    pub(crate) fn run(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["cluster", count, settings @ ..] => self.begin(number(count), settings),
            ["leader", node] => {
                self.run(&format!("campaign {node}"));
                self.stabilize(BTreeSet::new());
                self.run(&format!("tick {node}"));
                self.stabilize(BTreeSet::new());
                String::new()
            }
            ["time", nodes, ms] => {
                let now_ns = number(ms) * 1_000_000;
                nodes.split(',').for_each(|word| self.raft(node_id(word)).observe_time(now_ns));
                String::new()
            }
            ["quietly", command @ ..] => {
                self.run(&command.join(" "));
                String::new()
            }
            ["elapse", nodes, times] => (0..number(times)).fold(String::new(), |shown, _| {
                self.run(&format!("tick {nodes}"));
                shown + &self.stabilize(BTreeSet::new())
            }),
            ["tick", nodes, times @ ..] => {
                let times = times.first().map_or(1, |word| number(word));
                nodes.split(',').for_each(|word| self.tick(node_id(word), times));
                String::new()
            }
            ["stabilize", only @ ..] => self.stabilize(only.iter().map(|word| node_id(word)).collect()),
            ["split", side] => {
                let side: BTreeSet<NodeId> = side.split(',').map(node_id).collect();
                for (&a, &b) in self.nodes.keys().flat_map(|a| self.nodes.keys().map(move |b| (a, b))) {
                    if side.contains(&a) != side.contains(&b) {
                        self.cut.insert((a, b));
                    }
                }
                String::new()
            }
            ["heal"] => {
                self.cut.clear();
                String::new()
            }
            [verb, from, to, rest @ ..] if Self::is_of_link(verb) => {
                self.at_link(verb, node_id(from), node_id(to), rest)
            }
            [verb, node, rest @ ..] => self.at_node(verb, node_id(node), rest),
            _ => panic!("what does `{command}` mean?"),
        }
    }

    fn is_of_link(verb: &str) -> bool {
        let verbs = [
            "transfer_to",
            "pass",
            "deliver_last",
            "deliver",
            "hold",
            "release",
            "lose",
            "double",
            "cut_link",
            "unreachable",
            "connected",
            "disconnected",
            "snapshot",
            "send_snapshot",
        ];
        verbs.contains(&verb)
    }

    fn begin(&mut self, count: u64, settings: &[&str]) -> String {
        *self = Self::default();
        let mut config = Config {
            election_timeout_ticks: 10,
            heartbeat_ticks: 2,
            hurried_election_ticks: 0,
            seed: 1,
            ..Config::new(NodeId(1))
        };
        let ids = |list: &str| list.split(',').map(node_id).collect::<BTreeSet<_>>();
        let mut configuration = Configuration::of_voters((1..=count).map(NodeId));
        for setting in settings {
            let (key, value) = setting.split_once('=').expect("settings are key=value");
            match key {
                "election" => config.election_timeout_ticks = number(value) as u32,
                "heartbeat" => config.heartbeat_ticks = number(value) as u32,
                "append_bytes" => config.append_bytes_max = number(value),
                "inflight" => config.inflight_messages_max = number(value) as usize,
                "log_bytes" => config.log_bytes_max = number(value),
                "uncommitted" => config.uncommitted_bytes_max = number(value),
                "unapplied" => config.unapplied_bytes_max = number(value),
                "lease" => configuration.lease = lease(value),
                "reads" => config.reads_pending_max = number(value) as usize,
                "voters" => configuration.voters = ids(value),
                "outgoing" => configuration.voters_outgoing = ids(value),
                "learners" => configuration.learners = ids(value),
                _ => panic!("`{key}` is no setting"),
            }
        }
        for id in (1..=count).map(NodeId) {
            let config = Config { id, ..config.clone() };
            self.nodes.insert(id, Node::new(config, &configuration));
        }
        String::new()
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no {id}"))
    }

    fn raft(&mut self, id: NodeId) -> &mut Raft {
        self.node(id).raft.as_mut().unwrap_or_else(|| panic!("{id} is down"))
    }

    fn at_node(&mut self, verb: &str, id: NodeId, rest: &[&str]) -> String {
        match (verb, rest) {
            ("campaign", []) => self.raft(id).campaign(),
            ("timeout", [ticks]) => _ = self.timeouts.insert(id, number(ticks) as u32),
            ("propose", text) => {
                let answer = self.raft(id).propose(Bytes::from(text.join(" ")));
                return answer.map_or_else(|error| format!("{id} refuses: {error}\n"), |_| String::new());
            }
            ("read", [context]) => {
                let answer = self.raft(id).read_index(number(context));
                return answer.map_or_else(|error| format!("{id} refuses: {error}\n"), |()| String::new());
            }
            ("change", steps) => {
                let changes: Vec<Change> = steps.iter().map(|word| change(word)).collect();
                let answer = self.raft(id).propose_change(&changes);
                return answer.map_or_else(|error| format!("{id} refuses: {error}\n"), |_| String::new());
            }
            ("transfer", to) => {
                let to = to.first().map(|word| node_id(word));
                let answer = self.raft(id).transfer_leader(to);
                return answer.map_or_else(|error| format!("{id} refuses: {error}\n"), |_| String::new());
            }
            ("configuration", []) => {
                return format!("{id} goes by {}\n", show::configuration(self.raft(id).configuration()));
            }
            ("ready", []) => return self.ready(id),
            ("persist", []) => return self.persist(id, usize::MAX),
            ("persist", [count]) => return self.persist(id, number(count) as usize),
            ("apply", []) => _ = self.node(id).apply(usize::MAX),
            ("cut", []) => {
                let others: Vec<NodeId> = self.nodes.keys().copied().filter(|&other| other != id).collect();
                self.cut.extend(others.into_iter().flat_map(|other| [(id, other), (other, id)]));
            }
            ("slow", []) => _ = self.slow.insert(id),
            ("prompt", []) => _ = self.slow.remove(&id),
            ("crash", []) => self.node(id).crash(0, None),
            ("restart", []) => self.node(id).restart(),
            ("damage", [index]) => {
                let node = self.node(id);
                assert!(node.raft.is_none(), "a disk is damaged while {id} is down");
                node.disk.damage(Index(number(index)));
            }
            ("save", []) => {
                let node = self.node(id);
                node.disk.checkpoint = node.machine.clone();
            }
            ("compact", [index]) => {
                let index = Index(number(index));
                self.raft(id).compact(index);
                self.node(id).disk.compact(index);
            }
            ("status", []) => return show::status(&self.raft(id).status()),
            ("log", []) => {
                let disk = &self.node(id).disk;
                return format!("{id} has on disk {} [{}]\n", disk.prev, show::entries(&disk.entries));
            }
            _ => panic!("what does `{verb}` mean?"),
        }
        String::new()
    }

    fn at_link(&mut self, verb: &str, from: NodeId, to: NodeId, rest: &[&str]) -> String {
        let is_here = |message: &Message| message.from == from && message.to == to;
        match (verb, rest) {
            ("transfer_to", []) => {
                let term = self.raft(from).hard_state().term;
                let message = Message { from, to, term, body: MessageBody::TimeoutNow };
                let shown = show::messages(std::slice::from_ref(&message), "");
                self.messages.push(message);
                return shown;
            }
            ("pass", []) => {
                let shown = self.ready(from) + &self.persist(from, usize::MAX);
                return shown + &self.deliver_link(from, to, usize::MAX);
            }
            ("deliver_last", []) => {
                let newest = self.messages.iter().rposition(is_here).expect("a message is on its way");
                let message = self.messages.remove(newest);
                return self.deliver(message);
            }
            ("deliver", []) => return self.deliver_link(from, to, usize::MAX),
            ("deliver", [count]) => return self.deliver_link(from, to, number(count) as usize),
            ("hold", []) => _ = self.held.insert((from, to)),
            ("release", []) => _ = self.held.remove(&(from, to)),
            ("lose", []) => self.messages.retain(|message| !is_here(message)),
            ("double", []) => {
                let copies: Vec<Message> = self.messages.iter().filter(|m| is_here(m)).cloned().collect();
                self.messages.extend(copies);
            }
            ("cut_link", []) => _ = self.cut.insert((from, to)),
            ("connected", []) => self.raft(from).report_connected(to),
            ("disconnected", []) => self.raft(from).report_disconnected(to),
            ("unreachable", []) => self.raft(from).report_unreachable(to),
            ("send_snapshot", []) => self.send_snapshot(from, to),
            ("snapshot", [outcome]) => {
                let at = self.transfers.iter().position(|transfer| is_here(&transfer.message));
                let transfer = self.transfers.remove(at.expect("a snapshot is on its way"));
                return self.end_transfer(transfer, *outcome == "ok");
            }
            _ => panic!("what does `{verb}` mean?"),
        }
        String::new()
    }

    /// Stories are about exact times, so the random part of the timeout is taken out.
    fn tick(&mut self, id: NodeId, times: u64) {
        for _ in 0..times {
            let least = self.node(id).config.election_timeout_ticks;
            let timeout = self.timeouts.get(&id).copied().unwrap_or(least);
            let raft = self.raft(id);
            raft.set_election_timeout(timeout);
            raft.tick();
        }
    }

    fn ready(&mut self, id: NodeId) -> String {
        let mut shown = String::new();
        let Some(ready) = self.node(id).take_ready() else { return shown };
        shown += &show::news(id, &ready);
        let waiting = self.node(id).writes.back().map(|write| write.messages.clone()).unwrap_or_default();
        shown += &self.send(ready.messages, "");
        if self.slow.contains(&id) {
            shown += &show::messages(&waiting, " (waits for the disk)");
        }
        for peer in ready.send_snapshots {
            shown += &format!("{id} sends a snapshot to {peer}\n");
            self.send_snapshot(id, peer);
        }
        shown
    }

    fn persist(&mut self, id: NodeId, count: usize) -> String {
        let node = self.node(id);
        let released = node.sync(count);
        node.report();
        self.send(released, "")
    }

    /// Puts messages on their way, unless their link is cut.
    fn send(&mut self, messages: Vec<Message>, note: &str) -> String {
        let (lost, sent): (Vec<Message>, Vec<Message>) =
            messages.into_iter().partition(|message| self.cut.contains(&(message.from, message.to)));
        let shown = show::messages(&sent, note) + &show::messages(&lost, " (lost)");
        self.messages.extend(sent);
        shown
    }

    fn deliver_link(&mut self, from: NodeId, to: NodeId, count: usize) -> String {
        let mut shown = String::new();
        for _ in 0..count {
            let at = self.messages.iter().position(|message| message.from == from && message.to == to);
            let Some(at) = at else { break };
            let message = self.messages.remove(at);
            shown += &self.deliver(message);
        }
        shown
    }

    fn deliver(&mut self, message: Message) -> String {
        let to = message.to;
        let what = message.body.name();
        let Some(raft) = self.node(to).raft.as_mut() else { return String::new() };
        match raft.step(message) {
            Ok(()) => String::new(),
            Err(error) => format!("{to} refuses {what}: {error}\n"),
        }
    }

    fn send_snapshot(&mut self, from: NodeId, to: NodeId) {
        let term = self.raft(from).hard_state().term;
        let (meta, machine) = self.node(from).snapshot();
        let body = MessageBody::InstallSnapshot { meta: meta.clone() };
        self.transfers.push(Transfer { message: Message { from, to, term, body }, meta, machine });
    }

    fn end_transfer(&mut self, transfer: Transfer, is_whole: bool) -> String {
        let Transfer { message, meta, machine } = transfer;
        let (from, to, last) = (message.from, message.to, meta.last);
        let mut shown = String::new();
        let mut outcome = SnapshotOutcome::Failed;
        if is_whole && !self.cut.contains(&(from, to)) {
            outcome = SnapshotOutcome::Delivered;
            self.node(to).staged.insert(last, machine);
            shown += &format!("snapshot {last} from {from} arrives at {to}\n");
            shown += &self.deliver(message);
        } else {
            shown += &format!("snapshot {last} from {from} does not arrive at {to}\n");
        }
        self.raft(from).report_snapshot(to, outcome, last.index);
        shown
    }

    /// Moves everything on until nothing moves.
    fn stabilize(&mut self, only: BTreeSet<NodeId>) -> String {
        let mut shown = String::new();
        let ids: Vec<NodeId> =
            self.nodes.keys().copied().filter(|id| only.is_empty() || only.contains(id)).collect();
        for _ in 0..200 {
            let mut moved = false;
            for &id in &ids {
                while self.node(id).raft.as_ref().is_some_and(Raft::has_ready) {
                    moved = true;
                    shown += &self.ready(id);
                }
                if !self.slow.contains(&id) {
                    shown += &self.persist(id, usize::MAX);
                }
                self.node(id).apply(usize::MAX);
            }
            for message in std::mem::take(&mut self.messages) {
                if self.held.contains(&(message.from, message.to)) || !ids.contains(&message.to) {
                    self.messages.push(message);
                    continue;
                }
                moved = true;
                shown += &self.deliver(message);
            }
            if !moved {
                return shown;
            }
        }
        panic!("it does not come to rest:\n{shown}");
    }
}
