//! One connection, from its first frame to its end (§6.1).

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::actor::{Acks, Actor};
use super::feed::Feed;
use super::mark::Mark;
use super::open::{Opened, open};
use super::outbox::{Outbox, Rendering};
use super::view;
use super::{Connection, Goodbye, Sessions};
use crate::job::now;
use crate::protocol::message::{Hello, Profile, Reply, ReplyBody, Welcome};
use crate::protocol::{Failure, Request, RequestBody, TraceContext, id};
use crate::telemetry::{self, Asked};
use crate::wire::{ID_BYTES_MAX, SessionHeader};

/// Serves one connection from its first frame to its end.
pub async fn attach(sessions: Arc<Sessions>, mut connection: Connection) {
    let would_be = id::session_id();
    let hello = match first_frame(&sessions, &mut connection).await {
        Ok(hello) => hello,
        Err((request_id, failure)) => {
            return refuse(connection, would_be, request_id, failure).await;
        }
    };
    let start_ns = telemetry::now_ns();
    let (request_id, mut hello, trace) = hello;
    let trace = trace.or(&connection.trace);
    if let (true, Some(bearer)) = (hello.auth_token.is_empty(), &connection.bearer) {
        hello.auth_scheme = "bearer".into();
        hello.auth_token = bearer.expose_secret().into();
    }
    // A peer reads the session's id even off a refusal.
    let named = match &hello.resume {
        Some(resume) if (1..=ID_BYTES_MAX).contains(&resume.session_id.len()) => {
            resume.session_id.clone()
        }
        _ => would_be.clone(),
    };
    // Over soon, and large: not part of what an idle session keeps.
    let resume = hello.resume.as_ref().map(|resume| resume.last_event_seq);
    let opened = Box::pin(open(&sessions, &would_be, hello, &mut connection)).await;
    let asked = Asked {
        context: &trace,
        via: connection.via(),
        start_ns,
    };
    Box::pin(trace_open(&sessions, asked, &named, resume, &opened)).await;
    match opened {
        Ok(opened) => serve(sessions, connection, opened).await,
        Err(failure) => refuse(connection, named, Some(request_id), failure).await,
    }
}

async fn first_frame(
    sessions: &Sessions,
    connection: &mut Connection,
) -> Result<(String, Hello, TraceContext), (Option<String>, Failure)> {
    let limit = sessions.limits.hello_timeout;
    let first = tokio::time::timeout(limit, connection.inbound.next()).await;
    let Ok(first) = first else {
        let text = format!("session.hello: none within {} seconds", limit.as_secs());
        return Err((None, Failure::invalid(text)));
    };
    match first.map(|said| said.request) {
        Some(Ok(Request {
            id,
            body: RequestBody::Hello(hello),
            trace,
            ..
        })) => Ok((id, hello, trace)),
        Some(Ok(Request { id, .. })) => Err((
            Some(id),
            Failure::invalid("type: the first message must be session.hello or session.resume"),
        )),
        Some(Err(invalid)) => Err((invalid.request_id, Failure::invalid(invalid.message))),
        None => Err((
            None,
            Failure::invalid("session.hello: the connection ended before it"),
        )),
    }
}

/// Most of a resume's time is reading what it will replay, so this comes after it.
async fn trace_open(
    sessions: &Sessions,
    asked: Asked<'_>,
    session_id: &str,
    resume: Option<u64>,
    opened: &Result<Opened, Failure>,
) {
    let telemetry = sessions.jobs.telemetry();
    let refused = opened.as_ref().err().map(|failure| failure.code);
    telemetry.metrics.hello(refused, resume.is_some());
    if !telemetry.is_on() {
        return;
    }
    let opened = opened.as_ref().map_err(|failure| failure.code);
    let Some(last_event_seq) = resume else {
        return telemetry.opened(asked, opened.map(|opened| &*opened.row.id));
    };
    let watches = opened.map(|opened| &opened.plan.watches);
    let mut jobs = Vec::new();
    for (stream, _) in watches
        .iter()
        .flat_map(|w| w.iter().rev())
        .take(telemetry::LINKS_MAX)
    {
        // A link that cannot be read is one less.
        if let Ok(Some(job)) = sessions.log.job_by_stream(*stream).await {
            jobs.push(job);
        }
    }
    telemetry.resumed(asked, session_id, last_event_seq, watches.map(|_| &*jobs));
}

