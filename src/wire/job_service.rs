//! The requests of `JobService` as checked ones, and how a job ended.

use prost::Message;

use super::convert::{filled, ts_from_proto};
use super::proto_in::{ID_BYTES_MAX, submit};
use super::{Invalid, proto};
use crate::protocol::message::{ListJobs, Submit};
use crate::protocol::{AgentRef, Timestamp};

pub fn submit_from_proto(request: proto::SubmitJobRequest) -> Result<Submit, Invalid> {
    let proto::SubmitJobRequest {
        agent,
        input_json,
        lease_request_json,
        lease_expires_at,
        idempotency_key,
        max_runtime_sec,
    } = request;
    time("lease_expires_at", lease_expires_at)?;
    submit(proto::JobSubmit {
        agent,
        input_json,
        lease_request_json,
        lease_expires_at,
        idempotency_key,
        max_runtime_sec,
    })
}

pub fn list_from_proto(request: proto::ListJobsRequest) -> Result<ListJobs, Invalid> {
    let proto::ListJobsRequest {
        statuses,
        agent,
        created_after,
        created_before,
        page_size,
        page_token,
    } = request;
    let agent = filled(agent);
    if let Some(agent) = &agent {
        AgentRef::parse(agent).map_err(Invalid::new)?;
    }
    Ok(ListJobs {
        statuses,
        agent,
        created_after: time("created_after", created_after)?,
        created_before: time("created_before", created_before)?,
        limit: page_size,
        cursor: filled(page_token),
    })
}

/// The job a request names.
pub fn job_id(job_id: String) -> Result<String, Invalid> {
    match job_id.len() {
        0 => Err(Invalid::new("job_id: missing")),
        1..=ID_BYTES_MAX => Ok(job_id),
        _ => Err(Invalid::new(format!(
            "job_id: longer than {ID_BYTES_MAX} bytes"
        ))),
    }
}

/// What `google.protobuf.Timestamp` allows: the years 1 to 9999.
pub(super) fn time(
    field: &str,
    at: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Invalid> {
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    match at {
        Some(at) if !SECONDS.contains(&at.seconds) || !(0..1_000_000_000).contains(&at.nanos) => {
            Err(Invalid::new(format!(
                "{field}: is not a time of the years 1 to 9999"
            )))
        }
        at => Ok(ts_from_proto(at)),
    }
}

/// Reads a stored terminal.
pub fn outcome(record: &[u8]) -> Option<proto::job::Outcome> {
    match proto::Envelope::decode(record).ok()?.payload? {
        proto::envelope::Payload::JobResult(result) => Some(proto::job::Outcome::Result(result)),
        proto::envelope::Payload::JobError(error) => Some(proto::job::Outcome::Error(error)),
        _ => None,
    }
}
