//! A client's protobuf envelope as a checked request.

use super::convert::{filled, ts_from_proto};
use super::extensions::Extensions;
use super::{Invalid, check_json, proto};
use crate::protocol::VERSION;
use crate::protocol::message::{Hello, ListJobs, Profile, Request, RequestBody, Resume, Submit};

/// Longest envelope id, and longest of any other identifier a client names.
pub const ID_BYTES_MAX: usize = 128;
pub(super) const KEY_BYTES_MAX: usize = 256;

/// Checks everything that needs no state; the session checks the rest.
pub fn request_from_proto(envelope: proto::Envelope) -> Result<Request, Invalid> {
    let id = envelope.id;
    let of_submit = matches!(
        envelope.payload,
        Some(proto::envelope::Payload::JobSubmit(_))
    );
    let named = |message: String| Invalid {
        request_id: filled(id.clone()),
        message,
        of_submit,
    };
    if !(envelope.arcp.is_empty() || envelope.arcp == VERSION) {
        return Err(named(format!("arcp: this runtime speaks {VERSION} only")));
    }
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Invalid::new(format!(
            "id: must have 1 to {ID_BYTES_MAX} bytes"
        )));
    }
    for (field, value) in [
        ("session_id", &envelope.session_id),
        ("job_id", &envelope.job_id),
    ] {
        if value.len() > ID_BYTES_MAX {
            return Err(named(format!("{field}: longer than {ID_BYTES_MAX} bytes")));
        }
    }
    let Some(payload) = envelope.payload else {
        return Err(named(
            "payload: missing, or of a type this runtime does not know".into(),
        ));
    };
    let mut body = body(payload).map_err(|invalid| named(invalid.message))?;
    if let RequestBody::Hello(hello) = &mut body {
        hello.named_by_envelope(Some(&envelope.session_id));
    }
    let extensions = Extensions::read(&envelope.extensions_json);
    let trace = extensions.trace(Some(&envelope.trace_id)).map_err(named)?;
    Ok(Request {
        session_id: filled(envelope.session_id),
        job_id: filled(envelope.job_id),
        trace,
        optional: extensions.optional,
        id,
        body,
    })
}

fn body(payload: proto::envelope::Payload) -> Result<RequestBody, Invalid> {
    use proto::envelope::Payload as P;
    let other = |name: &str| RequestBody::Other {
        type_name: name.into(),
    };
    Ok(match payload {
        P::SessionHello(m) => RequestBody::Hello(Hello {
            profile: Profile::Draft,
            client: format!("{} {}", m.client_name, m.client_version),
            auth_scheme: m.auth_scheme,
            auth_token: m.auth_token,
            features: m.features,
            resume: m.resume.map(|r| Resume {
                session_id: r.session_id,
                resume_token: r.resume_token,
                last_event_seq: r.last_event_seq,
            }),
        }),
        P::SessionResume(m) => RequestBody::Hello(Hello {
            profile: Profile::Draft,
            client: String::new(),
            auth_scheme: m.auth_scheme,
            auth_token: m.auth_token,
            features: Vec::new(),
            resume: Some(Resume {
                session_id: m.session_id,
                resume_token: m.resume_token,
                last_event_seq: m.last_event_seq,
            }),
        }),
        P::SessionPing(m) => RequestBody::Ping { nonce: m.nonce },
        P::SessionPong(m) => RequestBody::Pong {
            nonce: m.ping_nonce,
        },
        P::SessionAck(m) => RequestBody::Ack {
            last_processed_seq: m.last_processed_seq,
        },
        P::SessionListJobs(m) => RequestBody::ListJobs(ListJobs {
            statuses: m.statuses,
            agent: filled(m.agent),
            created_after: ts_from_proto(m.created_after),
            created_before: ts_from_proto(m.created_before),
            limit: m.limit,
            cursor: filled(m.cursor),
        }),
        P::SessionClose(_) => RequestBody::Close,
        P::SessionBye(_) => RequestBody::Bye,
        P::JobSubmit(m) => RequestBody::Submit(submit(m)?),
        P::JobCancel(m) => RequestBody::Cancel {
            reason: filled(m.reason),
        },
        P::JobSubscribe(m) => RequestBody::Subscribe {
            history: m.history,
            from_event_seq: m.from_event_seq,
            from_job_seq: m.from_job_seq,
        },
        P::JobUnsubscribe(_) => RequestBody::Unsubscribe,
        P::Unknown(m) => RequestBody::Other {
            type_name: m.r#type,
        },
        P::SessionWelcome(_) => other("session.welcome"),
        P::SessionError(_) => other("session.error"),
        P::SessionJobs(_) => other("session.jobs"),
        P::SessionClosed(_) => other("session.closed"),
        P::JobAccepted(_) => other("job.accepted"),
        P::JobEvent(_) => other("job.event"),
        P::JobResult(_) => other("job.result"),
        P::JobError(_) => other("job.error"),
        P::JobCancelled(_) => other("job.cancelled"),
        P::JobSubscribed(_) => other("job.subscribed"),
    })
}

pub(super) fn submit(m: proto::JobSubmit) -> Result<Submit, Invalid> {
    let text = |text: String, default: &str| {
        if text.is_empty() {
            default.into()
        } else {
            text
        }
    };
    let input_json = text(m.input_json, "null");
    check_json("input_json", &input_json)?;
    let lease_request_json = text(m.lease_request_json, "{}");
    check_json("lease_request_json", &lease_request_json)?;
    if m.idempotency_key.len() > KEY_BYTES_MAX {
        return Err(Invalid::new(format!(
            "idempotency_key: longer than {KEY_BYTES_MAX} bytes"
        )));
    }
    Ok(Submit {
        agent: m.agent,
        input_json,
        lease_request_json,
        lease_expires_at: ts_from_proto(m.lease_expires_at),
        idempotency_key: filled(m.idempotency_key),
        max_runtime_sec: m.max_runtime_sec,
    })
}
