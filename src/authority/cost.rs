//! What one question may cost under a lease, before it is granted.
//!
//! Matching is linear in pattern and target, and [`super::grants`] leaves most
//! patterns out, but a lease may be written so that hundreds of slow patterns lie on
//! the way of one target. Who asks is not who pays, so such a lease is refused. The
//! figures are nanoseconds measured on one core of a server, rounded up; they need to
//! be right to a factor of two, not more.

use super::capability::Form;
use super::{Segment, name, target};

/// For one question, whatever the target.
pub const NS_MAX: u32 = 20_000;

const LITERAL: u32 = 4;
const GLOB: u32 = 10;
/// Text between two stars that has to be looked for.
const PIECE: u32 = 20;
const BYTES_PER_NS: u32 = 2;

/// Of one comparison at its worst.
pub fn of_pattern(form: Form, segments: &[Segment]) -> u32 {
    let bytes = match form {
        Form::Path | Form::Url => target::BYTES_MAX,
        Form::Name | Form::Agent | Form::Vendor => name::BYTES_MAX,
    };
    let scan = bytes as u32 / BYTES_PER_NS;
    // The first and the last run stand at one place, those between move along the target.
    let runs: Vec<_> = segments.split(Segment::is_deep).collect();
    let mut cost = 0;
    for (at, run) in runs.iter().enumerate() {
        let moves = at > 0 && at + 1 < runs.len();
        let places = if moves {
            target::SEGMENTS_MAX as u32
        } else {
            1
        };
        for segment in *run {
            let (once, scans) = of_segment(segment);
            cost += places * once + scan * u32::from(scans);
        }
    }
    cost
}

/// At one place, and whether it also walks through the text there: all places
/// together have no more text than the target.
fn of_segment(segment: &Segment) -> (u32, bool) {
    match segment {
        Segment::Literal(_) | Segment::Deep => (LITERAL, false),
        Segment::Glob(text) => {
            let pieces = text.bytes().filter(|byte| *byte == b'*').count() as u32 - 1;
            (GLOB + PIECE * pieces, pieces > 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Capability, Pattern};

    fn cost(capability: Capability, text: &str) -> u32 {
        let pattern = Pattern::parse(&capability, text).unwrap();
        of_pattern(capability.form(), &pattern.segments)
    }

    #[test]
    fn what_walks_along_the_target_costs_most() {
        use Capability::{FsRead, ToolCall};
        assert_eq!(cost(ToolCall, "search.web"), LITERAL);
        assert_eq!(cost(ToolCall, "search.*"), GLOB);
        assert_eq!(cost(ToolCall, "*a*b*"), GLOB + 2 * PIECE + 128);
        assert_eq!(cost(FsRead, "/w/**"), LITERAL);
        assert_eq!(cost(FsRead, "/**/*.txt"), GLOB);
        assert_eq!(cost(FsRead, "/**/a/**"), 128 * LITERAL);
        assert_eq!(cost(FsRead, "/**/*a*/**"), 128 * (GLOB + PIECE) + 2_048);
    }
}
