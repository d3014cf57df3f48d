//! From the first frame to a welcome: who is it, and which session (§6.1, §6.3).

use std::sync::Arc;

use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::actor::Actor;
use super::feed::Feed;
use super::outbox::Outbox;
use super::view::{self, Cursor, Op};
use super::{Attached, Connection, Sessions};
use crate::job::now;
use crate::log::{Command, SessionRow};
use crate::protocol::message::{Hello, Reply, ReplyBody, Resume, Welcome};
use crate::protocol::{ErrorCode, Failure, Request, RequestBody, feature, id};
use crate::wire::SessionHeader;

/// What the actor starts from.
pub(super) struct Opened {
    pub row: SessionRow,
    pub features: Vec<String>,
    pub plan: view::Plan,
    pub op_count: u32,
    pub deliver_from: u64,
    pub token: String,
}

/// Serves one connection from its first frame to its end.
pub async fn attach(sessions: Arc<Sessions>, mut connection: Connection) {
    let would_be = id::session_id();
    let hello = match first_frame(&sessions, &mut connection).await {
        Ok(hello) => hello,
        Err((request_id, failure)) => {
            return refuse(connection, would_be, request_id, failure).await;
        }
    };
    let (request_id, hello) = hello;
    // A peer reads the session's id even off a refusal.
    let named = hello
        .resume
        .as_ref()
        .map_or_else(|| would_be.clone(), |r| r.session_id.clone());
    match open(&sessions, &would_be, hello).await {
        Ok(opened) => serve(sessions, connection, opened).await,
        Err(failure) => refuse(connection, named, Some(request_id), failure).await,
    }
}

