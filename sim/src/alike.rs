//! The simulated network and the real one give the same answers.
//!
//! The two cannot stand in one build: with the simulated world the sockets are gone. So both are held against one text,
//! `testdata/network.txt`: drawn sequences of calls on the two ends of a connection, and a few chosen ones, with what each call
//! answered. The plain build writes it from loopback TCP if `RAFTKV_WRITE_NETWORK` is set, and else compares loopback TCP with
//! it; the simulated build compares the simulated network with it.
//!
//! Each call is waited for until it has answered, or until nothing has come for so long that nothing will (*silence*). So the text
//! says nothing of time, nor into which pieces a stream falls: both are free in TCP.
//!
//! Known differences, made equal here because nothing above the seam may depend on them:
//! - the size of the buffers between two ends: only that there is an end to them is compared;
//! - by which error a broken stream is noticed: `ConnectionReset` and `BrokenPipe` are one, `broken`;
//! - what is read behind a reset: Linux gives what had come before it, then the error once, then the end of the stream; the
//!   simulated network says at once, and always, that the stream is broken. Reads are compared up to there;
//! - connections that wait for a listener which is closed: Linux resets them, the simulated network ends them in order;
//! - an address that no name resolves to, an interface that is down, a full table of files: there is nothing of the kind in the
//!   simulation.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use raft::clock::{SharedClock, sleep, timeout};
use raft::net::{BoxStream, SharedNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::random::Random;

/// How many drawn sequences there are.
const DRAWN: u64 = 60;
/// More than any buffer between two ends.
const FLOOD_BYTES: usize = 24 << 20;

/// A call on one of the two ends; 0 is the one that connected.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes so many bytes, few enough for any buffer.
    Write(usize, usize),
    /// Reads until so many bytes have come, or the end, or an error, or silence.
    Read(usize, usize),
    /// Says that nothing more will be written.
    Shutdown(usize),
    /// Closes the end.
    Drop(usize),
    /// Writes while the other end does not read, until nothing more is taken; then the other end reads all of it.
    Stall(usize),
    /// Writes a lot, and the other end reads at the same time.
    Flood(usize),
    /// Connects to the address of the listener again, from nobody to nobody.
    Connect,
    /// Listens on the address of the listener.
    ListenAgain,
    /// Closes the listener. Whoever has connected since the last accept loses the connection.
    DropListener,
    /// Accepts what connected last, and says whether there was anything.
    Accept,
}

/// The sequences, each with the number of ends that are accepted at the beginning.
fn sequences() -> Vec<Vec<Step>> {
    use Step::{Accept, Connect, Drop, DropListener, Flood, ListenAgain, Read, Shutdown, Stall, Write};
    let mut all = vec![
        vec![Flood(0), Flood(1), Shutdown(0), Read(1, 1), Flood(1)],
        vec![Stall(0), Stall(1), Write(0, 5), Read(1, 5)],
        vec![Connect, Accept, Accept, ListenAgain, DropListener, Connect, Write(0, 3), Read(1, 3)],
        vec![DropListener, Connect, ListenAgain],
        vec![Accept],
        vec![Write(0, 9), Drop(0), Read(1, 20), Write(1, 1), Write(1, 1)],
        vec![Write(0, 9), Drop(1), Read(0, 1), Write(0, 1)],
        vec![Shutdown(0), Write(0, 1), Read(1, 1), Write(1, 7), Read(0, 9), Drop(1), Read(0, 1)],
    ];
    for seed in 0..DRAWN {
        let mut random = Random::stream(seed, "alike");
        let mut sequence = Vec::new();
        for _ in 0..random.between(3, 12) {
            let end = random.below(2) as usize;
            sequence.push(match random.below(12) {
                0..=4 => Write(end, random.below(2_000) as usize),
                5..=8 => Read(end, random.between(1, 3_000) as usize),
                9 => Shutdown(end),
                10 => Drop(end),
                _ => Read(end, 1),
            });
        }
        all.push(sequence);
    }
    all
}

/// A network, and how long to wait for what will not come.
struct Setting {
    net: [SharedNet; 2],
    clock: SharedClock,
    address: String,
    silence: Duration,
}

fn said(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "broken".into(),
            kind => format!("{kind:?}"),
        },
    }
}

/// Bytes that tell where in their stream they stand.
fn bytes(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| (at % 251) as u8).collect()
}

/// The two ends, and what went each way.
struct Ends<'s> {
    setting: &'s Setting,
    streams: [Option<BoxStream>; 2],
    /// How much each end has written, and read.
    written: [usize; 2],
    read: [usize; 2],
    /// Which ends have said that nothing more will come.
    ended: [bool; 2],
    /// To which ends a reset has come, and which have seen that their stream is broken.
    reset: [bool; 2],
    broken: [bool; 2],
}

