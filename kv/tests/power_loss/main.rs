//! sled, as it is, under losses of power that are as unkind as POSIX allows.
//!
//! This binary defines the C symbols by which sled reaches its files (`symbols`), records what it does (`recorder`), and
//! builds from any prefix of that what a disk might hold if the power failed there (`platter`): any subset of the
//! unsynced sectors in any of their versions, any unsynced length, any unsynced names. Each such image is opened as a
//! node opens its store, and held against the applied index it claims (`script`). Some are recorded again while they
//! are opened, and the power fails in sled's recovery.
//!
//! With the whole recipe (`kv::store::sled_engine`) no image may be lost, wrong or behind what was promised. With
//! any one ingredient left out, some image must be: else the harness would be blind to what the ingredient is for.
//!
//! `RAFTKV_POWER_LOSS_IMAGES=20000 cargo test --release -p raftkv-kv --test power_loss -- --nocapture` is the long form;
//! `RAFTKV_POWER_LOSS_SEED` begins elsewhere.

#![cfg(target_os = "linux")]

mod platter;
mod recorder;
mod script;
mod symbols;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use platter::{Chance, Image, Loss, Platter, read_in, write_out};
use recorder::{Event, ROOT, Recipe};
use script::Script;

/// There is one recorder.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// What came of many images.
#[derive(Default)]
struct Tally {
    images: u64,
    /// Those among them where the power failed while an earlier image was being opened.
    in_recovery: u64,
    failures: Vec<String>,
}

/// How many images a run is given before another one is drawn.
const IMAGES_PER_RUN: usize = 120;

struct Harness {
    recipe: Recipe,
    failures_max: usize,
    tally: Tally,
}

impl Harness {
    /// Looks at `images` images, or until there are enough failures.
    fn search(recipe: Recipe, images: u64, failures_max: usize, first_seed: u64) -> Tally {
        let mut harness = Self { recipe, failures_max, tally: Tally::default() };
        let mut seed = first_seed;
        while harness.tally.images < images && !harness.is_done() {
            let left = (images - harness.tally.images) as usize;
            harness.run(seed, left.min(IMAGES_PER_RUN));
            seed += 1;
        }
        harness.tally
    }

    fn is_done(&self) -> bool {
        self.tally.failures.len() >= self.failures_max
    }

    /// One recorded run and images of it.
    fn run(&mut self, seed: u64, images: usize) {
        let script = Script::draw(seed);
        let dir = script::scratch();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("node")).unwrap();
        let start = read_in(&root);
        let names = recorder::start(&root, self.recipe);
        let done = script.run(&root);
        let events = recorder::stop();
        done.unwrap_or_else(|error| panic!("seed {seed}: the run itself failed: {error}"));
        let platter = Platter::holding(&root, &start, &names);
        let mut chance = Chance(!seed);
        let what = format!("seed {seed}");
        self.images(&script, platter, &events, images, &mut chance, dir.path(), &what, 0);
    }

    /// Images of one recording, in the order of the calls they are cut off at.
    #[expect(clippy::too_many_arguments, reason = "it calls itself, one recovery deeper")]
    fn images(
        &mut self,
        script: &Script,
        mut platter: Platter,
        events: &[Event],
        images: usize,
        chance: &mut Chance,
        scratch: &Path,
        what: &str,
        depth: usize,
    ) {
        let promised_before = platter.promised;
        let mut cuts: Vec<usize> = (0..images).map(|_| chance.below(events.len() + 1)).collect();
        cuts.sort_unstable();
        let mut at = 0;
        for cut in cuts {
            if self.is_done() {
                return;
            }
            for event in &events[at..cut] {
                platter.step(event);
            }
            at = cut;
            let loss = draw_loss(&platter, chance);
            let image = platter.image(loss, chance);
            let promised = platter.promised.max(promised_before);
            let what = format!("{what}, call {cut} of {} with {loss:?}", events.len());
            self.one(script, &image, promised, chance, scratch, &what, depth);
        }
    }

    /// One image: judged, and sometimes opened under the recorder for images of that.
    #[expect(clippy::too_many_arguments, reason = "it is called by the one above")]
    fn one(
        &mut self,
        script: &Script,
        image: &Image,
        promised: u64,
        chance: &mut Chance,
        scratch: &Path,
        what: &str,
        depth: usize,
    ) {
        let root = scratch.join(format!("image-{}", self.tally.images));
        write_out(image, &root);
        self.tally.images += 1;
        self.tally.in_recovery += u64::from(depth > 0);
        let deep = chance.below(4) == 0;
        let nested = depth < 3 && chance.below(10) == 0;
        if !nested {
            let judged = script.judge(&root, promised, deep);
            self.tally.failures.extend(judged.err().map(|why| format!("{what}: {why}")));
            std::fs::remove_dir_all(&root).unwrap();
            return;
        }
        let names = recorder::start(&root, self.recipe);
        let judged = script.judge(&root, promised, deep);
        let events = recorder::stop();
        let failed = judged.is_err();
        self.tally.failures.extend(judged.err().map(|why| format!("{what}: {why}")));
        if !failed {
            let mut platter = Platter::holding(&root, image, &names);
            platter.promised = promised;
            let images = 4 + chance.below(8);
            let what = format!("{what}; opened, ");
            self.images(script, platter, &events, images, chance, scratch, &what, depth + 1);
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}

fn draw_loss(platter: &Platter, chance: &mut Chance) -> Loss {
    let pending = platter.pending();
    let call = |chance: &mut Chance| pending[chance.below(pending.len())];
    match chance.below(if pending.is_empty() { 6 } else { 12 }) {
        0 => Loss::All,
        1 => Loss::Nothing,
        2 => Loss::Little,
        3 => Loss::Contents,
        4 => Loss::Names,
        5 | 6 => Loss::Chance,
        7 | 8 => Loss::One(call(chance)),
        9 => Loss::AllBut(call(chance)),
        _ => Loss::TornAt(call(chance)),
    }
}

// Without it, a call that is not seen would look like one that cannot be lost.
#[test]
fn the_recorder_sees_every_change() {
    let _alone = alone();
    for seed in 0..6 {
        let script = Script::draw(seed);
        let dir = script::scratch();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("node")).unwrap();
        let names = recorder::start(&root, Recipe::Whole);
        let done = script.run(&root);
        let events = recorder::stop();
        done.unwrap();
        let mut platter = Platter::holding(&root, &Image::from([("node".into(), None)]), &names);
        events.iter().for_each(|event| platter.step(event));
        assert!(platter.image(Loss::Nothing, &mut Chance(0)) == read_in(&root), "seed {seed}");
        let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
        assert!(count(|event| matches!(event, Event::Write { .. })) > 5);
        assert!(count(|event| matches!(event, Event::Sync { .. })) > 5);
        assert!(count(|event| matches!(event, Event::Rename { .. })) > 1);
        assert!(count(|event| matches!(event, Event::Make { is_dir: true, .. })) > 1);
    }
}

