//! `model.use` as an upstream can hold to it: names, never patterns.
//!
//! A gateway reads a name its own way. LiteLLM takes `openai/*` to include every
//! model it knows to be OpenAI's, `all-proxy-models` as all there are, and any
//! name as that of a group if there is one. So what goes upstream is only what
//! the operator has listed as names of models, those of them that the lease allows.

use super::IssueError;
use crate::authority::{Capability, Pattern, Target};

/// The listed models that one of the patterns covers; an error when it is none.
pub(super) fn allowed(patterns: &[String], listed: &[String]) -> Result<Vec<String>, IssueError> {
    let model_use = Capability::ModelUse;
    let patterns = patterns.iter();
    let patterns = patterns.filter_map(|text| Pattern::parse(&model_use, text).ok());
    let patterns: Vec<_> = patterns.collect();
    let covered = |name: &&String| {
        Target::parse(&model_use, name)
            .is_ok_and(|name| patterns.iter().any(|pattern| pattern.matches(&name)))
    };
    let names: Vec<_> = listed.iter().filter(covered).cloned().collect();
    match names.is_empty() {
        true => Err(IssueError::Unsuitable(
            "lease_request: model.use allows none of the models that credentials are for".into(),
        )),
        false => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_models_go_upstream_and_a_pattern_never_does() {
        let strings = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        let listed = strings(&[
            "tier-fast/a",
            "tier-fast/b",
            "tier-slow/a",
            "gpt-x",
            "deep/er/c",
        ]);
        let of = |patterns: &[&str]| allowed(&strings(patterns), &listed);
        assert_eq!(
            of(&["tier-fast/*"]),
            Ok(strings(&["tier-fast/a", "tier-fast/b"]))
        );
        assert_eq!(
            of(&["deep/**", "gpt-x"]),
            Ok(strings(&["gpt-x", "deep/er/c"]))
        );
        assert_eq!(of(&["**"]), Ok(listed.clone()));
        assert_eq!(of(&["*-x"]), Ok(strings(&["gpt-x"])));
        for none in ["deep/*", "all-proxy-models", "gpt", "GPT-X", "tier-fast"] {
            assert!(of(&[none]).is_err(), "{none}");
        }
        assert!(of(&[]).is_err());
    }
}
