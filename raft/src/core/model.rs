//! What a model checker needs beside `Clone + Eq + Hash`: to forget what can no longer make a difference.
//!
//! Two cores that got into the same position by different ways differ in how many Readies they have handed out and in
//! how many random numbers they have drawn. Neither matters for what may happen next if every timeout may be drawn,
//! so a model that starts elections itself would see the same state many times over.

use super::Raft;
use super::ready::ReadyNumber;
use super::rng::Rng;
use super::role::{Role, Timer};

impl Raft {
    /// Forgets past random draws, numbers the Readies whose writes are under way from 1 on, and takes it that much
    /// time has passed: no leader was heard for an election timeout, so any vote may be asked for and granted.
    ///
    /// For models, which call [`campaign`](Self::campaign) instead of waiting for a timeout. Where stickiness (§4.2.3)
    /// would have refused a vote, the model has the run in which the request was not delivered.
    pub fn forget_the_way(&mut self) {
        let shared = &mut self.shared;
        shared.rng = Rng::new(shared.config.seed, shared.config.id);
        let long = shared.config.election_timeout_ticks;
        let timer = Timer { elapsed: long, ..Timer::new(long) };
        match &mut self.role {
            Role::Follower(follower) => follower.timer = timer,
            Role::PreCandidate(campaign) | Role::Candidate(campaign) => campaign.timer = timer,
            Role::Leader(_) => {}
        }
        let mut number = 0;
        for write in &mut shared.writes {
            number += 1;
            write.number = ReadyNumber(number);
        }
        shared.ready_number = ReadyNumber(number);
    }
}
