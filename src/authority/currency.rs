//! The unit of a budget (§9.6): `USD`, `EUR`, `credits`, or a runtime's own.

use std::fmt;

const BYTES_MAX: usize = 16;

/// `[A-Za-z][A-Za-z0-9_-]*`, as written: `usd` is not `USD`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(String);

impl Currency {
    pub fn parse(text: &str) -> Result<Self, String> {
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if !well_formed || text.len() > BYTES_MAX {
            return Err(format!(
                "the currency must match [A-Za-z][A-Za-z0-9_-]* and be at most {BYTES_MAX} bytes"
            ));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
