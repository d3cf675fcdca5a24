//! `raftkv bench`: throughput and latency, as clients of the cluster see them.
//!
//! Each client has one request under way and sends the next when it is answered. All run in this one thread: the
//! processor time that they take is taken from the nodes if these run on the same machine, so there is as little of
//! it as can be. What the nodes took is asked of themselves, before and after. So is the disk: the bare `fdatasync`
//! time is measured in the same run, before the load and after it.

mod fdatasync;
mod histogram;
mod start_up;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use kv::client::{Client, ClientError, ClientOptions, Writer};
use raft::clock::{self, Clock, Monotonic, RealClock};
use serde_json::json;
use tokio::task::LocalSet;

use crate::Failure;
use crate::cli::{BenchArgs, BenchKind};
use crate::commands::client_with;
use crate::status::ask_all;
use histogram::Histogram;

/// `fdatasync` calls before the load, and again after it.
const FDATASYNCS: u64 = 200;
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// A client pauses so long after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// What all clients have done so far.
struct Counts {
    puts: Histogram,
    gets: Histogram,
    /// Requests that failed, with the last error.
    failed: u64,
    unknown: u64,
    last_error: Option<String>,
}

impl Counts {
    fn new() -> Self {
        Self { puts: Histogram::new(), gets: Histogram::new(), failed: 0, unknown: 0, last_error: None }
    }

    fn done(&self) -> u64 {
        self.puts.count() + self.gets.count()
    }

    fn fail(&mut self, error: &ClientError) {
        match error {
            ClientError::Unknown { .. } => self.unknown += 1,
            ClientError::NotDone { .. } | ClientError::Refused(_) => self.failed += 1,
        }
        self.last_error = Some(error.to_string());
    }
}

/// Draws keys and kinds.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(drawn) * u128::from(bound)) >> 64) as u64
    }
}

fn key(number: u64) -> Bytes {
    format!("bench/{number:012}").into()
}

/// One client, until the end.
async fn load(client: Client, args: Rc<BenchArgs>, number: u64, end: Monotonic, counts: Rc<RefCell<Counts>>) {
    let clock = RealClock;
    let mut draw = Draw((args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number + 1)).max(1));
    let value = Bytes::from(vec![b'v'; args.value_size as usize]);
    while clock.now() < end {
        let key = key(draw.below(args.keys));
        let read = match args.kind {
            BenchKind::Put | BenchKind::StartUp => false,
            BenchKind::Get => true,
            BenchKind::Mixed => draw.below(100) < u64::from(args.reads),
        };
        let begun = clock.now();
        let result = if read {
            client.get(key).await.map(|_| ())
        } else {
            client.put(key, value.clone()).await.map(|_| ())
        };
        let took = clock.now().since(begun);
        match result {
            Ok(()) if read => counts.borrow_mut().gets.add(took),
            Ok(()) => counts.borrow_mut().puts.add(took),
            Err(error) => {
                counts.borrow_mut().fail(&error);
                clock::sleep(&clock, FAILURE_PAUSE).await;
            }
        }
    }
}

