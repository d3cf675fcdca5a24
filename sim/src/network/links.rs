//! The state of each directed link between two hosts.

use super::HostId;

#[derive(Clone, Copy)]
struct Link {
    /// How many faults cut it now.
    cuts: u32,
    factor: u32,
    loss_per_mille: u32,
}

/// All links, in a square.
pub(super) struct Links {
    hosts: usize,
    links: Vec<Link>,
}

impl Links {
    pub(super) fn new(hosts: usize) -> Self {
        Self { hosts, links: vec![Link { cuts: 0, factor: 1, loss_per_mille: 0 }; hosts * hosts] }
    }

    fn at(&mut self, from: HostId, to: HostId) -> &mut Link {
        &mut self.links[from * self.hosts + to]
    }

    pub(super) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.links[from * self.hosts + to].cuts > 0
    }

    pub(super) fn factor(&self, from: HostId, to: HostId) -> u32 {
        self.links[from * self.hosts + to].factor
    }

    pub(super) fn loss(&self, from: HostId, to: HostId) -> u32 {
        self.links[from * self.hosts + to].loss_per_mille
    }

    /// True if the link was whole before.
    pub(super) fn cut(&mut self, from: HostId, to: HostId) -> bool {
        let link = self.at(from, to);
        link.cuts += 1;
        link.cuts == 1
    }

    /// True if the link is whole again.
    pub(super) fn heal(&mut self, from: HostId, to: HostId) -> bool {
        let link = self.at(from, to);
        let was_cut = link.cuts > 0;
        link.cuts = link.cuts.saturating_sub(1);
        was_cut && link.cuts == 0
    }

    pub(super) fn forget_cuts_but_one(&mut self, from: HostId, to: HostId) {
        let link = self.at(from, to);
        link.cuts = link.cuts.min(1);
    }

    pub(super) fn set_factor(&mut self, from: HostId, to: HostId, factor: u32) {
        self.at(from, to).factor = factor.max(1);
    }

    pub(super) fn set_loss(&mut self, from: HostId, to: HostId, per_mille: u32) {
        self.at(from, to).loss_per_mille = per_mille;
    }

    pub(super) fn forget_faults(&mut self) {
        for link in &mut self.links {
            link.factor = 1;
            link.loss_per_mille = 0;
        }
    }
}
