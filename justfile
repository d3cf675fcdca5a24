# `just` lists what there is. Every recipe is one or two plain cargo commands: nothing here is needed to work on raftkv.

default:
    @just --list

# Exactly what CI runs; changes nothing.
verify:
    bash .ci/run

# Formats, and applies the lints that can be applied.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# The three-node cluster on loopback.
local *ARGS:
    cargo run --release --bin raftkv -- local {{ARGS}}

# Replays one seed with its timeline.
sim SEED:
    cargo sim replay {{SEED}}

# Makes a failing seed or plan smaller; the result goes to sim/regressions.
shrink WORLD:
    cargo sim shrink {{WORLD}}

# Runs fresh seeds for a long time: `just soak 20000`.
soak COUNT="5000":
    cargo sim run --count {{COUNT}}
    RAFTKV_KILL_PUTS=5000 cargo test --release -p raftkv --test kill_leader
    RAFTKV_SOAK_KILLS=2000 cargo test --release -p raftkv --test soak -- --nocapture
    RAFTKV_FLIPS=20 cargo test --release -p raftkv --test flips -- --nocapture

# Regenerates the golden stories of the core; read the diff before you commit it.
golden:
    UPDATE=1 cargo test -p raftkv-raft --test golden

# One hour of message soup on the bare core.
soup SCHEDULES="1000000":
    SOUP_SCHEDULES={{SCHEDULES}} cargo test --profile sim -p raftkv-raft --test soup

# Ten minutes by default; `just fuzz core 60`. Needs the nightly toolchain and cargo-fuzz. What it finds goes to
# fuzz/regressions/TARGET; with that, `cargo test -p raftkv-sim --test fuzz_corpus` has it too.
fuzz TARGET SECONDS="600":
    bash .ci/fuzz {{SECONDS}} {{TARGET}}