// The claim.
#[test]
fn with_the_whole_recipe_every_image_opens_with_the_state_it_claims() {
    let _alone = alone();
    let images = number("RAFTKV_POWER_LOSS_IMAGES", 400);
    let tally = Harness::search(Recipe::Whole, images, 5, number("RAFTKV_POWER_LOSS_SEED", 1_000));
    println!("{} images, {} of them of a recovery", tally.images, tally.in_recovery);
    assert!(tally.failures.is_empty(), "{} images: {:#?}", tally.images, tally.failures);
    assert!(tally.images >= images && tally.in_recovery > 0);
}

// And why to believe it: what each ingredient is for is found when it is left out. That of `rename` needs the most: a
// lost rename, beside a removal that is not lost, in a store whose log has been used again since.
#[test]
fn with_any_ingredient_left_out_some_image_does_not() {
    let _alone = alone();
    let images = number("RAFTKV_POWER_LOSS_IMAGES_WITHOUT", 30_000);
    let failures_max = number("RAFTKV_POWER_LOSS_FAILURES", 1) as usize;
    let mut blind = Vec::new();
    for recipe in [
        Recipe::RangeSync,
        Recipe::PlainRename,
        Recipe::KeepGenerating,
        Recipe::PlainRenameAndKeep,
        Recipe::UnsyncedConf,
        Recipe::UnsyncedNames,
        Recipe::UnsyncedCurrent,
        Recipe::Bare,
    ] {
        let tally = Harness::search(recipe, images, failures_max, 2_000);
        let failures = &tally.failures;
        println!(
            "{recipe:?}: {} of {} images; the first: {:?}",
            failures.len(),
            tally.images,
            failures.first()
        );
        if failures.is_empty() {
            blind.push(recipe);
        }
    }
    assert!(blind.is_empty(), "no image failed without {blind:?}");
}

// The ingredient that no call of ours is: rows are so small that sled never puts a value into a file of its own. It does
// not sync those. A value that a flush has made durable is gone.
#[test]
fn a_value_that_sled_keeps_outside_its_log_is_lost() {
    let _alone = alone();
    let dir = script::scratch();
    let root = dir.path().join("root");
    std::fs::create_dir_all(&root).unwrap();
    let config = |path| sled::Config::new().path(path).flush_every_ms(None).segment_size(512 << 10);
    let value = vec![7; 200 << 10];
    let names = recorder::start(&root, Recipe::Whole);
    let db = config(root.join("store")).open().unwrap();
    db.insert("k", &value[..]).unwrap();
    db.flush().unwrap();
    let events = recorder::stop();
    assert_eq!(std::fs::read_dir(root.join("store/blobs")).unwrap().count(), 1);
    let mut platter = Platter::holding(&root, &Image::new(), &names);
    events.iter().for_each(|event| platter.step(event));
    // Not what the store's own sealing is for: every name is there, and of the contents only the value's is lost.
    let read = |name: &str, image: &Image| {
        let image_dir = dir.path().join(name);
        write_out(image, &image_dir);
        let found = script::quietly(|| config(image_dir.join("store")).open().and_then(|db| db.get("k")));
        matches!(&found, Ok(Ok(Some(found))) if found[..] == value[..])
    };
    let mut image = platter.image(Loss::Nothing, &mut Chance(0));
    assert!(read("whole", &image), "the value is there if nothing is lost");
    let lost = platter.image(Loss::Contents, &mut Chance(0));
    for (path, content) in &mut image {
        if path.starts_with("store/blobs/") {
            content.clone_from(&lost[path]);
        }
    }
    assert!(!read("lost", &image), "the value survived");
}

