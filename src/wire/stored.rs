//! What the runtime reads back of its own stored records.

use prost::Message;

use super::convert::filled;
use super::proto;
use crate::protocol::{ErrorCode, Failure, Outcome};

/// How a job ended, from its terminal.
pub fn decode_outcome(record: &[u8]) -> Option<Outcome> {
    use proto::envelope::Payload;
    Some(match proto::Envelope::decode(record).ok()?.payload? {
        Payload::JobResult(result) if result.result_id.is_empty() => Outcome::Inline {
            result_json: result.result_json,
        },
        Payload::JobResult(result) => Outcome::Chunked {
            result_id: result.result_id,
            result_size: result.result_size,
            summary: filled(result.summary),
        },
        Payload::JobError(error) => match &*error.final_status {
            "cancelled" => Outcome::Cancelled {
                message: error.message,
            },
            "timed_out" => Outcome::TimedOut {
                message: error.message,
            },
            _ => Outcome::Failed(Failure {
                code: ErrorCode::parse(&error.code).unwrap_or(ErrorCode::InternalError),
                message: error.message,
                retryable: error.retryable,
                details_json: filled(error.details_json),
            }),
        },
        _ => return None,
    })
}

/// Whether a record is the `delegate` event of this child.
pub fn delegates(record: &[u8], child_job_id: &str) -> bool {
    use proto::{envelope::Payload, job_event::Body};
    // Most records are something else, and the id is in the open in one that is.
    let named = record
        .windows(child_job_id.len())
        .any(|part| part == child_job_id.as_bytes());
    let event = named
        .then(|| proto::Envelope::decode(record).ok())
        .flatten();
    let body = event.and_then(|event| match event.payload? {
        Payload::JobEvent(event) => event.body,
        _ => None,
    });
    matches!(body, Some(Body::Delegate(delegate)) if delegate.child_job_id == child_job_id)
}
