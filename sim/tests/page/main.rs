//! The page of a run, in a real browser without a window: what is marked, found, clicked, zoomed; and how long a
//! frame takes with a hundred thousand events.
//!
//! Skipped, with a word, where there is no Chromium with its driver. `voted-twice.jsonl` is a real run: the planted bug
//! `vote-nosync`, what was then seed 41 of `--store memory --nodes 3`, without the events of lanes and closed connections. To look at
//! another one: `RAFTKV_PAGE_EVENTS=FILE` (written by `raftkv-sim one SEED --events FILE`). `RAFTKV_SCREENSHOTS=DIR`
//! keeps what the browser saw.
#![cfg(not(madsim))]

mod crowd;
mod driver;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use driver::Browser;
use raftkv_sim::explain::{Story, why::Why};
use raftkv_sim::page::{self, Title};
use raftkv_sim::report::Failure;
use raftkv_sim::trace::Fact;
use serde_json::Value;

/// A frame of 60 in a second has 16.7 ms. The browser of the tests paints without a graphics processor, and shares
/// its machine: so much more is allowed, and no more.
const FRAME_MS_MAX: f64 = 100.0;

fn write_page(story: &Story, name: &str) -> PathBuf {
    let violation = story.violation().map(|at| &story.records[at]);
    let failure = violation.and_then(|record| match &record.fact {
        Fact::Violation { rule, .. } => {
            let words = record.text.strip_prefix("VIOLATED: ").unwrap_or(&record.text);
            let detail = words.strip_prefix(&format!("{rule}: ")).unwrap_or(words);
            Some(Failure::new(rule.clone(), detail))
        }
        _ => None,
    });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let title = Title { world: "41", reproduce: "cargo sim replay 41", failure: failure.as_ref() };
    page::write(story, &Why::of(story), &title, &mut out).unwrap();
    out.flush().unwrap();
    path
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Lets the page draw what it has been asked to.
fn settle(browser: &Browser) {
    browser.run_until_done("requestAnimationFrame(() => requestAnimationFrame(() => done(null)));");
}

fn place_of(browser: &Browser, event: &str) -> (f64, f64) {
    let place = browser.run(&format!("return raftkv.placeOf({event});"));
    (number(&place["x"]), number(&place["y"]))
}

/// How many pixels of the diagram have the colour that violations are marked with.
fn pixels_of_violation(browser: &Browser) -> f64 {
    number(&browser.run(
        "const canvas = document.getElementById('diagram'), copy = document.createElement('canvas');
         [copy.width, copy.height] = [canvas.width, canvas.height];
         const probe = copy.getContext('2d', { willReadFrequently: true });
         probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--violation').trim();
         probe.fillRect(0, 0, 1, 1);
         const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
         probe.clearRect(0, 0, 1, 1);
         probe.drawImage(canvas, 0, 0);
         const all = probe.getImageData(0, 0, canvas.width, canvas.height).data;
         let count = 0;
         for (let i = 0; i < all.length; i += 4) {
           if (Math.abs(all[i] - r) + Math.abs(all[i + 1] - g) + Math.abs(all[i + 2] - b) < 12) count++;
         }
         return count;",
    ))
}

fn a_real_run() -> Story {
    let given = std::env::var_os("RAFTKV_PAGE_EVENTS").map(PathBuf::from);
    let file =
        given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/voted-twice.jsonl"));
    Story::read(BufReader::new(File::open(file).unwrap()), None).unwrap()
}

#[test]
fn the_page_of_a_real_violation_can_be_used() {
    let Some(browser) = Browser::start() else { return };
    let story = a_real_run();
    let page = write_page(&story, "violation.html");
    browser.open(&page);
    settle(&browser);

    // The violation is named, marked, and in view from the beginning.
    let verdict = browser.run("return document.getElementById('verdict').innerText;");
    let Fact::Violation { rule, .. } = &story.records[story.violation().unwrap()].fact else {
        unreachable!()
    };
    assert!(verdict.as_str().unwrap().to_lowercase().contains(rule), "{verdict}");
    let marked = pixels_of_violation(&browser);
    assert!(marked > 150.0, "{marked} pixels mark the violation");
    let shown = browser.run(
        "const [from, to] = raftkv.view(); return raftkv.witnesses().length > 0 && raftkv.witnesses().every((i) => {
           const { x } = raftkv.placeOf(i); return x > 60 && x < innerWidth - 400; });",
    );
    assert_eq!(shown, Value::Bool(true), "the events that show the violation are in view");
    browser.screenshot("violation");

    // A click on a witness shows its details.
    let (x, y) = place_of(&browser, "raftkv.witnesses()[0]");
    browser.click(x, y);
    settle(&browser);
    let details = browser.run("return document.getElementById('details').innerText;");
    let words = browser.run("return raftkv.textOf(raftkv.witnesses()[0]);");
    assert!(details.as_str().unwrap().contains(words.as_str().unwrap()), "{details} has no {words}");
    assert!(details.as_str().unwrap().contains("shows the violation"), "{details}");
    let standing = browser.run("return document.getElementById('standing').rows.length;");
    assert!(number(&standing) >= 4.0, "{standing} rows tell where nodes stand");

    // Search finds, and goes there.
    browser.type_keys("/");
    browser.type_keys("voteresponse granted=true");
    browser.type_keys("\u{e007}");
    settle(&browser);
    let found = number(&browser.run("return raftkv.found();"));
    let expected = story
        .records
        .iter()
        .filter(|record| record.text.contains("VoteResponse") && record.text.contains("granted=true"));
    assert_eq!(found, expected.count() as f64);
    let chosen = browser.run("return raftkv.textOf(raftkv.chosen());");
    assert!(chosen.as_str().unwrap().contains("VoteResponse"), "{chosen}");
    browser.type_keys("\u{e00c}");

    // The wheel zooms about the pointer, dragging moves, 0 shows everything.
    browser.run("raftkv.fit();");
    let view = || {
        settle(&browser);
        let view = browser.run("return raftkv.view();");
        (number(&view[0]), number(&view[1]))
    };
    let (from, to) = view();
    browser.wheel(600.0, 300.0, -400);
    let (near, far) = view();
    assert!(far - near < (to - from) * 0.7 && near > from && far < to, "{from}..{to} became {near}..{far}");
    browser.drag((600.0, 300.0), (500.0, 300.0));
    let (later, _) = view();
    assert!(later > near, "dragged to the left, {near} became {later}");
    browser.type_keys("0");
    assert!((view().1 - to).abs() < 1e-6);

    // Only what matters; light and dark; the keys.
    browser.type_keys("w");
    settle(&browser);
    browser.screenshot("why");
    assert_eq!(browser.run("return document.getElementById('only').getAttribute('aria-pressed');"), "true");
    browser.type_keys("t");
    settle(&browser);
    browser.screenshot("dark");
    assert!(pixels_of_violation(&browser) > 20.0, "the violation is marked in the other theme too");
    browser.type_keys("?");
    assert_eq!(browser.run("return document.getElementById('keys').open;"), Value::Bool(true));

    assert_eq!(browser.complaints(&page), Vec::<String>::new());
}

