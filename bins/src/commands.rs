//! The commands of a client: one request each, its answer on stdout, and an exit code that says what it was.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv::client::{Client, ClientError, ClientOptions, Consistency, Done, Writer};
use kv::command::{DeleteRange, KeyRange, Operation, OperationResult, Put, Range};
use raft::clock::RealClock;
use raft::net::RealNet;
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::{
    ClientArgs, CompactArgs, DelArgs, GetArgs, PutArgs, RangeArgs, ReadArgs, TxnArgs, WriteArgs,
};
use crate::json;

/// The answer is no: no such key, or a compare did not hold.
pub(crate) const NEGATIVE: u8 = 1;

/// A session that a command opens for itself lives so long if it is not closed.
const SESSION_TTL: Duration = Duration::from_secs(30);

pub(crate) fn client(args: &ClientArgs, seed: u64) -> Result<Client, ClientError> {
    client_with(args, ClientOptions { seed, ..ClientOptions::default() })
}

/// A client whose reads go where `read` says.
fn reader(args: &ClientArgs, read: ReadArgs) -> Result<Client, ClientError> {
    let seed = process_seed();
    client_with(args, ClientOptions { seed, spread_reads: read.any, ..ClientOptions::default() })
}

pub(crate) fn client_with(args: &ClientArgs, options: ClientOptions) -> Result<Client, ClientError> {
    let options = ClientOptions { request_timeout: args.timeout, ..options };
    Client::new(Arc::new(RealClock), Arc::new(RealNet), args.endpoints.iter().cloned(), options)
}

/// Which endpoint a short-lived client tries first: differs between processes, so that none is preferred.
pub(crate) fn process_seed() -> u64 {
    u64::from(std::process::id())
}

pub(crate) fn yes_if(condition: bool) -> ExitCode {
    if condition { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) }
}

/// Writes a line of bytes.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(value.to_string().as_bytes())
}

async fn operate(args: &ClientArgs, write: WriteArgs, operation: Operation) -> Result<Done, Failure> {
    let client = client(args, process_seed())?;
    if !write.exactly_once {
        return Ok(client.operate(operation).await?);
    }
    let session = client.session(SESSION_TTL).await?;
    let done = session.operate(operation).await?;
    // The command is done; that the session may linger a little is no failure of it.
    let _ = session.close().await;
    Ok(done)
}

fn unexpected() -> Failure {
    Failure::Definite("the answer is of another kind than was asked for".to_owned())
}

