//! The simulated disk keeps the rules of the seam, and no others.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use proptest::prelude::*;
use raft::disk::{Disk, File, OpenMode};
use raftkv_sim::disk::{Call, SimDisk};

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A durable file with this content.
fn file(disk: &SimDisk, name: &str, content: &[u8]) -> Box<dyn File> {
    let file = disk.open(path(name), OpenMode::CreateNew).unwrap();
    file.write_at(content, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file
}

fn outcomes<T: Ord>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..200).map(|seed| look(&disk.power_loss_image(seed))).collect()
}

#[test]
fn synced_data_survives_and_unsynced_may_not() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", b"old");
    file.write_at(b"new", 0).unwrap();
    file.write_at(b"New", 0).unwrap();
    let content = |disk: &SimDisk| disk.content(path("/a")).unwrap();
    let all = [b"old", b"new", b"New"].map(|c| c.to_vec());
    assert_eq!(outcomes(&disk, content), all.into(), "each version may be found");
    assert_eq!(content(&disk.durable_image()), b"old");
    assert_eq!(content(&disk.process_crash_image()), b"New");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, content), [b"New".to_vec()].into());
}

#[test]
fn sectors_are_lost_one_by_one_and_whole() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", &[b'o'; 1536]);
    file.write_at(&[b'n'; 1300], 100).unwrap();
    let found = outcomes(&disk, |disk| {
        let content = disk.content(path("/a")).unwrap();
        assert_eq!(content.len(), 1536);
        assert!(content[..100].iter().chain(&content[1400..]).all(|byte| *byte == b'o'));
        [(100, 512), (512, 1024), (1024, 1400)].map(|(from, to)| {
            let sector = &content[from..to];
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
            sector[0]
        })
    });
    assert_eq!(found.len(), 8, "every subset: {found:?}");
}

#[test]
fn lengths_are_lost_with_what_lies_behind_them() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", b"abc");
    file.write_at(b"def", 3).unwrap();
    let found = outcomes(&disk, |disk| disk.content(path("/a")).unwrap());
    assert_eq!(found, [b"abc".to_vec(), b"abcdef".to_vec(), b"abc\0\0\0".to_vec()].into());
    file.sync_data().unwrap();
    file.set_len(2).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(disk.content(path("/a")).unwrap(), b"ab\0\0", "what was cut is zero");
    let found = outcomes(&disk, |disk| disk.content(path("/a")).unwrap());
    assert!(found.contains(b"abcdef".as_slice()) && found.contains(b"ab\0\0".as_slice()), "{found:?}");
}

#[test]
fn names_need_their_own_sync() {
    let disk = SimDisk::new(1);
    let a = disk.open(path("/a"), OpenMode::CreateNew).unwrap();
    a.write_at(b"a", 0).unwrap();
    a.sync_data().unwrap();
    let there = |disk: &SimDisk| disk.list(path("/")).unwrap();
    assert_eq!(outcomes(&disk, there), [vec![], vec!["a".to_owned()]].into(), "a synced file may vanish");
    disk.sync_dir(path("/")).unwrap();
    disk.rename(path("/a"), path("/b")).unwrap();
    let found = outcomes(&disk, there);
    assert_eq!(found, [vec!["a".to_owned()], vec!["b".to_owned()]].into(), "a rename is atomic");
    disk.sync_dir(path("/")).unwrap();
    disk.remove_file(path("/b")).unwrap();
    assert_eq!(outcomes(&disk, there), [vec![], vec!["b".to_owned()]].into(), "a removal may be lost");
    assert_eq!(disk.power_loss_image(0).content(path("/b")).unwrap_or(b"a".to_vec()), b"a");
}

#[test]
fn a_directory_vanishes_with_all_below_it() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(path("/d/e")).unwrap();
    disk.open(path("/d/e/f"), OpenMode::CreateNew).unwrap();
    disk.sync_dir(path("/d/e")).unwrap();
    disk.sync_dir(path("/d")).unwrap();
    assert!(!disk.durable_image().exists(path("/d/e/f")).unwrap());
    disk.sync_dir(path("/")).unwrap();
    assert!(disk.durable_image().exists(path("/d/e/f")).unwrap());
}

#[test]
fn an_open_file_outlives_its_name_but_not_a_power_loss() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", b"abc");
    disk.remove_file(path("/a")).unwrap();
    let mut buf = [0; 3];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 3);
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    assert_eq!(disk.durable_image().files(), []);
}

#[test]
fn the_power_goes_behind_the_chosen_call() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", b"abc");
    let calls = disk.calls();
    disk.set_crash_after(2);
    file.write_at(b"1", 0).unwrap();
    file.write_at(b"2", 1).unwrap();
    assert!(disk.is_off());
    assert!(file.write_at(b"3", 2).is_err());
    assert!(file.read_at(&mut [0], 0).is_err() && file.sync_data().is_err());
    assert!(disk.list(path("/")).is_err() && disk.open(path("/a"), OpenMode::Read).is_err());
    assert_eq!(disk.calls(), calls + 2, "a call that did not happen is not counted");
    assert_eq!(disk.content(path("/a")).unwrap(), b"12c");
    let image = disk.process_crash_image();
    assert!(!image.is_off());
    assert_eq!(image.list(path("/")).unwrap(), ["a"]);
}