// And a row that would become one is refused at the flush, before anything is promised.
#[test]
fn a_store_whose_rows_are_too_large_for_its_segments_is_refused() {
    let _alone = alone();
    let dir = script::scratch();
    std::fs::create_dir_all(dir.path().join("node")).unwrap();
    let error = Script::too_large().run(dir.path()).unwrap_err();
    assert!(error.contains("blobs"), "{error}");
}

/// A platter with one file of two sectors, synced under a synced name.
fn synced_file() -> Platter {
    let mut platter = Platter::holding(Path::new("/"), &Image::new(), &[("/".into(), (ROOT, true))].into());
    for event in [
        Event::Make { dir: ROOT, name: "a".into(), inode: 1, is_dir: false },
        Event::Write { inode: 1, offset: 0, data: vec![1; 1024] },
        Event::Sync { inode: 1 },
        Event::Sync { inode: ROOT },
    ] {
        platter.step(&event);
    }
    platter
}

fn images(platter: &Platter) -> Vec<Image> {
    let mut chance = Chance(7);
    let mut images: Vec<Image> = (0..400).map(|_| platter.image(Loss::Chance, &mut chance)).collect();
    images.sort();
    images.dedup();
    images
}

// What is synced cannot be lost; sectors, lengths and names that are not are lost by themselves.
#[test]
fn the_platter_loses_what_posix_allows_and_no_more() {
    let mut platter = synced_file();
    assert_eq!(images(&platter), [Image::from([("a".into(), Some(vec![1; 1024]))])]);
    platter.step(&Event::Write { inode: 1, offset: 256, data: vec![2; 512] });
    let cells: Vec<Vec<u8>> =
        images(&platter).into_iter().map(|mut i| i.remove(Path::new("a")).unwrap().unwrap()).collect();
    assert_eq!(cells.len(), 4, "each of two sectors is there or not");
    assert!(cells.iter().all(|c| c[..256] == [1; 256] && c[768..] == [1; 256]));
    platter.step(&Event::Sync { inode: 1 });
    assert_eq!(images(&platter).len(), 1);
    platter.step(&Event::SetLen { inode: 1, length: 100 });
    platter.step(&Event::Write { inode: 1, offset: 100, data: vec![3; 10] });
    let lengths: std::collections::BTreeSet<usize> =
        images(&platter).iter().map(|i| i[Path::new("a")].as_ref().unwrap().len()).collect();
    assert_eq!(lengths, [100, 110, 1024].into());
    let mut platter = synced_file();
    platter.step(&Event::Rename { from: (ROOT, "a".into()), to: (ROOT, "b".into()) });
    platter.step(&Event::Make { dir: ROOT, name: "c".into(), inode: 2, is_dir: false });
    let names: Vec<Vec<String>> =
        images(&platter).iter().map(|i| i.keys().map(|k| k.display().to_string()).collect()).collect();
    assert_eq!(names, [vec!["a"], vec!["a", "c"], vec!["b"], vec!["b", "c"]]);
    platter.step(&Event::Sync { inode: 2 });
    assert_eq!(images(&platter).len(), 4, "syncing a file says nothing of its name");
    platter.step(&Event::Sync { inode: ROOT });
    assert_eq!(images(&platter).len(), 1);
}

// The losses that are aimed at one call take that one and no other.
#[test]
fn aimed_losses_hit_one_call() {
    let mut platter = synced_file();
    let first = 4;
    platter.step(&Event::Write { inode: 1, offset: 0, data: vec![2; 512] });
    platter.step(&Event::Write { inode: 1, offset: 512, data: vec![3; 512] });
    assert_eq!(platter.pending(), [first, first + 1]);
    let sectors = |loss| {
        let image = platter.image(loss, &mut Chance(1));
        let bytes = image[Path::new("a")].clone().unwrap();
        (bytes[0], bytes[512])
    };
    assert_eq!(sectors(Loss::One(first)), (1, 3));
    assert_eq!(sectors(Loss::AllBut(first)), (2, 1));
    assert_eq!(sectors(Loss::All), (1, 1));
    assert_eq!(sectors(Loss::Nothing), (2, 3));
    assert_eq!(sectors(Loss::TornAt(first + 1)).0, 2);
}
