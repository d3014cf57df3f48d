//! One job made by another (§10): checked against the parent's lease, its budget
//! taken from the parent's, made durable, and only then said and started.

use std::sync::Arc;

use super::buffer::Since;
use super::credentials::Wanted;
use super::grant::Grant;
use super::idempotency::{fingerprint, same_or_conflict};
use super::registry::unavailable;
use super::{JobContext, Jobs, audit, now};
use crate::authority::{Amounts, Lease};
use crate::credential::{Fresh, Holding, Tree};
use crate::log::{Command, GrantRow, JobRow, Outcome as LogOutcome};
use crate::protocol::message::Submit;
use crate::protocol::{AgentRef, ErrorCode, Event, EventBody, Failure, Outcome, Timestamp, id};
use crate::telemetry::{self, JobTrace, Submitted, Via};
use crate::wire;

pub(super) const NAME_BYTES_MAX: usize = 128;

/// What an agent asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegation {
    /// The parent's name for the child. Said again it means the same child.
    pub delegate_id: String,
    /// `name` or `name@version`.
    pub agent: String,
    /// JSON text; empty is null.
    pub input_json: String,
    /// Empty asks for nothing.
    pub lease_request_json: String,
    pub expires_at: Option<Timestamp>,
}

/// A job that was delegated and is durable.
#[derive(Clone, Debug)]
pub struct Child {
    pub job_id: String,
    pub agent: String,
}

impl Jobs {
    /// A refusal is also a `tool_result` in the parent's stream, under the name the
    /// child would have had.
    pub(super) async fn delegate(
        self: &Arc<Self>,
        parent: &JobContext,
        asked: Delegation,
    ) -> Result<Child, Failure> {
        let start_ns = telemetry::now_ns();
        let said = asked.clone();
        // A task of its own: the agent may be gone in the middle, and a child that is
        // durable has to be said and started.
        let (jobs, of) = (self.clone(), parent.clone());
        let made = tokio::spawn(async move { jobs.make_child(&of, asked).await });
        let made = made.await.unwrap_or_else(|_| {
            Err(Failure::internal(
                "delegate: was cut off; delegate again under the same delegate_id",
            ))
        });
        audit::delegated(parent, &said, &made);
        if let Err(failure) = &made {
            if parent.trace().recorded {
                let context = parent.trace().child();
                let ended = Err(failure.code);
                let telemetry = self.telemetry();
                telemetry.not_submitted(&context, Via::Inside, start_ns, ended, None);
            }
            parent.refused(&said.delegate_id, failure).await;
        }
        made
    }

    async fn make_child(
        self: &Arc<Self>,
        parent: &JobContext,
        asked: Delegation,
    ) -> Result<Child, Failure> {
        check_shape(&asked)?;
        let _alone = match parent.grant() {
            Some(grant) => Some(grant.delegating.lock().await),
            None => None,
        };
        let (agent, runner) = self.resolve(&asked.agent).await?;
        let submit = Submit {
            agent: agent.clone(),
            input_json: match &*asked.input_json {
                "" => "null".into(),
                json => json.into(),
            },
            lease_request_json: asked.lease_request_json.clone(),
            lease_expires_at: asked.expires_at,
            idempotency_key: None,
            max_runtime_sec: 0,
        };
        let fingerprint = fingerprint(&agent, &submit);
        let earlier = self.log().child(parent.job_id(), &asked.delegate_id).await;
        if let Some(row) = earlier.map_err(unavailable)? {
            let row = same_or_conflict("delegate_id", row, &fingerprint)?;
            self.say_again(parent, &row, &asked).await?;
            return Ok(child(&row));
        }
        if parent.is_cancelled() {
            let text = "delegate: this job was asked to stop";
            return Err(Failure::new(ErrorCode::Cancelled, text));
        }
        parent.check("agent.delegate", &agent)?;
        // The id that is going to be there is as long.
        let body = delegate_event(&asked, &agent, &submit.input_json, id::job_id());
        parent.checked(Event { ts: now(), body })?;
        let Some(grant) = parent.grant() else {
            return Err(Failure::internal("delegate: the parent has no lease"));
        };
        let (mut lease, bounds) = self.child_lease(grant, parent, &submit).await?;
        let start_ns = telemetry::now_ns();
        let stream = self.next_stream();
        let (family, asked_for) = (&grant.family, lease.budget.clone());
        let reserved = family.reserve(stream, parent.stream(), asked_for, &bounds);
        lease.budget = reserved.map_err(violation)?;
        let row = self.new_row(stream, parent, &asked, &lease, &submit, fingerprint);
        let hosted = runner
            .is_hosted()
            .then(|| super::registry::hosted(stream, None));
        let row = JobRow {
            status: if hosted.is_some() {
                "pending"
            } else {
                "running"
            }
            .into(),
            ..row
        };
        let context = parent.trace().child();
        let trace = JobTrace::begin(self.telemetry(), &row, &context);
        let root = &family.root;
        let wanted = Wanted {
            budget: family.spendable(stream),
            tree: Tree::below(&root.job_id, root.stream, &root.budget),
            deadline: None,
        };
        let credential = self.credential(&row, &lease, wanted, &trace).await;
        let credential = credential.inspect_err(|_| grant.family.withdraw(stream))?;
        let submitted = Submitted {
            row: &row,
            hosted: hosted.is_some(),
            context: &context,
            via: Via::Inside,
            start_ns,
        };
        let _making = self.making(stream);
        let command = Command::CreateJob {
            job: Box::new(row.clone()),
            op: None,
            hosted,
            credentials: credential.as_ref().map(Fresh::rows).unwrap_or_default(),
            trace: trace.to_row(self.telemetry()),
            owner: None,
        };
        let mut made = self.log().execute(command).await;
        if made.is_err() && self.log().is_replicated() {
            // It may be made yet, and then nobody else would begin it.
            let row = self.made_after_all(&row.id).await;
            made = row.map(|row| row.map_or(LogOutcome::Stale, |_| LogOutcome::Done));
        }
        match made {
            Ok(LogOutcome::Done) => {
                self.telemetry().metrics.submitted(&row.agent);
                self.telemetry().submitted(&trace, &submitted);
            }
            Ok(LogOutcome::Duplicate(earlier)) => {
                // The same was asked twice at once.
                grant.family.withdraw(stream);
                let said = row.fingerprint;
                return same_or_conflict("delegate_id", *earlier, &said).map(|row| child(&row));
            }
            Ok(LogOutcome::Stale | LogOutcome::Dialled(_)) | Err(_) => {
                grant.family.withdraw(stream);
                return Err(Failure::internal("delegate: was not stored; try again"));
            }
        }
        let child_grant = Grant {
            lease,
            models: grant.models,
            family: grant.family.clone(),
            jobs: Arc::downgrade(self),
            depth: grant.depth + 1,
            parent_id: Some(parent.job_id().into()),
            is_apart: false,
            delegating: Default::default(),
        };
        let holding = credential.and_then(Fresh::keep);
        let of_child = (child_grant, holding, trace);
        self.begin_child(parent, row.clone(), runner, of_child, &asked)
            .await;
        Ok(child(&row))
    }

