//! W3C trace context (<https://www.w3.org/TR/trace-context/>): what a caller says
//! of the trace it is in.
//!
//! A submit may say it three times. First wins, whole:
//!
//! 1. the envelope: `trace_id`, 32 hex digits or a `traceparent`, and
//!    `extensions["x-vendor.opentelemetry.tracecontext"]` with `traceparent`,
//!    `tracestate`, `baggage`. Where both name a trace and it is not the same,
//!    `trace_id` is the job's and the other becomes a link;
//! 2. the metadata of the call or of the connection: `traceparent`, `tracestate`,
//!    `baggage`. A context of a connection is also a link of the jobs that say
//!    another one;
//! 3. nothing: the runtime makes a trace.
//!
//! An extension that cannot be read is refused by field. A `trace_id` that cannot
//! be read counts as absent, for clients to which it is free text; the submit span
//! says so and `job.accepted` has the one that took its place. Metadata that cannot
//! be read is ignored, as W3C has it: whatever stands in between may have made it.
//! So is a `tracestate` that is no list of W3C's, wherever it is from, and one without
//! a `traceparent`. `baggage` needs none: it goes on also with a trace of our making.

use std::fmt;

/// The member of `extensions` that OpenTelemetry's users of ARCP agreed on.
pub const EXTENSION: &str = "x-vendor.opentelemetry.tracecontext";
const TRACESTATE_BYTES_MAX: usize = 512;
const TRACESTATE_MEMBERS_MAX: usize = 32;
const BAGGAGE_BYTES_MAX: usize = 8_192;

/// Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

/// One span of one trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRef {
    /// 32 lower-case hex digits, not all zero.
    pub trace_id: String,
    pub span_id: SpanId,
}

/// What a caller said; all empty when it said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: Option<String>,
    /// The caller's span, if it has named one.
    pub span_id: Option<SpanId>,
    /// Its decision, if it has made one.
    pub sampled: Option<bool>,
    pub tracestate: String,
    pub baggage: String,
    /// A span that belongs here and is of another trace.
    pub link: Option<SpanRef>,
    /// A `trace_id` was there and could not be read.
    pub ignored: bool,
}

/// The members of the extension.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Extension {
    #[serde(default)]
    pub traceparent: Option<String>,
    #[serde(default)]
    pub tracestate: Option<String>,
    #[serde(default)]
    pub baggage: Option<String>,
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a `traceparent`; later versions by their first four fields (W3C §3.2.4).
pub fn parse_traceparent(text: &str) -> Option<(SpanRef, bool)> {
    let mut fields = text.splitn(5, '-');
    let mut hex = |digits: usize| fields.next().filter(|f| is_hex(f, digits));
    let (version, trace_id) = (hex(2)?, hex(32)?);
    let (span_id, flags) = (hex(16)?, hex(2)?);
    let rest = fields.next().is_some();
    if version == "ff" || (version == "00" && rest) || trace_id.bytes().all(|b| b == b'0') {
        return None;
    }
    let span_id = SpanId(
        u64::from_str_radix(span_id, 16)
            .ok()
            .filter(|id| *id != 0)?,
    );
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let trace_id = trace_id.to_owned();
    Some((SpanRef { trace_id, span_id }, flags & 1 == 1))
}

pub fn traceparent(trace_id: &str, span_id: SpanId, sampled: bool) -> String {
    format!("00-{trace_id}-{span_id}-{:02x}", u8::from(sampled))
}

fn is_hex(text: &str, digits: usize) -> bool {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == digits && text.bytes().all(lower)
}

/// What can be a header and an environment variable; nothing of what cannot.
fn carried(text: Option<&str>, bytes_max: usize) -> String {
    let text = text.unwrap_or("");
    let plain = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    match plain && text.len() <= bytes_max {
        true => text.to_owned(),
        false => String::new(),
    }
}

/// A `tracestate` as W3C has it (§3.3.1): at most 32 members `key=value`, some of which
/// may be empty; nothing of what is not.
fn state(text: Option<&str>) -> String {
    let text = carried(text, TRACESTATE_BYTES_MAX);
    let members = || {
        text.split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
    };
    match members().count() <= TRACESTATE_MEMBERS_MAX && members().all(is_member) {
        true => text,
        false => String::new(),
    }
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let other = |b: u8| first(b) || matches!(b, b'_' | b'-' | b'*' | b'/');
    let part = |part: &str, bytes_max: usize| {
        part.len() <= bytes_max && part.bytes().next().is_some_and(first) && part.bytes().all(other)
    };
    let key_fits = match key.split_once('@') {
        Some((tenant, system)) => part(tenant, 241) && part(system, 14),
        None => part(key, 256),
    };
    key_fits && (1..=256).contains(&value.len()) && !value.contains('=')
}

