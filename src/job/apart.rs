//! A child and its parent at different replicas (§10).
//!
//! The child has an account of its own there, of what was reserved for it; what it and
//! those below it did not spend comes back to those above once they are over. Each side
//! hears of the other's end from the log, and a cancel goes through it.

use std::time::Duration;

use super::delegation::parent_is_over;
use super::grant::Family;
use super::registry::unavailable;
use super::{JobContext, Jobs};
use crate::authority::{Amounts, amounts_from_json};
use crate::log::{Command, JobRow, StreamId};
use crate::protocol::{ErrorCode, Failure};

/// For what the store has failed to answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Jobs {
    /// For the parent's side, until the child is over.
    pub(super) fn follow_child(&self, parent: &JobContext, child_id: String, child: StreamId) {
        let (Some(jobs), Some(grant)) = (self.me.upgrade(), parent.grant()) else {
            return;
        };
        let (parent, family) = (parent.clone(), grant.family.clone());
        family.leave(child);
        self.live.count_apart(parent.job_id(), &child_id);
        tokio::spawn(async move {
            let spent = jobs.spent_apart(&parent, &child_id, child).await;
            jobs.live.uncount_apart(parent.job_id(), &child_id);
            if let Some(spent) = spent {
                family.settle(child, spent);
            }
        });
    }

    /// By a child and all below it, once they are over; none when that is not known and the
    /// parent is over, too.
    async fn spent_apart(
        &self,
        parent: &JobContext,
        child_id: &str,
        child: StreamId,
    ) -> Option<Amounts> {
        loop {
            let ended = self.passing_cancel(parent, child_id, child).await;
            let spent = match ended {
                Ok(row) => self.spent_by(row).await,
                Err(failure) => Err(failure),
            };
            let failure = match spent {
                Ok(spent) => return Some(spent),
                Err(failure) => failure,
            };
            // Rather reserved for as long as that is not known than spent twice.
            tracing::warn!(%failure, job_id = child_id, "what a child spent is not known");
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => {}
                () = parent.over().cancelled_owned() => return None,
            }
        }
    }

    /// Resolves at the end of the child.
    async fn passing_cancel(
        &self,
        parent: &JobContext,
        child_id: &str,
        stream: StreamId,
    ) -> Result<JobRow, Failure> {
        let ended = self.ended(child_id);
        tokio::pin!(ended);
        tokio::select! {
            row = &mut ended => return row,
            () = parent.cancelled() => {}
        }
        let job_id = child_id.to_owned();
        let asked = self.log().execute(Command::AskCancel { stream, job_id });
        asked.await.map_err(unavailable)?;
        ended.await
    }

    /// By a job and all below it, which end with it.
    async fn spent_by(&self, row: JobRow) -> Result<Amounts, Failure> {
        let below = self.log().descendants(&row.id).await.map_err(unavailable)?;
        let mut spent = stored_spent(&row)?;
        for row in below {
            let row = self.ended(&row.id).await?;
            for (currency, amount) in stored_spent(&row)? {
                let sum = spent.entry(currency).or_default();
                *sum = sum.saturating_add(amount);
            }
        }
        Ok(spent)
    }

    /// For the child's side: it ends with its parent.
    pub(super) fn follow_parent(&self, child: &JobContext) {
        let (Some(jobs), Some(parent_id)) = (self.me.upgrade(), child.parent_id()) else {
            return;
        };
        let (child_id, parent_id) = (child.job_id().to_owned(), parent_id.to_owned());
        let over = child.over();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = jobs.ended(&parent_id) => ended,
                () = over.cancelled() => return,
            };
            match ended {
                Err(failure) if failure.code != ErrorCode::JobNotFound => {
                    tracing::warn!(%failure, job_id = child_id, "the end of its parent is not known")
                }
                _ => jobs.end_job(&child_id, parent_is_over()),
            }
        });
    }

    /// How many delegations are above a job whose parent is not over; none when it is.
    pub(super) async fn depth_below(
        &self,
        parent_id: &str,
    ) -> Result<Option<u32>, crate::log::Error> {
        let mut above = self.log().job(parent_id).await?;
        if above.as_ref().is_none_or(|row| row.end_position.is_some()) {
            return Ok(None);
        }
        let mut depth = 0;
        while let Some(row) = above {
            depth += 1;
            above = match &row.grant.parent_id {
                Some(parent) => self.log().job(parent).await?,
                None => None,
            };
        }
        Ok(Some(depth))
    }

    /// Those of a family that was taken up which were not, but for what is below them: others
    /// have them, or they end.
    pub(super) async fn follow_absent(&self, family: &Family) -> Result<(), crate::log::Error> {
        for row in self.log().descendants(&family.root.job_id).await? {
            if let Some(parent) = family.above_absent(row.stream) {
                self.follow_child(&parent, row.id, row.stream);
            }
        }
        Ok(())
    }
}

fn stored_spent(row: &JobRow) -> Result<Amounts, Failure> {
    match &row.grant.spent_json {
        Some(spent) => amounts_from_json(spent).map_err(Failure::internal),
        None => Ok(Amounts::new()),
    }
}