    /// Says that the child is there, shows it to the session, and starts it; should
    /// its parent be over by now, ends it.
    async fn begin_child(
        &self,
        parent: &JobContext,
        row: JobRow,
        runner: Arc<dyn super::Agent>,
        (grant, credential, trace): (Grant, Option<Holding>, Arc<JobTrace>),
        asked: &Delegation,
    ) {
        let (session_id, stream) = (row.session_id.clone(), row.stream);
        parent.is_to_say(stream);
        let said = parent.emit_own(said_of(asked, &row)).await;
        // Who has heard that there is a child does not ask again, and nobody else tells
        // of it after a kill. While the store fails there is nothing to wait for.
        let _ = self.log().settled().await;
        let context = self
            .context(row, Since::default(), trace)
            .provided(credential);
        let context = context.granted(Some(grant));
        self.observe(&session_id, stream);
        if said.is_err() {
            return context.end(parent_is_over());
        }
        let child_id = context.job_id().to_owned();
        self.start_job(context, runner, None);
        if parent.over().is_cancelled() {
            // It may have ended its children before this one was among them.
            self.end_job(&child_id, parent_is_over());
        }
        if let Some(grant) = parent.grant() {
            grant.family.tell(grant.family.line(parent.stream()));
        }
    }

    /// The lease of a child: within its parent's, and within policy. What policy adds
    /// of budgets that the child did not ask for is apart.
    async fn child_lease(
        &self,
        grant: &Grant,
        parent: &JobContext,
        submit: &Submit,
    ) -> Result<(Lease, Amounts), Failure> {
        let limits = self.limits();
        if grant.depth >= limits.delegation_depth_max {
            return Err(violation(format!(
                "delegate: {} delegations are above this job, which is the limit",
                limits.delegation_depth_max
            )));
        }
        if self.children_of(parent.job_id()) >= limits.delegation_children_max {
            return Err(Failure::internal(format!(
                "delegate: {} children of this job run, which is the limit; wait for one to end",
                limits.delegation_children_max
            )));
        }
        self.check_running(parent.principal()).await?;
        let json = &submit.lease_request_json;
        let asked = Lease::parse(json, submit.lease_expires_at, now()).map_err(Failure::invalid)?;
        // What is left of a budget is the ledger's to say.
        let bare = asked.clone().without_budget();
        bare.subset_of(&grant.lease, grant.models)
            .map_err(violation)?;
        let inherited = asked.inherit(&grant.lease);
        let mut lease = self.bounded(parent.principal(), &submit.agent, &inherited)?;
        let (budget, bounds) = std::mem::take(&mut lease.budget)
            .into_iter()
            .partition(|(currency, _)| inherited.budget.contains_key(currency));
        lease.budget = budget;
        Ok((lease, bounds))
    }

