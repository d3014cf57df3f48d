//! From the first frame to a welcome: who is it, and which session (§6.1, §6.3).

use std::sync::Arc;

use futures_util::StreamExt;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::actor::{Acks, Actor};
use super::claim::Claim;
use super::feed::Feed;
use super::outbox::{Outbox, Rendering};
use super::view::{self, Cursor, Op};
use super::{Connection, Sessions, numbering};
use crate::job::now;
use crate::log::{Command, Outcome, SessionRow};
use crate::protocol::message::{Hello, Profile, Reply, ReplyBody, Resume, Welcome};
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
    pub profile: Profile,
    pub claim: Claim,
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
    let (request_id, mut hello) = hello;
    if let (true, Some(bearer)) = (hello.auth_token.is_empty(), &connection.bearer) {
        hello.auth_scheme = "bearer".into();
        hello.auth_token = bearer.expose_secret().into();
    }
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
    let rendering = Rendering::new(connection.encoding, Profile::Draft, &[]);
    let mut outbox = Outbox::new(rendering);
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

async fn open(sessions: &Arc<Sessions>, new_id: &str, hello: Hello) -> Result<Opened, Failure> {
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
    match &hello.resume {
        None => open_new(sessions, new_id, principal, &hello).await,
        Some(resume) => open_resumed(sessions, principal, resume, &hello).await,
    }
}

async fn open_new(
    sessions: &Arc<Sessions>,
    session_id: &str,
    principal: String,
    hello: &Hello,
) -> Result<Opened, Failure> {
    let claim = sessions.claim(session_id, &principal).await?;
    let token = new_token();
    let features = feature::intersect(&hello.features);
    let row = SessionRow {
        id: session_id.into(),
        stream: sessions.jobs.next_stream(),
        principal,
        token_hash: hash(&token),
        earlier_token_hash: None,
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
        cursor,
        ..view::after(&[])
    };
    Ok(Opened {
        row,
        features,
        plan,
        op_count: 0,
        deliver_from: 1,
        token,
        profile: hello.profile,
        claim,
    })
}

async fn open_resumed(
    sessions: &Arc<Sessions>,
    principal: String,
    resume: &Resume,
    hello: &Hello,
) -> Result<Opened, Failure> {
    let presented = hash(&resume.resume_token);
    let log = &sessions.log;
    let row = match &*resume.session_id {
        "" => log.session_by_token(presented.clone()).await,
        id => log.session(id).await,
    };
    let mut row = row.map_err(unavailable)?.ok_or_else(expired)?;
    if !may_resume(sessions, &row, &principal, &presented) {
        return Err(expired());
    }
    let claim = sessions.claim(&row.id, &row.principal).await?;
    let token = new_token();
    let resumed = take_up(sessions, &row.id, resume, &presented, &token).await;
    let (plan, op_count) = match resumed {
        Ok(resumed) => resumed,
        Err(failure) => {
            // Whoever had the session has let go of it for this.
            park(sessions, row.id, &claim).await;
            return Err(failure);
        }
    };
    row.token_hash = hash(&token);
    row.earlier_token_hash = Some(presented);
    let features = if hello.features.is_empty() {
        serde_json::from_str(&row.features).unwrap_or_default()
    } else {
        feature::intersect(&hello.features)
    };
    Ok(Opened {
        row,
        features,
        plan,
        op_count,
        deliver_from: resume.last_event_seq.saturating_add(1),
        token,
        profile: hello.profile,
        claim,
    })
}

/// One answer for every reason, so that it tells a stranger nothing (§6.3).
fn expired() -> Failure {
    Failure::new(
        ErrorCode::ResumeWindowExpired,
        "resume: this session cannot be resumed; open a new one and subscribe to its jobs",
    )
}

/// Where the stream goes on, with the token changed for a new one.
async fn take_up(
    sessions: &Sessions,
    id: &str,
    resume: &Resume,
    presented: &[u8],
    token: &str,
) -> Result<(view::Plan, u32), Failure> {
    let rows = sessions.log.view_ops(id).await.map_err(unavailable)?;
    let ops: Vec<_> = rows.iter().filter_map(Op::from_row).collect();
    let plan = numbering::resume(&sessions.log, &ops, resume.last_event_seq)
        .await
        .map_err(unavailable)?
        .ok_or_else(expired)?;
    let command = Command::ClaimSession {
        id: id.into(),
        presented_hash: presented.into(),
        token_hash: hash(token),
    };
    match sessions.log.execute(command).await.map_err(unavailable)? {
        Outcome::Stale => Err(expired()),
        _ => Ok((plan, rows.len() as u32)),
    }
}

fn may_resume(sessions: &Sessions, row: &SessionRow, principal: &str, presented: &[u8]) -> bool {
    let present = bool::from(row.token_hash.ct_eq(presented));
    // The welcome with the present token may have been lost on its way.
    let earlier = row
        .earlier_token_hash
        .as_ref()
        .is_some_and(|earlier| earlier.ct_eq(presented).into());
    let window_ms = sessions.limits.resume_window.as_millis() as i64;
    let in_window = row
        .parked_at_ms
        .is_none_or(|parked| now().0 - parked <= window_ms);
    row.principal == principal && (present || earlier) && in_window
}

async fn serve(sessions: Arc<Sessions>, connection: Connection, opened: Opened) {
    let mut feed = Feed::new(
        sessions.log.clone(),
        sessions.hub.clone(),
        opened.plan.cursor,
    );
    for (stream, after_seq) in &opened.plan.watches {
        feed.watch(*stream, *after_seq, true);
    }
    let rendering = Rendering::new(connection.encoding, opened.profile, &opened.features);
    let mut outbox = Outbox::new(rendering);
    outbox.push_reply(welcome(&sessions, &opened));
    let claim = opened.claim;
    let actor = Actor {
        header: SessionHeader::new(&opened.row.id),
        next_seq: opened.plan.cursor.next_seq,
        deliver_from: opened.deliver_from,
        ahead: opened.plan.ahead.into(),
        replay: None,
        barrier: None,
        op_count: opened.op_count,
        acks: Acks {
            acked: opened.deliver_from.saturating_sub(1),
            ..Acks::default()
        },
        headers: Default::default(),
        deferred: Default::default(),
        recent: Default::default(),
        last_inbound: tokio::time::Instant::now(),
        last_outbound: tokio::time::Instant::now(),
        features: opened.features,
        row: opened.row,
        sessions: sessions.clone(),
        feed,
        outbox,
    };
    let session_id = actor.row.id.clone();
    actor.run(connection, &claim).await;
    park(&sessions, session_id, &claim).await;
}

/// The resume window starts when the connection is gone (§6.3), unless another
/// has the session by now. The claim is let go only after that is durable.
async fn park(sessions: &Sessions, id: String, claim: &Claim) {
    if claim.is_displaced() {
        return;
    }
    let at_ms = now().0;
    if let Err(error) = sessions
        .log
        .execute(Command::ParkSession { id, at_ms })
        .await
    {
        tracing::warn!(%error, "parking a session was not recorded");
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
