//! `JobService`: jobs without a session.

mod support;

use arcpd::wire::proto::{self, envelope::Payload, job::Outcome, job_record::Record};
use proto::job_service_client::JobServiceClient;
use serde_json::{Value, json};
use support::jobs::*;
use support::*;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;

#[tokio::test]
async fn a_job_is_submitted_looked_at_watched_and_listed() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut request = tonic::Request::new(of("ticker", json!({ "count": 2, "interval_ms": 1 })));
    let traceparent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent.parse().unwrap());
    let submitted = alice.submit_job(request).await.unwrap().into_inner();
    let job = submitted.job.unwrap();
    assert!(!submitted.duplicate);
    assert_eq!((&*job.agent, &*job.status), ("ticker@1.0.0", "running"));
    assert_eq!((&*job.trace_id, &*job.lease_json), (trace_id, "{}"));

    let records = watch_all(&mut alice, &job.job_id).await;
    assert_eq!(numbers(&records), [1, 2, 3]);
    let Some(Record::JobResult(result)) = &records[2].record else {
        panic!("{records:?}")
    };
    assert_eq!(result.result_json, r#"{"ticks":2}"#);

    let ended = get(&mut alice, &job.job_id).await.unwrap();
    assert_eq!((&*ended.status, ended.last_job_seq), ("success", 3));
    assert_eq!(ended.outcome, Some(Outcome::Result(result.clone())));
    assert_eq!(
        (ended.created_at, ended.ended_at.is_some()),
        (job.created_at, true)
    );

    let listed = alice.list_jobs(proto::ListJobsRequest::default()).await;
    let listed = listed.unwrap().into_inner();
    let without_outcome = proto::Job {
        outcome: None,
        ..ended
    };
    assert_eq!(listed.jobs, [without_outcome]);
    assert_eq!(listed.next_page_token, "");
}

#[tokio::test]
async fn a_job_that_fails_says_how() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let input = json!({ "code": "BUDGET_EXHAUSTED", "message": "spent" });
    let job = submit(&mut alice, "failer", input).await;
    let records = watch_all(&mut alice, &job).await;
    let Some(Record::JobError(error)) = &records.last().unwrap().record else {
        panic!("{records:?}")
    };
    assert_eq!((&*error.code, error.retryable), ("BUDGET_EXHAUSTED", false));
    let got = get(&mut alice, &job).await.unwrap();
    assert_eq!(got.outcome, Some(Outcome::Error(error.clone())));

    let sleeper = proto::SubmitJobRequest {
        max_runtime_sec: 1,
        ..of("sleeper", json!({ "ms": 600_000 }))
    };
    let job = alice.submit_job(sleeper).await.unwrap().into_inner();
    let job_id = job.job.unwrap().job_id;
    watch_all(&mut alice, &job_id).await;
    assert_eq!(get(&mut alice, &job_id).await.unwrap().status, "timed_out");
}

#[tokio::test]
async fn a_key_makes_one_job_however_often_and_wherever_it_is_sent() {
    let (_dir, runtime) = start();
    let keyed = |input: Value| proto::SubmitJobRequest {
        idempotency_key: "once".into(),
        ..of("echo", input)
    };
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut alice = connect(&runtime, ALICE).await;
        let request = keyed(json!({ "a": 1, "b": 2 }));
        sending.spawn(async move { alice.submit_job(request).await.unwrap().into_inner() });
    }
    let answers = sending.join_all().await;
    let first: Vec<_> = answers.iter().filter(|answer| !answer.duplicate).collect();
    assert_eq!(first.len(), 1);
    let job_id = &first[0].job.as_ref().unwrap().job_id;
    for answer in &answers {
        assert_eq!(&answer.job.as_ref().unwrap().job_id, job_id);
    }
    let mut alice = connect(&runtime, ALICE).await;
    let listed = alice.list_jobs(proto::ListJobsRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().jobs.len(), 1);

    // Once it is over the same submit says how it ended.
    watch_all(&mut alice, job_id).await;
    let again = alice.submit_job(keyed(json!({ "b": 2, "a": 1 }))).await;
    let again = again.unwrap().into_inner();
    assert!(again.duplicate && again.job.unwrap().outcome.is_some());
    // A session that sends the key joins the job.
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let joined = peer.submit_keyed("echo", json!({ "a": 1, "b": 2 }), "once");
    assert_eq!(&joined.await, job_id);

    let other = alice.submit_job(keyed(json!(3))).await;
    let expected = refused(Code::AlreadyExists, "DUPLICATE_KEY", "idempotency_key");
    assert_eq!(refusal(other), expected);
    let mut bob = connect(&runtime, BOB).await;
    let bobs = bob.submit_job(keyed(json!(3))).await.unwrap().into_inner();
    assert!(!bobs.duplicate);
}

