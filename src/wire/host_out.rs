//! What a host is told, as its protobuf message.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::convert::{outcome_to_proto, ts_to_proto};
use super::proto::{self, envelope::Payload, serve_response::Message};
use crate::protocol::host::{Assign, AssignmentRef, HostReply, Registered};

pub fn host_reply_to_proto(reply: HostReply) -> proto::ServeResponse {
    let message = match reply {
        HostReply::Registered(registered) => Message::Registered(registered_proto(registered)),
        HostReply::HeartbeatAck { nonce } => Message::HeartbeatAck(proto::HeartbeatAck { nonce }),
        HostReply::Assign(assign) => Message::Assign(assign_proto(*assign)),
        HostReply::Cancel { of, reason, grace } => Message::Cancel(proto::Cancel {
            r#ref: some(of),
            reason,
            grace: duration(grace),
        }),
        HostReply::Ack { of, seq } => Message::Ack(proto::Ack {
            r#ref: some(of),
            seq,
        }),
        HostReply::Revoked { of, reason } => Message::Revoked(proto::Revoked {
            r#ref: some(of),
            reason,
        }),
        HostReply::Rejected { of, seq, message } => Message::Rejected(proto::Rejected {
            r#ref: of.and_then(some),
            seq,
            message,
        }),
        HostReply::AuthorizeResult {
            of,
            call_id,
            refused,
        } => Message::AuthorizeResult(proto::AuthorizeResult {
            r#ref: some(of),
            call_id,
            allowed: refused.is_none(),
            code: code(refused.as_ref()),
            message: refused.map(|failure| failure.message).unwrap_or_default(),
        }),
        HostReply::DelegateResult {
            of,
            delegate_id,
            made,
        } => {
            let refused = made.as_ref().err();
            Message::DelegateResult(proto::DelegateResult {
                r#ref: some(of),
                delegate_id,
                code: code(refused),
                message: refused.map(|f| f.message.clone()).unwrap_or_default(),
                child_job_id: made.unwrap_or_default(),
            })
        }
        HostReply::ChildEnded {
            of,
            delegate_id,
            child_job_id,
            outcome,
            at,
        } => Message::ChildEnded(proto::ChildEnded {
            r#ref: some(of),
            delegate_id,
            child_job_id,
            outcome: match outcome_to_proto(outcome, at) {
                Payload::JobResult(result) => Some(proto::child_ended::Outcome::Result(result)),
                Payload::JobError(error) => Some(proto::child_ended::Outcome::Error(error)),
                _ => None,
            },
        }),
        HostReply::Drain {
            reconnect_after,
            reason,
        } => Message::Drain(proto::Drain {
            reconnect_after: duration(reconnect_after),
            reason,
        }),
        HostReply::Credentials { of, json } => Message::Credentials(proto::Credentials {
            r#ref: some(of),
            credentials_json: json.expose_secret().to_owned(),
        }),
        HostReply::AuthRefreshed => Message::AuthRefreshed(proto::AuthRefreshed {}),
    };
    proto::ServeResponse {
        message: Some(message),
    }
}

fn code(refused: Option<&crate::protocol::Failure>) -> String {
    refused.map_or_else(String::new, |failure| failure.code.as_str().into())
}

fn some(of: AssignmentRef) -> Option<proto::AssignmentRef> {
    Some(proto::AssignmentRef {
        job_id: of.job_id,
        lease_token: of.lease_token,
    })
}

fn duration(value: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(value).ok()
}

fn registered_proto(registered: Registered) -> proto::Registered {
    proto::Registered {
        host_id: registered.host_id,
        heartbeat_interval: duration(registered.heartbeat_interval),
        lost_after: duration(registered.lost_after),
        accept_within: duration(registered.accept_within),
        message_bytes_max: registered.message_bytes_max,
        unacked_reports_max: registered.unacked_reports_max,
        unacked_bytes_max: registered.unacked_bytes_max,
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        keep: registered
            .keep
            .into_iter()
            .map(|kept| proto::KeptAssignment {
                r#ref: some(kept.of),
                acked_seq: kept.acked_seq,
                cancelled: kept.cancelled,
            })
            .collect(),
        drop: registered.drop.into_iter().filter_map(some).collect(),
    }
}

fn assign_proto(assign: Assign) -> proto::Assign {
    proto::Assign {
        r#ref: some(assign.of),
        attempt: assign.attempt,
        agent: assign.agent,
        version: assign.version,
        input_json: assign.input_json,
        principal: assign.principal,
        traceparent: assign.traceparent,
        tracestate: assign.tracestate,
        baggage: assign.baggage,
        deadline: assign.deadline.and_then(ts_to_proto),
        lease_json: assign.lease_json,
        lease_expires_at: assign.lease_expires_at.and_then(ts_to_proto),
        parent_job_id: assign.parent_job_id.unwrap_or_default(),
        checkpoint: assign.checkpoint.unwrap_or_default(),
        credentials_json: assign
            .credentials_json
            .map(|json| json.expose_secret().to_owned())
            .unwrap_or_default(),
    }
}
