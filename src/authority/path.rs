//! File system paths: absolute, `/` between segments, every other byte itself.
//!
//! Empty and `.` segments of a target mean nothing and are dropped. `..` is
//! refused, not resolved: behind a symbolic link it leads elsewhere than its text
//! says. For the same reason whoever opens the path must not follow links out of
//! the tree; the lease sees names, not what they point to. A percent sign is a
//! character of a name. Windows forms are not paths here.

/// The segments as written, `.` and empty ones included.
pub fn split(text: &str) -> Result<impl Iterator<Item = &str>, String> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err("a path must be absolute, from /".into());
    };
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Err("a path must not contain control characters or a backslash".into());
    }
    if rest.split('/').any(|segment| segment == "..") {
        return Err("a path must not contain `..`".into());
    }
    Ok(rest.split('/'))
}

pub fn target(text: &str) -> Result<Vec<&str>, String> {
    Ok(split(text)?
        .filter(|segment| !segment.is_empty() && *segment != ".")
        .collect())
}
