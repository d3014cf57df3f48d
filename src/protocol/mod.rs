//! ARCP v1.1 as plain data: what a peer can say and what is answered.
//!
//! Everything above uses these types; they know no socket, clock, encoding or
//! async runtime. Sections (§) are those of draft-arcp-1.1.

pub mod agent_ref;
pub mod departure;
pub mod error;
pub mod event;
pub mod feature;
pub mod host;
pub mod id;
pub mod message;
pub mod trace;

pub use agent_ref::AgentRef;
pub use departure::{Cause, Departure};
pub use error::{ErrorCode, Failure};
pub use event::{Event, EventBody, Outcome};
pub use message::{Reply, Request, RequestBody};
pub use trace::{SpanId, SpanRef, TraceContext};

/// The protocol version on every envelope.
pub const VERSION: &str = "1.1";

/// An instant in milliseconds since the Unix epoch; the wire writes it as
/// RFC 3339 in UTC.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);
