//! The state of each directed link between two hosts.

use super::HostId;
use crate::random::{Random, derive};

struct Link {
    /// What happens on it by chance. A stream of its own: what is sent on other links does not change it.
    random: Random,
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
    /// The links between hosts of these names.
    pub(super) fn new(seed: u64, names: &[String]) -> Self {
        let link = |from: &String, to: &String| Link {
            random: Random::new(derive(seed, &format!("{from} to {to}"))),
            cuts: 0,
            factor: 1,
            loss_per_mille: 0,
        };
        let links = names.iter().flat_map(|from| names.iter().map(move |to| link(from, to)));
        Self { hosts: names.len(), links: links.collect() }
    }

    pub(super) fn random(&mut self, from: HostId, to: HostId) -> &mut Random {
        &mut self.at(from, to).random
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_on_one_link_by_chance_does_not_hang_on_other_links_or_hosts() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut three = Links::new(7, &names(&["n1", "n2", "n3", "c1"]));
        let mut two = Links::new(7, &names(&["n1", "n2", "c1"]));
        for _ in 0..100 {
            three.random(0, 2).next_u64();
            let expected = three.random(0, 1).next_u64();
            assert_eq!(two.random(0, 1).next_u64(), expected);
            assert_ne!(two.random(1, 0).next_u64(), expected);
            assert_eq!(two.random(2, 1).next_u64(), three.random(3, 1).next_u64());
        }
    }
}
