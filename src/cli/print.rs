//! What commands print: rows with names in them that others chose, and a reader that
//! may have seen enough.

use std::io::{ErrorKind, Write};

/// Nobody reads stdout any more, as behind `| head`; no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads what is printed")]
pub(super) struct Closed;

/// A line for people, safe on a terminal.
pub(super) fn row(text: &str) -> anyhow::Result<()> {
    exactly(&format!("{}\n", plain(text).trim_end()))
}

/// For programs: as it is.
pub(super) fn exactly(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        wrote => Ok(wrote?),
    }
}

/// Names come from others; what moves a cursor, sets a title or turns the order of
/// the letters is not theirs to say.
pub(super) fn plain(text: &str) -> String {
    let shown = |c| if steers(c) { '?' } else { c };
    text.chars().map(shown).collect()
}

/// The same for a text that may have lines.
pub(super) fn plain_lines(text: &str) -> String {
    let shown = |c| match c {
        '\n' | '\t' => c,
        c if steers(c) => '?',
        c => c,
    };
    text.chars().map(shown).collect()
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host may call itself anything.
    #[test]
    fn a_name_moves_no_cursor_and_turns_no_order() {
        assert_eq!(plain("h\x1b[2Jx\u{9b}1\n"), "h?[2Jx?1?");
        assert_eq!(plain("a\u{202e}b\u{2066}c\u{2069}é"), "a?b?c?é");
        assert_eq!(plain_lines("a\n\tb\x1b[2J\u{202e}"), "a\n\tb?[2J?");
    }
}
