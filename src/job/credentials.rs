//! A job's credentials: asked for before it is made, replaced while it runs (§9.8).

use std::pin::Pin;
use std::sync::Arc;

use super::Jobs;
use crate::authority::{Amount, Amounts, Capability, Currency, Lease, ModelDefault};
use crate::credential::{Ask, Budget, Credentials, Fresh, Holder, Holding, Tree};
use crate::log::{JobRow, StreamId};
use crate::protocol::{EventBody, Failure, Timestamp};
use crate::telemetry::{self, JobTrace};

/// Beside the job and its lease.
pub(super) struct Wanted {
    /// What it may spend, whoever's budget it is.
    pub budget: Amounts,
    pub tree: Tree,
    pub deadline: Option<Timestamp>,
}

impl Jobs {
    /// None if there is nobody to ask for any.
    pub fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.credentials.as_ref()
    }

    /// Before the job is: it is made with its credential or not at all.
    pub(super) async fn credential(
        &self,
        job: &JobRow,
        lease: &Lease,
        wanted: Wanted,
        trace: &JobTrace,
    ) -> Result<Option<Fresh>, Failure> {
        let Some(credentials) = &self.credentials else {
            return Ok(None);
        };
        let (call, start_ns) = (telemetry::random_id(), telemetry::now_ns());
        let ask = Ask {
            stream: job.stream,
            job_id: &job.id,
            session_id: &job.session_id,
            principal: &job.principal,
            agent: &job.agent,
            traceparent: trace.below(call),
            at: job.created_at(),
            lease,
            budget: wanted.budget,
            deadline: wanted.deadline,
            tree: wanted.tree,
        };
        let issued = credentials.issue(ask).await;
        if !matches!(issued, Ok(None)) {
            let refused = issued.as_ref().err().map(|failure| failure.code);
            self.telemetry()
                .credential_issued(trace, call, start_ns, refused);
        }
        issued
    }

    /// Whether there may be jobs below one with this lease that use models.
    pub(super) fn may_delegate(&self, lease: &Lease) -> bool {
        let models = !lease.patterns(&Capability::ModelUse).is_empty();
        let any_model = self.policy.model_use_default == ModelDefault::Allow;
        !lease.patterns(&Capability::AgentDelegate).is_empty() && (models || any_model)
    }

    /// What a job has that goes on after a restart.
    pub(super) async fn credential_again(
        &self,
        stream: StreamId,
        session_id: &str,
    ) -> Result<Option<Holding>, crate::log::Error> {
        match &self.credentials {
            Some(credentials) => credentials.recover(stream, session_id).await,
            None => Ok(None),
        }
    }
}

impl Holder for Jobs {
    fn announce(
        &self,
        job_id: &str,
        event: EventBody,
    ) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let context = self.live_context(job_id);
        Box::pin(async move {
            match context {
                Some(context) => context.emit_own(event).await.is_ok(),
                None => false,
            }
        })
    }

    fn unspent(&self, job_id: &str, first: &[Budget]) -> Option<Vec<Budget>> {
        let context = self.live_context(job_id)?;
        let grant = context.grant()?;
        let read = |budget: &Budget| {
            let currency = Currency::parse(&budget.currency).ok()?;
            Some((currency, Amount::parse(&budget.amount).ok()?))
        };
        let first = first.iter().map(read).collect::<Option<Amounts>>()?;
        let left = grant.family.unspent(context.stream(), first).into_iter();
        let budget = left.map(|(currency, amount)| Budget {
            currency: currency.to_string(),
            amount: amount.to_string(),
        });
        Some(budget.collect())
    }
}
