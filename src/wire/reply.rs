//! The runtime's unnumbered replies in both encodings. JSON frames carry the
//! superset of members that the published SDK clients need.

use bytes::BytesMut;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::convert::ts_to_proto;
use super::granted::{budget, budget_as_texts, granted_json};
use super::json_out::rfc3339;
use super::proto::{self, envelope::Payload};
use crate::protocol::message::{JobSummary, Profile, Reply, ReplyBody, Welcome};
use crate::protocol::{Failure, VERSION, id};

/// Name and version a welcome announces.
const RUNTIME_NAME: &str = env!("CARGO_PKG_NAME");
const RUNTIME_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Appends one envelope of a `SessionResponse`.
pub fn encode_reply_proto(reply: Reply, out: &mut BytesMut) {
    let envelope = proto::Envelope {
        arcp: VERSION.into(),
        id: id::message_id(),
        session_id: reply.session_id,
        job_id: reply.job_id.clone().unwrap_or_default(),
        trace_id: reply.trace_id.unwrap_or_default(),
        payload: Some(payload_proto(reply.body, reply.job_id)),
        ..Default::default()
    };
    prost::encoding::message::encode(1, &envelope, out);
}

fn payload_proto(body: ReplyBody, job_id: Option<String>) -> Payload {
    match body {
        ReplyBody::Welcome(welcome) => Payload::SessionWelcome(welcome_proto(welcome)),
        ReplyBody::Error {
            request_id,
            failure,
        } => Payload::SessionError(proto::SessionError {
            code: failure.code.as_str().into(),
            message: failure.message,
            retryable: failure.retryable,
            request_id: request_id.unwrap_or_default(),
            details_json: failure.details_json.unwrap_or_default(),
            job_id: job_id.unwrap_or_default(),
        }),
        ReplyBody::Rejected { failure, at } => {
            super::convert::outcome_to_proto(crate::protocol::Outcome::Failed(failure), at)
        }
        ReplyBody::Ping { nonce, sent_at } => Payload::SessionPing(proto::SessionPing {
            nonce,
            sent_at: rfc3339(sent_at),
        }),
        ReplyBody::Pong { nonce, received_at } => Payload::SessionPong(proto::SessionPong {
            ping_nonce: nonce,
            received_at: rfc3339(received_at),
        }),
        ReplyBody::Jobs {
            request_id,
            jobs,
            next_cursor,
        } => Payload::SessionJobs(proto::SessionJobs {
            request_id,
            jobs: jobs.into_iter().map(summary_proto).collect(),
            next_cursor: next_cursor.unwrap_or_default(),
        }),
        ReplyBody::Closed { reason } => Payload::SessionClosed(proto::SessionClosed { reason }),
        ReplyBody::Bye {
            reason,
            reconnect_after,
        } => Payload::SessionBye(proto::SessionBye {
            reason,
            code: String::new(),
            reconnect_after: reconnect_after.map(|after| prost_types::Duration {
                seconds: after.as_secs() as i64,
                nanos: after.subsec_nanos() as i32,
            }),
        }),
        ReplyBody::Accepted {
            request_id,
            agent,
            accepted_at,
            grant,
            credentials_json,
        } => Payload::JobAccepted(proto::JobAccepted {
            request_id,
            agent,
            budget: budget(&grant.lease_json).collect(),
            lease_json: grant.lease_json,
            accepted_at: ts_to_proto(accepted_at),
            lease_expires_at: grant.expires_at.and_then(ts_to_proto),
            parent_job_id: grant.parent_job_id.unwrap_or_default(),
            delegate_id: grant.delegate_id.unwrap_or_default(),
            credentials_json: credentials_json
                .map(|json| json.expose_secret().to_owned())
                .unwrap_or_default(),
        }),
        ReplyBody::Cancelled { reason } => Payload::JobCancelled(proto::JobCancelled {
            reason: reason.unwrap_or_default(),
        }),
        ReplyBody::Subscribed {
            request_id,
            agent,
            status,
            subscribed_from,
            replayed,
            grant,
        } => Payload::JobSubscribed(proto::JobSubscribed {
            request_id,
            agent,
            current_status: status,
            budget: budget(&grant.lease_json).collect(),
            lease_json: grant.lease_json,
            lease_expires_at: grant.expires_at.and_then(ts_to_proto),
            subscribed_from,
            replayed,
            parent_job_id: grant.parent_job_id.unwrap_or_default(),
        }),
    }
}

