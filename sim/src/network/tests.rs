use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::random::Delay;
use crate::trace::Keep;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

fn scenario() -> NetworkScenario {
    NetworkScenario {
        latency: Delay::Uniform { low_ns: MILLISECOND, high_ns: MILLISECOND },
        bandwidth: 0,
        loss_per_mille: 0,
        retransmit_ns: 10 * MILLISECOND,
        buffer_bytes: 1_000,
        partial_per_mille: 0,
    }
}

fn world<F: Future<Output = ()>>(scenario: NetworkScenario, test: impl FnOnce(Network, VirtualTime) -> F) {
    madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async move {
        let time = VirtualTime::current();
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let network = Network::new(time.clone(), Trace::new(Keep::Nothing), 1, scenario, names);
        test(network, time).await;
    });
}

/// A connection from a to b: both ends.
async fn connected(network: &Network) -> (BoxStream, BoxStream) {
    let mut listener = network.of_host(1).listen("b:peer").await.unwrap();
    let near = network.of_host(0).connect("b:peer").await.unwrap();
    let (far, from) = listener.accept().await.unwrap();
    assert_eq!((from.as_str(), listener.local_address().as_str()), ("a", "b:peer"));
    (near, far)
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().map(|error| error.kind()).unwrap_or(io::ErrorKind::Other)
}

/// Polls once whether a read would give something now.
async fn readable_within(time: &VirtualTime, stream: &mut BoxStream, within_ns: u64) -> Option<Vec<u8>> {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer);
    tokio::select! {
        biased;
        n = read => Some(buffer[..n.unwrap()].to_vec()),
        () = time.sleep(within_ns) => None,
    }
}

