//! What an operation is about to touch, in its one canonical form.

use std::fmt;

use super::capability::{Capability, Form};
use super::{name, path, web};

pub(super) const BYTES_MAX: usize = 4_096;
pub(super) const SEGMENTS_MAX: usize = 128;

/// What a file system takes for a name, and servers for a part of a path; names are
/// short as they are.
pub(super) fn segment_bytes_max(form: Form) -> Option<usize> {
    match form {
        Form::Path => Some(255),
        Form::Url => Some(1_024),
        Form::Name | Form::Agent | Form::Vendor => None,
    }
}

/// Prints as its canonical text, which reads back as itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub(super) form: Form,
    pub(super) segments: Vec<Box<str>>,
    pub(super) query: Option<Box<str>>,
    text: String,
}

impl Target {
    pub fn parse(capability: &Capability, text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("longer than {BYTES_MAX} bytes"));
        }
        let form = capability.form();
        let target = match form {
            Form::Path => {
                let segments = path::target(text)?;
                Self::new(form, format!("/{}", segments.join("/")), segments)
            }
            Form::Url => {
                let url = web::target(text)?;
                let mut target = Self::new(form, url.text, url.segments);
                target.query = url.query.map(Into::into);
                target
            }
            Form::Name | Form::Vendor => {
                let segments = name::target(text, form == Form::Vendor)?;
                Self::new(form, text.into(), segments)
            }
            Form::Agent => Self::new(form, text.into(), name::agent_target(text)?),
        };
        if let Some(max) = segment_bytes_max(form)
            && target.segments.iter().any(|segment| segment.len() > max)
        {
            return Err(format!("a segment longer than {max} bytes"));
        }
        match target.segments.len() <= SEGMENTS_MAX && target.text.len() <= BYTES_MAX {
            true => Ok(target),
            false => Err(format!(
                "more than {SEGMENTS_MAX} segments or {BYTES_MAX} bytes"
            )),
        }
    }

    fn new<T: Into<Box<str>>>(form: Form, text: String, segments: Vec<T>) -> Self {
        Self {
            form,
            segments: segments.into_iter().map(Into::into).collect(),
            query: None,
            text,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
