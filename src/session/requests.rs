//! What a session does for each request. A refusal answers that request and
//! leaves the session and every other job alone.

use super::actor::{Actor, End};
use super::recent::Answer;
use super::view::Op;
use super::{Goodbye, unavailable};
use crate::job::now;
use crate::log::{Command, JobRow, Outcome};
use crate::protocol::message::{Granted, Profile, ReplyBody};
use crate::protocol::{Failure, Request, RequestBody, TraceContext, id};
use crate::telemetry::{self, Asked};

impl Actor {
    pub(super) async fn handle(&mut self, request: Request) -> Result<(), End> {
        if request
            .session_id
            .as_ref()
            .is_some_and(|id| *id != self.row.id)
        {
            let text = "session_id: is not the session of this connection";
            self.error(Some(request.id), None, Failure::invalid(text));
            return Ok(());
        }
        match request.body {
            RequestBody::Ping { nonce } => {
                let received_at = now();
                self.reply(ReplyBody::Pong { nonce, received_at });
            }
            RequestBody::Pong { nonce } => self.on_pong(&nonce).await?,
            RequestBody::Ack { last_processed_seq } => self.on_ack(last_processed_seq),
            RequestBody::Close => {
                let reason = "closed by the client".into();
                self.reply(ReplyBody::Closed { reason });
                return Err(End::Close(Goodbye::Done));
            }
            RequestBody::Bye => return Err(End::Close(Goodbye::Done)),
            RequestBody::Hello(_) => {
                let text = "session.hello: this connection has a session already";
                self.error(Some(request.id), None, Failure::invalid(text));
            }
            RequestBody::Other { type_name } => {
                if let Err(failure) = unknown(&type_name, request.optional) {
                    self.error(Some(request.id), None, failure);
                }
            }
            RequestBody::ListJobs(list) => {
                if let Err(failure) = self.list(&request.id, list).await {
                    self.error(Some(request.id), None, failure);
                }
            }
            RequestBody::Submit(_)
            | RequestBody::Cancel { .. }
            | RequestBody::Subscribe { .. }
            | RequestBody::Unsubscribe => return self.change(request).await,
        }
        Ok(())
    }

    /// A request that changes something: done once, however often it is sent.
    async fn change(&mut self, mut request: Request) -> Result<(), End> {
        let again = match self.recent.get(&request.id) {
            Some(Answer::Refused { failure }) => {
                let failure = failure.clone();
                self.refuse(&request, failure);
                return Ok(());
            }
            Some(Answer::Submitted { job_id }) => {
                let job_id = job_id.clone();
                self.accept_again(&request.id, &job_id).await;
                return Ok(());
            }
            Some(Answer::Done) => true,
            None => false,
        };
        if let (true, RequestBody::Subscribe { history, .. }) = (again, &mut request.body) {
            *history = false;
        }
        let job_id = request.job_id.as_deref();
        let answered = match &request.body {
            RequestBody::Submit(submit) => {
                let submitted = self.submit(&request.id, request.trace.clone(), submit.clone());
                submitted.await.map(|job_id| Answer::Submitted { job_id })
            }
            RequestBody::Cancel { reason } => {
                let cancelled = {
                    let trace = request.trace.clone();
                    self.cancel(job_id, reason.clone(), trace).await
                };
                cancelled.map(|()| Answer::Done)
            }
            RequestBody::Subscribe {
                history,
                from_event_seq,
                from_job_seq,
            } => {
                let from = (*from_event_seq, *from_job_seq);
                let start_ns = telemetry::now_ns();
                let subscribed = self.subscribe(&request.id, job_id, *history, from).await;
                self.trace_subscribe(&request.trace, start_ns, *history, &subscribed);
                let subscribed = subscribed.map(drop);
                subscribed.map(|()| Answer::Done)
            }
            _ => self.unsubscribe(job_id).await.map(|()| Answer::Done),
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(failure) => {
                self.refuse(&request, failure.clone());
                if self.is_unsure {
                    return Err(End::Close(Goodbye::after(&failure)));
                }
                Answer::Refused { failure }
            }
        };
        // What may succeed later is not remembered as refused.
        if !matches!(&answer, Answer::Refused { failure } if failure.retryable) {
            self.recent.insert(request.id, answer);
        }
        Ok(())
    }