async fn refuse(
    connection: Connection,
    session_id: String,
    request_id: Option<String>,
    failure: Failure,
) {
    let rendering = Rendering::new(connection.encoding, Profile::Draft, &[]);
    let mut outbox = Outbox::new(rendering);
    let goodbye = Goodbye::after(&failure);
    let body = ReplyBody::Error {
        request_id,
        failure,
    };
    outbox.push_reply(Reply {
        session_id,
        job_id: None,
        trace_id: None,
        body,
    });
    outbox.send_rest(&connection.outbound, goodbye).await;
    connection.linger();
}

async fn serve(sessions: Arc<Sessions>, mut connection: Connection, mut opened: Opened) {
    let mut feed = Feed::new(
        sessions.log.clone(),
        sessions.hub.clone(),
        opened.plan.cursor,
    );
    for watched in opened.plan.watches.values() {
        feed.watch(watched.stream, watched.after_seq, true);
    }
    let pinned = |op: view::Op| (op, sessions.hub.pin_one(op.change.stream()));
    let ahead = std::mem::take(&mut opened.plan.ahead)
        .into_iter()
        .map(pinned)
        .collect();
    // The feed and what is ahead have the streams now.
    opened.pins.clear();
    let rendering = Rendering::new(connection.encoding, opened.profile, &opened.features);
    let mut outbox = Outbox::new(rendering);
    outbox.push_reply(welcome(&sessions, &opened));
    let claim = opened.claim;
    let actor = Actor {
        header: SessionHeader::new(&opened.row.id),
        next_seq: opened.plan.cursor.next_seq,
        deliver_from: opened.deliver_from,
        ahead,
        runs: Default::default(),
        replay: None,
        barrier: None,
        op_count: opened.op_count,
        mark: Mark::new(opened.ended),
        is_unsure: false,
        acks: Acks {
            acked: opened.deliver_from.saturating_sub(1),
            ..Acks::default()
        },
        headers: Default::default(),
        deferred: Default::default(),
        recent: Default::default(),
        known_children: opened.delegated.0.into_iter().collect(),
        children: opened.delegated.1.into(),
        trace: Box::new(std::mem::take(&mut connection.trace)),
        via: connection.via(),
        last_inbound: tokio::time::Instant::now(),
        last_outbound: tokio::time::Instant::now(),
        last_taken: tokio::time::Instant::now(),
        full_since: None,
        give_up_at: None,
        features: opened.features,
        row: opened.row,
        sessions: sessions.clone(),
        feed,
        outbox,
    };
    let (via, metrics) = (connection.via(), sessions.jobs.telemetry().metrics.clone());
    metrics.session_attached(via, 1);
    // What is there by now is no answer to the welcome.
    connection.inbound.look();
    let told = actor.run(&mut connection, claim).await;
    metrics.session_attached(via, -1);
    if told {
        connection.linger();
    }
}

fn welcome(sessions: &Sessions, opened: &Opened) -> Reply {
    let welcome = Welcome {
        resume_token: opened.token.clone(),
        resume_window_sec: sessions.limits.resume_window.as_secs() as u32,
        heartbeat_interval_sec: sessions.limits.heartbeat_interval.as_secs().max(1) as u32,
        features: opened.features.clone(),
        agents: sessions.jobs.agents().list(),
        accepted_at: now(),
    };
    let body = ReplyBody::Welcome(welcome);
    Reply {
        session_id: opened.row.id.clone(),
        job_id: None,
        trace_id: None,
        body,
    }
}
