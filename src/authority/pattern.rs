//! The globs of a lease (§9.2), matched per segment and at both ends.

use std::fmt;

use super::capability::{Capability, Form};
use super::{Segment, Target, cost, name, path, segments, web};

// Together they bound what one comparison may cost.
const BYTES_MAX: usize = 1_024;
const SEGMENTS_MAX: usize = 64;
const WILDCARDS_MAX: usize = 16;

/// `*` stands for any run of characters within one segment, `**` for zero or more
/// whole segments, and every other character for itself:
///
/// | kind | segments | beyond that |
/// |---|---|---|
/// | path | between `/` | absolute |
/// | URL | labels of the host, then of the path | see `web`; `*.example.com` is one label more, `**.example.com` any number, also none; `https://h` is the root alone, `https://h/**` all of it; no `?`: any query |
/// | tool, model | between `/` | printable ASCII |
/// | agent | name and version | no `@`: any version |
/// | vendor | between `/` | segments may be empty |
///
/// A pattern that could match nothing, or that nobody could mean safely, is refused
/// where it is read. Prints in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    form: Form,
    pub(super) segments: Vec<Segment>,
    query: Query,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Query {
    Any,
    /// This text, or no query at all.
    Only(Option<Box<str>>),
}

impl Pattern {
    pub fn parse(capability: &Capability, text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("longer than {BYTES_MAX} bytes"));
        }
        if text.split('*').count() > WILDCARDS_MAX + 1 {
            return Err(format!("more than {WILDCARDS_MAX} wildcards"));
        }
        let form = capability.form();
        let pattern = match form {
            Form::Path => Self::of_path(text)?,
            Form::Url => Self::of_url(text)?,
            Form::Name | Form::Vendor => {
                let segments = name::split(text, form == Form::Vendor)?
                    .map(Segment::parse)
                    .collect::<Result<_, _>>()?;
                Self::new(form, segments, text.into())
            }
            Form::Agent => {
                let segments = name::agent_pattern(text)?;
                let text = text.strip_suffix("@*").unwrap_or(text);
                Self::new(form, segments, text.into())
            }
        };
        match pattern.segments.len() <= SEGMENTS_MAX {
            true => Ok(pattern),
            false => Err(format!("more than {SEGMENTS_MAX} segments")),
        }
    }

    fn of_path(text: &str) -> Result<Self, String> {
        let segments = match text {
            "/" => Vec::new(),
            _ => path::split(text)?
                .map(|segment| match segment {
                    "" | "." => Err("a pattern must not have empty or `.` segments".into()),
                    _ => Segment::parse(segment),
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self::new(Form::Path, segments, text.into()))
    }

    fn of_url(text: &str) -> Result<Self, String> {
        let (url, segments) = web::pattern(text)?;
        let mut pattern = Self::new(Form::Url, segments, url.text);
        if let Some(query) = url.query {
            pattern.query = Query::Only((!query.is_empty()).then(|| query.into()));
        }
        Ok(pattern)
    }

    fn new(form: Form, segments: Vec<Segment>, text: String) -> Self {
        Self {
            form,
            segments,
            query: Query::Any,
            text,
        }
    }

    pub fn matches(&self, target: &Target) -> bool {
        let query = match &self.query {
            Query::Any => true,
            Query::Only(query) => *query == target.query,
        };
        query
            && self.form == target.form
            && segments::match_target(&self.segments, &target.segments)
    }

    /// True only if every target of `child` is one of this pattern too. It may be
    /// false where that holds but takes more than one reading to see: `/*/**` does
    /// not cover `/**/a`.
    pub fn covers(&self, child: &Pattern) -> bool {
        let query = self.query == Query::Any || self.query == child.query;
        query && self.form == child.form && segments::covers(&self.segments, &child.segments)
    }

    /// Nanoseconds that one comparison may take, about.
    pub(super) fn cost(&self) -> u32 {
        cost::of_pattern(self.form, &self.segments)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
