use std::time::Duration;

use bytes::BytesMut;

use super::*;
use crate::protocol::{Event, EventBody, Failure, Outcome, Timestamp};

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

/// Block `seq` of the job, with what an agent says happened then.
fn event(seq: u64, at_ms: i64, body: EventBody) -> Block {
    let mut data = BytesMut::new();
    let ts = Timestamp(at_ms);
    crate::wire::encode_event(Event { ts, body }, &mut data);
    Block::new(1, 7, seq, 1, data.freeze(), false)
}

fn call(call_id: &str) -> EventBody {
    EventBody::ToolCall {
        tool: "search".into(),
        call_id: call_id.into(),
        args_json: None,
    }
}

fn returned(call_id: &str) -> EventBody {
    EventBody::ToolResult {
        call_id: call_id.into(),
        result: Ok("1".into()),
    }
}

/// So long after the job was made.
fn after(time: Duration) -> u64 {
    ms_to_ns(CREATED_MS) + time.as_nanos() as u64
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_clock_that_is_out_draws_no_tool_outside_the_run() {
    const HOUR_MS: i64 = 3_600_000;
    // Year 9999, which a nanosecond counter of 64 bits has not.
    const LATEST_MS: i64 = 253_402_300_799_999;
    for (called_ms, returned_ms) in [
        (CREATED_MS + HOUR_MS, CREATED_MS + HOUR_MS + 10_000),
        (CREATED_MS - HOUR_MS, CREATED_MS - HOUR_MS + 10_000),
        (LATEST_MS, LATEST_MS),
        (CREATED_MS + 2_000, LATEST_MS),
        (i64::MIN, i64::MAX),
    ] {
        let (mut run, _) = Run::new(began("job_1"));
        let mut out = Vec::new();
        run.apply(&event(1, called_ms, call("c")), after(2 * SECOND), &mut out);
        let back = event(2, returned_ms, returned("c"));
        run.apply(&back, after(12 * SECOND), &mut out);
        run.apply(&terminal(7, 3, None), after(13 * SECOND), &mut out);
        let [tool, run] = &out[..] else {
            panic!("{out:?}");
        };
        // What the runtime saw itself stands in for what cannot be.
        assert_eq!(
            (tool.start_ns, tool.end_ns),
            (after(2 * SECOND), after(12 * SECOND))
        );
        assert_eq!(
            (run.start_ns, run.end_ns),
            (after(Duration::ZERO), after(13 * SECOND))
        );
    }
}

#[test]
fn the_times_an_agent_says_are_those_of_its_tools() {
    let (mut run, _) = Run::new(began("job_1"));
    let mut out = Vec::new();
    let late = after(60 * SECOND);
    run.apply(&event(1, CREATED_MS + 1_000, call("c")), late, &mut out);
    run.apply(&event(2, CREATED_MS + 4_000, returned("c")), late, &mut out);
    assert_eq!(
        (out[0].start_ns, out[0].end_ns),
        (after(SECOND), after(4 * SECOND))
    );
    // Said to be back before it was called: no span of less than nothing.
    run.apply(&event(3, CREATED_MS + 9_000, call("d")), late, &mut out);
    run.apply(&event(4, CREATED_MS + 8_000, returned("d")), late, &mut out);
    assert_eq!((out[1].start_ns, out[1].end_ns), (after(9 * SECOND), late));
}