#[tokio::test]
async fn a_foreign_job_is_as_unknown_as_one_that_never_was() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(&mut alice, "sleeper", json!({ "ms": 600_000 })).await;
    let mut bob = connect(&runtime, BOB).await;
    let expected = refused(Code::NotFound, "JOB_NOT_FOUND", "");
    for id in [&*job, "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "'; DROP TABLE job"] {
        assert_eq!(refusal(get(&mut bob, id).await), expected);
        assert_eq!(refusal(cancel(&mut bob, id).await), expected);
        assert_eq!(refusal(watch(&mut bob, id, 0).await), expected);
    }
    let listed = bob.list_jobs(proto::ListJobsRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().jobs, []);
    assert_eq!(get(&mut alice, &job).await.unwrap().status, "running");
}

#[tokio::test]
async fn nothing_is_answered_without_a_token() {
    let (_dir, runtime) = start();
    let channel = channel(&runtime).await;
    let basic = "Basic YWxpY2U6eA==".to_owned();
    let tokens = [
        None,
        Some(basic),
        Some("Bearer".into()),
        Some("Bearer wrong-token-0123456789".into()),
        Some(ALICE.into()),
    ];
    for token in tokens {
        let mut jobs = JobServiceClient::with_interceptor(
            channel.clone(),
            |mut request: tonic::Request<()>| {
                if let Some(token) = &token {
                    let metadata = request.metadata_mut();
                    metadata.insert("authorization", token.parse().unwrap());
                }
                Ok(request)
            },
        );
        let expected = refused(Code::Unauthenticated, "UNAUTHENTICATED", "");
        let answer = jobs.submit_job(of("echo", json!(1))).await;
        assert_eq!(refusal(answer), expected, "{token:?}");
        let answer = jobs.get_job(proto::GetJobRequest::default()).await;
        assert_eq!(refusal(answer), expected, "{token:?}");
        let answer = jobs.list_jobs(proto::ListJobsRequest::default()).await;
        assert_eq!(refusal(answer), expected, "{token:?}");
        let answer = jobs.cancel_job(proto::CancelJobRequest::default()).await;
        assert_eq!(refusal(answer), expected, "{token:?}");
        let answer = jobs.watch_job(proto::WatchJobRequest::default()).await;
        assert_eq!(refusal(answer), expected, "{token:?}");
    }
}

