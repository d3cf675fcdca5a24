//! Simulated worlds as a test: `cargo test` at the root runs a few hundred.
//!
//! A plain build has no simulated world in it. So this test is compiled twice. In a plain build it calls cargo again,
//! with the configuration of the simulated world, and passes its arguments on. There it runs:
//!
//! - the worlds of fixed seeds, on sled and in memory, and of fresh seeds, which are printed;
//! - the plans in `regressions/`, each of which once broke a rule (those that took a planted bug run without it);
//! - worlds whose clocks run apart further than leases allow: some of them must fail;
//! - worlds of a state machine that is not the key-value store, sound and with a bug in it (`examples/own_machine.rs`);
//! - some worlds twice, in processes of their own, alone and within a sweep: all events must be the same;
//! - a sweep in shards, which must be the sweep; a failing world that is shrunk, which must fail for the same reason.
//!
//! `RAFTKV_SIM_SEEDS` changes how many worlds of each kind are run. An argument runs only the parts whose name contains it.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    imp::main(&arguments)
}

#[cfg(not(madsim))]
mod imp {
    use super::*;
    use std::path::Path;

    pub(crate) fn main(arguments: &[String]) -> ExitCode {
        if arguments.iter().any(|argument| argument == "--list") {
            println!("simulate: test\n\n1 test, 0 benchmarks");
            return ExitCode::SUCCESS;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root);
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
            if std::env::var_os(variable).is_some() {
                println!("{variable} is set; it would override .cargo/madsim.toml, and is left out here");
                cargo.env_remove(variable);
            }
        }
        // A target directory from outside would make the two worlds rebuild each other.
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
        cargo.args(["test", "--config", ".cargo/madsim.toml", "--profile", "sim", "-p", "raftkv-sim"]);
        cargo.args(["--lib", "--test", "simulate", "--"]).args(arguments);
        match cargo.status() {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("cannot run cargo: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(madsim)]
mod imp {
    use super::*;
    use std::path::{Path, PathBuf};

    const PROGRAM: &str = env!("CARGO_BIN_EXE_raftkv-sim");

    /// A part of the test.
    struct Part {
        name: String,
        run: Box<dyn Fn() -> Result<(), String>>,
    }

    fn part(name: impl Into<String>, run: impl Fn() -> Result<(), String> + 'static) -> Part {
        Part { name: name.into(), run: Box::new(run) }
    }

    pub(crate) fn main(arguments: &[String]) -> ExitCode {
        let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
        let mut parts = parts();
        let all = parts.len();
        parts.retain(|part| filters.is_empty() || filters.iter().any(|filter| part.name.contains(*filter)));
        if arguments.iter().any(|argument| argument == "--list") {
            parts.iter().for_each(|part| println!("{}: test", part.name));
            println!("\n{} tests, 0 benchmarks", parts.len());
            return ExitCode::SUCCESS;
        }
        println!("\nrunning {} tests", parts.len());
        let mut failures = Vec::new();
        for part in &parts {
            let result = (part.run)();
            println!("test {} ... {}", part.name, if result.is_ok() { "ok" } else { "FAILED" });
            failures.extend(result.err().map(|why| (&part.name, why)));
        }
        for (name, why) in &failures {
            println!("\n---- {name} ----\n{why}");
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
            if failures.is_empty() { "ok" } else { "FAILED" },
            parts.len() - failures.len(),
            failures.len(),
            all - parts.len()
        );
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn parts() -> Vec<Part> {
        let seeds = std::env::var("RAFTKV_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_u64);
        let fixed = format!("0..{seeds}");
        let in_memory = fixed.clone();
        let mut parts = vec![
            part("fixed_seeds_on_sled", move || run(&["--seeds", &fixed])),
            part("fixed_seeds_in_memory", move || run(&["--seeds", &in_memory, "--store", "memory"])),
            part("fresh_seeds_on_sled", move || run(&["--count", &seeds.to_string()])),
            part("a_seed_is_a_whole_world", a_seed_is_a_whole_world),
            part("clocks_beyond_the_bound_of_leases_are_noticed", clocks_beyond_the_bound),
            part("the_gate", || exit(&["gate", "--count", "3"], 0).map(drop)),
            part("a_sweep_in_shards_is_the_sweep", a_sweep_in_shards),
            part("exit_codes", exit_codes),
            part("a_failing_world_shrinks", a_failing_world_shrinks),
            part("own_machine", || own_machine(None)),
            part("own_machine_with_a_bug", || own_machine(Some("1"))),
        ];
        for plan in regressions() {
            let name = plan.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let run_plan = move || run(&["--plan", &plan.display().to_string(), "--sound"]);
            parts.push(part(format!("regression_{name}"), run_plan));
        }
        parts
    }

    fn regressions() -> Vec<PathBuf> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut plans: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        plans.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        plans.sort();
        plans
    }

    /// Runs worlds. What is printed goes to the terminal as it comes.
    fn run(arguments: &[&str]) -> Result<(), String> {
        let status = Command::new(PROGRAM).arg("run").args(arguments).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("raftkv-sim run {}: {status}", arguments.join(" "))),
            Err(error) => Err(format!("{PROGRAM}: {error}")),
        }
    }

    /// The safety of leases hangs on the drift that the cluster was told. If clocks run apart further, somebody must
    /// read something stale, and the checker must see it.
    fn clocks_beyond_the_bound() -> Result<(), String> {
        let arguments = [
            "run",
            "--seeds",
            "0..60",
            "--store",
            "memory",
            "--leases",
            "beyond",
            "--failures-max",
            "1",
            "--json",
            "--no-pages",
        ];
        let lines = output(&arguments)?;
        let failed = lines.lines().find(|line| line.contains("\"passed\":false"));
        match failed {
            Some(line) if line.contains("\"rule\":\"linearizability\"") => Ok(()),
            Some(line) => Err(format!("something else is wrong: {line}")),
            None => Err("60 worlds with clocks that are not to be relied on, and no stale read".to_owned()),
        }
    }

    /// Runs the command, which must end with this code; what it printed.
    fn exit(arguments: &[&str], code: i32) -> Result<String, String> {
        let output = Command::new(PROGRAM).args(arguments).output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(code) {
            return Ok(text);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("raftkv-sim {}: {}, not {code}\n{text}{errors}", arguments.join(" "), output.status))
    }

    /// What a scheduler goes by.
    fn exit_codes() -> Result<(), String> {
        exit(&["run", "--seeds", "0..2", "--store", "memory"], 0)?;
        exit(&["run", "--seeds", "0.."], 2)?;
        exit(&["run", "--count", "2", "--shard", "0/2"], 2)?;
        exit(&["run", "--plan", "no-such-plan.json"], 2)?;
        exit(&["run", "--seeds", "0..2", "--timeout", "0", "--no-pages"], 3)?;
        exit(&["merge", "no-such-journal.jsonl"], 2)?;
        Ok(())
    }

    /// Two shards run what one sweep would have, and their journals say so; what was stopped goes on.
    fn a_sweep_in_shards() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (even, odd) = (path("even.jsonl"), path("odd.jsonl"));
        let run = |shard, flag, file: &str, code| {
            exit(&["run", "--seeds", "0..12", "--store", "memory", "--shard", shard, flag, file], code)
        };
        run("0/2", "--jsonl", &even, 0)?;
        exit(&["merge", &even], 3)?; // the odd ones were not run
        run("1/2", "--resume", &odd, 0)?;
        let whole = std::fs::read(&odd).map_err(|error| error.to_string())?;
        std::fs::write(&odd, &whole[..whole.len() / 2]).map_err(|error| error.to_string())?;
        exit(&["merge", &even, &odd], 3)?;
        run("1/2", "--resume", &odd, 0)?;
        run("0/2", "--jsonl", &even, 2)?; // is there already
        run("1/2", "--resume", &even, 2)?; // another sweep's
        let merged = exit(&["merge", "--json", &even, &odd], 0)?;
        let merged: serde_json::Value = serde_json::from_str(&merged).map_err(|error| error.to_string())?;
        match (merged["worlds"].as_u64(), merged["passed"].as_u64(), merged["missing"].as_u64()) {
            (Some(12), Some(12), Some(0)) => Ok(()),
            _ => Err(format!("twelve worlds in two shards are not twelve worlds: {merged}")),
        }
    }

    /// A stale read under clocks that are not to be relied on: a small part of its world shows it too.
    fn a_failing_world_shrinks() -> Result<(), String> {
        let beyond = ["--store", "memory", "--leases", "beyond"];
        let sweep =
            [&["run", "--seeds", "0..60", "--failures-max", "1", "--json", "--no-pages"], &beyond[..]]
                .concat();
        let lines = output(&sweep)?;
        let failed = lines.lines().find(|line| line.contains("\"passed\":false"));
        let seed = failed.and_then(|line| field(line, "world")).ok_or("no stale read in 60 worlds")?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = dir.path().join("small.json").display().to_string();
        let shrink = [&["shrink", &seed, "--quiet", "--tries", "400", "-o", &path], &beyond[..]].concat();
        let text = exit(&shrink, 0)?;
        let small = exit(&["run", "--plan", &path, "--no-pages"], 1)?;
        if !small.contains("linearizability") {
            return Err(format!("the small plan fails, but not for the same reason: {small}"));
        }
        let plan = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let plan: serde_json::Value = serde_json::from_str(&plan).map_err(|error| error.to_string())?;
        let count = |name: &str| plan[name].as_array().map_or(usize::MAX, Vec::len);
        // A tenth of the 1,200 operations at most.
        if count("operations") > 120 || count("faults") > 15 {
            return Err(format!("a small plan is not that large:\n{text}"));
        }
        Ok(())
    }

    /// Worlds of the counter of the example.
    fn own_machine(bug: Option<&str>) -> Result<(), String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        command.args(["run", "--quiet", "--config", ".cargo/madsim.toml", "--profile", "sim"]);
        command.args(["-p", "raftkv-sim", "--example", "own_machine", "--", "run", "--seeds", "0..30"]);
        if let Some(bug) = bug {
            command.env("COUNTER_BUG", bug).args(["--failures-max", "1", "--no-pages"]);
        }
        let status = command.status().map_err(|error| error.to_string())?;
        match (bug, status.code()) {
            (None, Some(0)) | (Some(_), Some(1)) => Ok(()),
            (Some(_), Some(0)) => Err("a counter that forgets to sync its file passed 30 worlds".to_owned()),
            (_, code) => Err(format!("the command ended with {code:?}")),
        }
    }

