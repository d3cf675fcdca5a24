//! One page that shows a whole run: nodes and clients as lanes, messages between them, roles, faults, operations, and
//! the violation.
//!
//! The page is one file and asks the network for nothing. Its script draws on a canvas only what can be told apart at
//! the zoom of the moment, so that a hundred thousand events are no burden. Here is what it is given: columns of
//! numbers and a table of words, as JSON in the middle of the page.

mod data;

use std::io::{self, Write};

use crate::explain::{Story, why::Why};
use crate::report::Failure;

/// What the page says about the run as a whole.
#[derive(Clone, Debug)]
pub struct Title<'a> {
    /// The seed, or the plan's file.
    pub world: &'a str,
    /// How to see the same again.
    pub reproduce: &'a str,
    /// What was wrong, if anything.
    pub failure: Option<&'a Failure>,
}

const SHELL: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: [&str; 4] =
    [include_str!("model.js"), include_str!("draw.js"), include_str!("panes.js"), include_str!("page.js")];

/// Writes the page.
///
/// # Errors
/// It cannot be written.
pub fn write(story: &Story, why: &Why, title: &Title<'_>, out: &mut impl Write) -> io::Result<()> {
    let data = serde_json::to_string(&data::Data::of(story, why, title))?;
    // Inside a script element only its end is special.
    let data = data.replace("</", "<\\/").replace("<!--", "<\\u0021--");
    let script = SCRIPT.concat();
    let mut rest = SHELL;
    for (mark, text) in [("/*STYLE*/", STYLE), ("/*DATA*/", &data), ("/*SCRIPT*/", &script)] {
        let Some((before, after)) = rest.split_once(mark) else {
            return Err(io::Error::other(format!("the page has no place for {mark}")));
        };
        out.write_all(before.as_bytes())?;
        out.write_all(text.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Fact, Record, Source};

    #[test]
    fn a_page_is_one_file_and_words_from_the_run_cannot_break_out_of_it() {
        let text = "</script><b>&\u{2028}<!-- \"quoted\"".to_owned();
        let record = Record { at_ns: 1, source: Source::Node(1), fact: Fact::Other, text };
        let story = Story::new(vec![record], None);
        let title = Title { world: "7", reproduce: "cargo sim replay 7", failure: None };
        let mut page = Vec::new();
        write(&story, &Why::of(&story), &title, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.matches("</script>").count(), 2, "its own two");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("<\\/script><b>&"));
    }
}
