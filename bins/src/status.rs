//! `raftkv status`: how every node is, as it sees itself.

use std::collections::BTreeSet;
use std::process::ExitCode;

use kv::client::{Client, ClientError};
use kv::wire::{NodeReport, PeerReport};
use raft::core::{RoleName, Space};
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::StatusArgs;
use crate::commands::{NEGATIVE, client, process_seed};
use crate::member::{lease_json, lease_text};

/// What one endpoint said.
pub(crate) struct Answer {
    pub(crate) endpoint: String,
    pub(crate) report: Result<NodeReport, ClientError>,
}

/// Asks all nodes: those that were named, and those that they name.
pub(crate) async fn ask_all(client: &Client, endpoints: &[String]) -> Vec<Answer> {
    let mut asked: Vec<String> = Vec::new();
    if let Ok(members) = client.members().await {
        asked.extend(members.into_iter().map(|m| m.client).filter(|address| !address.is_empty()));
    }
    let mut answers = ask(client, &asked).await;
    // A node that answers under the address it is a member with need not be shown again under another name for it.
    let known: BTreeSet<u64> = answers.iter().filter_map(|a| a.report.as_ref().ok()).map(|r| r.id).collect();
    let others: Vec<_> = endpoints.iter().filter(|e| !asked.contains(e)).cloned().collect();
    answers.extend(ask(client, &others).await.into_iter().filter(|a| match &a.report {
        Ok(report) => !known.contains(&report.id),
        Err(_) => true,
    }));
    answers
}

/// Asks these nodes at the same time.
pub(crate) async fn ask(client: &Client, endpoints: &[String]) -> Vec<Answer> {
    let tasks: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let (client, endpoint) = (client.clone(), endpoint.clone());
            tokio::spawn(async move {
                let report = client.status(&endpoint).await;
                Answer { endpoint, report }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await);
    }
    answers
}

/// The node that leads, by its own word; of several, the one of the newest term.
pub(crate) fn leader(answers: &[Answer]) -> Option<&NodeReport> {
    let reports = answers.iter().filter_map(|a| a.report.as_ref().ok());
    reports.filter(|r| r.role == RoleName::Leader).max_by_key(|r| r.term)
}

pub(crate) async fn status(args: StatusArgs) -> Result<ExitCode, Failure> {
    let client = client(&args.client, process_seed())?;
    let mut answers = ask_all(&client, &args.client.endpoints).await;
    answers.sort_by_key(|a| a.report.as_ref().map_or(u64::MAX, |r| r.id));
    if args.client.json {
        println!("{}", json(&answers));
    } else {
        print!("{}", table(&answers));
    }
    let reached = answers.iter().filter(|a| a.report.is_ok()).count();
    match (reached, leader(&answers)) {
        (0, _) => Err(Failure::Definite("no node answers".to_owned())),
        (n, Some(_)) if n == answers.len() => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(NEGATIVE)),
    }
}

/// What a node is: by its role in its term, and for those that only follow, by what the configuration makes of them.
fn role(report: &NodeReport) -> &'static str {
    let follows = report.role == RoleName::Follower;
    if follows && report.joining.contains(&report.id) {
        return "joining";
    }
    if follows && report.learners.contains(&report.id) {
        return "learner";
    }
    match report.role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

fn json(answers: &[Answer]) -> Value {
    let peer = |p: &PeerReport| json!({ "id": p.id, "matched": p.matched, "next": p.next, "silent_ticks": p.silent_ticks, "answers": p.answers, "space": space(p.space) });
    let node = |answer: &Answer| match &answer.report {
        Err(error) => json!({ "endpoint": answer.endpoint, "error": error.to_string() }),
        Ok(r) => json!({
            "endpoint": answer.endpoint,
            "id": r.id,
            "version": r.version,
            "role": role(r),
            "term": r.term,
            "leader": r.leader,
            "commit": r.commit,
            "applied": r.applied,
            "last": r.last,
            "damaged": r.damaged,
            "log_bytes": r.log_bytes,
            "log_segments": r.log_segments,
            "snapshot": r.snapshot,
            "snapshot_bytes": r.snapshot_bytes,
            "checkpoint": r.checkpoint,
            "revision": r.revision,
            "compacted": r.compacted,
            "disk_bytes": r.disk_bytes,
            "free_bytes": r.free_bytes,
            "space": space(r.space),
            "cpu_us": r.cpu_us,
            "voters": r.voters,
            "voters_outgoing": r.voters_outgoing,
            "learners": r.learners,
            "joining": r.joining,
            "lease": lease_json(r.lease),
            "transferring": r.transferring,
            "agreed": r.agreed,
            "diverged": r.diverged,
            "peers": r.peers.iter().map(peer).collect::<Value>(),
        }),
    };
    json!({
        "leader": leader(answers).map(|r| r.id),
        "nodes": answers.iter().map(node).collect::<Value>(),
    })
}