#[tokio::test]
async fn whichever_field_is_wrong_the_refusal_names_it() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let wrong = |field: &str| refused(Code::InvalidArgument, "INVALID_REQUEST", field);
    let good = || of("echo", json!(1));
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });

    let mut submits = vec![];
    for agent in ["", "Echo", "echo@", "echo@1@2", "-echo", &"e".repeat(129)] {
        let agent = agent.into();
        submits.push(("agent", proto::SubmitJobRequest { agent, ..good() }));
    }
    let deep = "[".repeat(65) + &"]".repeat(65);
    for input in ["{", "1 2", "nul", r#""\ud800""#, "1e999", &deep] {
        let input_json = input.into();
        submits.push((
            "input_json",
            proto::SubmitJobRequest {
                input_json,
                ..good()
            },
        ));
    }
    for (lease, field) in [
        ("{", "lease_request_json"),
        ("[]", "lease_request_json"),
        ("1", "lease_request_json"),
        (r#"{"fs.read":["/../**"]}"#, "lease_request.fs.read[0]"),
    ] {
        let lease_request_json = lease.into();
        let request = proto::SubmitJobRequest {
            lease_request_json,
            ..good()
        };
        submits.push((field, request));
    }
    for (lease_expires_at, field) in [
        (time(1_000_000_000, 0), "lease_constraints.expires_at"),
        (time(i64::MAX, 0), "lease_expires_at"),
        (time(0, -1), "lease_expires_at"),
    ] {
        let request = proto::SubmitJobRequest {
            lease_expires_at,
            ..good()
        };
        submits.push((field, request));
    }
    let idempotency_key = "k".repeat(257);
    let request = proto::SubmitJobRequest {
        idempotency_key,
        ..good()
    };
    submits.push(("idempotency_key", request));
    for (field, request) in submits {
        let answer = alice.submit_job(request.clone()).await;
        assert_eq!(refusal(answer), wrong(field), "{request:?}");
    }

    for job_id in ["", &"j".repeat(129)] {
        assert_eq!(refusal(get(&mut alice, job_id).await), wrong("job_id"));
        assert_eq!(refusal(cancel(&mut alice, job_id).await), wrong("job_id"));
        assert_eq!(refusal(watch(&mut alice, job_id, 0).await), wrong("job_id"));
    }

    let good = proto::ListJobsRequest::default;
    let mut lists = vec![];
    for status in ["", "Running", "done", &"s".repeat(100_000)] {
        let statuses = vec!["running".into(), status.into()];
        lists.push(("statuses", proto::ListJobsRequest { statuses, ..good() }));
    }
    let agent = "No Agent".into();
    lists.push(("agent", proto::ListJobsRequest { agent, ..good() }));
    let created_after = time(i64::MIN, 0);
    lists.push((
        "created_after",
        proto::ListJobsRequest {
            created_after,
            ..good()
        },
    ));
    let created_before = time(0, 1_000_000_000);
    lists.push((
        "created_before",
        proto::ListJobsRequest {
            created_before,
            ..good()
        },
    ));
    for page_token in ["x", ".", "1", "one.job_1"] {
        let page_token = page_token.into();
        lists.push((
            "page_token",
            proto::ListJobsRequest {
                page_token,
                ..good()
            },
        ));
    }
    for (field, request) in lists {
        let answer = alice.list_jobs(request).await;
        assert_eq!(refusal(answer), wrong(field));
    }
    assert_eq!(alice.list_jobs(good()).await.unwrap().into_inner().jobs, []);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_named() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let answer = alice.submit_job(of("nobody", json!(1))).await;
    let expected = refused(Code::NotFound, "AGENT_NOT_AVAILABLE", "agent");
    assert_eq!(refusal(answer), expected);
    let answer = alice.submit_job(of("echo@9.9.9", json!(1))).await;
    let expected = refused(Code::NotFound, "AGENT_VERSION_NOT_AVAILABLE", "agent");
    assert_eq!(refusal(answer), expected);
}

/// Sends bytes as the message of a call.
mod raw {
    use bytes::{Buf, BufMut, Bytes};
    use tonic::Status;
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    #[derive(Clone, Default)]
    pub struct Raw;

