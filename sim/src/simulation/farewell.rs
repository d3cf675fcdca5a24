//! Who is removed hears of it and stops (§4.2.2).
//!
//! Raft itself does not promise that: whoever left gets no entries any more, so one that was slow, or away, or left
//! together with its leader, would ask for votes for ever. It is harmless, and yet a process that an operator believes
//! to be gone. The members that refuse it tell it why, and it stops (docs/adr/0012). Demanded only where everyone who
//! votes is well and enough of them stay; then, however it was with the one that left:
//!
//! - a follower that hears all the while,
//! - the leader,
//! - one that is cut off when it is removed, and comes back when the others have long stopped to supply it.

use std::collections::BTreeSet;

use raft::core::{Change, NodeId};

use super::{HEAL_NS_MAX, SECOND, Simulation, WATCH_NS};
use crate::cluster::host;
use crate::random::Random;
use crate::report::Failure;
use crate::trace::{Event, Source};

/// How long one may be away, at most.
const AWAY_NS_MAX: u64 = 3 * SECOND;

impl Simulation {
    /// A member of a cluster that is well is removed, and must hear of it.
    pub(super) async fn farewell(&self, core: &BTreeSet<u8>) -> Result<(), Failure> {
        let Some(configuration) = self.world.invariants.committed_configuration() else { return Ok(()) };
        let is_well = |id: &NodeId| u8::try_from(id.0).is_ok_and(|id| core.contains(&id));
        let all_well = configuration.members().iter().all(is_well) && !configuration.is_joint();
        if self.world.scenario.spares == 0 || !all_well || configuration.voters.len() < 3 {
            return Ok(());
        }
        let Some(leader) = self.cluster.leader() else { return Ok(()) };
        let mut random = Random::stream(self.world.seed, "farewell");
        let others: Vec<u8> = self.members_of(core).into_iter().filter(|node| *node != leader).collect();
        let follower = *random.pick(&others);
        let (leaver, is_away) = match random.below(4) {
            0 => (leader, false),
            1 => (follower, true),
            _ => (follower, false),
        };
        let how = if is_away { "while it is cut off" } else { "and all is well" };
        self.note(&format!("n{leaver} is removed, {how}"));
        if is_away {
            self.part(leaver, true);
        }
        self.remove(leaver).await?;
        if is_away {
            self.watch_until(self.world.time.now_ns() + random.below(AWAY_NS_MAX)).await?;
            self.note(&format!("n{leaver} is back"));
            self.part(leaver, false);
        }
        let is_gone = || !self.cluster.nodes().contains(&leaver);
        self.wait(&format!("n{leaver} hears that it was removed"), HEAL_NS_MAX, is_gone).await
    }

    fn note(&self, text: &str) {
        self.world.record(Source::World, &Event::Note { text });
    }

    /// Cuts a node off from all other machines, or takes that back.
    fn part(&self, node: u8, cut: bool) {
        let network = &self.world.network;
        for other in (0..usize::from(self.world.scenario.machines())).filter(|other| *other != host(node)) {
            for (from, to) in [(host(node), other), (other, host(node))] {
                if cut {
                    network.cut(from, to);
                } else {
                    network.heal(from, to);
                }
            }
        }
    }

    /// Asks whoever leads until a committed configuration leaves the node out.
    async fn remove(&self, leaver: u8) -> Result<(), Failure> {
        let id = NodeId(u64::from(leaver));
        let end_ns = self.world.time.now_ns() + HEAL_NS_MAX;
        while !self.world.invariants.was_removed(id) {
            let leads = self.cluster.leader().and_then(|leader| self.cluster.view(leader));
            if let Some(view) = leads {
                tokio::select! {
                    biased;
                    _ = view.raft().change(vec![Change::Remove(id)]) => {}
                    () = self.world.time.sleep(SECOND) => {}
                }
            }
            self.world.time.sleep(WATCH_NS).await;
            self.look()?;
            if self.world.time.now_ns() >= end_ns {
                let text = format!("n{leaver} cannot be removed; {}", self.describe());
                return Err(Failure::new("liveness", text));
            }
        }
        Ok(())
    }
}