async fn first_frame(
    sessions: &Sessions,
    connection: &mut Connection,
) -> Result<(String, Hello), (Option<String>, Failure)> {
    let limit = sessions.limits.hello_timeout;
    let first = tokio::time::timeout(limit, connection.inbound.next()).await;
    let Ok(first) = first else {
        let text = format!("session.hello: none within {} seconds", limit.as_secs());
        return Err((None, Failure::invalid(text)));
    };
    match first {
        Some(Ok(Request {
            id,
            body: RequestBody::Hello(hello),
            ..
        })) => Ok((id, hello)),
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

async fn refuse(
    connection: Connection,
    session_id: String,
    request_id: Option<String>,
    failure: Failure,
) {
    let mut outbox = Outbox::new(connection.encoding);
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
    // An error here means that the peer has gone already.
    let _ = connection.outbound.send(outbox.take(true)).await;
}

async fn open(sessions: &Sessions, new_id: &str, hello: Hello) -> Result<Opened, Failure> {
    let unauthenticated =
        || Failure::new(ErrorCode::Unauthenticated, "auth: the token is not valid");
    if hello.auth_scheme != "bearer"
        && !(hello.auth_scheme.is_empty() && hello.auth_token.is_empty())
    {
        return Err(Failure::new(
            ErrorCode::Unauthenticated,
            "auth.scheme: must be \"bearer\"",
        ));
    }
    let principal = sessions
        .authenticator
        .principal(&hello.auth_token)
        .ok_or_else(unauthenticated)?;
    match hello.resume {
        None => open_new(sessions, new_id, principal, &hello.features).await,
        Some(resume) => open_resumed(sessions, principal, resume, &hello.features).await,
    }
}

async fn open_new(
    sessions: &Sessions,
    session_id: &str,
    principal: String,
    offered: &[String],
) -> Result<Opened, Failure> {
    let token = new_token();
    let features = feature::intersect(offered);
    let row = SessionRow {
        id: session_id.into(),
        stream: sessions.jobs.next_stream(),
        principal,
        token_hash: hash(&token),
        created_at_ms: now().0,
        parked_at_ms: None,
        features: serde_json::json!(features).to_string(),
    };
    execute(sessions, Command::CreateSession(row.clone())).await?;
    // Nothing before this session's first job can be in its view.
    let cursor = Cursor {
        position: sessions.log.committed(),
        ..Cursor::START
    };
    let plan = view::Plan {
        watches: view::Watches::new(),
        cursor,
        ahead: Vec::new(),
    };
    Ok(Opened {
        row,
        features,
        plan,
        op_count: 0,
        deliver_from: 1,
        token,
    })
}

async fn open_resumed(
    sessions: &Sessions,
    principal: String,
    resume: Resume,
    offered: &[String],
) -> Result<Opened, Failure> {
    // One answer for every reason, so that it tells a stranger nothing (§6.3).
    let expired = || {
        Failure::new(
            ErrorCode::ResumeWindowExpired,
            "resume: this session cannot be resumed; open a new one and subscribe to its jobs",
        )
    };
    let row = sessions
        .log
        .session(&resume.session_id)
        .await
        .map_err(unavailable)?;
    let mut row = row.ok_or_else(expired)?;
    let same_token: bool = row.token_hash.ct_eq(&hash(&resume.resume_token)).into();
    let window_ms = sessions.limits.resume_window.as_millis() as i64;
    let in_window = row
        .parked_at_ms
        .is_none_or(|parked| now().0 - parked <= window_ms);
    if row.principal != principal || !same_token || !in_window {
        return Err(expired());
    }
    displace(sessions, &row.id).await;
    let rows = sessions.log.view_ops(&row.id).await.map_err(unavailable)?;
    let ops: Vec<_> = rows.iter().filter_map(Op::from_row).collect();
    let plan = view::plan(&ops, resume.last_event_seq);
    let token = new_token();
    row.token_hash = hash(&token);
    row.parked_at_ms = None;
    let command = Command::UpdateSession {
        id: row.id.clone(),
        token_hash: row.token_hash.clone(),
        parked_at_ms: None,
    };
    execute(sessions, command).await?;
    let features = if offered.is_empty() {
        serde_json::from_str(&row.features).unwrap_or_default()
    } else {
        feature::intersect(offered)
    };
    let deliver_from = resume.last_event_seq.saturating_add(1);
    Ok(Opened {
        row,
        features,
        plan,
        op_count: rows.len() as u32,
        deliver_from,
        token,
    })
}

/// Ends the connection a session still has and waits until it has let go.
async fn displace(sessions: &Sessions, session_id: &str) {
    let released = {
        let attached = sessions.attached.lock();
        attached.get(session_id).map(|attached| {
            attached.displaced.cancel();
            attached.released.clone()
        })
    };
    if let Some(mut released) = released {
        // An error means that the actor is gone, which is what is waited for.
        let _ = released.wait_for(|released| *released).await;
    }
}

async fn serve(sessions: Arc<Sessions>, connection: Connection, opened: Opened) {
    let session_id = opened.row.id.clone();
    let displaced = CancellationToken::new();
    let (released_tx, released) = watch::channel(false);
    let generation = rand::random();
    let entry = Attached {
        generation,
        displaced: displaced.clone(),
        released,
    };
    if let Some(other) = sessions.attached.lock().insert(session_id.clone(), entry) {
        // Two resumes raced with one token; the later one has the session.
        other.displaced.cancel();
    }
    let feed = match feed(&sessions, &opened.plan).await {
        Ok(feed) => feed,
        Err(error) => {
            tracing::error!(%error, session_id, "the view could not be read");
            return;
        }
    };
    let mut outbox = Outbox::new(connection.encoding);
    outbox.push_reply(welcome(&sessions, &opened));
    let actor = Actor {
        header: SessionHeader::new(&session_id),
        next_seq: opened.plan.cursor.next_seq,
        deliver_from: opened.deliver_from,
        ahead: opened.plan.ahead.into(),
        op_count: opened.op_count,
        acked: opened.deliver_from.saturating_sub(1),
        headers: Default::default(),
        deferred: Default::default(),
        last_inbound: tokio::time::Instant::now(),
        last_outbound: tokio::time::Instant::now(),
        features: opened.features,
        row: opened.row,
        sessions: sessions.clone(),
        feed,
        outbox,
    };
    actor.run(connection, displaced).await;
    park(&sessions, &session_id, generation).await;
    // The receiver may be gone; then nobody waits.
    let _ = released_tx.send(true);
}

async fn feed(sessions: &Sessions, plan: &view::Plan) -> Result<Feed, crate::log::Error> {
    let mut feed = Feed::new(sessions.log.clone(), sessions.hub.clone(), plan.cursor);
    for (stream, after_seq) in &plan.watches {
        let job = sessions.log.job_by_stream(*stream).await?;
        let ended = job.and_then(|job| job.end_position);
        if ended.is_none_or(|ended| ended > plan.cursor.position) {
            feed.watch(*stream, *after_seq, true);
        }
    }
    Ok(feed)
}

/// The resume window starts when the connection is gone (§6.3).
async fn park(sessions: &Sessions, session_id: &str, generation: u64) {
    {
        let mut attached = sessions.attached.lock();
        match attached.get(session_id) {
            Some(entry) if entry.generation == generation => attached.remove(session_id),
            _ => return,
        };
    }
    let command = Command::ParkSession {
        id: session_id.into(),
        at_ms: now().0,
    };
    if let Err(error) = sessions.log.execute(command).await {
        tracing::warn!(%error, session_id, "parking a session was not recorded");
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

async fn execute(sessions: &Sessions, command: Command) -> Result<(), Failure> {
    sessions
        .log
        .execute(command)
        .await
        .map(drop)
        .map_err(unavailable)
}

pub(super) fn unavailable(error: crate::log::Error) -> Failure {
    tracing::error!(%error, "the store is not available");
    Failure::internal("the store is not available; try again")
}

/// 256 random bits; only the hash is stored.
fn new_token() -> String {
    format!(
        "rt_{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    )
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
