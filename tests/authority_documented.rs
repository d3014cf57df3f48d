//! What docs/authority.md says by example holds.

use arcpd::authority::{Capability, Pattern, Policy, Target};

const PAGE: &str = include_str!("../docs/authority.md");

/// The texts in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Rows of pattern, matches, does not match below a heading.
fn rows(heading: &str) -> Vec<[Vec<&str>; 3]> {
    let section = PAGE.split(heading).nth(1).expect("the heading");
    let section = section.split("\n### ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    let cells = lines.map(|line| line.trim_matches('|').split('|').collect::<Vec<_>>());
    cells
        .filter(|cells| cells.len() == 3)
        .map(|cells| [0, 1, 2].map(|at| quoted(cells[at])))
        .collect()
}

#[test]
fn the_tables_of_patterns_hold() {
    let sections = [
        ("### `fs.read`, `fs.write`: paths", Capability::FsRead, 3),
        ("### `net.fetch`: URLs", Capability::NetFetch, 6),
    ];
    for (heading, capability, count) in sections {
        let rows = rows(heading);
        assert_eq!(rows.len(), count, "{rows:?}");
        for [pattern, matching, other] in rows {
            let pattern = Pattern::parse(&capability, pattern[0]).unwrap();
            assert!(!matching.is_empty() || !other.is_empty());
            for (text, wanted) in matching
                .iter()
                .map(|text| (text, true))
                .chain(other.iter().map(|text| (text, false)))
            {
                let target = Target::parse(&capability, text).unwrap();
                assert_eq!(pattern.matches(&target), wanted, "{pattern} {text}");
            }
        }
    }
}

#[test]
fn what_is_refused_is_refused_for_that() {
    let fetch = |text: &str| Target::parse(&Capability::NetFetch, text).unwrap_err();
    for (text, why) in [
        ("https://api.example.com@evil.org/", "user name"),
        ("https://h.example/%2e%2e/x", "`..`"),
        ("https://h.example/..;x/y", "`..`"),
        ("https://h.example/%c0%ae%c0%ae/x", "not UTF-8"),
        ("https://h.example/a//b", "empty segment"),
        ("https://h.example/a%2fb", "encoded / or"),
        ("https://h.example/%252e", "encoded twice"),
        ("https://h.example/a b", "spaces"),
        ("http://0177.0.0.1/", "odd form"),
        ("http://0x7f.1/", "odd form"),
        ("http://2130706433/", "odd form"),
        ("https://stra\u{df}e.example/", "write it as xn--"),
    ] {
        assert!(fetch(text).contains(why), "{text}: {}", fetch(text));
    }
    for pattern in [
        "https://a*.example.com/**",
        "https://*.com/",
        "https://h.example/?q=*",
        "https://h.example/#a",
    ] {
        assert!(Pattern::parse(&Capability::NetFetch, pattern).is_err());
    }
    let read = |text: &str| Target::parse(&Capability::FsRead, text);
    for text in ["/w/../etc", "w", "/w\\a", "/w\n"] {
        assert!(read(text).is_err(), "{text}");
    }
    assert!(read("/w/%2e%2e").is_ok());
}

#[test]
fn the_policy_file_is_one() {
    let block = PAGE.split("```toml\n").nth(1).unwrap();
    Policy::parse(block.split("```").next().unwrap()).unwrap();
}