    fn output(arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(PROGRAM).args(arguments).output().map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Same seed, same trace: byte for byte in two processes, and by its hash alone and within a sweep.
    fn a_seed_is_a_whole_world() -> Result<(), String> {
        const SEEDS: std::ops::Range<u64> = 3..7;
        let sweep = output(&["run", "--seeds", "3..7", "--jobs", "2", "--json"])?;
        for seed in SEEDS {
            exit(&["gate", "--world", &seed.to_string(), "--store", "sled"], 0)?;
            let alone = output(&["one", &seed.to_string()])?;
            let alone =
                field(&alone, "trace_hash").ok_or_else(|| format!("no report of seed {seed}: {alone}"))?;
            let line = sweep.lines().find(|line| field(line, "world").as_deref() == Some(&seed.to_string()));
            let within = line.and_then(|line| field(line, "trace_hash"));
            if within.as_deref() != Some(&alone) {
                return Err(format!("seed {seed} has hash {alone} alone, and {within:?} within a sweep"));
            }
        }
        Ok(())
    }

    /// A field of the last line of output that is a JSON object and has it.
    fn field(output: &str, name: &str) -> Option<String> {
        let objects = output.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
        let mut values =
            objects.filter_map(|object: serde_json::Value| object.get(name)?.as_str().map(str::to_owned));
        values.next()
    }
}
