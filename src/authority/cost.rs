//! What one question may cost under a lease, before it is granted.
//!
//! Matching is linear in pattern and target, and [`super::grants`] leaves most
//! patterns out, but a lease may be written so that hundreds of slow patterns lie on
//! the way of one target. Who asks is not who pays, so such a lease is refused. The
//! figures are nanoseconds measured on one core of a server for the worst text and
//! pattern that were found, rounded up.

use super::capability::Form;
use super::{Segment, name, target};

/// For one question, whatever the target.
pub const NS_MAX: u32 = 20_000;

const LITERAL: u32 = 8;
const GLOB: u32 = 25;
/// Of a glob, whose ends are compared.
const BYTES_PER_NS: u32 = 8;
/// Text between two stars that has to be looked for: the searcher is made anew.
const PIECE: u32 = 40;
/// Of each byte of a text where such a piece is looked for, in halves of a ns: what
/// repeats itself is the worst, and what is short is found by its bytes alone.
const HALVES_LONG: u32 = 10;
const HALVES_SHORT: u32 = 1;
const SHORT_BYTES_MAX: usize = 2;
/// Of a look by the text that patterns begin with, beside each byte of that.
const HEAD: u32 = 20;

/// Of one comparison at its worst.
pub fn of_pattern(form: Form, segments: &[Segment]) -> u32 {
    // The first and the last run stand at one place, those between move along the target.
    let runs: Vec<_> = segments.split(Segment::is_deep).collect();
    let mut cost = 0;
    for (at, run) in runs.iter().enumerate() {
        let moves = at > 0 && at + 1 < runs.len();
        let (places, bytes) = match moves {
            true => (target::SEGMENTS_MAX as u32, bytes(form)),
            false => (1, target::segment_bytes_max(form).unwrap_or(bytes(form))),
        };
        for segment in *run {
            let (once, halves) = of_segment(segment);
            cost += places * once + bytes as u32 * halves / 2;
        }
    }
    cost
}

/// Of the look for the patterns that begin with a text of that length.
pub fn of_head(bytes: usize) -> u32 {
    HEAD + bytes as u32
}

fn bytes(form: Form) -> usize {
    match form {
        Form::Path | Form::Url => target::BYTES_MAX,
        Form::Name | Form::Agent | Form::Vendor => name::BYTES_MAX,
    }
}

/// At one place, and the halves of a nanosecond for each byte of the text there: all
/// places together have no more text than the target.
fn of_segment(segment: &Segment) -> (u32, u32) {
    match segment {
        Segment::Literal(_) | Segment::Deep => (LITERAL, 0),
        Segment::Glob(text) => {
            let pieces: Vec<_> = text.split('*').collect();
            let between = &pieces[1..pieces.len() - 1];
            let longest = between.iter().map(|piece| piece.len()).max();
            let halves = match longest {
                None => 0,
                Some(bytes) if bytes <= SHORT_BYTES_MAX => HALVES_SHORT,
                Some(_) => HALVES_LONG,
            };
            let once = GLOB + text.len() as u32 / BYTES_PER_NS + PIECE * between.len() as u32;
            (once, halves)
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
        assert_eq!(cost(ToolCall, "search.*"), GLOB + 1);
        assert_eq!(cost(ToolCall, "*a*b*"), GLOB + 2 * PIECE + 128);
        assert_eq!(cost(ToolCall, "*abc*b*"), GLOB + 2 * PIECE + 1_280);
        assert_eq!(cost(FsRead, "/w/**"), LITERAL);
        assert_eq!(cost(FsRead, "/**/*.txt"), GLOB);
        assert_eq!(cost(FsRead, "/*abc*"), GLOB + PIECE + 255 * 5);
        assert_eq!(cost(FsRead, "/**/a/**"), 128 * LITERAL);
        assert_eq!(cost(FsRead, "/**/*a*/**"), 128 * (GLOB + PIECE) + 2_048);
    }
}