impl Ends<'_> {
    fn drop(&mut self, end: usize) -> String {
        if self.streams[end].take().is_some() {
            let unread = self.written[1 - end] > self.read[end];
            self.reset[1 - end] |= unread;
            self.ended[end] |= !unread;
        }
        "ok".into()
    }

    /// Whether the two worlds need not agree on what `end` reads now.
    fn is_behind_a_reset(&self, end: usize) -> bool {
        let before_it = self.ended[1 - end] || self.written[1 - end] > self.read[end];
        self.streams[end].is_some() && (self.broken[end] || (self.reset[end] && before_it))
    }

    async fn write(&mut self, end: usize, count: usize) -> String {
        let data = bytes(self.written[end], count);
        let Some(stream) = &mut self.streams[end] else { return "closed".into() };
        let result = stream.write_all(&data).await;
        self.written[end] += if result.is_ok() { count } else { 0 };
        self.broken[end] |= result.is_err();
        self.reset[end] |= self.streams[1 - end].is_none() && count > 0;
        said(result)
    }

    /// Reads until `count` bytes have come; what came, and how that ended.
    async fn read(&mut self, end: usize, count: usize) -> String {
        if self.is_behind_a_reset(end) {
            return "behind a reset".into();
        }
        let Some(stream) = &mut self.streams[end] else { return "closed".into() };
        let mut got = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let ended = loop {
            if got.len() >= count {
                break "enough".to_owned();
            }
            let most = (count - got.len()).min(buffer.len());
            match timeout(&*self.setting.clock, self.setting.silence, stream.read(&mut buffer[..most])).await
            {
                Err(_) => break "silence".into(),
                Ok(Ok(0)) => break "the end".into(),
                Ok(Ok(n)) => got.extend_from_slice(&buffer[..n]),
                Ok(Err(error)) => {
                    self.broken[end] = true;
                    break said(Err(error));
                }
            }
        };
        let right = got == bytes(self.read[end], got.len());
        self.read[end] += got.len();
        format!("{} bytes{}, {ended}", got.len(), if right { "" } else { ", not those that were written" })
    }

    async fn flood(&mut self, end: usize) -> String {
        let data = bytes(self.written[end], FLOOD_BYTES);
        let Some(mut stream) = self.streams[end].take() else { return "closed".into() };
        let (wrote, read) = tokio::join!(biased; stream.write_all(&data), self.read(1 - end, FLOOD_BYTES));
        self.streams[end] = Some(stream);
        self.written[end] += FLOOD_BYTES;
        format!("{}; {read}", said(wrote))
    }

    async fn stall(&mut self, end: usize) -> String {
        let data = bytes(self.written[end], FLOOD_BYTES);
        let Some(stream) = &mut self.streams[end] else { return "closed".into() };
        let mut taken = 0;
        while taken < FLOOD_BYTES {
            match timeout(&*self.setting.clock, self.setting.silence, stream.write(&data[taken..])).await {
                Ok(Ok(n)) => taken += n,
                Ok(Err(error)) => return said(Err(error)),
                Err(_) => break,
            }
        }
        self.written[end] += taken;
        let read = self.read(1 - end, taken).await;
        let all = read == format!("{taken} bytes, enough");
        format!("stalls: {}; all of it is read: {all}", taken > 0 && taken < FLOOD_BYTES)
    }
}

