//! The cluster as its leader sees it, and how that is shown.

use std::collections::BTreeSet;

use kv::client::{Client, ClientError};
use kv::dry_run::{DryRun, Standing};
use kv::wire::{MemberRole, Membership, NodeReport};
use raft::core::{Lease, Member, NodeId};
use serde_json::{Value, json};

use crate::status::aligned;

/// The configuration in force, and how far the leader knows the members to be.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) membership: Membership,
    pub(super) leader: NodeReport,
}

impl View {
    pub(super) async fn of(client: &Client) -> Result<Self, ClientError> {
        // In this order: whoever is in the configuration is then among those of whom the leader reports.
        let membership = client.membership().await?;
        Ok(Self { membership, leader: client.leader_status().await? })
    }

    /// Whether nothing of it is under way: no change, and no hand-over to come.
    pub(super) fn is_settled(&self) -> bool {
        let leads_on = self.membership.configuration.is_voter(NodeId(self.leader.id));
        self.membership.is_settled() && leads_on && self.leader.transferring.is_none()
    }

    pub(super) fn role(&self, id: NodeId) -> Option<MemberRole> {
        MemberRole::of(id, &self.membership.configuration)
    }

    pub(super) fn member(&self, id: NodeId) -> Option<&Member> {
        self.membership.configuration.nodes.get(&id)
    }

    pub(super) fn is_removed(&self, id: NodeId) -> bool {
        self.membership.configuration.removed.contains(&id)
    }

    /// Who answers the leader, itself among them.
    pub(super) fn answering(&self) -> BTreeSet<NodeId> {
        let peers = self.leader.peers.iter().filter(|peer| peer.answers).map(|peer| peer.id);
        peers.chain([self.leader.id]).map(NodeId).collect()
    }

    /// How much of the log `id` is known to hold.
    pub(super) fn matched(&self, id: NodeId) -> Option<u64> {
        if self.leader.id == id.0 {
            return Some(self.leader.last);
        }
        self.leader.peers.iter().find(|peer| peer.id == id.0).map(|peer| peer.matched)
    }

    pub(super) fn table(&self) -> String {
        let header = ["id", "role", "peer", "client", "answers", "log"].map(String::from);
        let mut rows = vec![header.to_vec()];
        let answering = self.answering();
        for id in self.membership.configuration.members() {
            let role = self.role(id).map_or("", MemberRole::name);
            let member = self.member(id).cloned().unwrap_or_default();
            let log = match self.matched(id) {
                None => "-".to_owned(),
                Some(matched) if matched >= self.leader.last => matched.to_string(),
                Some(matched) => format!("{matched} of {}", self.leader.last),
            };
            rows.push(vec![
                id.0.to_string(),
                if self.leader.id == id.0 { format!("{role}, leader") } else { role.to_owned() },
                member.address.clone(),
                client_address(&member),
                if answering.contains(&id) { "yes" } else { "no" }.to_owned(),
                log,
            ]);
        }
        let mut text = aligned(&rows);
        for line in self.remarks() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// What is out of the ordinary.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let configuration = &self.membership.configuration;
        if configuration.is_joint() {
            remarks.push(format!("the voters are being changed: {}", self.standing()));
        } else if !self.membership.committed {
            remarks.push("the newest change is not committed yet".to_owned());
        }
        if let Some(to) = self.leader.transferring {
            remarks.push(format!("the leadership is being handed over to {to}"));
        }
        if let Some(lease) = configuration.lease {
            remarks.push(format!("reads by lease: {}", lease_text(Some(lease))));
        }
        remarks
    }

    fn standing(&self) -> Standing {
        Standing::of(&self.membership.configuration, &self.answering())
    }

    pub(super) fn json(&self) -> Value {
        let configuration = &self.membership.configuration;
        let answering = self.answering();
        let members = configuration.members().into_iter().map(|id| {
            let member = self.member(id).cloned().unwrap_or_default();
            json!({
                "id": id.0,
                "role": self.role(id).map(MemberRole::name),
                "leader": self.leader.id == id.0,
                "peer": member.address,
                "client": client_address(&member),
                "incarnation": member.incarnation,
                "answers": answering.contains(&id),
                "matched": self.matched(id),
            })
        });
        json!({
            "index": self.membership.index,
            "committed": self.membership.committed,
            "joint": configuration.is_joint(),
            "members": members.collect::<Value>(),
            "removed": configuration.removed.iter().map(|id| id.0).collect::<Value>(),
            "lease": lease_json(configuration.lease),
            "leader": self.leader.id,
            "transferring": self.leader.transferring,
            "last": self.leader.last,
            "may_fail": self.standing().may_fail(),
        })
    }
}

/// Where a member serves clients.
pub(super) fn client_address(member: &Member) -> String {
    String::from_utf8_lossy(&member.context).into_owned()
}

pub(crate) fn lease_text(lease: Option<Lease>) -> String {
    match lease {
        None => "off".to_owned(),
        Some(Lease { duration_ms, drift_ppm }) => {
            format!(
                "on, for {duration_ms} ms, if no clock runs more than {drift_ppm} millionths faster than another"
            )
        }
    }
}

pub(crate) fn lease_json(lease: Option<Lease>) -> Value {
    lease.map_or(Value::Null, |l| json!({ "duration_ms": l.duration_ms, "drift_ppm": l.drift_ppm }))
}

/// A dry run in two lines.
pub(super) fn dry_run_text(dry_run: &DryRun) -> String {
    let mut text = format!("now:        {}\nafterwards: {}\n", dry_run.before, dry_run.after);
    if dry_run.bears_less() {
        text.push_str("with all of them up, fewer may fail than before\n");
    }
    text
}

pub(super) fn dry_run_json(dry_run: &DryRun) -> Value {
    let standing = |standing: &Standing| {
        json!({
            "voters": standing.voters.iter().map(|id| id.0).collect::<Value>(),
            "needed": standing.needed(),
            "answering": standing.answering.iter().map(|id| id.0).collect::<Value>(),
            "may_fail": standing.may_fail(),
        })
    };
    json!({
        "before": standing(&dry_run.before),
        "after": standing(&dry_run.after),
        "danger": dry_run.danger().map(|danger| danger.to_string()),
    })
}
