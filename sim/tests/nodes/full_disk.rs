//! A disk that fills: refused in time between the marks, stopped by a write that fails, and back again by itself.

use std::time::Duration;

use raft::core::{Growth, NodeId, Space};
use raft::driver::{NodeOptions, ProposeError, RaftHandle, SpaceOptions, StopReason};
use raftkv_sim::disk::SimDisk;

use crate::world::{End, assert_holds, live, live_as, options, pause, propose, read_back, with_node};

const KIB: u64 = 1 << 10;

/// Waits until the node has measured its disk, and found this.
async fn until(node: &RaftHandle<usize>, space: Space, free: u64) {
    loop {
        let status = node.status().await.unwrap();
        if status.core.space == space && status.free_bytes.is_some_and(|bytes| bytes <= free) {
            return;
        }
        pause(Duration::from_millis(2)).await;
    }
}

/// That the ballast is there.
fn has_ballast(disk: &SimDisk) -> bool {
    disk.files().iter().any(|(path, bytes)| path.ends_with("ballast") && *bytes > 0)
}

fn is_refused(answer: &Result<usize, ProposeError>) -> bool {
    matches!(answer, Err(ProposeError::NoSpace { full, .. }) if full.contains(&NodeId(1)))
}

#[test]
fn between_the_marks_what_grows_is_refused_until_there_is_room_and_nothing_else_is() {
    let disk = SimDisk::new(1);
    with_node(&disk, options(), async |node| {
        propose(node, 0, Growth::Grows).await.unwrap();
        until(node, Space::Ample, u64::MAX).await;
        assert!(has_ballast(&disk));
        disk.set_free(Some(700 * KIB));
        until(node, Space::Low, 700 * KIB).await;
        let refused = propose(node, 1, Growth::Grows).await;
        assert!(is_refused(&refused), "{refused:?}");
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("n1") && text.contains("low mark") && text.contains("make room"), "{text}");
        propose(node, 2, Growth::Frees).await.unwrap();
        node.read_index().await.unwrap();

        disk.set_free(Some(400 * KIB));
        until(node, Space::Critical, 400 * KIB).await;
        assert!(is_refused(&propose(node, 3, Growth::Frees).await), "below the critical mark");
        node.read_index().await.unwrap();

        disk.set_free(None);
        until(node, Space::Ample, u64::MAX).await;
        propose(node, 4, Growth::Grows).await.unwrap();
    });
    assert_eq!(read_back(&disk, "refused and taken"), [0, 2, 4]);
}

/// A node that looks at its disk once only, and so can run into its end.
fn reckless() -> NodeOptions {
    let mut options = options();
    options.space = SpaceOptions {
        low_bytes: 4 * KIB,
        critical_bytes: 0,
        ballast_bytes: 16 * KIB,
        check_ticks: 1_000_000,
    };
    options
}

#[test]
fn a_node_that_ran_into_the_end_of_its_disk_stops_and_starts_again_on_its_ballast() {
    let mut stops = 0;
    for free in (0..12 * KIB).step_by(500) {
        let disk = SimDisk::new(free);
        let before = live_as(&disk, reckless(), 0, 5);
        assert!(has_ballast(&disk), "{free}");
        disk.set_free(Some(free));
        let life = live_as(&disk, reckless(), 5, 60);
        let (mut acknowledged, context) = (before.acknowledged, format!("{free} bytes left"));
        acknowledged.extend(&life.acknowledged);
        match &life.end {
            End::Stopped(reason) => {
                let StopReason::Failed(why) = &**reason else { panic!("{context}: {reason}") };
                assert!(why.contains("space"), "{why}");
                stops += 1;
            }
            // The ballast was given up at this start already, and the first look found it so.
            End::WasStopped(_) => assert!(life.refused > 0, "{context}"),
            End::DidNotStart(error) => panic!("{context}: {error}"),
        }
        // Nothing has changed but that it is started again: it runs, and says why it takes nothing.
        let full = live_as(&disk, reckless(), 100, 3);
        assert!(matches!(full.end, End::WasStopped(_)), "{context}: {:?}", full.end);
        assert_eq!((full.refused, full.acknowledged.len()), (3, 0), "{context}");
        assert!(!has_ballast(&disk), "{context}: it is used up by starting, or gone");
        // There is room again.
        disk.set_free(None);
        let after = live_as(&disk, reckless(), 200, 3);
        acknowledged.extend(&after.acknowledged);
        assert_eq!(after.refused, 0, "{context}");
        assert!(has_ballast(&disk), "{context}");
        assert_holds(&read_back(&disk, &context), &acknowledged, 203, &context);
    }
    assert!(stops > 5, "{stops}");
}

#[test]
fn a_write_that_finds_no_room_ends_the_node_wherever_it_falls() {
    // No marks and no ballast: only the disk says that it is full.
    let mut bare = options();
    bare.space = SpaceOptions { low_bytes: 0, critical_bytes: 0, ballast_bytes: 0, check_ticks: 1 };
    let mut stops = 0;
    for free in (0..40 * KIB).step_by(700) {
        let disk = SimDisk::new(free);
        disk.set_free(Some(free));
        let life = live_as(&disk, bare.clone(), 0, 24);
        stops += usize::from(!matches!(life.end, End::WasStopped(_)));
        disk.set_free(None);
        let context = format!("{free} bytes");
        let again = live(&disk, 100, 1);
        assert!(matches!(again.end, End::WasStopped(_)), "{context}: {:?}", again.end);
        let acknowledged: Vec<u64> = life.acknowledged.iter().chain(&again.acknowledged).copied().collect();
        for fate in 0..3 {
            let image = disk.power_loss_image(fate);
            assert_holds(&read_back(&image, &context), &acknowledged, 101, &context);
        }
    }
    assert!(stops > 10, "{stops}");
}
