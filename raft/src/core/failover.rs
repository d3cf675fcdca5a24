//! Elections that need not wait out the timeout (DESIGN rule 13).
//!
//! The election timeout is there because silence proves little: the leader may be slow, or the network. But a
//! connection that breaks says more, and says it at once: the leader's process has ended, or the two are cut off from
//! each other. So a follower whose own connection to the leader broke waits only a short random time before it asks
//! the others (§9.6), and answers them as one who hears no leader (§4.2.3), until it hears the leader again. If it was
//! wrong the others still hear the leader and refuse: it has cost a few messages. If a quorum is wrong it costs an
//! election. It never costs safety, which rests on terms and votes alone.
//!
//! In the same way a voter that is connected with a quorum, none of which leads, has nothing to wait for: so a cluster
//! begins, or begins again, as soon as enough of it is up. Once per role, though: an election that failed waits like
//! any other.
//!
//! With leases none of this happens: a promise is kept until it has run out (§6.4.1).
//!
//! Shown in `testdata/election/hurried_failover.txt` and `testdata/election/hurried_start.txt`.

use super::Raft;
use super::quorum;
use super::role::Role;
use super::types::NodeId;

impl Raft {
    pub(super) fn on_connected(&mut self, peer: NodeId) {
        self.shared.connected.insert(peer);
        let id = self.shared.id();
        let connected = &self.shared.connected;
        let is_reachable = |peer: NodeId| peer == id || connected.contains(&peer);
        let has_quorum = quorum::agrees(self.shared.configurations.current(), is_reachable);
        if self.leader().is_none() && has_quorum {
            self.hurry();
        }
    }

    pub(super) fn on_disconnected(&mut self, peer: NodeId) {
        self.shared.connected.remove(&peer);
        if self.has_leases() {
            return;
        }
        if let Role::Follower(follower) = &mut self.role
            && follower.leader == Some(peer)
        {
            crate::sometimes!("election/connection-to-leader-broke");
            follower.is_cut_off = true;
            self.hurry();
        }
    }

    /// Whether there are leases, or a promise from when there were.
    fn has_leases(&self) -> bool {
        self.shared.configurations.current().lease.is_some() || self.shared.clock.is_bound()
    }

    /// Cuts the election timeout short, once.
    fn hurry(&mut self) {
        if self.has_leases() {
            return;
        }
        let Role::Follower(follower) = &mut self.role else { return };
        if std::mem::replace(&mut follower.is_hurried, true) {
            return;
        }
        let ticks = self.shared.rng.within(0, self.shared.config.hurried_election_ticks + 1);
        follower.timer.timeout = follower.timer.elapsed.saturating_add(ticks).min(follower.timer.timeout);
    }
}
