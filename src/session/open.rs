//! Who the peer is, and which session it gets: a new one, or the one it names.

use std::collections::HashSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::claim::Claim;
use super::view::{self, Cursor, PastOp};
use super::{Connection, Sessions, numbering, unavailable};
use crate::fanout::Pin;
use crate::job::now;
use crate::log::{Command, Error, Outcome, SessionRow, StreamId};
use crate::protocol::message::{Hello, Profile, Resume};
use crate::protocol::{ErrorCode, Failure};
use crate::telemetry::Service;

/// What the actor starts from.
pub(super) struct Opened {
    pub row: SessionRow,
    pub features: Vec<String>,
    pub plan: view::Plan,
    pub op_count: u32,
    /// A stream that has ended between the last operation and where the client is.
    pub ended: Option<StreamId>,
    pub deliver_from: u64,
    pub token: String,
    pub profile: Profile,
    pub claim: Claim,
    /// Every job that was delegated in the session, and those of them that its view
    /// has not.
    pub delegated: (Vec<StreamId>, Vec<StreamId>),
    /// Keeps the streams of the plan until they are followed.
    pub pins: Vec<Pin>,
}

pub(super) async fn open(
    sessions: &Arc<Sessions>,
    new_id: &str,
    hello: Hello,
    connection: &mut Connection,
) -> Result<Opened, Failure> {
    if hello.auth_scheme != "bearer"
        && !(hello.auth_scheme.is_empty() && hello.auth_token.is_empty())
    {
        sessions.jobs.telemetry().unauthenticated(Service::Session);
        return Err(Failure::new(
            ErrorCode::Unauthenticated,
            "auth.scheme: must be \"bearer\"",
        ));
    }
    let principal = sessions.authenticate(&hello.auth_token, Service::Session)?;
    match &hello.resume {
        None => open_new(sessions, new_id, principal, &hello).await,
        Some(resume) => open_resumed(sessions, principal, resume, &hello, connection).await,
    }
}

async fn open_new(
    sessions: &Arc<Sessions>,
    session_id: &str,
    principal: String,
    hello: &Hello,
) -> Result<Opened, Failure> {
    sessions.check_room(&principal).await?;
    // What would be refused needs no claim, which would have to be parked for certain.
    if let Some(failing) = sessions.log.failing() {
        return Err(unavailable(Error::Unavailable(failing)));
    }
    let claim = sessions.claim(session_id, &principal).await?;
    let token = new_token();
    let features = sessions.features(&hello.features);
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
    if let Err(failure) = execute(sessions, Command::CreateSession(row.clone())).await {
        // It may be made all the same, where the log did not answer in time.
        claim.park().await;
        return Err(failure);
    }
    claim.taken_up().await;
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
        ended: None,
        deliver_from: 1,
        token,
        profile: hello.profile,
        claim,
        delegated: Default::default(),
        pins: Vec::new(),
    })
}

async fn open_resumed(
    sessions: &Arc<Sessions>,
    principal: String,
    resume: &Resume,
    hello: &Hello,
    connection: &mut Connection,
) -> Result<Opened, Failure> {
    let presented = hash(&resume.resume_token);
    let log = &sessions.log;
    log.caught_up().await.map_err(unavailable)?;
    let row = log.session_by_token(presented.clone()).await;
    let row = row.map_err(unavailable)?;
    let id = &resume.session_id;
    let named = |row: &SessionRow| id.is_empty() || *id == row.id;
    let row = row.filter(|row| named(row) && may_resume(sessions, row, &principal));
    let mut row = row.ok_or_else(expired)?;
    still_there(connection)?;
    if row.parked_at_ms.is_some() {
        sessions.check_room(&principal).await?;
    }
    let claim = sessions.claim(&row.id, &row.principal).await?;
    let token = new_token();
    let resumed = take_up(sessions, &claim, resume, (&presented, &token), connection).await;
    let (planned, delegated) = match resumed {
        Ok(resumed) => resumed,
        Err(failure) => {
            // Whoever had the session has let go of it for this.
            claim.park().await;
            return Err(failure);
        }
    };
    claim.taken_up().await;
    row.token_hash = hash(&token);
    row.earlier_token_hash = Some(presented);
    let features = if hello.features.is_empty() {
        serde_json::from_str(&row.features).unwrap_or_default()
    } else {
        sessions.features(&hello.features)
    };
    Ok(Opened {
        row,
        features,
        op_count: planned.ops.len() as u32,
        ended: planned.ended,
        plan: planned.plan,
        deliver_from: resume.last_event_seq.saturating_add(1),
        token,
        profile: hello.profile,
        claim,
        delegated,
        pins: planned.pins,
    })
}

/// One answer for every reason, so that it tells a stranger nothing (§6.3).
fn expired() -> Failure {
    Failure::new(
        ErrorCode::ResumeWindowExpired,
        "resume: this session cannot be resumed; open a new one and subscribe to its jobs",
    )
}

