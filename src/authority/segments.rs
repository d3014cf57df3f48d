//! Sequences of segments: what every canonical target and pattern is made of.

use super::glob;

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Literal(Box<str>),
    /// With at least one `*`, each within the segment.
    Glob(Box<str>),
    /// `**`: zero or more whole segments.
    Deep,
}

impl Segment {
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "**" {
            return Ok(Self::Deep);
        }
        if text.contains("**") {
            return Err("`**` must be a whole segment".into());
        }
        Ok(match text.contains('*') {
            true => Self::Glob(text.into()),
            false => Self::Literal(text.into()),
        })
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Literal(text) | Self::Glob(text) => text,
            Self::Deep => "**",
        }
    }

    pub fn is_deep(&self) -> bool {
        matches!(self, Self::Deep)
    }

    /// Whether this one segment takes in that text; never asked of `**`.
    fn takes(&self, text: &str) -> bool {
        match self {
            Self::Literal(own) => &**own == text,
            Self::Glob(own) => glob::matches(own, text),
            Self::Deep => false,
        }
    }
}

pub fn match_target(pattern: &[Segment], target: &[Box<str>]) -> bool {
    run(pattern, target, |segment, text| segment.takes(text))
}

/// Whether everything that `child` matches, `parent` matches. Sound, and complete
/// where reading the child as a text is enough: its stars are then characters,
/// and its `**` a segment, that only a wider wildcard of the parent takes in.
pub fn covers(parent: &[Segment], child: &[Segment]) -> bool {
    run(parent, child, |segment, other| {
        !other.is_deep() && segment.takes(other.as_str())
    })
}

/// The pattern cut at each `**` gives runs of fixed length. The first and the
/// last hold the ends; each between is taken at its leftmost place.
fn run<T>(pattern: &[Segment], items: &[T], takes: impl Fn(&Segment, &T) -> bool) -> bool {
    let begins = |items: &[T], run: &[Segment]| {
        items.len() >= run.len()
            && run
                .iter()
                .zip(items)
                .all(|(segment, item)| takes(segment, item))
    };
    let Some(first) = pattern.iter().position(Segment::is_deep) else {
        return items.len() == pattern.len() && begins(items, pattern);
    };
    let (head, rest) = (&pattern[..first], &pattern[first + 1..]);
    let (middle, tail) = match rest.iter().rposition(Segment::is_deep) {
        Some(last) => (&rest[..last], &rest[last + 1..]),
        None => (&rest[..0], rest),
    };
    if items.len() < head.len() + tail.len() || !begins(items, head) {
        return false;
    }
    let (mut items, end) = items[head.len()..].split_at(items.len() - head.len() - tail.len());
    if !begins(end, tail) {
        return false;
    }
    for run in middle.split(Segment::is_deep) {
        let places = (items.len() + 1).saturating_sub(run.len());
        match (0..places).find(|at| begins(&items[*at..], run)) {
            Some(at) => items = &items[at + run.len()..],
            None => return false,
        }
    }
    true
}