    fn new_row(
        &self,
        stream: i64,
        parent: &JobContext,
        asked: &Delegation,
        lease: &Lease,
        submit: &Submit,
        fingerprint: Vec<u8>,
    ) -> JobRow {
        JobRow {
            id: id::job_id(),
            stream,
            session_id: parent.session_id().into(),
            principal: parent.principal().into(),
            agent: submit.agent.clone(),
            input_json: submit.input_json.clone(),
            trace_id: parent.trace_id().into(),
            created_at_ms: now().0,
            status: String::new(),
            ended_at_ms: None,
            last_seq: 0,
            end_position: None,
            idempotency_key: None,
            fingerprint,
            idempotency_expires_at_ms: None,
            grant: GrantRow {
                lease_json: lease.to_json(),
                expires_at_ms: lease.expires_at.map(|at| at.0),
                parent_id: Some(parent.job_id().into()),
                delegate_id: Some(asked.delegate_id.clone()),
                spent_json: None,
            },
        }
    }

    /// A crash may have come between the child and the event that tells of it; the log
    /// knows.
    async fn say_again(
        &self,
        parent: &JobContext,
        row: &JobRow,
        asked: &Delegation,
    ) -> Result<(), Failure> {
        if !parent.is_to_say(row.stream) {
            return Ok(());
        }
        let log = self.log();
        // What is on its way there was said by this process.
        log.settled().await.map_err(unavailable)?;
        let mut after = 0;
        loop {
            let blocks = log.read_stream(parent.stream(), after, log.committed(), 256 * 1024);
            let blocks = blocks.await.map_err(unavailable)?;
            let Some(last) = blocks.last() else {
                break;
            };
            after = last.last_seq();
            let mut records = blocks.iter().flat_map(|block| block.records());
            if records.any(|(_, record)| wire::delegates(record, &row.id)) {
                return Ok(());
            }
        }
        parent.emit_own(said_of(asked, row)).await?;
        self.log().settled().await.map_err(unavailable)
    }

    /// Resolves when a child is over and that is durable, wherever it runs; how it ended.
    pub async fn ended(&self, job_id: &str) -> Result<JobRow, Failure> {
        let row = self.stored(job_id).await?;
        let ending = self.log().ending(row.stream);
        // It may have ended between the look and the wait.
        let row = self.stored(job_id).await?;
        if row.end_position.is_some() {
            return Ok(row);
        }
        ending.ended().await;
        self.stored(job_id).await
    }

    pub(super) async fn stored(&self, job_id: &str) -> Result<JobRow, Failure> {
        let row = self.log().job(job_id).await.map_err(unavailable)?;
        row.ok_or_else(Failure::job_not_found)
    }
}

pub(super) fn check_shape(asked: &Delegation) -> Result<(), Failure> {
    if asked.delegate_id.is_empty() || asked.delegate_id.len() > NAME_BYTES_MAX {
        let text = format!("delegate_id: must have 1 to {NAME_BYTES_MAX} bytes");
        return Err(Failure::invalid(text));
    }
    AgentRef::parse(&asked.agent).map_err(Failure::invalid)?;
    if !asked.input_json.is_empty() {
        wire::check_json("input", &asked.input_json)
            .map_err(|invalid| Failure::invalid(invalid.message))?;
    }
    Ok(())
}

fn child(row: &JobRow) -> Child {
    Child {
        job_id: row.id.clone(),
        agent: row.agent.clone(),
    }
}

fn said_of(asked: &Delegation, row: &JobRow) -> EventBody {
    delegate_event(asked, &row.agent, &row.input_json, row.id.clone())
}

fn delegate_event(
    asked: &Delegation,
    agent: &str,
    input_json: &str,
    child_job_id: String,
) -> EventBody {
    EventBody::Delegate {
        delegate_id: asked.delegate_id.clone(),
        child_job_id: Some(child_job_id),
        agent: agent.into(),
        input_json: Some(input_json.into()),
        lease_request_json: Some(match &*asked.lease_request_json {
            "" => "{}".into(),
            json => json.into(),
        }),
    }
}

fn violation(text: String) -> Failure {
    Failure::new(ErrorCode::LeaseSubsetViolation, text)
}

pub(super) fn parent_is_over() -> Outcome {
    Outcome::Cancelled {
        message: "the job that delegated it is over".into(),
    }
}

/// A refusal as the agent's stream shows it.
pub(super) fn tool_result(call_id: &str, failure: &Failure) -> Event {
    let error = serde_json::json!({
        "code": failure.code.as_str(), "message": failure.message, "retryable": failure.retryable,
    });
    let body = EventBody::ToolResult {
        call_id: call_id.into(),
        result: Err(error.to_string()),
    };
    Event { ts: now(), body }
}
