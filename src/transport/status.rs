//! A refusal as a `Status` with google.rpc details: the one table of codes.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::protocol::host::HostRefusal;
use crate::protocol::{Departure, ErrorCode, Failure};

const DOMAIN: &str = "arcp";
/// What may succeed later is to be tried again after a part of this, not by all
/// at once.
pub const RETRY_MAX: Duration = Duration::from_secs(2);
/// A host that was turned away comes back after a part of this.
const HOST_RETRY_MAX: Duration = Duration::from_secs(5);
const MESSAGE_BYTES_MAX: usize = 512;
/// What a session calls otherwise.
const FIELDS: [(&str, &str); 4] = [
    ("filter.status", "statuses"),
    ("cursor", "page_token"),
    ("lease_request", "lease_request_json"),
    ("lease_constraints", "lease_expires_at"),
];

fn code(failure: &Failure) -> Code {
    match failure.code {
        ErrorCode::InvalidRequest => Code::InvalidArgument,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::PermissionDenied | ErrorCode::LeaseSubsetViolation => Code::PermissionDenied,
        ErrorCode::JobNotFound
        | ErrorCode::AgentNotAvailable
        | ErrorCode::AgentVersionNotAvailable => Code::NotFound,
        ErrorCode::DuplicateKey => Code::AlreadyExists,
        ErrorCode::ResumeWindowExpired => Code::OutOfRange,
        ErrorCode::LeaseExpired | ErrorCode::BudgetExhausted => Code::FailedPrecondition,
        ErrorCode::Cancelled => Code::Aborted,
        ErrorCode::Timeout => Code::DeadlineExceeded,
        ErrorCode::InternalError if failure.retryable => Code::Unavailable,
        ErrorCode::InternalError => Code::Internal,
        ErrorCode::HeartbeatLost => Code::Unavailable,
    }
}

pub fn status(failure: Failure) -> Status {
    let after = rand::rng().random_range(Duration::ZERO..=RETRY_MAX);
    retryable_after(failure, after)
}

/// Of a stream that is to go on elsewhere; `then` is what its peer does next.
pub fn away(departure: Departure, then: &str) -> Status {
    let failure = Failure::internal(format!("{}; {then}", departure.cause.as_str()));
    retryable_after(failure, departure.reconnect_after)
}

fn retryable_after(failure: Failure, after: Duration) -> Status {
    let (message, field) = named(cut(&failure.message));
    let mut details = ErrorDetails::new();
    let metadata = failure
        .details_json
        .as_ref()
        .map(|json| HashMap::from([("details_json".to_owned(), json.clone())]));
    details.set_error_info(failure.code.as_str(), DOMAIN, metadata.unwrap_or_default());
    if let (Some(field), true) = (field, about_a_field(failure.code)) {
        details.add_bad_request_violation(field, &message);
    }
    if failure.retryable {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code(&failure), message, details)
}

/// Why a host's stream ends, or was never opened.
pub fn of_host(refusal: HostRefusal) -> Status {
    let (code, reason, text) = match refusal {
        HostRefusal::Away(departure) => return away(departure, "dial again"),
        HostRefusal::Unauthenticated(text) => {
            (Code::Unauthenticated, ErrorCode::Unauthenticated, text)
        }
        HostRefusal::PermissionDenied(text) => {
            (Code::PermissionDenied, ErrorCode::PermissionDenied, text)
        }
        HostRefusal::Invalid(text) => (Code::InvalidArgument, ErrorCode::InvalidRequest, text),
        HostRefusal::TooMany(text) => (Code::ResourceExhausted, ErrorCode::InternalError, text),
        HostRefusal::Unavailable(text) => (Code::Unavailable, ErrorCode::InternalError, text),
    };
    let (message, field) = named(cut(&text));
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.as_str(), DOMAIN, HashMap::<String, String>::new());
    if let (Some(field), Code::InvalidArgument) = (field, code) {
        details.add_bad_request_violation(field, &message);
    }
    if matches!(code, Code::ResourceExhausted | Code::Unavailable) {
        // Many may be turned away at once: each has a moment of its own.
        let after = rand::rng().random_range(Duration::ZERO..=HOST_RETRY_MAX);
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code, message, details)
}

/// It travels in headers, which have little room, and may quote what was sent.
fn cut(message: &str) -> &str {
    let mut chars = message.char_indices();
    match chars.find(|(at, char)| at + char.len_utf8() > MESSAGE_BYTES_MAX) {
        Some((at, _)) => &message[..at],
        None => message,
    }
}

/// Whether the request itself has to change.
fn about_a_field(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InvalidRequest
            | ErrorCode::AgentNotAvailable
            | ErrorCode::AgentVersionNotAvailable
            | ErrorCode::DuplicateKey
    )
}

/// A message starts with the field it is about, `field: what is wrong`; both
/// under the name this service has for the field.
fn named(message: &str) -> (String, Option<String>) {
    let Some((field, rest)) = message.split_once(": ") else {
        return (message.into(), None);
    };
    if field.contains(char::is_whitespace) {
        return (message.into(), None);
    }
    let known = FIELDS.iter().find(|(theirs, _)| *theirs == field);
    let field = known.map_or(field, |(_, ours)| ours);
    (format!("{field}: {rest}"), Some(field.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_code_reason_field_and_whether_to_try_again() {
        let answer = status(Failure::invalid("cursor: is not one"));
        assert_eq!(answer.code(), Code::InvalidArgument);
        assert_eq!(answer.message(), "page_token: is not one");
        let details = answer.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("INVALID_REQUEST", "arcp"));
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, "page_token");
        assert!(details.retry_info().is_none());

        let answer = status(Failure::internal("the store is not available; try again"));
        assert_eq!(answer.code(), Code::Unavailable);
        let details = answer.get_error_details();
        assert!(details.retry_info().is_some() && details.bad_request().is_none());
    }
}
