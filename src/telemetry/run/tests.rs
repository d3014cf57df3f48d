use bytes::BytesMut;

use super::*;
use crate::protocol::{Failure, Outcome, Timestamp};

/// When the jobs of these tests are made.
pub const CREATED_MS: i64 = 1_700_000_000_000;

/// A job of an agent in the process.
pub fn began(job_id: &str) -> Began {
    let trace = JobTrace {
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        job_id: job_id.into(),
        parent: None,
        sampled: true,
        recorded: true,
        tracestate: String::new(),
        baggage: String::new(),
    };
    Began {
        trace: Arc::new(trace),
        submit: None,
        session_id: "sess_1".into(),
        agent: "a@1.0.0".into(),
        hosted: false,
        pending: false,
        created_ms: CREATED_MS,
        lease: LeaseOf::default(),
        parent_id: None,
    }
}

/// The last block of a job that failed, or was a success.
pub fn terminal(stream: i64, first_seq: u64, failure: Option<Failure>) -> Block {
    let mut data = BytesMut::new();
    let outcome = failure.map_or_else(success, Outcome::Failed);
    crate::wire::encode_outcome(outcome, Timestamp(CREATED_MS), &mut data);
    Block::new(1, stream, first_seq, 1, data.freeze(), true)
}

fn success() -> Outcome {
    let result_json = "1".into();
    Outcome::Inline { result_json }
}