/// Makes sure that there is something to read.
async fn fill(clients: &[Client], args: &Rc<BenchArgs>) -> Result<(), Failure> {
    let value = Bytes::from(vec![b'v'; args.value_size as usize]);
    let workers = 64;
    let tasks = (0..workers).map(|worker| {
        let (client, value, keys) =
            (clients[worker as usize % clients.len()].clone(), value.clone(), args.keys);
        tokio::task::spawn_local(async move {
            for number in (worker..keys).step_by(workers as usize) {
                client.put(key(number), value.clone()).await?;
            }
            Ok::<_, ClientError>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.map_err(|e| Failure::Definite(e.to_string()))??;
    }
    Ok(())
}

async fn show(progress: &ProgressBar, counts: &RefCell<Counts>, begun: Monotonic, seconds: Duration) {
    loop {
        clock::sleep(&RealClock, SHOW_EVERY).await;
        let elapsed = RealClock.now().since(begun);
        let counts = counts.borrow();
        let rate = counts.done() as f64 / elapsed.as_secs_f64();
        progress.set_position(elapsed.min(seconds).as_millis() as u64);
        progress.set_message(format!(
            "{} done, {rate:.0} per second, {} failed",
            counts.done(),
            counts.failed
        ));
    }
}

/// CPU time of all nodes so far, in microseconds, if all could tell.
async fn servers_cpu_us(client: &Client, endpoints: &[String]) -> Option<u64> {
    let answers = ask_all(client, endpoints).await;
    answers.iter().map(|a| a.report.as_ref().ok().and_then(|r| r.cpu_us)).sum()
}

pub(crate) async fn bench(args: BenchArgs) -> Result<ExitCode, Failure> {
    LocalSet::new().run_until(run(Rc::new(args))).await
}

async fn run(args: Rc<BenchArgs>) -> Result<ExitCode, Failure> {
    if args.kind == BenchKind::StartUp {
        start_up::run(&args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let connections = args.connections.unwrap_or(args.clients).min(args.clients);
    let clients = (0..connections)
        .map(|n| {
            let seed = args.seed.wrapping_add(u64::from(n));
            let options = ClientOptions { seed, spread_reads: args.any, ..ClientOptions::default() };
            client_with(&args.client, options)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = clients.first() else {
        return Err(Failure::Definite("there are no clients".to_owned()));
    };
    let sync_error = |e| Failure::Definite(format!("fdatasync in {}: {e}", args.fdatasync_dir.display()));
    let before = fdatasync::measure(&args.fdatasync_dir, FDATASYNCS).map_err(sync_error)?;

    let progress = ProgressBar::new(args.seconds.as_millis() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
        progress.set_style(style);
    }
    progress.set_message("connecting");
    if args.kind != BenchKind::Put {
        progress.set_message("writing the keys");
        fill(&clients, &args).await?;
    }
    // Every client finds the leader before the time begins.
    for client in &clients {
        client.get(key(0)).await?;
    }
    let cpu_before = servers_cpu_us(first, &args.client.endpoints).await;

    let counts = Rc::new(RefCell::new(Counts::new()));
    let begun = RealClock.now();
    let end = begun + args.seconds;
    let tasks: Vec<_> = (0..u64::from(args.clients))
        .zip(clients.iter().cycle())
        .map(|(n, client)| {
            tokio::task::spawn_local(load(client.clone(), Rc::clone(&args), n, end, Rc::clone(&counts)))
        })
        .collect();
    tokio::select! {
        biased;
        () = show(&progress, &counts, begun, args.seconds) => {}
        () = async { for task in tasks { let _ = task.await; } } => {}
    }
    let elapsed = RealClock.now().since(begun);
    progress.finish_and_clear();

    let cpu_after = servers_cpu_us(first, &args.client.endpoints).await;
    let after = fdatasync::measure(&args.fdatasync_dir, FDATASYNCS).map_err(sync_error)?;
    let report = Report {
        cpu_us: cpu_before.zip(cpu_after).map(|(before, after)| after.saturating_sub(before)),
        connections,
        elapsed,
        fdatasync_ms: [before.percentile_ms(0.5), after.percentile_ms(0.5)],
    };
    report.print(&args, &counts.borrow())
}

struct Report {
    cpu_us: Option<u64>,
    connections: u32,
    elapsed: Duration,
    /// Median before and after.
    fdatasync_ms: [f64; 2],
}

impl Report {
    fn print(&self, args: &BenchArgs, counts: &Counts) -> Result<ExitCode, Failure> {
        let rate = counts.done() as f64 / self.elapsed.as_secs_f64();
        // Seconds per thousand: microseconds per thousand, divided by a million.
        let cpu = self.cpu_us.filter(|_| counts.done() > 0).map(|us| us as f64 / 1e3 / counts.done() as f64);
        let kind = format!("{:?}", args.kind).to_lowercase();
        if args.client.json {
            println!(
                "{}",
                json!({
                    "kind": kind,
                    "clients": args.clients,
                    "connections": self.connections,
                    "value_size": args.value_size,
                    "seconds": self.elapsed.as_secs_f64(),
                    "operations": counts.done(),
                    "failed": counts.failed,
                    "unknown": counts.unknown,
                    "operations_per_second": rate,
                    "put_latency_ms": latencies_json(&counts.puts),
                    "get_latency_ms": latencies_json(&counts.gets),
                    "servers_cpu_seconds_per_1000": cpu,
                    "fdatasync_median_ms": { "before": self.fdatasync_ms[0], "after": self.fdatasync_ms[1] },
                })
            );
        } else {
            println!(
                "{kind}: {} clients on {} connections, values of {} bytes, {:.1} s",
                args.clients,
                self.connections,
                args.value_size,
                self.elapsed.as_secs_f64()
            );
            println!(
                "  {} operations, {rate:.0} per second; {} failed, {} unknown",
                counts.done(),
                counts.failed,
                counts.unknown
            );
            for (name, histogram) in [("put", &counts.puts), ("get", &counts.gets)] {
                if histogram.count() > 0 {
                    println!("  {name} latency ms: {}", latencies_text(histogram));
                }
            }
            match cpu {
                Some(cpu) => println!("  CPU of all nodes: {cpu:.4} s per 1,000 operations"),
                None => println!("  CPU of all nodes: not known, because not every node could be asked"),
            }
            println!(
                "  bare fdatasync in {}: {:.3} ms before, {:.3} ms after (medians of {FDATASYNCS})",
                args.fdatasync_dir.display(),
                self.fdatasync_ms[0],
                self.fdatasync_ms[1]
            );
        }
        match &counts.last_error {
            Some(error) if counts.done() == 0 => Err(Failure::Definite(error.clone())),
            Some(error) => {
                eprintln!("raftkv: some requests failed; last: {error}");
                Ok(ExitCode::SUCCESS)
            }
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

fn latencies_json(histogram: &Histogram) -> serde_json::Value {
    if histogram.count() == 0 {
        return serde_json::Value::Null;
    }
    json!({
        "count": histogram.count(),
        "mean": histogram.mean_ms(),
        "p50": histogram.percentile_ms(0.5),
        "p95": histogram.percentile_ms(0.95),
        "p99": histogram.percentile_ms(0.99),
        "max": histogram.max_ms(),
    })
}

fn latencies_text(histogram: &Histogram) -> String {
    format!(
        "mean {:.3}  p50 {:.3}  p95 {:.3}  p99 {:.3}  max {:.3}",
        histogram.mean_ms(),
        histogram.percentile_ms(0.5),
        histogram.percentile_ms(0.95),
        histogram.percentile_ms(0.99),
        histogram.max_ms()
    )
}