    fn trace_subscribe(
        &self,
        said: &TraceContext,
        start_ns: u64,
        history: bool,
        subscribed: &Result<JobRow, Failure>,
    ) {
        let telemetry = self.sessions.jobs.telemetry();
        if !telemetry.is_on() {
            return;
        }
        let asked = Asked {
            context: &said.clone().or(&self.trace),
            via: self.via,
            start_ns,
        };
        let ended = subscribed.as_ref().map_err(|failure| failure.code);
        telemetry.subscribed(asked, &self.row.id, history, ended);
    }

    /// Answers a refused request in the form that hurts none of the peer's other
    /// handles: two SDKs end all of them on a `session.error`.
    fn refuse(&mut self, request: &Request, failure: Failure) {
        let lone = self.feed.watch_count() == 0;
        match (&request.body, self.outbox.profile()) {
            (RequestBody::Submit(_), Profile::TypeScript) => self.reject(request, failure),
            (RequestBody::Submit(submit), Profile::Python) if !lone => {
                let agent = submit.agent.clone();
                let job_id = id::job_id();
                let body = ReplyBody::Accepted {
                    request_id: request.id.clone(),
                    agent,
                    accepted_at: now(),
                    grant: Granted::default(),
                    credentials_json: None,
                };
                self.reply_about(Some(job_id.clone()), request.trace.trace_id.clone(), body);
                let body = ReplyBody::Rejected { failure, at: now() };
                self.reply_about(Some(job_id), request.trace.trace_id.clone(), body);
            }
            // Nothing in these clients waits for the answer to a cancel.
            (RequestBody::Cancel { .. }, Profile::TypeScript | Profile::Python) => {
                tracing::debug!(session_id = self.row.id, %failure, "refused a cancel");
            }
            _ => self.error(Some(request.id.clone()), request.job_id.clone(), failure),
        }
    }

    fn reject(&mut self, request: &Request, failure: Failure) {
        let body = ReplyBody::Rejected { failure, at: now() };
        self.reply_about(Some(id::job_id()), request.trace.trace_id.clone(), body);
    }

    pub(super) fn require(&self, feature: &str) -> Result<(), Failure> {
        if self.has(feature) {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "{feature}: this feature was not negotiated in session.hello"
        )))
    }

    /// The job, if this principal may know of it; otherwise there is none.
    pub(super) async fn visible(&self, job_id: Option<&str>) -> Result<JobRow, Failure> {
        self.sessions.visible(&self.row.principal, job_id).await
    }

    /// Makes changes of the view durable, all or none; the caller applies them after.
    pub(super) async fn record(&mut self, ops: &[Op]) -> Result<(), Failure> {
        if ops.is_empty() {
            return Ok(());
        }
        let rows = (self.op_count..)
            .zip(ops)
            .map(|(op_no, op)| op.to_row(&self.row.id, op_no))
            .collect();
        self.is_unsure = self.sessions.log.is_replicated();
        let added = self.sessions.log.execute(Command::AddViewOps(rows)).await;
        if added.map_err(unavailable)? == Outcome::Stale {
            let text = "session: it is on another connection now";
            return Err(Failure::internal(text));
        }
        self.is_unsure = false;
        self.op_count += ops.len() as u32;
        self.mark.reset();
        Ok(())
    }
}

/// Unknown vendor messages may be marked optional; all else is refused.
fn unknown(type_name: &str, optional: bool) -> Result<(), Failure> {
    if optional && is_vendor(type_name) {
        return Ok(());
    }
    let text = format!("type: {type_name} is not a message a client may send");
    let details = serde_json::json!({ "type": type_name }).to_string();
    Err(Failure::invalid(text).with_details(details))
}

/// `x-vendor.<vendor>.<name>`, lower case.
fn is_vendor(type_name: &str) -> bool {
    let Some(names) = type_name.strip_prefix("x-vendor.") else {
        return false;
    };
    let named = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
    };
    names.split('.').count() >= 2 && names.split('.').all(named)
}
