use bytes::{Bytes, BytesMut};
use prost::Message;
use serde_json::Value;

use super::*;
use crate::protocol::{Event, EventBody, Outcome, RequestBody, Timestamp};

/// Undoes `put_record`'s length prefix.
fn payload(record: BytesMut) -> Bytes {
    let mut bytes = record.freeze();
    let len = prost::encoding::decode_varint(&mut bytes).unwrap() as usize;
    assert_eq!(len, bytes.len());
    bytes
}

fn log_record() -> Bytes {
    let mut out = BytesMut::new();
    let body = EventBody::Log {
        level: "info".into(),
        message: "hé\"llo".into(),
        attributes_json: Some(r#"{"n":9007199254740993}"#.into()),
    };
    encode_event(
        Event {
            ts: Timestamp(1_700_000_000_123),
            body,
        },
        &mut out,
    );
    payload(out)
}

#[test]
fn a_header_and_a_stored_record_make_one_envelope() {
    let session = SessionHeader::new("sess_01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let header = session.for_job("job_1", "4bf92f3577b34da6a3ce929d0e0e4736");
    let mut out = BytesMut::new();
    frame_record(&header, 300, &log_record(), &mut out);
    frame_record(&header, 301, &log_record(), &mut out);
    let response = proto::SessionResponse::decode(out.freeze()).unwrap();
    let [first, second] = &response.envelopes[..] else {
        panic!("two envelopes")
    };
    assert_eq!((first.event_seq, second.event_seq), (300, 301));
    assert_eq!(first.session_id, "sess_01ARZ3NDEKTSV4RRFFQ69G5FAV");
    assert!(first.id < second.id && first.id.starts_with("01ARZ3NDEKTSV4RR"));
    let Some(proto::envelope::Payload::JobEvent(event)) = &first.payload else {
        panic!()
    };
    let Some(proto::job_event::Body::Log(log)) = &event.body else {
        panic!()
    };
    assert_eq!(log.attributes_json, r#"{"n":9007199254740993}"#);
}

#[test]
fn the_json_form_keeps_large_integers_and_names_the_superset() {
    let session = SessionHeader::new("sess_01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let header = session.for_job("job_1", "4bf92f3577b34da6a3ce929d0e0e4736");
    let tail = json_tail(&log_record());
    let mut out = BytesMut::new();
    header.frame_json(7, tail.as_bytes(), &mut out);
    let text = std::str::from_utf8(&out).unwrap();
    assert!(text.contains("9007199254740993"));
    let frame: Value = serde_json::from_str(text).unwrap();
    assert_eq!(frame["event_seq"], 7);
    assert_eq!(frame["payload"]["kind"], "log");
    assert_eq!(frame["payload"]["ts"], "2023-11-14T22:13:20.123Z");
    assert_eq!(frame["payload"]["body"]["message"], "hé\"llo");

    let mut record = BytesMut::new();
    encode_outcome(
        Outcome::Inline {
            result_json: "{\"a\":1}".into(),
        },
        Timestamp(0),
        &mut record,
    );
    let tail = json_tail(&payload(record));
    let mut out = BytesMut::new();
    header.frame_json(8, tail.as_bytes(), &mut out);
    let frame: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(frame["payload"]["result"], frame["payload"]["output"]);
    assert_eq!(frame["payload"]["completed_at"], "1970-01-01T00:00:00.000Z");
}

#[test]
fn bad_json_names_the_field_and_answers_the_id() {
    let deep = format!(
        r#"{{"arcp":"1.1","id":"a","type":"job.submit","payload":{}1{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    for (text, id, word) in [
        ("nonsense", None, "frame"),
        (
            r#"{"arcp":"1.0","id":"a","type":"session.ping"}"#,
            Some("a"),
            "arcp",
        ),
        (r#"{"arcp":"1.1","type":"session.ping"}"#, None, "id"),
        (r#"{"arcp":"1.1","id":"a"}"#, Some("a"), "type"),
        (
            r#"{"arcp":"1.1","id":"a","type":"session.ack","payload":{"last_processed_seq":-1}}"#,
            Some("a"),
            "last_processed_seq: ",
        ),
        (
            r#"{"arcp":"1.1","id":"a","type":"job.submit","payload":{"agent":"e","input":"\ud800"}}"#,
            Some("a"),
            "input",
        ),
        (
            r#"{"arcp":"1.1","id":"a","type":"job.submit","payload":{"agent":"e","input":1e999}}"#,
            Some("a"),
            "input",
        ),
        (
            r#"{"arcp":"1.1","id":"a","type":"job.submit","payload":{"input":1}}"#,
            Some("a"),
            "agent",
        ),
        (&deep, None, "nested"),
    ] {
        let invalid = parse_json(text).unwrap_err();
        assert_eq!(invalid.request_id.as_deref(), id, "{text:.80}");
        assert!(invalid.message.contains(word), "{}", invalid.message);
    }
}

#[test]
fn the_job_to_cancel_is_read_from_envelope_or_payload() {
    for text in [
        r#"{"arcp":"1.1","id":"a","type":"job.cancel","job_id":"job_1","payload":{}}"#,
        r#"{"arcp":"1.1","id":"a","type":"job.cancel","payload":{"job_id":"job_1"}}"#,
    ] {
        let request = parse_json(text).unwrap();
        assert_eq!(request.job_id.as_deref(), Some("job_1"));
        assert_eq!(request.body, RequestBody::Cancel { reason: None });
    }
}

#[test]
fn a_kind_that_was_not_negotiated_keeps_its_number_and_nothing_else() {
    let mut record = BytesMut::new();
    let body = EventBody::Progress {
        current: 1.0,
        total: None,
        units: None,
        message: Some("secret".into()),
    };
    let ts = Timestamp(5);
    encode_event(Event { ts, body }, &mut record);
    let record = payload(record);
    assert_eq!(feature_of(&record), Some("progress"));
    assert_eq!(feature_of(&log_record()), None);
    let tail = json_tail(&withheld(&record, "progress"));
    let frame: Value = serde_json::from_str(&tail.replacen(',', "{", 1)).unwrap();
    assert_eq!(frame["payload"]["kind"], "x-vendor.arcpd.withheld");
    assert!(!tail.contains("secret"));
}

#[test]
fn the_python_sdk_reads_every_failed_end_as_error() {
    let mut record = BytesMut::new();
    let message = "stopped".to_owned();
    encode_outcome(Outcome::Cancelled { message }, Timestamp(0), &mut record);
    let tail = json_tail(&payload(record));
    assert!(tail.contains(r#""final_status":"cancelled","code":"CANCELLED""#));
    let python = python_tail(tail.as_bytes());
    let python = std::str::from_utf8(&python).unwrap();
    assert!(python.contains(r#""final_status":"error","code":"CANCELLED""#));
    assert_eq!(&*python_tail(b"{}"), b"{}");
}

mod lossless {
    use super::*;
    use proptest::prelude::*;

    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z\"\\\\]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
        .prop_map(|value| value.to_string())
    }

    fn object() -> impl Strategy<Value = String> {
        json_text().prop_map(|text| format!(r#"{{"o":{text}}}"#))
    }

    /// Numbers that JSON carries without rounding.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![(0u32..1 << 30).prop_map(f64::from), 0.0..1e6f64]
    }

    fn body() -> impl Strategy<Value = EventBody> {
        let optional = || prop::option::of("[^\0]{1,20}");
        prop_oneof![
            (".{1,40}", prop::option::of(object())).prop_map(|(message, attributes_json)| {
                EventBody::Log {
                    level: "warn".into(),
                    message,
                    attributes_json,
                }
            }),
            ".{1,40}".prop_map(|text| EventBody::Thought { text }),
            (".{1,9}", ".{1,9}", prop::option::of(object())).prop_map(
                |(tool, call_id, args_json)| {
                    EventBody::ToolCall {
                        tool,
                        call_id,
                        args_json,
                    }
                }
            ),
            (".{1,9}", json_text(), any::<bool>()).prop_map(|(call_id, json, good)| {
                EventBody::ToolResult {
                    call_id,
                    result: if good { Ok(json) } else { Err(json) },
                }
            }),
            (".{1,9}", optional(), prop::option::of(object())).prop_map(
                |(phase, message, details_json)| EventBody::Status {
                    phase,
                    message,
                    details_json
                }
            ),
            (".{1,9}", number(), optional(), prop::option::of(".{1,5}")).prop_map(
                |(name, value, unit, dimension)| EventBody::Metric {
                    name,
                    value,
                    unit,
                    dimensions: dimension
                        .map(|value| ("k".into(), value))
                        .into_iter()
                        .collect(),
                }
            ),
            (
                ".{1,9}",
                ".{1,9}",
                prop::option::of(1u64..1 << 53),
                optional()
            )
                .prop_map(|(uri, content_type, byte_size, sha256)| {
                    EventBody::ArtifactRef {
                        uri,
                        content_type,
                        byte_size,
                        sha256,
                    }
                }),
            (number(), optional()).prop_map(|(current, message)| EventBody::Progress {
                current,
                total: Some(current + 1.0),
                units: None,
                message,
            }),
            ("x-vendor\\.[a-z]{1,5}\\.[a-z]{1,5}", object())
                .prop_map(|(kind, body_json)| EventBody::Other { kind, body_json }),
        ]
    }

    proptest! {
        /// To protobuf, to the log's bytes, to JSON, and back.
        #[test]
        fn an_event_survives_both_encodings(body in body(), ms in 0i64..4_000_000_000_000) {
            let mut record = BytesMut::new();
            let event = Event { ts: Timestamp(ms), body: body.clone() };
            encode_event(event, &mut record);
            let tail = json_tail(&payload(record));
            let frame: Value = serde_json::from_str(&tail.replacen(',', "{", 1)).unwrap();
            let kind = frame["payload"]["kind"].as_str().unwrap();
            let read = event_from_json(kind, &frame["payload"]["body"].to_string()).unwrap();
            // The text of free JSON may be spaced otherwise; what it says may not.
            prop_assert_eq!(canonical(read), canonical(body));
            let ts: jiff::Timestamp = frame["payload"]["ts"].as_str().unwrap().parse().unwrap();
            prop_assert_eq!(ts.as_millisecond(), ms);
        }
    }

    fn canonical(body: EventBody) -> EventBody {
        let json = |text: String| serde_json::from_str::<Value>(&text).unwrap().to_string();
        match body {
            EventBody::Log {
                level,
                message,
                attributes_json,
            } => EventBody::Log {
                level,
                message,
                attributes_json: attributes_json.map(json),
            },
            EventBody::ToolCall {
                tool,
                call_id,
                args_json,
            } => EventBody::ToolCall {
                tool,
                call_id,
                args_json: args_json.map(json),
            },
            EventBody::ToolResult { call_id, result } => EventBody::ToolResult {
                call_id,
                result: result.map(json).map_err(json),
            },
            EventBody::Status {
                phase,
                message,
                details_json,
            } => EventBody::Status {
                phase,
                message,
                details_json: details_json.map(json),
            },
            EventBody::Other { kind, body_json } => EventBody::Other {
                kind,
                body_json: json(body_json),
            },
            other => other,
        }
    }
}
