//! Which agents' jobs get credentials: names, or beginnings with `*` at their end.

/// `agent` is `name@version`; the patterns are of names.
pub(super) fn listed(patterns: &[String], agent: &str) -> bool {
    let name = agent.split('@').next().unwrap_or(agent);
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        })
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        let patterns = ["writer".to_owned(), "acme.*".to_owned()];
        for (agent, expected) in [
            ("writer@1.0.0", true),
            ("writers@1.0.0", false),
            ("acme.x@2", true),
            ("acme", false),
        ] {
            assert_eq!(listed(&patterns, agent), expected, "{agent}");
        }
        assert!(listed(&["*".to_owned()], "any@1"));
    }
}