fn table(answers: &[Answer]) -> String {
    let header = [
        "node", "endpoint", "role", "term", "commit", "applied", "revision", "log", "snapshot", "disk",
        "free",
    ]
    .map(String::from);
    let mut rows = vec![header.to_vec()];
    for answer in answers {
        rows.push(match &answer.report {
            Ok(r) => vec![
                r.id.to_string(),
                answer.endpoint.clone(),
                role(r).to_owned(),
                r.term.to_string(),
                r.commit.to_string(),
                r.applied.to_string(),
                r.revision.to_string(),
                size(r.log_bytes),
                size(r.snapshot_bytes),
                r.disk_bytes.map_or_else(|| "-".to_owned(), size),
                r.free_bytes.map_or_else(|| "-".to_owned(), size),
            ],
            Err(error) => vec!["-".to_owned(), answer.endpoint.clone(), error.to_string()],
        });
    }
    let mut text = aligned(&rows);
    for report in answers.iter().filter_map(|a| a.report.as_ref().ok()) {
        if let Some(index) = report.diverged {
            text.push_str(&format!("node {} found that states differ, first at entry {index}\n", report.id));
        }
    }
    for report in answers.iter().filter_map(|answer| answer.report.as_ref().ok()) {
        if let Some(index) = report.damaged {
            text.push_str(&format!(
                "node {} lost entries up to {index} to damage on its disk: it stands for no election until a leader has \
                 sent them again\n",
                report.id
            ));
        }
        text.extend(short_of_room(report));
    }
    for line in leader(answers).map(remarks).unwrap_or_default() {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// How much room a disk has, in a word.
fn space(space: Space) -> &'static str {
    match space {
        Space::Ample => "ample",
        Space::Low => "low",
        Space::Critical => "critical",
    }
}

fn short_of_room(report: &NodeReport) -> Option<String> {
    let refused = match report.space {
        Space::Ample => return None,
        Space::Low => "writes",
        Space::Critical => "all commands",
    };
    let (id, free) = (report.id, report.free_bytes.map_or_else(|| "little".to_owned(), size));
    Some(format!(
        "the disk of {id} is short of room ({free} free): {refused} are refused while too few voters have more\n"
    ))
}

/// What is out of the ordinary, as the leader sees it.
fn remarks(leader: &NodeReport) -> Vec<String> {
    let mut remarks = Vec::new();
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    if !leader.voters_outgoing.is_empty() {
        let (old, new) = (list(&leader.voters_outgoing), list(&leader.voters));
        remarks.push(format!("the voters are being changed from {old} to {new}"));
    }
    if let Some(to) = leader.transferring {
        remarks.push(format!("the leadership is being handed over to {to}"));
    }
    if leader.lease.is_some() {
        remarks.push(format!("reads by lease: {}", lease_text(leader.lease)));
    }
    remarks
}

/// Columns as wide as their widest cell. The last cell of a row may be longer than its column.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() > column + 1 || row.len() == columns);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes, for eyes.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use kv::client::Reason;

    use super::*;

    fn report(id: u64, role: RoleName, term: u64) -> Answer {
        let report = NodeReport { id, role, term, log_bytes: 64 << 20, ..NodeReport::default() };
        Answer { endpoint: format!("h:{id}"), report: Ok(report) }
    }

    #[test]
    fn a_deposed_leader_that_does_not_know_it_is_not_shown_as_the_leader() {
        let answers = [
            report(1, RoleName::Leader, 3),
            report(2, RoleName::Leader, 4),
            report(3, RoleName::Follower, 4),
        ];
        assert_eq!(leader(&answers).map(|r| r.id), Some(2));
        assert_eq!(json(&answers)["leader"], 2);
        assert!(leader(&answers[2..]).is_none());
    }

    #[test]
    fn the_table_is_aligned_also_where_a_node_does_not_answer() {
        let reason = Reason::Unreachable { endpoint: "h:2".into(), reason: "connection refused".into() };
        let dead = Answer { endpoint: "h:2".into(), report: Err(ClientError::NotDone { reason }) };
        let text = table(&[report(1, RoleName::Leader, 3), dead]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].find("role"), lines[1].find("leader"));
        assert_eq!(lines[0].find("log "), lines[1].find("64.0 MiB"));
        assert!(lines[2].contains("h:2       not done: h:2: connection refused"), "{text}");
    }

    #[test]
    fn a_disk_that_is_short_of_room_is_told_of() {
        let mut short = report(2, RoleName::Follower, 3);
        if let Ok(report) = &mut short.report {
            (report.space, report.free_bytes) = (Space::Low, Some(5 << 20));
        }
        let text = table(&[report(1, RoleName::Leader, 3), short]);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("the disk of 2 is short of room (5.0 MiB free): writes are refused"), "{text}");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            [0, 1023, 1536, 5 << 20, 3 << 40].map(size),
            ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 TiB"]
        );
    }
}