/// Does a sequence; a line for each call.
async fn play(setting: &Setting, sequence: &[Step]) -> io::Result<Vec<String>> {
    let mut listener = Some(setting.net[1].listen(&setting.address).await?);
    let local = listener.as_ref().map_or_else(String::new, |listener| listener.local_address());
    let near = setting.net[0].connect(&local).await?;
    let far = match &mut listener {
        Some(listener) => listener.accept().await?.0,
        None => unreachable!("it was just made"),
    };
    let mut ends = Ends {
        setting,
        streams: [Some(near), Some(far)],
        written: [0; 2],
        read: [0; 2],
        ended: [false; 2],
        reset: [false; 2],
        broken: [false; 2],
    };
    let (mut others, mut accepted): (Vec<BoxStream>, Vec<BoxStream>) = (Vec::new(), Vec::new());
    let mut lines = Vec::new();
    for step in sequence {
        let outcome = match *step {
            Step::Write(end, count) => ends.write(end, count).await,
            Step::Read(end, count) => ends.read(end, count).await,
            Step::Flood(end) => ends.flood(end).await,
            Step::Stall(end) => ends.stall(end).await,
            Step::Shutdown(end) => match &mut ends.streams[end] {
                Some(_) if ends.reset[end] || ends.broken[end] => "behind a reset".into(),
                Some(stream) => {
                    ends.ended[end] = true;
                    said(stream.shutdown().await)
                }
                None => "closed".into(),
            },
            Step::Drop(end) => ends.drop(end),
            Step::Connect => said(setting.net[0].connect(&local).await.map(|stream| others.push(stream))),
            Step::ListenAgain => said(setting.net[1].listen(&local).await.map(drop)),
            Step::DropListener => {
                listener = None;
                let mut heard = Vec::new();
                for other in &mut others {
                    let read = timeout(&*setting.clock, setting.silence, other.read_u8()).await;
                    heard.push(read.map_or_else(|_| "silence".into(), |read| said(read.map(drop))));
                }
                format!("ok {heard:?}")
            }
            Step::Accept => match &mut listener {
                None => "closed".into(),
                Some(listener) => match timeout(&*setting.clock, setting.silence, listener.accept()).await {
                    Err(_) => "silence".into(),
                    Ok(stream) => said(stream.map(|(stream, _)| accepted.push(stream))),
                },
            },
        };
        lines.push(format!("{step:?}: {outcome}"));
        // What has been sent has come, before the next call.
        sleep(&*setting.clock, Duration::from_millis(20)).await;
    }
    Ok(lines)
}

fn expected() -> String {
    std::fs::read_to_string(path()).unwrap_or_default()
}

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/network.txt")
}

fn text(number: usize, lines: io::Result<Vec<String>>) -> String {
    let mut text = format!("sequence {number}\n");
    match lines {
        Ok(lines) => lines.iter().for_each(|line| text += &format!("  {line}\n")),
        Err(error) => text += &format!("  {error}\n"),
    }
    text
}

/// Fails with the first sequence that went otherwise.
fn compare(found: &str) {
    let expected = expected();
    let split = |text: &str| -> Vec<String> { text.split("sequence ").map(str::to_owned).collect() };
    for (found, expected) in split(found).iter().zip(split(&expected)) {
        assert_eq!(*found, expected, "found here, and on loopback TCP when the text was written");
    }
    assert_eq!(found.len(), expected.len());
}

#[cfg(not(madsim))]
#[test]
fn loopback_tcp_is_what_the_text_says() {
    use raft::clock::RealClock;
    use raft::net::RealNet;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        let play_one = |(number, sequence): (usize, Vec<Step>)| async move {
            let net: SharedNet = Arc::new(RealNet);
            let setting = Setting {
                net: [Arc::clone(&net), net],
                clock: Arc::new(RealClock),
                address: "127.0.0.1:0".into(),
                // Long enough for a machine that is busy.
                silence: Duration::from_millis(400),
            };
            text(number, play(&setting, &sequence).await)
        };
        let played: Vec<_> =
            sequences().into_iter().enumerate().map(|one| tokio::spawn(play_one(one))).collect();
        let mut found = String::new();
        for one in played {
            found += &one.await.unwrap();
        }
        found
    });
    if std::env::var_os("RAFTKV_WRITE_NETWORK").is_some() {
        std::fs::write(path(), &found).unwrap();
    }
    compare(&found);
}

#[cfg(madsim)]
#[test]
fn the_simulated_network_is_what_the_text_says() {
    use crate::clock::SimClock;
    use crate::network::Network;
    use crate::random::Delay;
    use crate::scenario::NetworkScenario;
    use crate::time::VirtualTime;
    use crate::trace::{Keep, Trace};

    let scenario = NetworkScenario {
        latency: Delay::Exponential { low_ns: 10_000, mean_ns: 50_000 },
        bandwidth: 0,
        loss_per_mille: 0,
        retransmit_ns: 1_000_000,
        buffer_bytes: 64 << 10,
        partial_per_mille: 0,
    };
    let mut found = String::new();
    for (number, sequence) in sequences().into_iter().enumerate() {
        let scenario = scenario.clone();
        let runtime =
            madsim::runtime::Runtime::with_seed_and_config(number as u64, madsim::Config::default());
        found += &runtime.block_on(async move {
            let time = VirtualTime::current();
            let names = ["a", "b"].map(String::from).to_vec();
            let trace = Trace::new(Keep::Nothing);
            let network = Network::new(time.clone(), trace, number as u64, scenario, names);
            let setting = Setting {
                net: [Arc::new(network.of_host(0)), Arc::new(network.of_host(1))],
                clock: Arc::new(SimClock::new(time, 0, 0)),
                address: "b:peer".into(),
                silence: Duration::from_secs(10),
            };
            text(number, play(&setting, &sequence).await)
        });
    }
    compare(&found);
}