    impl Codec for Raw {
        type Encode = Bytes;
        type Decode = Bytes;
        type Encoder = Self;
        type Decoder = Self;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for Raw {
        type Item = Bytes;
        type Error = Status;
        fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
            out.put(item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = Bytes;
        type Error = Status;
        fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
            Ok(Some(source.copy_to_bytes(source.remaining())))
        }
    }
}

#[tokio::test]
async fn what_is_no_message_of_a_call_is_refused_and_the_connection_stays() {
    let (_dir, runtime) = start();
    let channel = channel(&runtime).await;
    let mut grpc = tonic::client::Grpc::new(InterceptedService::new(channel, Bearer(ALICE)));
    let mut send = async |method: &str, message: Vec<u8>, count: usize| {
        grpc.ready().await.unwrap();
        let path = format!("/arcp.v1.JobService/{method}").parse().unwrap();
        let messages = vec![bytes::Bytes::from(message); count];
        let messages = tonic::Request::new(tokio_stream::iter(messages));
        grpc.client_streaming(messages, path, raw::Raw).await
    };
    let wrong = refused(Code::InvalidArgument, "INVALID_REQUEST", "frame");
    for method in ["SubmitJob", "GetJob", "ListJobs", "CancelJob", "WatchJob"] {
        assert_eq!(refusal(send(method, vec![], 0).await), wrong, "{method}");
        let too_long = vec![0; 1_000_001];
        assert_eq!(refusal(send(method, too_long, 1).await), wrong, "{method}");
        let cut_short = vec![0x0a, 200];
        assert_eq!(refusal(send(method, cut_short, 1).await), wrong, "{method}");
    }
    let not_text = vec![0x0a, 1, 0xff];
    assert_eq!(refusal(send("SubmitJob", not_text, 1).await), wrong);
    let unknown = send("PauseJob", vec![], 1).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    // A megabyte less its frame is not too much.
    let mut alice = connect(&runtime, ALICE).await;
    let large = "x".repeat(990_000);
    let job = submit(&mut alice, "sleeper", json!({ "ms": 1, "note": large })).await;
    watch_all(&mut alice, &job).await;
}

#[tokio::test]
async fn pages_hold_every_job_once_oldest_first() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let mut submitted = vec![];
    for number in 0..25 {
        let agent = if number % 5 == 0 { "ticker" } else { "echo" };
        let input = json!({ "count": 0, "interval_ms": 0 });
        let job = submit(&mut alice, agent, input).await;
        watch_all(&mut alice, &job).await;
        submitted.push(job);
    }
    let mut list = async |request: proto::ListJobsRequest| {
        let listed = alice.list_jobs(request).await.unwrap().into_inner();
        let created = |job: &proto::Job| job.created_at.map(|at| (at.seconds, at.nanos));
        assert!(listed.jobs.is_sorted_by_key(created));
        let ids: Vec<_> = listed.jobs.into_iter().map(|job| job.job_id).collect();
        (ids, listed.next_page_token)
    };
    let (mut seen, mut page_token, mut sizes) = (vec![], String::new(), vec![]);
    loop {
        let request = proto::ListJobsRequest {
            page_size: 10,
            page_token,
            ..Default::default()
        };
        let (ids, next) = list(request).await;
        sizes.push(ids.len());
        seen.extend(ids);
        page_token = next;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
    // Ids of one millisecond have no order of their own.
    let mut ordered = submitted.clone();
    ordered.sort();
    let mut all = seen.clone();
    all.sort();
    assert_eq!(all, ordered);

    for (agent, count) in [
        ("ticker", 5),
        ("ticker@1.0.0", 5),
        ("echo", 20),
        ("none", 0),
    ] {
        let agent = agent.into();
        let request = proto::ListJobsRequest {
            agent,
            ..Default::default()
        };
        assert_eq!(list(request).await.0.len(), count);
    }
    for (status, count) in [("success", 25), ("running", 0), ("pending", 0)] {
        let statuses = vec![status.into()];
        let request = proto::ListJobsRequest {
            statuses,
            ..Default::default()
        };
        assert_eq!(list(request).await.0.len(), count);
    }
    let future = Some(prost_types::Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    });
    let after = proto::ListJobsRequest {
        created_after: future,
        ..Default::default()
    };
    assert_eq!(list(after).await.0.len(), 0);
    let before = proto::ListJobsRequest {
        created_before: future,
        ..Default::default()
    };
    assert_eq!(list(before).await.0, seen);
    let page_size = 1_000_000;
    let all = proto::ListJobsRequest {
        page_size,
        ..Default::default()
    };
    assert_eq!(list(all).await.0, seen);
}

#[tokio::test]
async fn a_job_submitted_here_is_its_principals_to_cancel() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(&mut alice, "sleeper", json!({ "ms": 600_000 })).await;
    let asked = cancel(&mut connect(&runtime, ALICE).await, &job)
        .await
        .unwrap();
    assert_eq!((&*asked.job_id, &*asked.status), (&*job, "running"));
    // Twice, or when it is over, is no error.
    cancel(&mut alice, &job).await.unwrap();
    let records = watch_all(&mut alice, &job).await;
    let Some(Record::JobError(error)) = &records.last().unwrap().record else {
        panic!("{records:?}")
    };
    assert_eq!(
        (&*error.code, &*error.final_status),
        ("CANCELLED", "cancelled")
    );
    assert_eq!(cancel(&mut alice, &job).await.unwrap().status, "cancelled");

    // A session of the principal may as well.
    let job = submit(&mut alice, "sleeper", json!({ "ms": 600_000 })).await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.send(&job, Payload::JobCancel(proto::JobCancel::default()))
        .await;
    let answer = peer.next().await.payload;
    assert!(
        matches!(answer, Some(Payload::JobCancelled(_))),
        "{answer:?}"
    );
    watch_all(&mut alice, &job).await;
    assert_eq!(get(&mut alice, &job).await.unwrap().status, "cancelled");
}