impl TraceContext {
    /// From the metadata of a call or a connection. `get` gives every value of a name, in
    /// their order: of lists there may be several, which are one.
    pub fn from_metadata<'a>(get: impl Fn(&str) -> Vec<&'a str>) -> Self {
        let list = |name: &str| {
            let mut parts = get(name);
            parts.retain(|part| !part.trim().is_empty());
            parts.join(",")
        };
        let baggage = carried(Some(&list("baggage")), BAGGAGE_BYTES_MAX);
        // Of two parents neither is.
        let parent = match get("traceparent")[..] {
            [one] => parse_traceparent(one),
            _ => None,
        };
        let Some((span, sampled)) = parent else {
            return Self {
                baggage,
                ..Self::default()
            };
        };
        Self {
            tracestate: state(Some(&list("tracestate"))),
            baggage,
            ..Self::of(span, sampled)
        }
    }

    /// From an envelope. An error names the member of the extension.
    pub fn from_envelope(
        trace_id: Option<&str>,
        extension: Option<Extension>,
    ) -> Result<Self, String> {
        let said = trace_id.filter(|text| !text.is_empty());
        let read = said.map(|text| (super::id::parse_trace_id(text), parse_traceparent(text)));
        let mut context = match read {
            None => Self::default(),
            Some((_, Some((span, sampled)))) => Self::of(span, sampled),
            Some((trace_id, None)) => Self {
                ignored: trace_id.is_none(),
                trace_id,
                ..Self::default()
            },
        };
        if let Some(extension) = extension {
            context.extend(extension)?;
        }
        Ok(context)
    }

    fn of(span: SpanRef, sampled: bool) -> Self {
        Self {
            trace_id: Some(span.trace_id),
            span_id: Some(span.span_id),
            sampled: Some(sampled),
            ..Self::default()
        }
    }

    fn extend(&mut self, extension: Extension) -> Result<(), String> {
        self.baggage = carried(extension.baggage.as_deref(), BAGGAGE_BYTES_MAX);
        let Some(text) = extension.traceparent else {
            return Ok(());
        };
        let (span, sampled) = parse_traceparent(&text).ok_or_else(|| {
            format!("extensions.{EXTENSION}.traceparent: not a W3C traceparent, 00-<32 hex>-<16 hex>-<2 hex>")
        })?;
        if self
            .trace_id
            .as_ref()
            .is_some_and(|id| *id != span.trace_id)
        {
            self.link = Some(span);
            return Ok(());
        }
        let tracestate = state(extension.tracestate.as_deref());
        let baggage = std::mem::take(&mut self.baggage);
        *self = Self {
            tracestate,
            baggage,
            ignored: self.ignored,
            ..Self::of(span, sampled)
        };
        Ok(())
    }

    /// What the envelope says, else what its connection said.
    pub fn or(self, connection: &Self) -> Self {
        if self.trace_id.is_none() {
            let mut context = connection.clone();
            context.ignored = self.ignored;
            if !self.baggage.is_empty() {
                context.baggage = self.baggage;
            }
            return context;
        }
        let elsewhere = connection
            .span()
            .filter(|span| Some(&span.trace_id) != self.trace_id.as_ref());
        Self {
            link: self.link.or(elsewhere),
            ..self
        }
    }

    /// The caller's span.
    pub fn span(&self) -> Option<SpanRef> {
        Some(SpanRef {
            trace_id: self.trace_id.clone()?,
            span_id: self.span_id?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const OTHER: &str = "aaf92f3577b34da6a3ce929d0e0e4736";

    fn parent(trace: &str, flags: &str) -> String {
        format!("00-{trace}-00f067aa0ba902b7-{flags}")
    }

    fn extension(traceparent: &str) -> Option<Extension> {
        Some(Extension {
            traceparent: Some(traceparent.into()),
            tracestate: Some("vendor=1".into()),
            baggage: Some("k=v".into()),
        })
    }

    #[test]
    fn a_traceparent_is_read_as_w3c_has_it() {
        let read =
            |text: &str| parse_traceparent(text).map(|(span, sampled)| (span.span_id.0, sampled));
        assert_eq!(
            read(&parent(TRACE, "01")),
            Some((0x00f0_67aa_0ba9_02b7, true))
        );
        assert_eq!(
            read(&parent(TRACE, "00")),
            Some((0x00f0_67aa_0ba9_02b7, false))
        );
        // A later version may have more.
        assert!(read(&format!("01-{TRACE}-00f067aa0ba902b7-01-more")).is_some());
        for bad in [
            String::new(),
            TRACE.into(),
            parent(&TRACE.to_uppercase(), "01"),
            parent(&"0".repeat(32), "01"),
            parent(TRACE, "1"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
        let (span, sampled) = parse_traceparent(&parent(TRACE, "01")).unwrap();
        assert_eq!(
            traceparent(&span.trace_id, span.span_id, sampled),
            parent(TRACE, "01")
        );
    }

    #[test]
    fn the_envelope_goes_before_the_connection_and_trace_id_before_the_extension() {
        let bare = TraceContext::from_envelope(Some(TRACE), None).unwrap();
        assert_eq!(
            (bare.trace_id.as_deref(), bare.span_id),
            (Some(TRACE), None)
        );
        let full = TraceContext::from_envelope(Some(&parent(TRACE, "00")), None).unwrap();
        assert_eq!(full.sampled, Some(false));
        // The extension says more of the same trace.
        let more =
            TraceContext::from_envelope(Some(TRACE), extension(&parent(TRACE, "01"))).unwrap();
        assert_eq!(
            (more.tracestate.as_str(), more.baggage.as_str()),
            ("vendor=1", "k=v")
        );
        assert_eq!(more.span_id, full.span_id);
        // Of another trace, it is a link.
        let two =
            TraceContext::from_envelope(Some(TRACE), extension(&parent(OTHER, "01"))).unwrap();
        assert_eq!((two.trace_id.as_deref(), two.span_id), (Some(TRACE), None));
        assert_eq!(two.link.as_ref().unwrap().trace_id, OTHER);
        let metadata = |name: &str| match name {
            "traceparent" => vec!["00-aaf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            _ => Vec::new(),
        };
        let connection = TraceContext::from_metadata(metadata);
        assert_eq!(bare.or(&connection).link.unwrap().trace_id, OTHER);
        let none = TraceContext::default().or(&connection);
        assert_eq!(none.trace_id.as_deref(), Some(OTHER));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_field_or_known_to_be_ignored() {
        let refused = TraceContext::from_envelope(None, extension("00-nonsense")).unwrap_err();
        assert!(refused.starts_with("extensions.x-vendor.opentelemetry.tracecontext.traceparent:"));
        let ignored = TraceContext::from_envelope(Some("free text"), None).unwrap();
        assert!(ignored.ignored && ignored.trace_id.is_none());
        let metadata = TraceContext::from_metadata(|_| vec!["a\nb"]);
        assert_eq!(metadata, TraceContext::default());
    }

    #[test]
    fn a_trace_id_that_is_a_traceparent_is_read_as_one_or_not_at_all() {
        let read = |text: &str| TraceContext::from_envelope(Some(text), None).unwrap();
        let later = read(&format!("01-{TRACE}-00f067aa0ba902b7-01-xx"));
        assert_eq!(later.trace_id.as_deref(), Some(TRACE));
        assert!(later.span_id.is_some() && !later.ignored);
        for broken in [
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            TRACE.to_uppercase(),
        ] {
            let context = read(&broken);
            assert!(context.ignored && context.trace_id.is_none(), "{broken}");
        }
    }

    #[test]
    fn several_headers_of_a_list_are_one_list_and_two_parents_are_none() {
        let one = parent(TRACE, "01");
        let get = |parents: usize| {
            let parents = vec![&*one; parents];
            TraceContext::from_metadata(move |name| match name {
                "traceparent" => parents.clone(),
                "tracestate" => vec!["a=1", "", "b=2,c=3"],
                _ => vec!["k=v", "l=w"],
            })
        };
        let read = get(1);
        assert_eq!(
            (&*read.tracestate, &*read.baggage),
            ("a=1,b=2,c=3", "k=v,l=w")
        );
        let none = get(2);
        assert_eq!((none.trace_id, &*none.tracestate), (None, ""));
    }

    #[test]
    fn baggage_of_an_envelope_needs_no_traceparent() {
        let extension = Extension {
            tracestate: Some("a=1".into()),
            baggage: Some("k=v".into()),
            ..Extension::default()
        };
        let said = TraceContext::from_envelope(None, Some(extension)).unwrap();
        let context = said.or(&TraceContext::default());
        assert_eq!((&*context.baggage, &*context.tracestate), ("k=v", ""));
    }

    #[test]
    fn a_tracestate_that_is_no_list_is_not_handed_on() {
        for good in ["", "a=1", "a=1, b=2 ,,c=x:y", "0t@sys=v", "a*/_-=!~"] {
            assert_eq!(state(Some(good)), good);
        }
        let many = vec!["a=1"; 33].join(",");
        for bad in [
            "no list ,,,=",
            "a",
            "A=1",
            "a=1=2",
            "a=",
            "@sys=1",
            "a@=1",
            &many,
        ] {
            assert_eq!(state(Some(bad)), "", "{bad}");
        }
    }
}
