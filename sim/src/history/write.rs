//! Histories to JSON lines.

use std::io::{self, Write};

use super::{Answer, End, History, Operation, Request, Text};

impl History {
    /// Writes the history, one line an event, as [`History::read`] reads it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        // Every moment is a call or an end of one operation.
        let mut events = vec![None; self.now as usize];
        for operation in &self.operations {
            events[operation.call as usize] = Some((operation, true));
            let end = match operation.end {
                End::Ok { at, .. } | End::Fail { at } => Some(at),
                End::Info { at } => at,
            };
            if let Some(at) = end {
                events[at as usize] = Some((operation, false));
            }
        }
        for (operation, called) in events.into_iter().flatten() {
            if called { self.write_call(out, operation) } else { self.write_end(out, operation) }?;
            out.write_all(b"}\n")?;
        }
        Ok(())
    }

    fn write_call(&self, out: &mut impl Write, operation: &Operation) -> io::Result<()> {
        let request = &operation.request;
        write!(out, r#"{{"process":{},"type":"invoke","f":"{}","key":"#, operation.process, request.name())?;
        self.write_text(out, Some(request.key()))?;
        let (value, expect) = match *request {
            Request::Get { .. } | Request::Delete { .. } => (None, None),
            Request::Put { value, .. } => (Some(value), None),
            Request::Append { value, .. } => (Some(Some(value)), None),
            Request::Cas { expect, value, .. } => (Some(value), Some(expect)),
        };
        if let Some(value) = value {
            out.write_all(br#","value":"#)?;
            self.write_text(out, value)?;
        }
        if let Some(expect) = expect {
            out.write_all(br#","expect":"#)?;
            self.write_text(out, expect)?;
        }
        Ok(())
    }

    fn write_end(&self, out: &mut impl Write, operation: &Operation) -> io::Result<()> {
        let process = operation.process;
        match operation.end {
            End::Ok { answer, .. } => {
                write!(out, r#"{{"process":{process},"type":"ok""#)?;
                match answer {
                    Answer::Done => Ok(()),
                    Answer::Value(value) => {
                        out.write_all(br#","value":"#)?;
                        self.write_text(out, value)
                    }
                    Answer::Succeeded(succeeded) => write!(out, r#","succeeded":{succeeded}"#),
                }
            }
            End::Fail { .. } => write!(out, r#"{{"process":{process},"type":"fail""#),
            End::Info { .. } => write!(out, r#"{{"process":{process},"type":"info""#),
        }
    }

    fn write_text(&self, out: &mut impl Write, text: Option<Text>) -> io::Result<()> {
        serde_json::to_writer(out, &text.map(|text| self.text(text))).map_err(io::Error::from)
    }
}