#[tokio::test]
async fn a_job_of_a_session_is_cancelled_here_only_while_nobody_has_that_session() {
    let (_dir, runtime) = start();
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job = peer.submit("sleeper", json!({ "ms": 600_000 })).await;
    let mut alice = connect(&runtime, ALICE).await;
    let expected = refused(Code::PermissionDenied, "PERMISSION_DENIED", "");
    assert_eq!(refusal(cancel(&mut alice, &job).await), expected);
    assert_eq!(get(&mut alice, &job).await.unwrap().status, "running");
    peer.send("", Payload::SessionClose(proto::SessionClose::default()))
        .await;
    while peer.try_next().await.is_some() {}
    cancel(&mut alice, &job).await.unwrap();
    watch_all(&mut alice, &job).await;
    assert_eq!(get(&mut alice, &job).await.unwrap().status, "cancelled");
}

#[tokio::test]
async fn a_session_may_observe_a_job_submitted_here() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(
        &mut alice,
        "ticker",
        json!({ "count": 3, "interval_ms": 50 }),
    )
    .await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    peer.send(&job, Payload::JobSubscribe(subscribe)).await;
    assert_eq!(seqs(&peer.until_terminal().await), [1, 2, 3, 4]);
    peer.send("", Payload::SessionListJobs(Default::default()))
        .await;
    let Some(Payload::SessionJobs(listed)) = peer.next().await.payload else {
        panic!("expected session.jobs")
    };
    // No session numbers its events.
    assert_eq!(
        (&*listed.jobs[0].job_id, listed.jobs[0].last_event_seq),
        (&*job, 0)
    );
}

#[tokio::test]
async fn grpc_web_over_http_2_is_the_same_service() {
    let (_dir, runtime) = start();
    let web = tower::ServiceBuilder::new()
        .layer(tonic_web::GrpcWebClientLayer::new())
        .map_request(|call: http::Request<tonic_web::GrpcWebCall<_>>| {
            call.map(tonic::body::Body::new)
        })
        .service(channel(&runtime).await);
    let mut alice = JobServiceClient::with_interceptor(web, Bearer(ALICE));
    let request = of("ticker", json!({ "count": 3, "interval_ms": 1 }));
    let job = alice
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    let request = proto::WatchJobRequest {
        job_id: job.job_id,
        after_job_seq: 0,
    };
    let mut stream = alice.watch_job(request).await.unwrap().into_inner();
    assert_eq!(numbers(&rest(&mut stream).await), [1, 2, 3, 4]);
    let answer = alice.submit_job(of("nobody", json!(1))).await;
    let expected = refused(Code::NotFound, "AGENT_NOT_AVAILABLE", "agent");
    assert_eq!(refusal(answer), expected);
}

#[tokio::test]
async fn health_names_the_service() {
    let (_dir, runtime) = start();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel(&runtime).await);
    let service = "arcp.v1.JobService".into();
    let request = tonic_health::pb::HealthCheckRequest { service };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
}

/// The stream ended before the session was let go, and the cancel was refused.
#[tokio::test]
async fn whoever_saw_a_session_end_finds_nobody_connected_to_it() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    for _ in 0..50 {
        let mut peer = Peer::connect(&runtime.address, ALICE).await;
        let job = peer.submit("sleeper", json!({ "ms": 600_000 })).await;
        let close = proto::SessionClose::default();
        peer.send("", Payload::SessionClose(close)).await;
        while peer.try_next().await.is_some() {}
        cancel(&mut alice, &job).await.unwrap();
    }
}

/// A caller that went between the job's commit and its start took the start with
/// it: the job stayed as it was for ever, and its key found nothing else.
#[tokio::test]
async fn a_submit_that_is_cut_off_leaves_no_job_that_never_runs() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let keyed = |n: u32| proto::SubmitJobRequest {
        idempotency_key: format!("k{n}"),
        ..of("echo", json!(n))
    };
    for n in 0..400 {
        let mut cut_off = alice.clone();
        let task = tokio::spawn(async move { cut_off.submit_job(keyed(n)).await });
        // Any moment of a submit.
        tokio::time::sleep(std::time::Duration::from_micros(u64::from(n % 4) * 700)).await;
        task.abort();
    }
    for n in 0..400 {
        let job = alice.submit_job(keyed(n)).await.unwrap().into_inner().job;
        let records = watch_all(&mut alice, &job.unwrap().job_id).await;
        assert_eq!(numbers(&records), [1]);
    }
}
