//! A span as a value: made when it is over, of what is known by then.
//!
//! The ids of a job's spans follow from the job's id, so that one can be ended by
//! another run of the runtime than the one that began it, and named (as a parent, as
//! a link) by whoever knows the job.

use std::borrow::Cow;
use std::sync::Arc;

pub use opentelemetry::trace::SpanKind as Kind;
use opentelemetry::{Key, KeyValue};
use sha2::{Digest, Sha256};

use super::names;
use crate::protocol::{SpanId, SpanRef};

/// Longest text of an attribute; more is cut.
const TEXT_BYTES_MAX: usize = 256;
/// The finest that Jaeger shows.
const SPAN_NS_MIN: u64 = 1_000;

/// The SDK's, of which no text is longer than it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Value(pub(super) opentelemetry::Value);

#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub name: &'static str,
    pub at_ns: u64,
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub of: SpanRef,
    pub parent: Option<SpanId>,
    pub tracestate: String,
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: Vec<KeyValue>,
    pub events: Vec<Mark>,
    pub links: Vec<SpanRef>,
    /// Events and links that there was no room for.
    pub dropped: Dropped,
    /// The code of what went wrong.
    pub error: Option<String>,
    /// Exported at once: something else will name it as its parent.
    pub urgent: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub events: u32,
    pub links: u32,
}

/// The span of a job that `part` names: `submit`, `run`, or a tool's call.
pub fn span_id(job_id: &str, part: &str) -> SpanId {
    let digest = Sha256::new()
        .chain_update(job_id)
        .chain_update("/")
        .chain_update(part)
        .finalize();
    let id = digest[..8]
        .iter()
        .fold(0, |id, byte| id << 8 | u64::from(*byte));
    SpanId(id.max(1))
}

/// Of a span that nobody else has to know.
pub fn random_id() -> SpanId {
    SpanId(rand::random::<u64>() | 1)
}

pub fn now_ns() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_nanos() as u64)
}

/// As precise as the records that the spans of a job stand beside.
pub fn now_of_records() -> u64 {
    now_ns() / 1_000_000 * 1_000_000
}

pub fn ms_to_ns(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000)
}

impl Span {
    pub fn new(
        of: SpanRef,
        name: impl Into<Cow<'static, str>>,
        start_ns: u64,
        end_ns: u64,
    ) -> Self {
        Self {
            of,
            parent: None,
            tracestate: String::new(),
            name: name.into(),
            kind: Kind::Internal,
            start_ns,
            // A clock that was set back is no reason for a span of 500 years; and Jaeger
            // warns of one that took no time.
            end_ns: end_ns.max(start_ns.saturating_add(SPAN_NS_MIN)),
            attributes: Vec::new(),
            events: Vec::new(),
            links: Vec::new(),
            dropped: Dropped::default(),
            error: None,
            urgent: false,
        }
    }

    /// A random id in a trace.
    pub fn within(trace_id: &str, name: &'static str, start_ns: u64, end_ns: u64) -> Self {
        let of = SpanRef {
            trace_id: trace_id.into(),
            span_id: random_id(),
        };
        Self::new(of, name, start_ns, end_ns)
    }

    pub fn set(&mut self, name: impl Into<Key>, value: impl Into<Value>) {
        self.attributes.push(attribute(name, value));
    }

    pub fn fail(&mut self, code: impl Into<String>) {
        let code = code.into();
        self.set(names::ERROR_TYPE, code.clone());
        self.error = Some(code);
    }
}

pub fn attribute(name: impl Into<Key>, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(name, value.into().0)
}

impl Value {
    /// One of the runtime's own words: not copied, not cut.
    pub fn word(text: &'static str) -> Self {
        Self(text.into())
    }

    /// A text that several spans have, copied once.
    pub fn shared(text: &str) -> Self {
        Self(Arc::<str>::from(cut(text)).into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(cut(text).to_owned().into())
    }
}

/// No more of a text than a span may have.
pub fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::from(&*text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self(i64::try_from(number).unwrap_or(i64::MAX).into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self(truth.into())
    }
}