#[test]
fn bytes_arrive_after_the_latency_without_a_flush_and_the_end_after_them() {
    world(scenario(), async |network, time| {
        let begin = time.now_ns();
        let (mut near, mut far) = connected(&network).await;
        assert!((2 * MILLISECOND..3 * MILLISECOND).contains(&(time.now_ns() - begin)), "one round trip");
        near.write_all(b"hello").await.unwrap();
        assert_eq!(readable_within(&time, &mut far, MILLISECOND / 2).await, None);
        assert_eq!(readable_within(&time, &mut far, MILLISECOND).await.as_deref(), Some(&b"hello"[..]));
        near.write_all(b"bye").await.unwrap();
        near.shutdown().await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye");
        // Half closed: the other direction goes on.
        far.write_all(b"still here").await.unwrap();
        assert!(readable_within(&time, &mut near, 2 * MILLISECOND).await.is_some());
        assert_eq!(kind(near.write_all(b"x").await), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_stream_keeps_order_under_loss_jitter_and_partial_reads_and_writes() {
    let scenario = NetworkScenario {
        latency: Delay::Exponential { low_ns: 1_000, mean_ns: MILLISECOND },
        loss_per_mille: 100,
        partial_per_mille: 500,
        ..scenario()
    };
    world(scenario, async |network, _| {
        let (mut near, mut far) = connected(&network).await;
        let sent: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        madsim::task::spawn(async move {
            near.write_all(&sent).await.unwrap();
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
    });
}

#[test]
fn who_does_not_read_makes_the_writer_wait() {
    world(scenario(), async |network, time| {
        let (mut near, mut far) = connected(&network).await;
        let written = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&written);
        madsim::task::spawn(async move {
            for _ in 0..50 {
                near.write_all(&[7; 100]).await.unwrap();
                counter.fetch_add(100, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        });
        time.sleep(SECOND).await;
        assert_eq!(written.load(Ordering::Relaxed), 1_000, "the buffer's size");
        let mut buffer = vec![0; 5_000];
        far.read_exact(&mut buffer).await.unwrap();
        assert_eq!(written.load(Ordering::Relaxed), 5_000);
    });
}

#[test]
fn a_cut_link_is_silence_and_nothing_is_lost() {
    world(scenario(), async |network, time| {
        let (mut near, mut far) = connected(&network).await;
        near.write_all(b"one").await.unwrap();
        time.sleep(2 * MILLISECOND).await; // arrived, not read
        network.cut(0, 1);
        near.write_all(b"two").await.unwrap();
        assert_eq!(readable_within(&time, &mut far, SECOND).await.as_deref(), Some(&b"one"[..]));
        assert_eq!(readable_within(&time, &mut far, SECOND).await, None);
        // The other way still carries.
        far.write_all(b"back").await.unwrap();
        assert!(readable_within(&time, &mut near, SECOND).await.is_some());
        network.heal(0, 1);
        assert_eq!(readable_within(&time, &mut far, 20 * MILLISECOND).await.as_deref(), Some(&b"two"[..]));
    });
}

#[test]
fn a_one_way_cut_stops_the_other_way_too_once_the_buffer_is_full() {
    world(scenario(), async |network, time| {
        let (near, mut far) = connected(&network).await;
        network.cut(0, 1); // acknowledgements from a to b are lost
        let written = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&written);
        madsim::task::spawn(async move {
            while far.write_all(&[7; 100]).await.is_ok() {
                counter.fetch_add(100, Ordering::Relaxed);
            }
        });
        let mut near = near;
        let mut buffer = vec![0; 1_000];
        near.read_exact(&mut buffer).await.unwrap();
        time.sleep(SECOND).await;
        assert_eq!(written.load(Ordering::Relaxed), 1_000);
        network.heal(0, 1);
        near.read_exact(&mut buffer).await.unwrap();
        assert!(written.load(Ordering::Relaxed) > 1_000);
    });
}

#[test]
fn connecting_into_a_cut_hangs_and_succeeds_after_it() {
    world(scenario(), async |network, time| {
        let _listener = network.of_host(1).listen("b:peer").await.unwrap();
        network.cut(1, 0);
        network.cut(1, 0);
        let connecting = madsim::task::spawn(network.of_host(0).connect("b:peer"));
        time.sleep(10 * SECOND).await;
        assert!(!connecting.is_finished());
        network.heal(1, 0);
        time.sleep(SECOND).await;
        assert!(!connecting.is_finished(), "cut twice, healed once");
        network.heal(1, 0);
        time.sleep(SECOND).await;
        assert!(connecting.await.unwrap().is_ok());
    });
}

#[test]
fn nobody_listening_is_refused_an_unknown_name_is_not_found_a_taken_address_in_use() {
    world(scenario(), async |network, time| {
        let begin = time.now_ns();
        assert_eq!(kind(network.of_host(0).connect("b:peer").await), io::ErrorKind::ConnectionRefused);
        assert!(time.now_ns() - begin >= 2 * MILLISECOND);
        assert_eq!(kind(network.of_host(0).connect("x:peer").await), io::ErrorKind::NotFound);
        let listener = network.of_host(1).listen("b:peer").await.unwrap();
        assert_eq!(kind(network.of_host(1).listen("b:peer").await), io::ErrorKind::AddrInUse);
        assert_eq!(kind(network.of_host(0).listen("b:other").await), io::ErrorKind::AddrNotAvailable);
        drop(listener);
        assert!(network.of_host(1).listen("b:peer").await.is_ok());
    });
}

#[test]
fn a_process_that_dies_is_heard_of_and_its_address_is_free() {
    world(scenario(), async |network, _| {
        let mut listener = network.of_host(1).listen("b:peer").await.unwrap();
        let mut ends = Vec::new();
        for _ in 0..20 {
            ends.push(network.of_host(0).connect("b:peer").await.unwrap());
        }
        let accepted = listener.accept().await.unwrap();
        network.crash(1, false);
        assert_eq!(kind(network.of_host(0).connect("b:peer").await), io::ErrorKind::ConnectionRefused);
        let (mut closed, mut reset) = (0, 0);
        for end in &mut ends {
            match end.read(&mut [0; 8]).await {
                Ok(0) => closed += 1,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => reset += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(closed > 2 && reset > 2, "{closed} {reset}");
        let _again = network.of_host(1).listen("b:peer").await.unwrap();
        drop(listener); // of the dead process: must not close the new one's
        drop(accepted);
        assert!(network.of_host(0).connect("b:peer").await.is_ok());
    });
}

#[test]
fn a_machine_that_dies_leaves_half_open_connections_until_it_is_back_and_spoken_to() {
    world(scenario(), async |network, time| {
        let (mut near, far) = connected(&network).await;
        let (mut idle, idle_far) = {
            let mut listener = network.of_host(1).listen("b:other").await.unwrap();
            let idle = network.of_host(0).connect("b:other").await.unwrap();
            (idle, listener.accept().await.unwrap().0)
        };
        network.crash(1, true);
        drop((far, idle_far));
        near.write_all(b"anybody there?").await.unwrap();
        assert_eq!(readable_within(&time, &mut near, 100 * SECOND).await, None);
        network.boot(1);
        assert_eq!(kind(near.read(&mut [0; 8]).await), io::ErrorKind::ConnectionReset);
        assert_eq!(readable_within(&time, &mut idle, 100 * SECOND).await, None, "half open for ever");
    });
}

#[test]
fn the_crash_of_a_host_behind_a_cut_is_not_heard() {
    world(scenario(), async |network, time| {
        let (mut near, far) = connected(&network).await;
        network.cut(1, 0);
        network.crash(1, false);
        drop(far);
        assert_eq!(readable_within(&time, &mut near, 100 * SECOND).await, None);
        near.write_all(b"x").await.unwrap();
        network.heal(1, 0);
        assert!(matches!(near.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    });
}

#[test]
fn a_reset_may_reach_one_end_only() {
    world(scenario(), async |network, time| {
        let (mut near, mut far) = connected(&network).await;
        network.reset(0, 1, false);
        assert_eq!(kind(near.read(&mut [0; 8]).await), io::ErrorKind::ConnectionReset);
        assert_eq!(kind(near.write_all(b"x").await), io::ErrorKind::ConnectionReset);
        assert_eq!(readable_within(&time, &mut far, SECOND).await, None);
        drop(near);
        far.write_all(b"hello?").await.unwrap();
        assert_eq!(kind(far.read(&mut [0; 8]).await), io::ErrorKind::ConnectionReset);
        assert_eq!(network.connections(), 1);
        drop(far);
        assert_eq!(network.connections(), 0);
    });
}

#[test]
fn a_dropped_end_delivers_what_it_wrote_and_resets_who_writes_to_it() {
    world(scenario(), async |network, time| {
        let (mut near, mut far) = connected(&network).await;
        near.write_all(b"last words").await.unwrap();
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"last words");
        far.write_all(b"x").await.unwrap();
        time.sleep(SECOND).await;
        assert_eq!(kind(far.write_all(b"x").await), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn slow_and_lossy_links_delay() {
    world(scenario(), async |network, time| {
        let (mut near, mut far) = connected(&network).await;
        network.slow_down(0, 1, 50);
        near.write_all(b"x").await.unwrap();
        assert_eq!(readable_within(&time, &mut far, 49 * MILLISECOND).await, None);
        assert!(readable_within(&time, &mut far, 2 * MILLISECOND).await.is_some());
        network.heal_all();
        network.lose(0, 1, 1_000);
        near.write_all(b"x").await.unwrap();
        assert_eq!(readable_within(&time, &mut far, 11 * MILLISECOND).await, None);
        assert!(readable_within(&time, &mut far, 1_000 * SECOND).await.is_some());
    });
}