fn welcome_proto(welcome: Welcome) -> proto::SessionWelcome {
    proto::SessionWelcome {
        runtime_name: RUNTIME_NAME.into(),
        runtime_version: RUNTIME_VERSION.into(),
        resume_token: welcome.resume_token,
        resume_window_sec: welcome.resume_window_sec,
        heartbeat_interval_sec: welcome.heartbeat_interval_sec,
        encodings: vec!["protobuf".into()],
        features: welcome.features,
        agents: welcome
            .agents
            .into_iter()
            .map(|agent| proto::AgentInfo {
                name: agent.name,
                versions: agent.versions,
                default_version: agent.default_version,
            })
            .collect(),
        accepted_at: ts_to_proto(welcome.accepted_at),
    }
}

fn summary_proto(job: JobSummary) -> proto::JobSummary {
    proto::JobSummary {
        job_id: job.job_id,
        agent: job.agent,
        status: job.status,
        lease_json: job.grant.lease_json,
        created_at: ts_to_proto(job.created_at),
        last_event_seq: job.last_event_seq,
        parent_job_id: job.grant.parent_job_id.unwrap_or_default(),
        trace_id: job.trace_id,
        lease_expires_at: job.grant.expires_at.and_then(ts_to_proto),
    }
}

/// One JSON text.
pub fn encode_reply_json(reply: Reply, profile: Profile) -> String {
    let (type_name, mut payload) = payload_json(&reply);
    if let (ReplyBody::Accepted { grant, .. }, Profile::Python) = (&reply.body, profile) {
        budget_as_texts(grant, &mut payload);
    }
    let mut envelope = Map::new();
    envelope.insert("arcp".into(), VERSION.into());
    envelope.insert("id".into(), id::message_id().into());
    envelope.insert("type".into(), type_name.into());
    envelope.insert("session_id".into(), reply.session_id.into());
    // Absent members are left out: one SDK refuses a null.
    if let Some(job_id) = reply.job_id {
        envelope.insert("job_id".into(), job_id.into());
    }
    if let Some(trace_id) = reply.trace_id {
        envelope.insert("trace_id".into(), trace_id.into());
    }
    envelope.insert("payload".into(), payload);
    Value::Object(envelope).to_string()
}

