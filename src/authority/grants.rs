//! The patterns of one capability, and where to look for the one that matches.
//!
//! ```text
//!  /w/a      /w/b/*      /w/log-*      /**
//!
//!  root ──── w ──── a            exact: /w/a
//!   │ open:  │ └─── b            open: /w/b/*
//!   │ /**    └ by_head: log- ──▶ /w/log-*
//! ```
//! A tree over the literal segments that a pattern begins with. Only what hangs on
//! the way of a target is compared: of a thousand patterns that begin differently,
//! one or two.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Pattern, Segment, Target, cost};

#[derive(Clone, Debug, Default)]
pub struct Grants {
    patterns: Vec<Pattern>,
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    next: HashMap<Box<str>, Node>,
    /// Patterns that end here, without a wildcard.
    exact: Vec<usize>,
    /// Patterns that go on with `text*`, under that text, and the lengths of those.
    by_head: HashMap<Box<str>, Vec<usize>>,
    head_lengths: BTreeSet<usize>,
    /// Patterns that go on with any other wildcard.
    open: Vec<usize>,
}

impl FromIterator<Pattern> for Grants {
    /// Keeps the order; what comes twice is kept once.
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        let mut grants = Self::default();
        for pattern in patterns {
            if !grants.has(&pattern) {
                grants.add(pattern);
            }
        }
        grants
    }
}

impl Grants {
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    pub fn find_match(&self, target: &Target) -> Option<&Pattern> {
        let segments = target.segments.iter().map(|segment| &**segment);
        self.find(segments, |pattern| pattern.matches(target))
    }

    /// Where one pattern covers a child, its literals are the child's.
    pub fn find_cover(&self, child: &Pattern) -> Option<&Pattern> {
        let segments = child.segments.iter().map(Segment::as_str);
        self.find(segments, |pattern| pattern.covers(child))
    }

    /// Nanoseconds that the search for one target may take, about.
    pub fn cost(&self) -> u32 {
        self.root.cost(&self.patterns)
    }

    fn has(&self, pattern: &Pattern) -> bool {
        let segments = pattern.segments.iter().map(Segment::as_str);
        self.find(segments, |other| other == pattern).is_some()
    }

    fn find<'a>(
        &self,
        mut segments: impl Iterator<Item = &'a str>,
        mut fits: impl FnMut(&Pattern) -> bool,
    ) -> Option<&Pattern> {
        let mut fitting = |places: &[usize]| {
            let mut patterns = places.iter().map(|place| &self.patterns[*place]);
            patterns.find(|pattern| fits(pattern))
        };
        let mut node = &self.root;
        loop {
            if let Some(pattern) = fitting(&node.open) {
                return Some(pattern);
            }
            let Some(segment) = segments.next() else {
                return fitting(&node.exact);
            };
            for length in &node.head_lengths {
                let places = segment
                    .get(..*length)
                    .and_then(|head| node.by_head.get(head));
                if let Some(pattern) = places.and_then(|places| fitting(places)) {
                    return Some(pattern);
                }
            }
            node = node.next.get(segment)?;
        }
    }

    fn add(&mut self, pattern: Pattern) {
        let place = self.patterns.len();
        let mut node = &mut self.root;
        let mut segments = pattern.segments.iter();
        loop {
            match segments.next() {
                Some(Segment::Literal(text)) => node = node.next.entry(text.clone()).or_default(),
                Some(Segment::Glob(text)) if !text.starts_with('*') => {
                    let head = text.split('*').next().unwrap_or("");
                    node.head_lengths.insert(head.len());
                    node.by_head.entry(head.into()).or_default().push(place);
                    break;
                }
                Some(Segment::Glob(_) | Segment::Deep) => {
                    node.open.push(place);
                    break;
                }
                None => {
                    node.exact.push(place);
                    break;
                }
            }
        }
        self.patterns.push(pattern);
    }
}

impl Node {
    /// Of everything on the dearest way from here.
    fn cost(&self, patterns: &[Pattern]) -> u32 {
        let sum = |places: &[usize]| -> u32 {
            let costs = places.iter().map(|place| patterns[*place].cost());
            costs.sum()
        };
        let mut by_length: BTreeMap<usize, u32> = BTreeMap::new();
        for (head, places) in &self.by_head {
            let dearest = by_length.entry(head.len()).or_default();
            *dearest = (*dearest).max(sum(places));
        }
        let deeper = self.next.values().map(|node| node.cost(patterns)).max();
        let on = deeper.unwrap_or_default().max(sum(&self.exact));
        let heads: u32 = by_length.keys().map(|bytes| cost::of_head(*bytes)).sum();
        sum(&self.open) + heads + by_length.values().sum::<u32>() + on
    }
}

impl PartialEq for Grants {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Capability;

    /// How many of 1,000 patterns are compared before the target is decided.
    fn comparisons(
        capability: &Capability,
        pattern: impl Fn(usize) -> String,
        target: &str,
    ) -> (usize, bool) {
        let grants: Grants = (0..1_000)
            .map(|n| Pattern::parse(capability, &pattern(n)).unwrap())
            .collect();
        assert_eq!(grants.patterns().len(), 1_000);
        let target = Target::parse(capability, target).unwrap();
        let mut compared = 0;
        let segments = target.segments.iter().map(|segment| &**segment);
        let found = grants.find(segments, |pattern| {
            compared += 1;
            pattern.matches(&target)
        });
        assert_eq!(found, grants.find_match(&target));
        (compared, found.is_some())
    }

    #[test]
    fn a_thousand_patterns_cost_one_comparison() {
        use Capability::{AgentDelegate, FsRead, ModelUse, NetFetch, ToolCall};
        let path = |n| format!("/w/{n}/a");
        assert_eq!(comparisons(&FsRead, path, "/w/999/a"), (1, true));
        assert_eq!(comparisons(&FsRead, path, "/w/999/b"), (0, false));
        // What ends on the way is not compared with what goes on.
        let parent = |n| format!("/w/{n}");
        assert_eq!(comparisons(&FsRead, parent, "/w/999/b"), (0, false));
        let tree = |n| format!("/w/{n}/**");
        assert_eq!(comparisons(&FsRead, tree, "/w/999/a/b"), (1, true));
        let tool = |n| format!("ns{n}.*");
        // `ns9.*`, `ns99.*` and `ns999.*` begin alike, but not with the dot.
        assert_eq!(comparisons(&ToolCall, tool, "ns999.go"), (1, true));
        let model = |n| format!("vendor-{n}/model-*");
        assert_eq!(comparisons(&ModelUse, model, "vendor-7/model-x"), (1, true));
        let agent = |n| format!("agent-{n}@1.*");
        assert_eq!(comparisons(&AgentDelegate, agent, "agent-7@1.2"), (1, true));
        let host = |n| format!("https://*.h{n}.example.com/v1/**");
        let url = "https://a.h999.example.com/v1/x?q";
        assert_eq!(comparisons(&NetFetch, host, url), (1, true));
        let query = |n| format!("https://example.com/{}?q={n}", n / 2);
        let url = "https://example.com/499?q=999";
        assert_eq!(comparisons(&NetFetch, query, url), (2, true));
    }
}