fn another_has_it() -> Failure {
    Failure::internal(
        "resume: the session was taken up by another connection in the same moment; \
         resume it again",
    )
}

/// Another replica has given a token since. A client that is still there has it, or
/// resumes again with the one it presented: then that counts.
async fn not_claimed(sessions: &Sessions, presented: &[u8]) -> Failure {
    match sessions.log.session_by_token(presented.into()).await {
        Ok(Some(_)) => another_has_it(),
        Ok(None) => expired(),
        Err(error) => unavailable(error),
    }
}

/// The log may not have answered for long: a client that went on elsewhere meanwhile is
/// not to lose its session to a connection that nobody has any more.
fn still_there(connection: &mut Connection) -> Result<(), Failure> {
    match connection.is_gone() {
        true => Err(Failure::internal(
            "resume: the connection ended before the session was taken up; resume it again",
        )),
        false => Ok(()),
    }
}

async fn session(sessions: &Sessions, id: &str) -> Result<SessionRow, Failure> {
    let row = sessions.log.session(id).await.map_err(unavailable)?;
    row.ok_or_else(expired)
}

struct Planned {
    plan: view::Plan,
    ended: Option<StreamId>,
    ops: Vec<PastOp>,
    pins: Vec<Pin>,
}

/// See [`Opened::delegated`].
type Delegated = (Vec<StreamId>, Vec<StreamId>);

/// Where the stream goes on, with the token changed for a new one.
async fn take_up(
    sessions: &Sessions,
    claim: &Claim,
    resume: &Resume,
    (presented, token): (&[u8], &str),
    connection: &mut Connection,
) -> Result<(Planned, Delegated), Failure> {
    let id = &claim.session_id;
    // After the connection here that was displaced: what it claimed is seen. Of a single
    // process nobody else claims.
    let seen_hash = match sessions.log.is_replicated() {
        true => Some(session(sessions, id).await?.token_hash),
        false => None,
    };
    let mut planned = plan(sessions, id, resume).await?;
    still_there(connection)?;
    // A token that nobody goes on with would be one more that counts.
    if claim.displaced.is_cancelled() {
        return Err(another_has_it());
    }
    let command = Command::ClaimSession {
        id: id.clone(),
        presented_hash: presented.into(),
        token_hash: hash(token),
        seen_hash,
    };
    let claimed = sessions.log.execute(command).await.map_err(unavailable)?;
    if claimed == Outcome::Stale {
        return Err(not_claimed(sessions, presented).await);
    }
    if sessions.log.is_replicated() {
        // The replica that had it may have changed the view until it was claimed.
        planned = plan(sessions, id, resume).await?;
    }
    let delegated = sessions.log.delegated_in(id).await.map_err(unavailable)?;
    let mut unseen: Vec<_> = delegated.clone();
    if !unseen.is_empty() {
        let seen: HashSet<_> = (planned.ops.iter())
            .map(|past| past.op.change.stream())
            .collect();
        unseen.retain(|stream| !seen.contains(stream));
    }
    Ok((planned, (delegated, unseen)))
}

/// Where the stream goes on by the view as it is.
async fn plan(sessions: &Sessions, id: &str, resume: &Resume) -> Result<Planned, Failure> {
    let rows = sessions.log.view_ops(id).await.map_err(unavailable)?;
    let ops: Vec<_> = rows.iter().filter_map(PastOp::from_row).collect();
    if view::is_lost(&ops, resume.last_event_seq) {
        return Err(expired());
    }
    let plan = view::plan(&ops, resume.last_event_seq);
    // Before the look at what is kept, so that it is still true when it is read.
    let ahead = plan.ahead.iter().map(|op| op.change.stream());
    let pins = (sessions.hub).pin(plan.watches.keys().copied().chain(ahead));
    let pins = pins.await;
    let before: Vec<_> = plan.watches.keys().copied().collect();
    let plan = numbering::resume(&sessions.log, plan, resume.last_event_seq)
        .await
        .map_err(unavailable)?
        .ok_or_else(expired)?;
    let mut ended = before.into_iter();
    let ended = ended.find(|stream| plan.ahead.is_empty() && !plan.watches.contains_key(stream));
    Ok(Planned {
        plan,
        ended,
        ops,
        pins,
    })
}

fn may_resume(sessions: &Sessions, row: &SessionRow, principal: &str) -> bool {
    let window_ms = sessions.limits.resume_window.as_millis() as i64;
    let in_window = row
        .parked_at_ms
        .is_none_or(|parked| now().0 - parked <= window_ms);
    row.principal == principal && in_window
}

async fn execute(sessions: &Sessions, command: Command) -> Result<(), Failure> {
    sessions
        .log
        .execute(command)
        .await
        .map(drop)
        .map_err(unavailable)
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
