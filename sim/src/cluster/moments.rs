//! What befalls a node when something happens in its core: the harder half of the faults, because it falls into the
//! few microseconds that matter.

use std::collections::{BTreeSet, VecDeque};
use std::sync::PoisonError;

use super::{Cluster, Then, Trigger, Unsynced, host};
use crate::plan::Turn;

impl Cluster {
    /// A moment that something waited for has come.
    pub(super) async fn triggered(&self, node: u8, start: u32, trigger: Trigger, candidate: Option<u8>) {
        match trigger.then {
            // Its disk is to fail in what it writes next, so there is nothing to wait for.
            Then::Crash { down_ns, calls, .. } if calls > 0 => {
                if self.machine(node).is_start(start) && !self.has_core() {
                    self.crash_after_calls(node, calls, down_ns);
                }
                return;
            }
            _ => self.world().time.sleep(trigger.after_ns).await,
        }
        match trigger.then {
            Then::Crash { down_ns, isolate_ns, .. } => {
                if self.machine(node).is_start(start) {
                    self.crash(node, false, Unsynced::Lost);
                    self.start_later(node, down_ns);
                    if let Some(candidate) = candidate.filter(|_| isolate_ns > 0) {
                        self.hide_from_voters(node, candidate, down_ns, isolate_ns).await;
                    }
                }
            }
            Then::Cut { with, for_ns } => {
                let side: BTreeSet<u8> = with.into_iter().chain([node]).collect();
                if self.has_core() {
                    return;
                }
                self.change_links(&side, |from, to| self.world().network.cut(from, to));
                self.world().time.sleep(for_ns).await;
                if !self.has_core() {
                    self.change_links(&side, |from, to| self.world().network.heal(from, to));
                }
            }
            Then::Relay if !self.has_core() => self.pass_on(Some(node)),
            Then::Relay => {}
        }
    }

    /// A node that has voted comes back to those who did not hear whom it voted for.
    async fn hide_from_voters(&self, node: u8, candidate: u8, down_ns: u64, for_ns: u64) {
        let world = self.world();
        let hear =
            |id: &u8| *id != node && (*id == candidate || world.network.hears(host(candidate), host(*id)));
        let heard: Vec<u8> = self.machines().filter(hear).collect();
        // Not so soon that the vote does not get there, and before the node is back.
        world.time.sleep(down_ns * 9 / 10).await;
        let each = |change: &dyn Fn(usize, usize)| {
            for id in &heard {
                change(host(node), host(*id));
                change(host(*id), host(node));
            }
        };
        // Once the core is healed, its links are as they are to be.
        if self.has_core() {
            return;
        }
        each(&|from, to| world.network.cut(from, to));
        world.time.sleep(for_ns).await;
        if !self.has_core() {
            each(&|from, to| world.network.heal(from, to));
        }
    }

    /// Each link between this side and all other machines, both ways.
    fn change_links(&self, side: &BTreeSet<u8>, change: impl Fn(usize, usize)) {
        for &inside in side {
            for outside in self.machines().filter(|id| !side.contains(id)) {
                change(host(inside), host(outside));
                change(host(outside), host(inside));
            }
        }
    }

    /// From now on leaders are cut off in turn.
    pub fn begin_relay(&self, turns: VecDeque<Turn>) {
        self.shared.watch.set_relay(turns);
    }

    /// No more leaders are cut off in turn, and the last one is joined again.
    pub fn end_relay(&self) {
        self.shared.watch.set_relay(VecDeque::new());
        self.pass_on(None);
    }

    /// Cuts off `next`, and joins the one that was cut off before it.
    fn pass_on(&self, next: Option<u8>) {
        let network = &self.world().network;
        let mut relayed = self.shared.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *relayed, next);
        drop(relayed);
        if before == next {
            return;
        }
        if let Some(next) = next {
            self.change_links(&[next].into(), |from, to| network.cut(from, to));
        }
        if let Some(before) = before {
            self.change_links(&[before].into(), |from, to| network.heal(from, to));
        }
    }
}
