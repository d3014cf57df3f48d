//! Submitting, cancelling and listing jobs.

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::SecretString;

use super::actor::Actor;
use super::numbering;
use super::unavailable;
use super::view::{Change, Op, PastOp};
use crate::job::NewJob;
use crate::log::{GrantRow, JobRow};
use crate::protocol::message::{Granted, JobSummary, ListJobs, ReplyBody, Submit};
use crate::protocol::{Failure, Timestamp, TraceContext, feature};

/// A job's authority as it is told.
pub(super) fn granted(row: &GrantRow) -> Granted {
    Granted {
        lease_json: row.lease_json.clone(),
        expires_at: row.expires_at_ms.map(Timestamp),
        parent_job_id: row.parent_id.clone(),
        delegate_id: row.delegate_id.clone(),
    }
}

impl Actor {
    /// Returns the job's id.
    pub(super) async fn submit(
        &mut self,
        request_id: &str,
        trace: TraceContext,
        submit: Submit,
    ) -> Result<String, Failure> {
        self.require_for(&submit)?;
        let new = NewJob {
            session_id: self.row.id.clone(),
            principal: self.row.principal.clone(),
            trace: trace.or(&self.trace),
            via: self.via,
            submit,
        };
        let (at, op_no, session_id) = (self.cursor(), self.op_count, self.row.id.clone());
        let mut is_asked = false;
        let op = |stream| {
            is_asked = true;
            let after_seq = 0;
            let change = Change::Watch { stream, after_seq };
            Some(Op { at, change }.to_row(&session_id, op_no))
        };
        let jobs = self.sessions.jobs.clone();
        let submitted = jobs.submit(new, op).await;
        if let Err(failure) = &submitted {
            self.is_unsure = is_asked && failure.retryable && self.sessions.log.is_replicated();
        }
        let accepted = submitted?;
        let row = accepted.row.clone();
        self.accept(request_id, &row).await;
        if accepted.duplicate {
            // Whoever retries gets the one job from its start, terminal included,
            // unless it is on its way to this session anyway: a handle for which
            // the terminal never comes again would wait for ever.
            if !self.feed.watches(row.stream) {
                self.observe(&row, true, 0).await?;
            }
            return Ok(row.id);
        }
        self.op_count += 1;
        self.mark.reset();
        let header = self.header.for_job(&row.id, &row.trace_id);
        self.headers.insert(row.stream, Arc::new(header));
        // At another replica it may have begun before it is followed here.
        self.feed.watch(row.stream, 0, accepted.runs_elsewhere());
        jobs.start(accepted);
        Ok(row.id)
    }

    /// What a lease request uses has to be negotiated (§6.2).
    fn require_for(&self, submit: &Submit) -> Result<(), Failure> {
        if submit.lease_expires_at.is_some() {
            self.require("lease_expires_at")?;
        }
        let asked: serde_json::Value =
            serde_json::from_str(&submit.lease_request_json).unwrap_or_default();
        let used = ["cost.budget", "model.use"].into_iter();
        used.filter(|feature| asked.get(feature).is_some())
            .try_for_each(|feature| self.require(feature))
    }

    async fn accept(&mut self, request_id: &str, row: &JobRow) {
        let body = ReplyBody::Accepted {
            request_id: request_id.into(),
            agent: row.agent.clone(),
            accepted_at: row.created_at(),
            grant: granted(&row.grant),
            credentials_json: self.credentials(row).await,
        };
        self.reply_about(Some(row.id.clone()), Some(row.trace_id.clone()), body);
    }

    /// What the job was given, for a client that asked to be told. The row is of a
    /// job of this session's principal; it may be somebody else's session.
    async fn credentials(&self, row: &JobRow) -> Option<SecretString> {
        if !self.has(feature::CREDENTIALS) {
            return None;
        }
        self.sessions.credentials_of(row).await
    }

    /// The answer to a submit that this connection sent before, id and all.
    pub(super) async fn accept_again(&mut self, request_id: &str, job_id: &str) {
        match self.visible(Some(job_id)).await {
            Ok(row) => self.accept(request_id, &row).await,
            Err(failure) => self.error(Some(request_id.into()), None, failure),
        }
    }

    pub(super) async fn cancel(
        &mut self,
        job_id: Option<&str>,
        reason: Option<String>,
        trace: TraceContext,
    ) -> Result<(), Failure> {
        let (principal, own) = (&self.row.principal, Some(&*self.row.id));
        let job = {
            let (trace, via) = (trace.or(&self.trace), self.via);
            let cancelled = self.sessions.cancel(principal, own, job_id, &trace, via);
            cancelled.await?
        };
        // Also when it is over: a cancel said twice is answered twice.
        let body = ReplyBody::Cancelled { reason };
        self.reply_about(Some(job.id), Some(job.trace_id), body);
        Ok(())
    }

    pub(super) async fn list(&mut self, request_id: &str, list: ListJobs) -> Result<(), Failure> {
        self.require("list_jobs")?;
        let page = self.sessions.page(&self.row.principal, list).await?;
        let jobs = self.summaries(page.rows).await.map_err(unavailable)?;
        self.reply(ReplyBody::Jobs {
            request_id: request_id.into(),
            jobs,
            next_cursor: page.next_cursor,
        });
        Ok(())
    }

    async fn summaries(&self, rows: Vec<JobRow>) -> Result<Vec<JobSummary>, crate::log::Error> {
        let log = &self.sessions.log;
        // Each submitting session's view is read once.
        let mut views: HashMap<String, Vec<PastOp>> = HashMap::new();
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            if !views.contains_key(&row.session_id) {
                let ops = log.view_ops(&row.session_id).await?;
                let ops = ops.iter().filter_map(PastOp::from_row).collect();
                views.insert(row.session_id.clone(), ops);
            }
            let position = match row.end_position {
                Some(position) => Some(position),
                None => log.last_position(row.stream).await?,
            };
            let last_event_seq = match (position, &views[&row.session_id][..]) {
                // Nothing yet, or a session whose numbering is gone.
                (None, _) | (_, []) => 0,
                (Some(position), ops) => {
                    let number = numbering::number_at(log, ops, position).await?;
                    // Some of it is gone.
                    number.unwrap_or(0)
                }
            };
            jobs.push(JobSummary {
                job_id: row.id,
                agent: row.agent,
                status: row.status,
                created_at: Timestamp(row.created_at_ms),
                last_event_seq,
                trace_id: row.trace_id,
                grant: granted(&row.grant),
            });
        }
        Ok(jobs)
    }
}
