//! Why the runtime ends a stream that has not come to its end, and when its peer may be
//! back.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    pub cause: Cause,
    pub reconnect_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Shutdown,
    /// The connection is as old as it may become; the runtime stays.
    Age,
    /// The replica does not hear of its log; others have its work, or soon will.
    CutOff,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "the runtime is shutting down",
            Self::Age => "this connection is as old as it may become",
            Self::CutOff => "this replica is cut off from its log; go on at another",
        }
    }
}