#[test]
fn images_are_disks_of_their_own() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", b"abc");
    file.write_at(b"X", 0).unwrap();
    let images = [disk.process_crash_image(), disk.durable_image()];
    for image in &images {
        let copy = image.open(path("/a"), OpenMode::Write).unwrap();
        copy.write_at(b"Y", 1).unwrap();
        copy.sync_data().unwrap();
    }
    assert_eq!(disk.content(path("/a")).unwrap(), b"Xbc");
    assert_eq!(images[0].durable_image().content(path("/a")).unwrap(), b"XYc");
    assert_eq!(images[1].content(path("/a")).unwrap(), b"aYc");
    assert_eq!(disk.durable_image().content(path("/a")).unwrap(), b"abc");
}

/// As Linux does it: the pages of a failed sync are clean, and no later sync writes them.
#[test]
fn a_failed_sync_loses_data_that_can_still_be_read() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let file = file(&disk, "/a", b"old");
        file.write_at(b"new", 0).unwrap();
        disk.fail_after(Call::SyncData, 0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.content(path("/a")).unwrap(), b"new");
        lost += u64::from(disk.power_loss_image(0).content(path("/a")).unwrap() == b"old");
    }
    assert!(lost > 5 && lost < 20, "{lost} of 20");
}

#[test]
fn faults_are_placed_and_happen_once() {
    let disk = SimDisk::new(1);
    let file = file(&disk, "/a", &[0; 2000]);
    disk.fail_after(Call::Write, 1);
    file.write_at(&[1; 2000], 0).unwrap();
    assert_eq!(file.write_at(&[2; 2000], 0).unwrap_err().raw_os_error(), Some(5));
    let content = disk.content(path("/a")).unwrap();
    let part = content.iter().take_while(|byte| **byte == 2).count();
    assert!(content[part..].iter().all(|byte| *byte == 1));
    file.write_at(&[3; 2000], 0).unwrap();
    disk.damage(path("/a"), 5, &[9]).unwrap();
    assert_eq!(disk.content(path("/a")).unwrap()[4..7], [3, 9, 3]);
    assert_eq!(disk.durable_image().content(path("/a")).unwrap()[5], 9);
}

#[test]
fn names_behave_as_the_seam_says() {
    let disk = SimDisk::new(1);
    let kind = |error: std::io::Error| error.kind();
    assert_eq!(disk.open(path("/a"), OpenMode::Read).err().map(kind), Some(ErrorKind::NotFound));
    assert_eq!(disk.list(path("/d")).map_err(kind), Err(ErrorKind::NotFound));
    disk.create_dir_all(path("d")).unwrap();
    disk.create_dir_all(path("/d")).unwrap();
    let file = disk.open(path("/d/a"), OpenMode::CreateNew).unwrap();
    assert_eq!(disk.open(path("/d/a"), OpenMode::CreateNew).err().map(kind), Some(ErrorKind::AlreadyExists));
    file.preallocate(1 << 40).unwrap();
    assert_eq!(file.len().unwrap(), 1 << 40);
    file.preallocate(10).unwrap();
    assert_eq!(file.len().unwrap(), 1 << 40);
    let reader = disk.open(path("/d/a"), OpenMode::Read).unwrap();
    assert_eq!(reader.write_at(b"x", 0).map_err(kind), Err(ErrorKind::PermissionDenied));
    assert_eq!(disk.remove_file(path("/d/b")).map_err(kind), Err(ErrorKind::NotFound));
    let lock = disk.lock_dir(path("/d")).unwrap();
    assert_eq!(disk.lock_dir(path("/d")).err().map(kind), Some(ErrorKind::WouldBlock));
    drop(disk.process_crash_image().lock_dir(path("/d")).unwrap());
    drop(lock);
    drop(disk.lock_dir(path("/d")).unwrap());
    disk.rename(path("/d"), path("/e")).unwrap();
    assert_eq!(disk.list(path("/e")).unwrap(), ["LOCK", "a"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Reading gives back what a plain vector would hold, and equal seeds give equal disks.
    #[test]
    fn a_file_is_a_vector(
        calls in prop::collection::vec((0..4000u64, 0..1500usize, 0..8u8), 1..40),
        seed in any::<u64>(),
    ) {
        let build = || {
            let disk = SimDisk::new(seed);
            let file = file(&disk, "/a", b"");
            let mut twin = Vec::new();
            for (i, (offset, len, kind)) in calls.iter().enumerate() {
                match kind {
                    0 => {
                        file.set_len(*offset).unwrap();
                        twin.resize(*offset as usize, 0);
                    }
                    1 => file.sync_data().unwrap(),
                    _ => {
                        let data = vec![i as u8 + 1; *len];
                        file.write_at(&data, *offset).unwrap();
                        // As on Linux, writing nothing behind the end does not move it.
                        let end = if *len == 0 { 0 } else { *offset as usize + len };
                        twin.resize(twin.len().max(end), 0);
                        if *len > 0 {
                            twin[*offset as usize..end].copy_from_slice(&data);
                        }
                    }
                }
                let mut part = vec![7; 700];
                let read = file.read_at(&mut part, *offset / 2).unwrap();
                let from = (*offset as usize / 2).min(twin.len());
                assert_eq!(part[..read], twin[from..(from + 700).min(twin.len())]);
            }
            assert_eq!(disk.content(path("/a")).unwrap(), twin);
            disk
        };
        let (one, two) = (build(), build());
        for fate in 0..4 {
            let content = |disk: &SimDisk| disk.power_loss_image(seed ^ fate).content(path("/a")).unwrap();
            prop_assert_eq!(content(&one), content(&two));
        }
    }
}