#[test]
fn a_hundred_thousand_events_are_drawn_in_time() {
    let Some(browser) = Browser::start() else { return };
    let story = crowd::story(100_000);
    let page = write_page(&story, "crowd.html");
    browser.open(&page);
    settle(&browser);
    let count = number(&browser.run("return raftkv.count;"));
    assert!(count >= 100_000.0, "{count} events");
    // Everything at once, with all kinds of message; then closer and closer; then along.
    let times = browser.run_until_done(
        "for (const button of document.querySelectorAll('#legend button[aria-pressed=false]')) button.click();
         raftkv.fit();
         raftkv.frames.length = 0;
         const between = [];
         let frame = 0, last = performance.now();
         const next = (now) => {
           if (frame++ > 1) between.push(now - last);
           last = now;
           if (frame > 90) return done({ draw: raftkv.frames, between, drawn: raftkv.drawn() });
           if (frame < 30) raftkv.pan(0.001); else if (frame < 60) raftkv.zoom(0.8); else raftkv.pan(0.2);
           requestAnimationFrame(next);
         };
         requestAnimationFrame(next);",
    );
    settle(&browser);
    browser.screenshot("crowd-near");
    browser.run("raftkv.fit();");
    settle(&browser);
    browser.screenshot("crowd");
    for what in ["draw", "between"] {
        let mut all: Vec<f64> = times[what].as_array().unwrap().iter().map(number).collect();
        all.sort_by(f64::total_cmp);
        let (median, slow) = (all[all.len() / 2], all[all.len() * 95 / 100]);
        eprintln!(
            "{count} events, {what}: {median:.1} ms in the median of {} frames, {slow:.1} ms in 95 of 100",
            all.len()
        );
        assert!(median < FRAME_MS_MAX, "{what}: {median} ms");
    }
    let found = browser.run("const begun = performance.now(); raftkv.find('append term=3'); return [raftkv.found(), performance.now() - begun];");
    eprintln!("a search finds {} in {:.1} ms", found[0], number(&found[1]));
    assert!(number(&found[1]) < 1_000.0, "{found}");
    assert_eq!(browser.complaints(&page), Vec::<String>::new());
}
