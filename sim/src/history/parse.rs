//! Histories from JSON lines.
//!
//! One object a line, in the order the events happened; blank lines are skipped. The reader keeps one line in
//! memory at a time. Every fault names its line, and nothing of a file with a fault is used.

use std::{borrow::Cow, fmt, io::BufRead};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Answer, History, Misuse, Process, Request};

/// A history that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes could not be had.
    #[error("line {line}: cannot be read: {source}")]
    Io {
        /// The line being read.
        line: u64,
        /// Why.
        source: std::io::Error,
    },
    /// They are not a history.
    #[error("line {line}: {fault}")]
    Line {
        /// The line with the fault, from 1.
        line: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not JSON, or not an object.
    #[error("not a JSON object: {reason} at column {column}")]
    NotJson {
        /// Why, in the JSON reader's words.
        reason: String,
        /// Where, from 1.
        column: usize,
    },
    /// A field that this kind of line must have is not there.
    #[error("{line} has no {field:?}")]
    Missing {
        /// The kind of line.
        line: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A field is there twice.
    #[error("{field:?} stands there twice")]
    Twice {
        /// The field.
        field: &'static str,
    },
    /// A field is of another type than it must be.
    #[error("{field:?} of {line} must be {expected}, but is {found}")]
    WrongType {
        /// The kind of line.
        line: &'static str,
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A type of event that is none.
    #[error("unknown type {found:?}: it must be invoke, ok, fail or info")]
    UnknownType {
        /// What stands there.
        found: String,
    },
    /// An operation that is none.
    #[error("unknown f {found:?}: it must be get, put, append, delete or cas")]
    UnknownFunction {
        /// What stands there.
        found: String,
    },
    /// An event that cannot follow those before it.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl History {
    /// Reads a history of JSON lines to its end.
    pub fn read(mut input: impl BufRead) -> Result<History, ReadError> {
        let mut history = History::new();
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read =
                input.read_until(b'\n', &mut bytes).map_err(|source| ReadError::Io { line, source })?;
            if read == 0 {
                break;
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            history.line(&bytes).map_err(|fault| ReadError::Line { line, fault })?;
        }
        Ok(history)
    }

    /// Takes one line.
    fn line(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let line: Line<'_> = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
        if let Some(field) = line.twice {
            return Err(Fault::Twice { field });
        }
        let process = line.process.process()?;
        let kind = line.kind.text("an event", "type")?;
        match kind {
            "invoke" => {
                self.invoke(process, line.request()?)?;
            }
            "ok" => {
                let id = self.open(process)?;
                let answer = match self.operation(id).request {
                    Request::Get { .. } => Answer::Value(line.value.value("an ok of a get", "value")?),
                    Request::Cas { .. } => {
                        Answer::Succeeded(line.succeeded.flag("an ok of a cas", "succeeded")?)
                    }
                    Request::Put { .. } | Request::Append { .. } | Request::Delete { .. } => Answer::Done,
                };
                self.ok(process, answer)?;
            }
            "fail" => {
                self.fail(process)?;
            }
            "info" => {
                self.info(process)?;
            }
            other => return Err(Fault::UnknownType { found: other.to_owned() }),
        }
        Ok(())
    }
}

/// The JSON reader sees one line at a time, so of its "line 1 column 5" only the column says something.
fn not_json(error: &serde_json::Error) -> Fault {
    let mut reason = error.to_string();
    if let Some(at) = reason.rfind(" at line ") {
        reason.truncate(at);
    }
    Fault::NotJson { reason, column: error.column() }
}

/// The fields of a line that mean something.
#[derive(Default)]
struct Line<'a> {
    process: Field<'a>,
    kind: Field<'a>,
    f: Field<'a>,
    key: Field<'a>,
    value: Field<'a>,
    expect: Field<'a>,
    succeeded: Field<'a>,
    /// The first field that came a second time.
    twice: Option<&'static str>,
}

impl Line<'_> {
    fn request(&self) -> Result<Request<&str>, Fault> {
        let f = self.f.text("an invoke", "f")?;
        let key = |line| self.key.text(line, "key");
        Ok(match f {
            "get" => Request::Get { key: key("a get")? },
            "put" => Request::Put { key: key("a put")?, value: self.value.value("a put", "value")? },
            "append" => {
                Request::Append { key: key("an append")?, value: self.value.text("an append", "value")? }
            }
            "delete" => Request::Delete { key: key("a delete")? },
            "cas" => Request::Cas {
                key: key("a cas")?,
                expect: self.expect.value("a cas", "expect")?,
                value: self.value.value("a cas", "value")?,
            },
            other => return Err(Fault::UnknownFunction { found: other.to_owned() }),
        })
    }
}

