//! One segment against one segment's glob: `*` is any run of characters, also
//! none, and there is nothing else; `?` and `[` are themselves.

use memchr::memmem;

/// Anchored at both ends and linear: what lies between two stars is taken at
/// its leftmost place, which never spoils a later one.
///
/// The text may be a glob too. As its stars are no literal of any pattern, only
/// a star takes them in, so a match says that `pattern` covers all of `text`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(between) = text.strip_suffix(tail) else {
        return false;
    };
    text = between;
    for piece in middle.split('*') {
        // The searcher is built from the piece before it looks at the text.
        if piece.len() > text.len() {
            return false;
        }
        match memmem::find(text.as_bytes(), piece.as_bytes()) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_any_run_and_both_ends_hold() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("search.*", "search."),
            ("search.*", "search.web"),
            ("*.txt", "a.txt"),
            ("a*b*c", "abc"),
            ("a*b*c", "a1b2b3c"),
            ("*a*a*", "aa"),
            ("a?", "a?"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "ab"),
            ("search.*", "search"),
            ("search.*", "xsearch.web"),
            ("aba*aba", "aba"),
            ("*a*a*", "a"),
            ("a*b*c", "acb"),
            ("a?", "ab"),
            ("[ab]", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
