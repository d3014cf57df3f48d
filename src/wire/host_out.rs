//! What a host is told, as its protobuf message.

use std::time::Duration;

use super::convert::ts_to_proto;
use super::proto::{self, serve_response::Message};
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
        HostReply::AuthorizeResult { call_id, refused } => {
            Message::AuthorizeResult(proto::AuthorizeResult {
                call_id,
                allowed: refused.is_none(),
                code: code(refused.as_ref()),
                message: refused.map(|failure| failure.message).unwrap_or_default(),
            })
        }
        HostReply::DelegateResult {
            delegate_id,
            refused,
        } => Message::DelegateResult(proto::DelegateResult {
            delegate_id,
            child_job_id: String::new(),
            code: code(Some(&refused)),
            message: refused.message,
        }),
        HostReply::Drain {
            reconnect_after,
            reason,
        } => Message::Drain(proto::Drain {
            reconnect_after: duration(reconnect_after),
            reason,
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
        deadline: assign.deadline.and_then(ts_to_proto),
        lease_json: "{}".into(),
        checkpoint: assign.checkpoint.unwrap_or_default(),
        ..Default::default()
    }
}