/// What stands under a field.
#[derive(Default)]
enum Field<'a> {
    #[default]
    Missing,
    Null,
    Flag(bool),
    Count(u64),
    Text(Cow<'a, str>),
    /// Something that is never right, by its name.
    Other(&'static str),
}

impl Field<'_> {
    fn process(&self) -> Result<Process, Fault> {
        match self {
            Field::Count(process) => Ok(*process),
            other => Err(other.wrong("an event", "process", "a whole number, 0 or greater")),
        }
    }

    fn text(&self, line: &'static str, field: &'static str) -> Result<&str, Fault> {
        match self {
            Field::Text(text) => Ok(text),
            other => Err(other.wrong(line, field, "a string")),
        }
    }

    fn value(&self, line: &'static str, field: &'static str) -> Result<Option<&str>, Fault> {
        match self {
            Field::Text(text) => Ok(Some(text)),
            Field::Null => Ok(None),
            other => Err(other.wrong(line, field, "a string or null")),
        }
    }

    fn flag(&self, line: &'static str, field: &'static str) -> Result<bool, Fault> {
        match self {
            Field::Flag(flag) => Ok(*flag),
            other => Err(other.wrong(line, field, "true or false")),
        }
    }

    fn wrong(&self, line: &'static str, field: &'static str, expected: &'static str) -> Fault {
        let found = match self {
            Field::Missing => return Fault::Missing { line, field },
            Field::Null => "null",
            Field::Flag(_) => "true or false",
            Field::Count(_) => "a number",
            Field::Text(_) => "a string",
            Field::Other(found) => found,
        };
        Fault::WrongType { line, field, expected, found }
    }
}

/// The name of a field.
enum Name {
    Process,
    Kind,
    F,
    Key,
    Value,
    Expect,
    Succeeded,
    Extra,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct Names;
        impl Visitor<'_> for Names {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "process" => Name::Process,
                    "type" => Name::Kind,
                    "f" => Name::F,
                    "key" => Name::Key,
                    "value" => Name::Value,
                    "expect" => Name::Expect,
                    "succeeded" => Name::Succeeded,
                    _ => Name::Extra,
                })
            }
        }
        deserializer.deserialize_identifier(Names)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Line<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Line<'a>, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Line<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
                let mut line = Line::default();
                while let Some(name) = map.next_key::<Name>()? {
                    let (field, name) = match name {
                        Name::Process => (&mut line.process, "process"),
                        Name::Kind => (&mut line.kind, "type"),
                        Name::F => (&mut line.f, "f"),
                        Name::Key => (&mut line.key, "key"),
                        Name::Value => (&mut line.value, "value"),
                        Name::Expect => (&mut line.expect, "expect"),
                        Name::Succeeded => (&mut line.succeeded, "succeeded"),
                        Name::Extra => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if !matches!(field, Field::Missing) {
                        line.twice.get_or_insert(name);
                    }
                    *field = map.next_value()?;
                }
                Ok(line)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field<'a>, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Field<'de>, E> {
                Ok(Field::Null)
            }
            fn visit_bool<E>(self, flag: bool) -> Result<Field<'de>, E> {
                Ok(Field::Flag(flag))
            }
            fn visit_u64<E>(self, count: u64) -> Result<Field<'de>, E> {
                Ok(Field::Count(count))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Field<'de>, E> {
                Ok(Field::Other("a negative number"))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Field<'de>, E> {
                Ok(Field::Other("a number with a fraction or an exponent, or too large a one"))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::Other("an array"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other("an object"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
