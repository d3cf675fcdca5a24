//! Small histories, each named by what it shows, and what `raftkv-sim check` says of them.
//!
//! Those in `testdata/histories/not_linearizable` stand beside the counterexample that is found in them. After a
//! change that is meant, write them anew with `RAFTKV_UPDATE=1 cargo test -p raftkv-sim --test histories`.

use std::{
    fs,
    io::{BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use raftkv_sim::{
    checker::{self, Limits, Verdict},
    history::History,
};

fn histories(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/histories").join(kind);
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn read(file: &Path) -> History {
    History::read(BufReader::new(fs::File::open(file).unwrap()))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn linearizable_ones_pass() {
    for file in histories("linearizable") {
        let verdict = checker::check(&read(&file), &Limits::default());
        assert!(verdict.is_linearizable(), "{}: {verdict:?}", file.display());
    }
}

#[test]
fn others_fail_with_the_counterexample_beside_them() {
    for file in histories("not_linearizable") {
        let Verdict::NotLinearizable(counterexample) = checker::check(&read(&file), &Limits::default())
        else {
            panic!("{}: passes", file.display());
        };
        let beside = file.with_extension("txt");
        let found = counterexample.to_string();
        if std::env::var_os("RAFTKV_UPDATE").is_some() {
            fs::write(&beside, &found).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(found, expected, "{}", beside.display());
    }
}

#[test]
fn what_is_read_is_written_as_it_was() {
    for file in histories("linearizable").into_iter().chain(histories("not_linearizable")) {
        let mut written = Vec::new();
        read(&file).write(&mut written).unwrap();
        let mut again = Vec::new();
        History::read(&written[..]).unwrap().write(&mut again).unwrap();
        assert_eq!(written, again, "{}", file.display());
        let lines = |bytes: &[u8]| -> Vec<serde_json::Value> {
            serde_json::Deserializer::from_slice(bytes).into_iter().map(Result::unwrap).collect()
        };
        assert_eq!(lines(&written), lines(&fs::read(&file).unwrap()), "{}", file.display());
    }
}

fn check(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_raftkv-sim"))
        .arg("check")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn golden(kind: &str, name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/histories").join(kind).join(name);
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_exit_code_is_that_of_the_worst_file() {
    let good = golden("linearizable", "empty.jsonl");
    let bad = golden("not_linearizable", "stale_read.jsonl");
    let missing = golden("linearizable", "no_such_file.jsonl");
    let code = |arguments: &[&str]| check(arguments, "").status.code().unwrap();
    assert_eq!(code(&[&good]), 0);
    assert_eq!(code(&[&good, &bad]), 1);
    assert_eq!(code(&[&bad, &missing, &good]), 2);
    // Without memory nothing can be decided, and an undecided file is no pass.
    assert_eq!(code(&[&bad, "--memory-mib", "0"]), 3);
    assert_eq!(code(&[&bad, "--time-limit", "0"]), 3);
    assert_eq!(code(&[&bad, &missing, "--memory-mib", "0"]), 2);
    assert_eq!(code(&[]), 2);
}

#[test]
fn an_unreadable_file_is_named_with_line_and_fault() {
    let fine = r#"{"process":1,"type":"invoke","f":"get","key":"x"}"#;
    let output = check(&["-"], &format!("{fine}\n\n{{\"process\":1,\"type\":\"done\"}}\n"));
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "-: line 3: unknown type \"done\": it must be invoke, ok, fail or info\n");
    assert!(output.stdout.is_empty());
}

#[test]
fn json_has_one_object_a_file() {
    let good = golden("linearizable", "empty.jsonl");
    let bad = golden("not_linearizable", "stale_read.jsonl");
    let output = check(&["--json", &good, &bad, "-"], "nonsense");
    assert_eq!(output.status.code(), Some(2));
    let reports: Vec<serde_json::Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().map(Result::unwrap).collect();
    let verdicts: Vec<&str> = reports.iter().map(|report| report["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["linearizable", "not linearizable", "unreadable"]);
    assert_eq!(reports[0]["operations"], 0);
    assert!(reports[0]["check_ms"].is_number());
    assert_eq!(reports[1]["key"], "x");
    assert_eq!(reports[1]["counterexample"]["operations"].as_array().unwrap().len(), 3);
    assert_eq!(reports[2]["line"], 1);
}
