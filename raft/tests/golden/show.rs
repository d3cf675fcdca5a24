//! How messages and events look in a story.

use std::fmt::Write;

use raft::core::{
    Configuration, Entry, Event, Message, MessageBody, Payload, ReadState, Ready, Space, Status,
};

/// One line a message; one that goes to several nodes is written once.
pub(crate) fn messages(messages: &[Message], note: &str) -> String {
    let mut lines: Vec<(String, String, String)> = Vec::new();
    for message in messages {
        let from = format!("{}@{}", message.from, message.term);
        let what = body(&message.body);
        let to = message.to.to_string();
        let same = lines.iter_mut().find(|(sender, receivers, said)| {
            *sender == from && *said == what && !receivers.split(' ').any(|one| one == to)
        });
        match same {
            Some((_, receivers, _)) => *receivers += &format!(" {to}"),
            None => lines.push((from, to, what)),
        }
    }
    lines.iter().fold(String::new(), |mut text, (from, to, what)| {
        let _ = writeln!(text, "{from} -> {to} {what}{note}");
        text
    })
}

pub(crate) fn body(body: &MessageBody) -> String {
    let name = body.name();
    match body {
        MessageBody::PreVote { next_term, last } => format!("{name} next_term={next_term} last={last}"),
        MessageBody::PreVoteResponse { next_term, granted } => {
            format!("{name} next_term={next_term} granted={granted}")
        }
        MessageBody::RequestVote { last, leadership_transfer } => {
            let asked = if *leadership_transfer { " leadership_transfer" } else { "" };
            format!("{name} last={last}{asked}")
        }
        MessageBody::VoteResponse { granted } => format!("{name} granted={granted}"),
        MessageBody::AppendEntries { prev, entries: carried, commit } => {
            format!("{name} prev={prev} commit={commit} [{}]", entries(carried))
        }
        MessageBody::AppendAccepted { matched } => format!("{name} matched={matched}"),
        MessageBody::AppendRejected { prev_index, hint, damaged } => {
            let lost = if *damaged { " damaged" } else { "" };
            format!("{name} prev_index={prev_index} hint={hint}{lost}")
        }
        MessageBody::Heartbeat { commit, round, lease } => {
            let asks = if *lease { " lease" } else { "" };
            format!("{name} commit={commit} round={round}{asks}")
        }
        MessageBody::HeartbeatResponse { round, leased, space, damaged } => {
            let promises = if *leased { " leased" } else { "" };
            let room = if *space == Space::Ample { String::new() } else { format!(" space={space:?}") };
            let lost = if *damaged { " damaged" } else { "" };
            format!("{name} round={round}{promises}{room}{lost}")
        }
        MessageBody::InstallSnapshot { meta } => format!("{name} last={}", meta.last),
        // The number of the question is a random one.
        MessageBody::TimeoutNow
        | MessageBody::ReadIndex { .. }
        | MessageBody::CompareHashes { .. }
        | MessageBody::HashesCompared(_)
        | MessageBody::StateCondemned { .. } => name.to_owned(),
        MessageBody::ReadIndexResponse { index: Some(index), .. } => format!("{name} index={index}"),
        MessageBody::ReadIndexResponse { index: None, .. } => format!("{name} unknown"),
        MessageBody::SnapshotWanted { at_least } => format!("{name} at_least={at_least}"),
    }
}

/// `3@1 noop, 4@1 x`
pub(crate) fn entries(entries: &[Entry]) -> String {
    let shown = entries.iter().map(|entry| {
        let what = match &entry.payload {
            Payload::Noop => "noop".to_owned(),
            Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Payload::Configuration(new) => configuration(new),
        };
        format!("{} {what}", entry.log_id())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Only what there is of it.
pub(crate) fn configuration(configuration: &Configuration) -> String {
    let Configuration { voters, voters_outgoing, learners, learners_next, joining, removed, .. } =
        configuration;
    let sets = [
        ("outgoing", voters_outgoing),
        ("learners", learners),
        ("later learners", learners_next),
        ("joining", joining),
        ("removed", removed),
    ];
    let mut text = format!("voters {voters:?}");
    for (name, set) in sets.into_iter().filter(|(_, set)| !set.is_empty()) {
        let _ = write!(text, " {name} {set:?}");
    }
    if let Some(lease) = configuration.lease {
        let _ = write!(text, " lease {} ms, drift {} ppm", lease.duration_ms, lease.drift_ppm);
    }
    text
}

/// What a Ready tells, without its messages.
pub(crate) fn news(id: impl std::fmt::Display, ready: &Ready) -> String {
    let mut text = String::new();
    for event in &ready.events {
        let _ = writeln!(text, "{id} {}", happened(event));
    }
    if let Some(meta) = &ready.snapshot {
        let _ = writeln!(text, "{id} installs snapshot {}", meta.last);
    }
    for ReadState { context, index } in &ready.reads {
        let _ = match index {
            Some(index) => writeln!(text, "{id} may read {context} at {index}"),
            None => writeln!(text, "{id} knows nothing of read {context}"),
        };
    }
    if !ready.committed.is_empty() {
        let _ = writeln!(text, "{id} applies [{}]", entries(&ready.committed));
    }
    text
}

fn happened(event: &Event) -> String {
    match event {
        Event::RoleChanged { role, term } => format!("is {role:?} in term {term}"),
        Event::LeaderChanged { leader: Some(leader), term } => format!("follows {leader} in term {term}"),
        Event::LeaderChanged { leader: None, term } => format!("knows no leader in term {term}"),
        Event::VoteGranted { to, term } => format!("votes for {to} in term {term}"),
        Event::Committed { last } => format!("commits {last}"),
        Event::Truncated { from } => format!("cuts its log from {from}"),
        Event::ConfigurationChanged { index, configuration } => {
            format!("takes the configuration of {index}: {}", self::configuration(configuration))
        }
        Event::TransferBegan { to } => format!("begins to hand over to {to}"),
        Event::TransferFailed { to } => format!("could not hand over to {to}"),
        Event::Damaged { last } => format!("lost entries up to {last}"),
        Event::Repaired { last } => format!("has made good what it lost, with {last}"),
        Event::SnapshotAccepted { meta } => format!("accepts snapshot {}", meta.last),
    }
}

pub(crate) fn status(status: &Status) -> String {
    let Status { id, term, role, commit, applied, durable, last, prev, .. } = status;
    let leader = status.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    let mut text = format!(
        "{id} {role:?} term={term} leader={leader} log={prev}..{last} durable={durable} commit={commit} applied={applied}\n"
    );
    for peer in &status.peers {
        let leaving = if peer.is_leaving { " leaving" } else { "" };
        let _ = writeln!(
            text,
            "  {} {:?} matched={} next={} inflight={}{leaving}",
            peer.id, peer.state, peer.matched, peer.next, peer.inflight_messages
        );
    }
    text
}
