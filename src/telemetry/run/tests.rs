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
        earlier_attempts: 0,
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

fn retrying(attempt: u64) -> EventBody {
    EventBody::Status {
        phase: "retrying".into(),
        message: None,
        details_json: Some(format!(r#"{{"attempt":{attempt}}}"#)),
    }
}

/// Applies these, one second apart, the first a second after the job was made.
fn observe(run: &mut Run, from: u64, bodies: Vec<EventBody>) -> Vec<Span> {
    let mut out = Vec::new();
    for (seq, body) in (from..).zip(bodies) {
        let at_ms = CREATED_MS + seq as i64 * 1_000;
        let now_ns = after(seq as u32 * SECOND);
        run.apply(&event(seq, at_ms, body), now_ns, &mut out);
    }
    out
}

/// Names, errors and ends, in seconds after the job was made.
fn shown(spans: &[Span]) -> Vec<(String, Option<&str>, u64)> {
    let of = |span: &Span| (span.end_ns - after(Duration::ZERO)) / 1_000_000_000;
    let each = spans.iter();
    each.map(|span| (span.name.to_string(), span.error.as_deref(), of(span)))
        .collect()
}

#[test]
fn open_tools_of_a_lost_host_end_with_it() {
    let (mut run, _) = Run::new(began("job_1"));
    assert!(observe(&mut run, 1, vec![call("a"), call("b")]).is_empty());
    run.host_lost(1, after(3 * SECOND));
    let mut out = observe(&mut run, 5, vec![retrying(2), call("a"), returned("a")]);
    run.apply(&terminal(7, 8, None), after(8 * SECOND), &mut out);
    let tool = |error, at| ("execute_tool search".to_owned(), error, at);
    assert_eq!(
        shown(&out),
        [
            tool(Some(HOST_LOST), 3),
            tool(Some(HOST_LOST), 3),
            ("arcp.job retry".into(), None, 5),
            tool(None, 7),
            ("invoke_agent a".into(), None, 8),
        ]
    );
    // The same where no other host gets the job.
    let (mut run, _) = Run::new(began("job_2"));
    observe(&mut run, 1, vec![call("a")]);
    run.host_lost(1, after(2 * SECOND));
    let (mut out, failure) = (Vec::new(), Failure::internal("lost"));
    run.apply(&terminal(7, 2, Some(failure)), after(9 * SECOND), &mut out);
    assert_eq!(shown(&out)[0], tool(Some(HOST_LOST), 2));
}

#[test]
fn an_agent_cannot_forge_a_retry() {
    let (mut run, _) = Run::new(began("job_1"));
    let forged = (2..1_000).map(retrying).collect();
    let mut out = observe(&mut run, 1, forged);
    // Not even after a loss: only the attempt that follows is one.
    run.host_lost(1, after(1_000 * SECOND));
    out.extend(observe(
        &mut run,
        1_000,
        vec![retrying(7), retrying(2), retrying(3)],
    ));
    run.apply(&terminal(7, 1_003, None), after(1_003 * SECOND), &mut out);
    let [retry, run] = &out[..] else {
        panic!("{} spans", out.len());
    };
    let attempt = attribute(names::ATTEMPT, 2_u64);
    assert_eq!(
        (&*retry.name, &retry.attributes[1]),
        (names::RETRY, &attempt)
    );
    assert!(run.attributes.contains(&attempt), "{:?}", run.attributes);
}

#[test]
fn retries_of_before_a_restart_end_the_tools_of_before_them() {
    let mut before = began("job_1");
    before.earlier_attempts = 2;
    let (mut run, _) = Run::new(before);
    observe(
        &mut run,
        1,
        vec![call("a"), retrying(2), retrying(3), call("b")],
    );
    run.earlier_is_over();
    let mut out = observe(&mut run, 5, vec![retrying(3), returned("a"), returned("b")]);
    run.apply(&terminal(7, 8, None), after(8 * SECOND), &mut out);
    let names: Vec<_> = out.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["execute_tool search", "invoke_agent a"]);
    assert!(
        out[1]
            .attributes
            .contains(&attribute(names::ATTEMPT, 2_u64))
    );
}

#[test]
fn two_open_calls_under_one_id_are_two_spans() {
    let (mut run, _) = Run::new(began("job_1"));
    let out = observe(&mut run, 1, vec![call("a"), call("a"), returned("a")]);
    let tool = |error, at| ("execute_tool search".to_owned(), error, at);
    assert_eq!(shown(&out), [tool(Some(REPLACED), 2), tool(None, 3)]);
    assert_ne!(out[0].of.span_id, out[1].of.span_id);
}

#[test]
fn open_tools_that_are_left_out_are_counted() {
    let (mut run, _) = Run::new(began("job_1"));
    let calls = (0..300).map(|id| call(&id.to_string())).collect();
    observe(&mut run, 1, calls);
    assert_eq!(run.left_out(), 44);
    let mut out = Vec::new();
    run.apply(&terminal(7, 301, None), after(301 * SECOND), &mut out);
    assert_eq!((out.len(), run.left_out()), (256 + 1, 0));
    observe(&mut run, 302, vec![call(&"x".repeat(257))]);
    assert_eq!(run.left_out(), 1);
}

fn cost(name: &str, unit: &str, value: f64) -> EventBody {
    EventBody::Metric {
        name: name.into(),
        value,
        unit: Some(unit.into()).filter(|unit: &String| !unit.is_empty()),
        dimensions: Vec::new(),
    }
}

#[test]
fn an_agent_names_no_attribute_that_is_no_currency() {
    let (mut run, _) = Run::new(began("job_1"));
    let long = "x".repeat(5_000);
    let mut costs = vec![
        cost("cost.inference", "USD", 0.25),
        cost("cost.inference", "USD", 0.5),
        cost("cost.huge", "EUR", f64::MAX),
        cost("cost.huge", "EUR", f64::MAX),
        cost("cost.inference", &long, 1.0),
        cost(&format!("cost.{long}"), "", 1.0),
    ];
    costs.extend((0..1_000).map(|unit| cost("cost.x", &format!("U{unit}"), 1.0)));
    let count = costs.len() as u64;
    observe(&mut run, 1, costs);
    let mut out = Vec::new();
    run.apply(
        &terminal(7, count + 1, None),
        after(3_600 * SECOND),
        &mut out,
    );
    let attributes = &out[0].attributes;
    assert!(attributes.contains(&attribute("arcp.cost.USD", 0.75)));
    assert!(attributes.contains(&attribute("arcp.cost.EUR", f64::MAX)));
    let of_cost = |pair: &&KeyValue| pair.key.as_str().starts_with(names::COST);
    assert_eq!(attributes.iter().filter(of_cost).count(), CURRENCIES_MAX);
    assert!(attributes.iter().all(|pair| pair.key.as_str().len() < 64));
}

fn status(phase: &str) -> EventBody {
    EventBody::Status {
        phase: phase.into(),
        message: None,
        details_json: None,
    }
}

/// A trace that was cut looked whole.
#[test]
fn what_a_run_has_no_room_for_is_counted_on_its_span() {
    let (mut run, _) = Run::new(began("job_1"));
    let delegated = |number: u64| EventBody::Delegate {
        delegate_id: format!("d{number}"),
        child_job_id: Some(format!("job_{number}")),
        agent: "a".into(),
        input_json: None,
        lease_request_json: None,
    };
    let mut bodies = vec![status("working"); MARKS_MAX - 1];
    bodies.extend((0..130).map(delegated));
    let count = bodies.len() as u64;
    observe(&mut run, 1, bodies);
    let (mut out, end) = (Vec::new(), after(3_600 * SECOND));
    run.apply(&terminal(7, count + 1, None), end, &mut out);
    assert_eq!(
        out[0].dropped,
        Dropped {
            events: 129,
            links: 2
        }
    );
    let exported = opentelemetry_sdk::trace::SpanData::from(out.remove(0));
    let (events, links) = (exported.events, exported.links);
    assert_eq!((events.events.len(), events.dropped_count), (128, 129));
    assert_eq!((links.links.len(), links.dropped_count), (128, 2));
}
