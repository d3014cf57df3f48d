//! `name` or `name@version` (§7.5).

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentRef {
    pub name: String,
    pub version: Option<String>,
}

impl AgentRef {
    /// name: `[a-z0-9][a-z0-9._-]*`, version: `[a-zA-Z0-9.+_-]+`, 128 bytes in all.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > 128 {
            return Err("agent: longer than 128 bytes".into());
        }
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let name_ok = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.chars().all(|c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
            });
        if !name_ok {
            return Err("agent: the name must match [a-z0-9][a-z0-9._-]*".into());
        }
        if let Some(version) = version {
            let version_ok = !version.is_empty()
                && version
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '_' | '-'));
            if !version_ok {
                return Err("agent: the version must match [a-zA-Z0-9.+_-]+".into());
            }
        }
        Ok(Self {
            name: name.into(),
            version: version.map(Into::into),
        })
    }
}

impl fmt::Display for AgentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_grammar_and_nothing_else() {
        for good in ["a", "0a", "word-count", "a.b_c-d@1.0.0+build", "report@V2"] {
            assert_eq!(AgentRef::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "@1",
            "A",
            "-a",
            "a@",
            "a@1@2",
            "a b",
            "ä",
            &"a".repeat(129),
        ] {
            assert!(AgentRef::parse(bad).is_err(), "{bad}");
        }
    }
}
