//! Names of tools and models, agents, and the targets of vendors.
//!
//! Printable ASCII, compared to the letter, so that no name looks like another;
//! `/` separates segments. A vendor's target may have empty ones (`db://x`).

use super::Segment;
use crate::protocol::AgentRef;

pub const BYTES_MAX: usize = 256;

/// Checks a name, or a pattern of names, and cuts it at `/`.
pub fn split(text: &str, is_vendor: bool) -> Result<impl Iterator<Item = &str>, String> {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    {
        return Err("a name must be printable ASCII without spaces and backslashes".into());
    }
    for segment in text.split('/') {
        match segment {
            "" if text.is_empty() => return Err("a name must not be empty".into()),
            "" if !is_vendor => return Err("a name must not have an empty segment".into()),
            "." | ".." => return Err("a name must not have a segment `.` or `..`".into()),
            _ => {}
        }
    }
    Ok(text.split('/'))
}

pub fn target(text: &str, is_vendor: bool) -> Result<Vec<&str>, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("a name must be at most {BYTES_MAX} bytes"));
    }
    if text.contains('*') {
        return Err("a name must not contain a wildcard".into());
    }
    Ok(split(text, is_vendor)?.collect())
}

/// `[name, version]`. The version of a bare name is empty: the runtime picks one,
/// so only a pattern for every version takes it in.
pub fn agent_target(text: &str) -> Result<Vec<String>, String> {
    let agent = AgentRef::parse(text)?;
    Ok(vec![agent.name, agent.version.unwrap_or_default()])
}

/// `name`, `name@version`, or `**` for every agent; a pattern without a version
/// is for every version, as is `name@*`.
pub fn agent_pattern(text: &str) -> Result<Vec<Segment>, String> {
    if text == "**" {
        return Ok(vec![Segment::Deep]);
    }
    let (name, version) = text.split_once('@').unwrap_or((text, "*"));
    if text.contains("**") {
        return Err("`**` must stand alone in a pattern of agents".into());
    }
    // With the stars filled in it has to be an agent: what could never match one
    // is a mistake that should not wait until then.
    let filled = format!("{}@{}", name.replace('*', "0"), version.replace('*', "0"));
    AgentRef::parse(&filled)?;
    Ok(vec![Segment::parse(name)?, Segment::parse(version)?])
}