fn payload_json(reply: &Reply) -> (&'static str, Value) {
    let with = |mut value: Value, key: &str, member: &Option<String>| {
        if let (Some(members), Some(member)) = (value.as_object_mut(), member) {
            members.insert(key.into(), member.clone().into());
        }
        value
    };
    match &reply.body {
        ReplyBody::Welcome(welcome) => {
            ("session.welcome", welcome_json(&reply.session_id, welcome))
        }
        ReplyBody::Error {
            request_id,
            failure,
        } => {
            let payload = json!({
                "code": failure.code, "message": failure.message, "retryable": failure.retryable,
            });
            let payload = with_details(payload, failure);
            let payload = with(payload, "request_id", request_id);
            ("session.error", with(payload, "job_id", &reply.job_id))
        }
        ReplyBody::Rejected { failure, at } => {
            let payload = json!({
                "final_status": "error", "code": failure.code, "message": failure.message,
                "retryable": failure.retryable, "completed_at": rfc3339(*at),
            });
            ("job.error", with_details(payload, failure))
        }
        ReplyBody::Ping { nonce, sent_at } => (
            "session.ping",
            json!({ "nonce": nonce, "sent_at": rfc3339(*sent_at) }),
        ),
        ReplyBody::Pong { nonce, received_at } => (
            "session.pong",
            json!({ "ping_nonce": nonce, "received_at": rfc3339(*received_at) }),
        ),
        ReplyBody::Jobs {
            request_id,
            jobs,
            next_cursor,
        } => {
            let jobs: Vec<_> = jobs.iter().map(summary_json).collect();
            (
                "session.jobs",
                json!({ "request_id": request_id, "jobs": jobs, "next_cursor": next_cursor }),
            )
        }
        ReplyBody::Closed { reason } => ("session.closed", json!({ "reason": reason })),
        ReplyBody::Bye {
            reason,
            reconnect_after,
        } => {
            let mut payload = json!({ "reason": reason });
            if let Some(after) = reconnect_after {
                payload["reconnect_after_ms"] = json!(after.as_millis() as u64);
            }
            ("session.bye", payload)
        }
        ReplyBody::Accepted {
            request_id,
            agent,
            accepted_at,
            grant,
            credentials_json,
        } => {
            let mut payload = json!({
                "request_id": request_id, "job_id": reply.job_id, "agent": agent,
                "accepted_at": rfc3339(*accepted_at),
            });
            granted_json(grant, &mut payload);
            if let Some(json) = credentials_json {
                payload["credentials"] =
                    serde_json::from_str(json.expose_secret()).unwrap_or_default();
            }
            let payload = with(payload, "parent_job_id", &grant.parent_job_id);
            let payload = with(payload, "delegate_id", &grant.delegate_id);
            ("job.accepted", with(payload, "trace_id", &reply.trace_id))
        }
        ReplyBody::Cancelled { reason } => (
            "job.cancelled",
            with(json!({ "job_id": reply.job_id }), "reason", reason),
        ),
        ReplyBody::Subscribed {
            request_id,
            agent,
            status,
            subscribed_from,
            replayed,
            grant,
        } => {
            let mut payload = json!({
                "request_id": request_id, "job_id": reply.job_id, "current_status": status,
                "agent": agent, "parent_job_id": grant.parent_job_id,
                "subscribed_from": subscribed_from, "replayed": replayed,
            });
            granted_json(grant, &mut payload);
            ("job.subscribed", with(payload, "trace_id", &reply.trace_id))
        }
    }
}

fn with_details(mut payload: Value, failure: &Failure) -> Value {
    let details = failure.details_json.as_deref();
    if let Some(Ok(details)) = details.map(serde_json::from_str::<Value>) {
        payload["details"] = details;
    }
    payload
}

fn welcome_json(session_id: &str, welcome: &Welcome) -> Value {
    let agents: Vec<_> = welcome
        .agents
        .iter()
        .map(|agent| {
            json!({ "name": agent.name, "versions": agent.versions, "default": agent.default_version })
        })
        .collect();
    json!({
        "session_id": session_id,
        "accepted_at": rfc3339(welcome.accepted_at),
        "runtime": { "name": RUNTIME_NAME, "version": RUNTIME_VERSION },
        "resume_token": welcome.resume_token,
        "resume_window_sec": welcome.resume_window_sec,
        "heartbeat_interval_sec": welcome.heartbeat_interval_sec,
        "capabilities": { "encodings": ["json"], "features": welcome.features, "agents": agents },
    })
}

fn summary_json(job: &JobSummary) -> Value {
    let mut summary = json!({
        "job_id": job.job_id, "agent": job.agent, "status": job.status,
        "parent_job_id": job.grant.parent_job_id, "created_at": rfc3339(job.created_at),
        "submitted_at": rfc3339(job.created_at), "trace_id": job.trace_id,
        "last_event_seq": job.last_event_seq,
    });
    granted_json(&job.grant, &mut summary);
    summary
}
