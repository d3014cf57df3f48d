//! Small JSON writers shared by records and replies.

use crate::protocol::Timestamp;

/// RFC 3339 in UTC with milliseconds, `Z`.
pub fn rfc3339(ts: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(ts.0) {
        Ok(instant) => format!("{instant:.3}"),
        Err(_) => "1970-01-01T00:00:00.000Z".into(),
    }
}
