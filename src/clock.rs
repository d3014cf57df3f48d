//! The wall clock. What decides takes `now` as an argument; this is for the rim.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::Timestamp;

pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(since_epoch.as_millis() as i64)
}
