//! Writes the seeds of the fuzzer's corpus: `cargo run -p raftkv-sim --example fuzz_seeds`.

use std::fs;
use std::path::Path;

use raftkv_sim::fuzz::{TARGETS, seeds};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, _) in TARGETS {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds::of(target) {
            fs::write(dir.join(name), bytes)?;
        }
    }
    Ok(())
}
