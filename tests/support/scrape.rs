//! What `/metrics` says.

use std::collections::{BTreeMap, BTreeSet};

/// Of one sample, given with its labels.
pub fn value(text: &str, sample: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("{sample} in {text}"));
    line.parse().unwrap()
}

/// Of metrics, as a query names them.
pub fn names(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
    };
    text.lines().filter_map(name).collect()
}

/// What each metric adds up to over its labels; a histogram, how often it was asked.
pub fn sums(text: &str) -> BTreeMap<String, f64> {
    let known = names(text);
    let mut sums = BTreeMap::new();
    for (sample, value) in samples(text) {
        let name = sample.split('{').next().unwrap();
        let name = match name.strip_suffix("_count") {
            Some(histogram) if !known.contains(name) => histogram,
            _ => name,
        };
        if known.contains(name) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

/// Every line that has a number, with its labels.
pub fn samples(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
        (sample, value.parse().expect("a number"))
    })
}

/// How many there are.
pub fn series(text: &str) -> usize {
    samples(text).count()
}
