use super::*;

const CALLS: &[&str] = &[
    r#"{"process":1,"type":"invoke","f":"get","key":"x"}"#,
    r#"{"process":1,"type":"invoke","f":"put","key":"x","value":"1"}"#,
    r#"{"process":1,"type":"invoke","f":"cas","key":"x","value":"1","expect":null}"#,
    r#"{"process":1,"type":"info"}"#,
];

/// What the reader says of a history, without the line.
fn fault(lines: &[&str]) -> (u64, String) {
    match History::read(lines.join("\n").as_bytes()) {
        Err(ReadError::Line { line, fault }) => (line, fault.to_string()),
        other => panic!("{lines:?} gave {other:?}"),
    }
}

#[test]
fn every_fault_is_named_with_its_line() {
    let [get, put, cas, info] = CALLS else { panic!("four calls") };
    let invoke = |rest: &str| format!(r#"{{"process":1,"type":"invoke",{rest}}}"#);
    let cases: &[(&[&str], &str)] = &[
        // Not JSON.
        (&["{"], "not a JSON object: EOF while parsing an object at column 1"),
        (&["{}}"], "not a JSON object: trailing characters at column 3"),
        (&["nonsense"], "not a JSON object: expected ident at column 2"),
        (&["[1]"], "not a JSON object: invalid type: sequence, expected an object at column 0"),
        (&[r#"{"process":1,"type":"inv"#], "not a JSON object: EOF while parsing a string at column 24"),
        (
            &[r#"{"process":1,"type":"\ud800"}"#],
            "not a JSON object: unexpected end of hex escape at column 28",
        ),
        // Fields.
        (&[r#"{"type":"invoke"}"#], r#"an event has no "process""#),
        (&[r#"{"process":1}"#], r#"an event has no "type""#),
        (
            &[r#"{"process":-1,"type":"ok"}"#],
            r#""process" of an event must be a whole number, 0 or greater, but is a negative number"#,
        ),
        (
            &[r#"{"process":1.5,"type":"ok"}"#],
            r#""process" of an event must be a whole number, 0 or greater, but is a number with a fraction or an exponent, or too large a one"#,
        ),
        (
            &[r#"{"process":"a","type":"ok"}"#],
            r#""process" of an event must be a whole number, 0 or greater, but is a string"#,
        ),
        (&[r#"{"process":1,"type":7}"#], r#""type" of an event must be a string, but is a number"#),
        (&[r#"{"process":1,"process":1,"type":"ok"}"#], r#""process" stands there twice"#),
        (&[r#"{"process":1,"type":"done"}"#], r#"unknown type "done": it must be invoke, ok, fail or info"#),
        // Calls.
        (&[&invoke(r#""key":"x""#)], r#"an invoke has no "f""#),
        (
            &[&invoke(r#""f":"read","key":"x""#)],
            r#"unknown f "read": it must be get, put, append, delete or cas"#,
        ),
        (&[&invoke(r#""f":null,"key":"x""#)], r#""f" of an invoke must be a string, but is null"#),
        (&[&invoke(r#""f":"get""#)], r#"a get has no "key""#),
        (&[&invoke(r#""f":"get","key":1"#)], r#""key" of a get must be a string, but is a number"#),
        (
            &[&invoke(r#""f":"delete","key":{"a":[1]}"#)],
            r#""key" of a delete must be a string, but is an object"#,
        ),
        (&[&invoke(r#""f":"put","key":"x""#)], r#"a put has no "value""#),
        (
            &[&invoke(r#""f":"put","key":"x","value":1"#)],
            r#""value" of a put must be a string or null, but is a number"#,
        ),
        (
            &[&invoke(r#""f":"append","key":"x","value":null"#)],
            r#""value" of an append must be a string, but is null"#,
        ),
        (
            &[&invoke(r#""f":"append","key":"x","value":["1"]"#)],
            r#""value" of an append must be a string, but is an array"#,
        ),
        (&[&invoke(r#""f":"cas","key":"x","value":"1""#)], r#"a cas has no "expect""#),
        (&[&invoke(r#""f":"cas","key":"x","expect":"1""#)], r#"a cas has no "value""#),
        (
            &[&invoke(r#""f":"cas","key":"x","expect":true,"value":"1""#)],
            r#""expect" of a cas must be a string or null, but is true or false"#,
        ),
        // Ends.
        (&[get, r#"{"process":1,"type":"ok"}"#], r#"an ok of a get has no "value""#),
        (
            &[get, r#"{"process":1,"type":"ok","value":0}"#],
            r#""value" of an ok of a get must be a string or null, but is a number"#,
        ),
        (&[cas, r#"{"process":1,"type":"ok","value":"1"}"#], r#"an ok of a cas has no "succeeded""#),
        (
            &[cas, r#"{"process":1,"type":"ok","succeeded":"yes"}"#],
            r#""succeeded" of an ok of a cas must be true or false, but is a string"#,
        ),
        // What cannot follow.
        (&[r#"{"process":1,"type":"ok"}"#], "process 1 has no open operation (an end without an invoke)"),
        (&[r#"{"process":1,"type":"fail"}"#], "process 1 has no open operation (an end without an invoke)"),
        (&[info], "process 1 has no open operation (an end without an invoke)"),
        (
            &[put, r#"{"process":1,"type":"ok"}"#, r#"{"process":1,"type":"ok"}"#],
            "process 1 has no open operation (an end without an invoke)",
        ),
        (&[put, info, info], "process 1 has no open operation (an end without an invoke)"),
        (&[put, get], "process 1 already has an open operation"),
        (&[put, info, get], "process 1 is used again after an operation of unknown outcome (info)"),
    ];
    for (lines, expected) in cases {
        let (line, found) = fault(lines);
        assert_eq!((line, found.as_str()), (lines.len() as u64, *expected), "{lines:?}");
    }
}

#[test]
fn lines_that_are_no_text_are_a_fault() {
    let read = History::read(&b"{\"process\":1,\"type\":\"\xff\"}"[..]);
    assert!(matches!(read, Err(ReadError::Line { line: 1, fault: Fault::NotJson { .. } })), "{read:?}");
}

#[test]
fn a_reader_that_fails_is_named_with_its_line() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("unplugged"))
        }
    }
    let first = format!("{}\n", CALLS[0]);
    let input = std::io::Read::chain(first.as_bytes(), Broken);
    let error = History::read(std::io::BufReader::new(input)).unwrap_err();
    assert_eq!(error.to_string(), "line 2: cannot be read: unplugged");
}

#[test]
fn extra_fields_and_blank_lines_are_ignored() {
    let text = "\n{\"time\":1.5e300,\"process\":1,\"type\":\"invoke\",\"f\":\"put\",\"key\":\"x\",\"value\":\"\\u0031\",\"tags\":[{}]}\r\n  \n\
                {\"process\":1,\"type\":\"ok\",\"f\":7,\"value\":[],\"node\":{\"a\":null}}";
    let history = History::read(text.as_bytes()).unwrap();
    let [operation] = history.operations() else { panic!("one operation") };
    assert_eq!(history.spell(&operation.request), Request::Put { key: "x", value: Some("1") });
    assert_eq!(operation.end, End::Ok { at: 1, answer: Answer::Done });
}

#[test]
fn an_open_operation_is_of_unknown_outcome() {
    let history = History::read(CALLS[1].as_bytes()).unwrap();
    assert_eq!(history.operations()[0].end, End::Info { at: None });
}

#[test]
fn a_wrong_kind_of_answer_is_refused_and_changes_nothing() {
    let mut history = History::new();
    history.invoke(1, Request::Get { key: "x" }).unwrap();
    let wrong = history.ok(1, Answer::Done);
    assert_eq!(wrong, Err(Misuse::WrongAnswer { process: 1, request: "get" }));
    history.ok(1, Answer::Value(None)).unwrap();
    assert_eq!(history.events(), 2);
}

#[test]
fn strange_texts_survive_writing_and_reading() {
    let mut history = History::new();
    for (process, text) in
        ["", "\"", "\\", "\n", "\u{0}", "ünïcödé", "\u{2028}", "😀"].into_iter().enumerate()
    {
        history
            .invoke(process as Process, Request::Cas { key: text, expect: None, value: Some(text) })
            .unwrap();
        history.ok(process as Process, Answer::Succeeded(true)).unwrap();
        history.invoke(process as Process, Request::Get { key: text }).unwrap();
        history.ok(process as Process, Answer::Value(Some(text))).unwrap();
    }
    let mut written = Vec::new();
    history.write(&mut written).unwrap();
    let again = History::read(&written[..]).unwrap();
    assert_eq!(history.operations(), again.operations());
    for (one, other) in history.operations().iter().zip(again.operations()) {
        assert_eq!(history.spell(&one.request), again.spell(&other.request));
    }
}

mod generated {
    use proptest::prelude::*;

    use super::{super::generate::Shape, *};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is written is read as it was, whatever the operations.
        #[test]
        fn written_histories_are_read_as_they_were(
            seed: u64,
            operations in 0usize..200,
            clients in 1usize..8,
            info_permille in 0u32..300,
            fail_permille in 0u32..300,
        ) {
            let weights = [3, 2, 2, 1, 2];
            let (keys, values, fault) = (3, Vec::new(), None);
            let shape = Shape { operations, clients, keys, weights, values, info_permille, fail_permille, fault };
            let history = shape.generate(seed).history;
            let mut written = Vec::new();
            history.write(&mut written).unwrap();
            let again = History::read(&written[..]).unwrap();
            prop_assert_eq!(history.operations(), again.operations());
        }
    }
}
