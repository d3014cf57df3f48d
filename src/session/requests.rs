//! What a session does for each request. A refusal answers that request and
//! leaves the session and every other job alone.

use super::actor::{Actor, End};
use super::attach::unavailable;
use super::view::{Change, Op};
use crate::job::{NewJob, now};
use crate::log::{Command, JobRow, ListFilter};
use crate::protocol::message::{JobSummary, ListJobs, ReplyBody, Submit};
use crate::protocol::{ErrorCode, Failure, Request, RequestBody, Timestamp};

const LIST_LIMIT_DEFAULT: u32 = 100;
const LIST_LIMIT_MAX: u32 = 1_000;

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
        let (id, job_id) = (request.id, request.job_id);
        let answered = match request.body {
            RequestBody::Hello(_) => Err(Failure::invalid("session.hello: already said")),
            RequestBody::Ping { nonce } => {
                self.reply(ReplyBody::Pong {
                    nonce,
                    received_at: now(),
                });
                Ok(())
            }
            RequestBody::Pong { .. } => Ok(()),
            RequestBody::Ack { last_processed_seq } => {
                // Advisory, and never beyond what was sent.
                self.acked = self.acked.max(last_processed_seq.min(self.next_seq - 1));
                Ok(())
            }
            RequestBody::ListJobs(list) => self.list(&id, list).await,
            RequestBody::Close => {
                self.reply(ReplyBody::Closed {
                    reason: "closed by the client".into(),
                });
                return Err(End::Close);
            }
            RequestBody::Bye => return Err(End::Close),
            RequestBody::Submit(submit) => self.submit(&id, request.trace_id, submit).await,
            RequestBody::Cancel { reason } => self.cancel(job_id.as_deref(), reason).await,
            RequestBody::Subscribe {
                history,
                from_event_seq,
                from_job_seq,
            } => {
                let from = (from_event_seq, from_job_seq);
                self.subscribe(&id, job_id.as_deref(), history, from).await
            }
            RequestBody::Unsubscribe => self.unsubscribe(job_id.as_deref()).await,
            RequestBody::Other { type_name } => unknown(&type_name, request.optional),
        };
        if let Err(failure) = answered {
            self.error(Some(id), job_id, failure);
        }
        Ok(())
    }

    fn require(&self, feature: &str) -> Result<(), Failure> {
        if self.features.iter().any(|f| f == feature) {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "{feature}: this feature was not negotiated in session.hello"
        )))
    }

    /// The job, if this principal may know of it; otherwise there is none.
    async fn visible(&self, job_id: Option<&str>) -> Result<JobRow, Failure> {
        let job_id = job_id.ok_or_else(|| Failure::invalid("job_id: missing"))?;
        let job = self.sessions.log.job(job_id).await.map_err(unavailable)?;
        job.filter(|job| job.principal == self.row.principal)
            .ok_or_else(Failure::job_not_found)
    }

    fn op(&self, change: Change) -> Op {
        Op {
            at: self.cursor(),
            change,
        }
    }

    /// Makes a change of the view durable and only then applies it.
    async fn record(&mut self, change: Change) -> Result<(), Failure> {
        let row = self.op(change).to_row(&self.row.id, self.op_count);
        self.sessions
            .log
            .execute(Command::AddViewOp(row))
            .await
            .map_err(unavailable)?;
        self.op_count += 1;
        Ok(())
    }

    async fn submit(
        &mut self,
        request_id: &str,
        trace_id: Option<String>,
        submit: Submit,
    ) -> Result<(), Failure> {
        let new = NewJob {
            session_id: self.row.id.clone(),
            principal: self.row.principal.clone(),
            trace_id,
            submit,
        };
        let (cursor, op_no) = (self.cursor(), self.op_count);
        let session_id = self.row.id.clone();
        let op = |stream| {
            let change = Change::Watch {
                stream,
                after_seq: 0,
            };
            Op { at: cursor, change }.to_row(&session_id, op_no)
        };
        let jobs = self.sessions.jobs.clone();
        let accepted = jobs.submit(new, op).await?;
        let row = accepted.row.clone();
        let body = ReplyBody::Accepted {
            request_id: request_id.into(),
            agent: row.agent.clone(),
            accepted_at: row.created_at(),
        };
        self.reply_about(Some(row.id.clone()), Some(row.trace_id.clone()), body);
        if accepted.duplicate {
            // A retry from another session becomes an observer of the one job,
            // its terminal included.
            if row.session_id != self.row.id {
                self.observe(&row, true, 0).await?;
            }
            return Ok(());
        }
        self.op_count += 1;
        let header = self.header.for_job(&row.id, &row.trace_id);
        self.headers.insert(row.stream, header);
        self.feed.watch(row.stream, 0, false);
        jobs.start(accepted);
        Ok(())
    }

    async fn cancel(
        &mut self,
        job_id: Option<&str>,
        reason: Option<String>,
    ) -> Result<(), Failure> {
        let job = self.visible(job_id).await?;
        if job.session_id != self.row.id {
            let text = "job.cancel: only the session that submitted the job may cancel it";
            return Err(Failure::new(ErrorCode::PermissionDenied, text));
        }
        self.sessions.jobs.cancel(&job.id);
        // Also when it is over: a cancel said twice is answered twice.
        self.reply_about(
            Some(job.id),
            Some(job.trace_id),
            ReplyBody::Cancelled { reason },
        );
        Ok(())
    }

    async fn subscribe(
        &mut self,
        request_id: &str,
        job_id: Option<&str>,
        history: bool,
        (from_event_seq, from_job_seq): (u64, u64),
    ) -> Result<(), Failure> {
        self.require("subscribe")?;
        let job = self.visible(job_id).await?;
        let limit = self.sessions.limits.subscriptions_max;
        if self.feed.watch_count() >= limit && !self.feed.watches(job.stream) {
            return Err(Failure::internal(format!(
                "subscriptions: the limit per session is {limit}"
            )));
        }
        if from_event_seq > 0 && from_job_seq == 0 {
            return Err(Failure::invalid(
                "from_event_seq: this version replays from the start only; leave it out or send 0",
            ));
        }
        let body = ReplyBody::Subscribed {
            request_id: request_id.into(),
            agent: job.agent.clone(),
            status: job.status.clone(),
            subscribed_from: self.next_seq - 1,
            replayed: history,
        };
        self.reply_about(Some(job.id.clone()), Some(job.trace_id.clone()), body);
        self.observe(&job, history, from_job_seq).await
    }

    /// Adds history, then live, with one boundary between the two.
    async fn observe(&mut self, job: &JobRow, history: bool, from: u64) -> Result<(), Failure> {
        let log = self.sessions.log.clone();
        let watched = self.feed.watches(job.stream);
        // A stream watched already goes on where it is: history ends there.
        let boundary = if watched {
            self.cursor().position
        } else {
            log.committed()
        };
        let tail = log
            .seq_at(job.stream, boundary)
            .await
            .map_err(unavailable)?;
        if history && from < tail {
            let change = Change::History {
                stream: job.stream,
                after_seq: from,
                to_seq: tail,
            };
            self.record(change).await?;
            if self.history(job.stream, from, tail).await.is_err() {
                return Err(Failure::internal("history: could not be read"));
            }
        }
        if !watched {
            self.record(Change::Watch {
                stream: job.stream,
                after_seq: tail,
            })
            .await?;
            self.feed.watch(job.stream, tail, true);
        }
        Ok(())
    }

    async fn unsubscribe(&mut self, job_id: Option<&str>) -> Result<(), Failure> {
        self.require("subscribe")?;
        let job = self.visible(job_id).await?;
        if self.feed.watches(job.stream) {
            self.record(Change::Unwatch { stream: job.stream }).await?;
            self.feed.unwatch(job.stream);
        }
        Ok(())
    }

    async fn list(&mut self, request_id: &str, list: ListJobs) -> Result<(), Failure> {
        self.require("list_jobs")?;
        let limit = match list.limit {
            0 => LIST_LIMIT_DEFAULT,
            limit => limit.min(LIST_LIMIT_MAX),
        };
        let after = list.cursor.as_deref().map(parse_cursor).transpose()?;
        let filter = ListFilter {
            statuses: list.statuses,
            agent: list.agent,
            created_after_ms: list.created_after.map(|at| at.0),
            created_before_ms: list.created_before.map(|at| at.0),
        };
        let log = &self.sessions.log;
        let rows = log.list_jobs(&self.row.principal, filter, limit as usize + 1, after);
        let mut rows = rows.await.map_err(unavailable)?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_cursor = rows
            .last()
            .filter(|_| more)
            .map(|row| format!("{}.{}", row.created_at_ms, row.id));
        let jobs = rows
            .into_iter()
            .map(|row| JobSummary {
                job_id: row.id,
                agent: row.agent,
                status: row.status,
                created_at: Timestamp(row.created_at_ms),
                last_event_seq: row.last_seq,
                trace_id: row.trace_id,
            })
            .collect();
        self.reply(ReplyBody::Jobs {
            request_id: request_id.into(),
            jobs,
            next_cursor,
        });
        Ok(())
    }
}

/// Opaque to clients: the place after the last row of a page.
fn parse_cursor(text: &str) -> Result<(i64, String), Failure> {
    text.split_once('.')
        .and_then(|(at, id)| Some((at.parse().ok()?, id.to_owned())))
        .ok_or_else(|| Failure::invalid("cursor: is not one that session.jobs returned"))
}

/// Unknown vendor messages may be marked optional; all else is refused.
fn unknown(type_name: &str, optional: bool) -> Result<(), Failure> {
    if optional && type_name.starts_with("x-vendor.") {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "type: {type_name} is not a message a client may send"
    )))
}
