//! The namespaces of a lease (§9.2).

use std::fmt;

const BYTES_MAX: usize = 128;

/// What an operation needs. `cost.budget` is no capability: nothing is done
/// through it, it bounds everything else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    FsRead,
    FsWrite,
    NetFetch,
    ToolCall,
    AgentDelegate,
    ModelUse,
    /// The whole name, `x-vendor.<vendor>.<name>`.
    Vendor(String),
}

/// How the targets of a capability are written, and so brought to one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Path,
    Url,
    Name,
    Agent,
    /// A name whose segments may be empty, since its meaning is the vendor's.
    Vendor,
}

impl Capability {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "fs.read" => Ok(Self::FsRead),
            "fs.write" => Ok(Self::FsWrite),
            "net.fetch" => Ok(Self::NetFetch),
            "tool.call" => Ok(Self::ToolCall),
            "agent.delegate" => Ok(Self::AgentDelegate),
            "model.use" => Ok(Self::ModelUse),
            _ if is_vendor(text) => Ok(Self::Vendor(text.into())),
            _ => Err("must be a namespace of the draft or x-vendor.<vendor>.<name>".into()),
        }
    }

    pub(super) fn form(&self) -> Form {
        match self {
            Self::FsRead | Self::FsWrite => Form::Path,
            Self::NetFetch => Form::Url,
            Self::ToolCall | Self::ModelUse => Form::Name,
            Self::AgentDelegate => Form::Agent,
            Self::Vendor(_) => Form::Vendor,
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::FsRead => "fs.read",
            Self::FsWrite => "fs.write",
            Self::NetFetch => "net.fetch",
            Self::ToolCall => "tool.call",
            Self::AgentDelegate => "agent.delegate",
            Self::ModelUse => "model.use",
            Self::Vendor(name) => name,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// At least a vendor and a name, of letters, digits, `_` and `-`; the name may
/// go on after dots.
fn is_vendor(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("x-vendor.") else {
        return false;
    };
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    text.len() <= BYTES_MAX && rest.contains('.') && rest.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_draft_or_a_vendors() {
        for name in [
            "fs.read",
            "fs.write",
            "net.fetch",
            "tool.call",
            "agent.delegate",
            "model.use",
            "x-vendor.acme.db",
            "x-vendor.acme.db.query",
        ] {
            assert_eq!(Capability::parse(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            "cost.budget",
            "FS.READ",
            "fs.read ",
            "fs",
            "x-vendor.acme",
            "x-vendor..db",
            "x-vendor.acme.",
            "x-vendor.a c.db",
            "x-vendor.acme.é",
        ] {
            assert!(Capability::parse(name).is_err(), "{name}");
        }
    }
}
