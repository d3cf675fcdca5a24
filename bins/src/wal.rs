//! `raftkv wal inspect`: what is in a log directory, for a person or as JSON. Reads only.

use std::process::ExitCode;
use std::sync::Arc;

use raft::core::{Entry, HardState, LogId, Payload};
use raft::disk::{RealDisk, SharedDisk};
use raft::wal::{self, Inspection, SegmentInspection};
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::{InspectArgs, WalArgs, WalCommand};
use crate::commands::{print, print_json, yes_if};

pub(crate) fn wal(args: WalArgs) -> Result<ExitCode, Failure> {
    let WalCommand::Inspect(InspectArgs { dir, json: as_json, entries }) = args.command;
    let disk: SharedDisk = Arc::new(RealDisk);
    let logs = dir.join("logs");
    let dir = if logs.is_dir() { logs } else { dir };
    let seen = wal::inspect(&disk, &dir).map_err(|error| Failure::Definite(error.to_string()))?;
    if as_json {
        print_json(&json(&seen, entries))?;
    } else {
        print(text(&seen, entries).as_bytes())?;
    }
    Ok(yes_if(seen.is_clean()))
}

fn last(seen: &Inspection) -> LogId {
    seen.entries.last().map_or(seen.prev, Entry::log_id)
}

fn id_json(id: LogId) -> Value {
    json!({ "term": id.term.0, "index": id.index.0 })
}

fn vote_json(hard_state: HardState) -> Value {
    json!({ "term": hard_state.term.0, "voted_for": hard_state.voted_for.map(|id| id.0) })
}

fn kind(payload: &Payload) -> (&'static str, usize) {
    match payload {
        Payload::Noop => ("noop", 0),
        Payload::Command(command) => ("command", command.len()),
        Payload::Configuration(_) => ("configuration", 0),
    }
}

fn json(seen: &Inspection, with_entries: bool) -> Value {
    let segment = |segment: &SegmentInspection| {
        let mut value = json!({
            "file": segment.path.display().to_string(),
            "sequence": segment.sequence,
            "bytes": segment.bytes,
            "live": segment.is_live,
        });
        match &segment.content {
            Err(reason) => value["error"] = json!(reason),
            Ok(content) => {
                value["origin"] = json!(content.is_origin);
                value["prev"] = id_json(content.prev);
                value["last"] = id_json(content.last);
                value["hard_state"] = vote_json(content.hard_state);
                value["lost"] = content.lost.map_or(Value::Null, id_json);
                let (entries, hard_states, marks) = content.records;
                value["records"] = json!({ "entries": entries, "hard_states": hard_states, "marks": marks });
                value["end"] = json!(content.end);
                value["attested"] = json!(content.attested);
            }
        }
        value
    };
    let mut value = json!({
        "clean": seen.is_clean(),
        "cluster": format!("{:032x}", seen.identity.cluster),
        "member": seen.identity.member.0,
        "incarnation": format!("{:016x}", seen.identity.incarnation),
        "hard_state": vote_json(seen.hard_state),
        "prev": id_json(seen.prev),
        "last": id_json(last(seen)),
        "damage": seen.fault.as_ref().map(|fault| json!({
            "file": fault.path.display().to_string(), "offset": fault.offset, "reason": fault.reason,
        })),
        "lost": seen.lost.map_or(Value::Null, id_json),
        "torn_bytes": seen.torn_bytes,
        "segments": seen.segments.iter().map(segment).collect::<Value>(),
    });
    if with_entries {
        let entry = |entry: &Entry| {
            let (kind, bytes) = kind(&entry.payload);
            json!({ "index": entry.index.0, "term": entry.term.0, "kind": kind, "bytes": bytes })
        };
        value["entries"] = seen.entries.iter().map(entry).collect();
    }
    value
}

fn text(seen: &Inspection, with_entries: bool) -> String {
    let vote = |hard_state: HardState| {
        let voted = hard_state.voted_for.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
        format!("{}, voted for {voted}", hard_state.term)
    };
    let mut lines = vec![
        format!("log of {}", seen.identity),
        format!(
            "{}, {} entries behind {}, last {}",
            vote(seen.hard_state),
            seen.entries.len(),
            seen.prev,
            last(seen)
        ),
    ];
    for segment in &seen.segments {
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
        let state = if segment.is_live { "" } else { ", does not count" };
        lines.push(match &segment.content {
            Err(reason) => format!("{name}  {} bytes{state}: {reason}", segment.bytes),
            Ok(content) => {
                let (entries, hard_states, marks) = content.records;
                let origin = if content.is_origin { ", begins a log" } else { "" };
                format!(
                    "{name}  {} bytes{state}{origin}: {entries} entries behind {} to {}, {hard_states} hard states, \
                     {marks} marks, valid to {}, attested to {}",
                    segment.bytes, content.prev, content.last, content.end, content.attested
                )
            }
        });
    }
    if with_entries {
        lines.extend(seen.entries.iter().map(|entry| {
            let (kind, bytes) = kind(&entry.payload);
            format!("  {}  {kind}, {bytes} bytes", entry.log_id())
        }));
    }
    if seen.torn_bytes > 0 {
        lines.push(format!(
            "a torn tail of about {} bytes: never acknowledged, cut at the next start",
            seen.torn_bytes
        ));
    }
    if let Some(fault) = &seen.fault {
        lines.push(format!("DAMAGED: {} at offset {}: {}", fault.path.display(), fault.offset, fault.reason));
    }
    if let Some(lost) = seen.lost {
        lines.push(format!(
            "LOST: the log had come to {lost}; a member of a cluster gets that again when it is started"
        ));
    }
    lines.push(if seen.is_clean() { "clean".to_owned() } else { "not clean".to_owned() });
    lines.join("\n") + "\n"
}
