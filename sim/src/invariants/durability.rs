//! Durability (§3.8; rule 1 of the design): whatever any node takes for committed, and so may acknowledge, is durable on
//! a quorum, by what is on the platters and not by what anyone says.
//!
//! The platter is read as a start after a loss of power would: what was not synced is gone, identity and log are
//! opened. A log that begins behind the entry held it once, and let go of it because the state has it durably. A disk
//! that was lost counts as one that holds the entry: it did, when the entry was acknowledged, and is not let back in.
//!
//! Counted is by the configurations that may be in force, any of them: an entry behind a configuration that is not
//! committed yet is counted by that one (§4.1).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use raft::core::{Configuration, LogId, NodeId};
use raft::disk::SharedDisk;
use raft::wal::{Wal, WalIdentity, WalOptions};

use crate::disk::SimDisk;
use crate::report::Failure;

const RULE: &str = "durability";

/// Whether the log below `dir` holds the entry for certain, whenever the power goes.
pub fn holds(disk: &SimDisk, dir: &Path, node: NodeId, entry: LogId) -> bool {
    let image: SharedDisk = Arc::new(disk.durable_image());
    let Ok(identity) = raft::identity::open(&*image, dir, node, 0) else { return false };
    let Some(cluster) = identity.cluster.filter(|_| identity.log_created) else { return false };
    let identity =
        WalIdentity { cluster: cluster.cluster, member: identity.member, incarnation: identity.incarnation };
    let Ok((_, recovered)) = Wal::open(image, &dir.join("logs"), identity, WalOptions::default()) else {
        return false;
    };
    recovered.prev.index >= entry.index || recovered.entries.iter().any(|found| found.log_id() == entry)
}

/// That a quorum of one of `configurations` holds `entry`.
pub fn check(
    entry: LogId,
    configurations: &[Configuration],
    holds: impl Fn(NodeId) -> bool,
) -> Result<(), Failure> {
    let members: BTreeSet<NodeId> =
        configurations.iter().flat_map(|c| c.voters.union(&c.voters_outgoing)).copied().collect();
    let holders: BTreeSet<NodeId> = members.into_iter().filter(|id| holds(*id)).collect();
    let majority = |voters: &BTreeSet<NodeId>| {
        voters.is_empty() || voters.intersection(&holders).count() > voters.len() / 2
    };
    if configurations.is_empty()
        || configurations.iter().any(|c| majority(&c.voters) && majority(&c.voters_outgoing))
    {
        return Ok(());
    }
    let voters: Vec<_> = configurations.iter().map(|c| (&c.voters, &c.voters_outgoing)).collect();
    Err(Failure::new(
        RULE,
        format!("{entry} is committed, but only {holders:?} have it on disk, of the voters {voters:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use raft::core::{Entry, HardState, Index, Payload, Term};
    use raft::identity;

    use super::*;

    fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
        ids.map(NodeId).into()
    }

    #[test]
    fn a_quorum_of_each_half_is_wanted_of_one_of_the_configurations() {
        let simple = Configuration { voters: ids([1, 2, 3]), ..Configuration::default() };
        let joint = Configuration {
            voters: ids([3, 4, 5]),
            voters_outgoing: ids([1, 2, 3]),
            ..Configuration::default()
        };
        let check = |holders: &[u64], configurations: &[&Configuration]| {
            let configurations: Vec<_> = configurations.iter().copied().cloned().collect();
            check(LogId::new(1, 1), &configurations, |id| holders.contains(&id.0)).is_ok()
        };
        assert!(check(&[1, 3], &[&simple]));
        assert!(!check(&[1, 4, 5], &[&simple]));
        assert!(!check(&[1, 2], &[&joint]), "the new half has none");
        assert!(check(&[2, 3, 5], &[&joint]));
        assert!(check(&[1, 2], &[&joint, &simple]), "it may be counted by either");
    }

    #[test]
    fn what_was_written_and_not_synced_is_not_held() {
        let dir = Path::new("/n1");
        let disk = SimDisk::new(1);
        let shared: SharedDisk = Arc::new(disk.clone());
        raft::disk::Disk::create_dir_all(&disk, dir).unwrap();
        let mut record = identity::open(&*shared, dir, NodeId(1), 7).unwrap();
        record.cluster =
            Some(identity::ClusterRecord { cluster: 3, members: Default::default(), origin: None });
        record.log_created = true;
        identity::store(&*shared, dir, &record).unwrap();
        raft::disk::Disk::sync_dir(&disk, Path::new("/")).unwrap();
        let options = WalOptions { segment_bytes: 4096, recycled_max: 2 };
        let identity = WalIdentity { cluster: 3, member: NodeId(1), incarnation: record.incarnation };
        let mut wal = Wal::create(Arc::clone(&shared), &dir.join("logs"), identity, options).unwrap();
        let held = |index| holds(&disk, dir, NodeId(1), LogId::new(1, index));
        let entry = |index| Entry { term: Term(1), index: Index(index), payload: Payload::Noop };
        let hard_state = HardState { term: Term(1), voted_for: None };
        wal.append(Some(hard_state), &[entry(1)]).unwrap();
        assert!(!held(1), "only in the page cache");
        wal.sync().unwrap();
        wal.append(None, &[entry(2)]).unwrap();
        assert!(held(1) && !held(2));
        assert!(!holds(&disk, dir, NodeId(1), LogId::new(2, 1)), "of another term");
        wal.reset(LogId::new(1, 9)).unwrap();
        assert!(held(5), "behind a snapshot");
    }
}