pub(crate) async fn put(args: PutArgs) -> Result<ExitCode, Failure> {
    let value = match args.value {
        Some(value) => Bytes::from(value),
        None => {
            let mut value = Vec::new();
            std::io::stdin().lock().read_to_end(&mut value).map_err(Failure::Input)?;
            value.into()
        }
    };
    let operation = Operation::Put(Put { key: args.key.into(), value, prev_kv: args.prev_kv });
    let done = operate(&args.client, args.write, operation).await?;
    let OperationResult::Put { prev_kv } = done.result else { return Err(unexpected()) };
    if args.client.json {
        let mut answer = json!({ "revision": done.revision });
        if args.prev_kv {
            answer["prev_kv"] = prev_kv.map_or(Value::Null, |kv| json::key_value(&kv, true).into());
        }
        print_json(&answer)?;
    } else {
        print(b"OK")?;
        if let Some(kv) = prev_kv {
            print(&kv.value)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn get(args: GetArgs) -> Result<ExitCode, Failure> {
    let key = Bytes::from(args.key);
    let range = Range {
        range: KeyRange::Key(key.clone()),
        revision: args.read.revision,
        limit: 0,
        keys_only: false,
        count_only: false,
    };
    let result = reader(&args.client, args.read)?.range(range, consistency(args.read)).await?;
    let found = result.kvs.first();
    if args.client.json {
        let mut object = found.map(|kv| json::key_value(kv, true)).unwrap_or_else(|| {
            let mut absent = serde_json::Map::new();
            json::insert_bytes(&mut absent, "key", &key);
            absent.insert("value".into(), Value::Null);
            absent
        });
        object.insert("revision".into(), result.revision.into());
        print_json(&object.into())?;
    } else if let Some(kv) = found {
        print(&kv.value)?;
    }
    Ok(yes_if(found.is_some()))
}

fn consistency(read: ReadArgs) -> Consistency {
    if read.serializable { Consistency::Serializable } else { Consistency::Linearizable }
}

pub(crate) async fn del(args: DelArgs) -> Result<ExitCode, Failure> {
    let range = key_range(Some(args.key), args.end, args.prefix);
    let operation = Operation::DeleteRange(DeleteRange { range, prev_kv: args.prev_kv });
    let done = operate(&args.client, args.write, operation).await?;
    let OperationResult::Deleted { count, prev_kvs } = done.result else { return Err(unexpected()) };
    if args.client.json {
        let mut answer = json!({ "revision": done.revision, "deleted": count });
        if args.prev_kv {
            answer["prev_kvs"] = json::key_values(&prev_kvs, true);
        }
        print_json(&answer)?;
    } else {
        print(count.to_string().as_bytes())?;
        for kv in &prev_kvs {
            print(&[&kv.key, b"\t".as_slice(), &kv.value].concat())?;
        }
    }
    Ok(yes_if(count > 0))
}

fn key_range(start: Option<String>, end: Option<String>, prefix: bool) -> KeyRange {
    match (start, end) {
        (None, _) => KeyRange::Prefix(Bytes::new()),
        (Some(start), _) if prefix => KeyRange::Prefix(start.into()),
        (Some(start), Some(end)) => KeyRange::HalfOpen { start: start.into(), end: end.into() },
        (Some(key), None) => KeyRange::Key(key.into()),
    }
}

pub(crate) async fn range(args: RangeArgs) -> Result<ExitCode, Failure> {
    let range = Range {
        range: match (args.start, args.end, args.prefix) {
            (Some(start), None, false) => KeyRange::From(start.into()),
            (start, end, prefix) => key_range(start, end, prefix),
        },
        revision: args.read.revision,
        limit: args.limit,
        keys_only: args.keys_only,
        count_only: args.count_only,
    };
    let result = reader(&args.client, args.read)?.range(range, consistency(args.read)).await?;
    if args.client.json {
        print_json(&json::range_result(&result, !args.keys_only))?;
    } else if args.count_only {
        print(result.count.to_string().as_bytes())?;
    } else {
        for kv in &result.kvs {
            let line = if args.keys_only {
                kv.key.to_vec()
            } else {
                [&kv.key, b"\t".as_slice(), &kv.value].concat()
            };
            print(&line)?;
        }
    }
    Ok(yes_if(result.count > 0))
}

pub(crate) async fn txn(args: TxnArgs) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(Failure::Input)?;
    let txn = json::parse_txn(&text).map_err(Failure::Definite)?;
    let done = operate(&args.client, args.write, Operation::Txn(txn)).await?;
    let OperationResult::Txn { succeeded, results } = done.result else { return Err(unexpected()) };
    let results: Vec<_> = results.iter().map(json::txn_result).collect();
    if args.client.json {
        print_json(&json!({ "revision": done.revision, "succeeded": succeeded, "results": results }))?;
    } else {
        print(if succeeded { b"SUCCESS" } else { b"FAILURE" })?;
        for result in results {
            print_json(&result)?;
        }
    }
    Ok(yes_if(succeeded))
}

pub(crate) async fn compact(args: CompactArgs) -> Result<ExitCode, Failure> {
    let operation = Operation::Compact { revision: args.revision };
    let done = operate(&args.client, WriteArgs { exactly_once: false }, operation).await?;
    if args.client.json {
        print_json(&json!({ "revision": done.revision, "compacted": args.revision }))?;
    } else {
        print(format!("compacted to {}", args.revision).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
