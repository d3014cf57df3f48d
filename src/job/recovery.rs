//! What a crash left: jobs that hosts may still work on are taken up again, the
//! rest end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::buffer::Since;
use super::delegation::parent_is_over;
use super::directory::Agent;
use super::grant::{Family, Grant};
use super::registry::unavailable;
use super::runner::cancelled;
use super::{JobContext, Jobs, now};
use crate::authority::{Lease, Ledger, amounts_from_json};
use crate::credential::Holding;
use crate::log::{HostedRow, JobRow, ReplicaNumber, StreamId};
use crate::protocol::{Failure, Outcome, Timestamp};
use crate::telemetry::JobTrace;

/// Of the records that a job taken up again is traced from.
const EARLIER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whose a job is that is taken up.
enum Above {
    /// A client's.
    Nobody,
    /// Of a job that is taken up with it, with so many delegations above that.
    Here(Arc<Family>, u32),
    /// Of a job that runs; so many delegations are above this one. What this one has
    /// spent elsewhere is in no account of that job, which waits for its end.
    Apart(u32),
    Over,
}

const GONE: &str = "the replica that ran the job is gone; submit it again";

impl Jobs {
    /// Ends what a crash left running, but for what hosts may still work on: that
    /// is taken up again. No job stays `running` for ever. Returns how many it ended.
    pub async fn recover(&self) -> Result<usize, crate::log::Error> {
        let rows = self.log().unfinished_jobs().await?;
        let text = "the runtime was restarted while the job ran; submit it again";
        self.take_up_all(rows, text).await
    }

    /// The same for what this replica has and does not run: jobs that were given to it,
    /// and those of replicas that are gone. For one caller at a time. Those that it is
    /// about to begin are begun by whoever made them.
    pub async fn inherit(&self, replica: ReplicaNumber) -> Result<usize, crate::log::Error> {
        let mut rows = self.log().unfinished_jobs_of(replica).await?;
        rows.retain(|row| self.is_to_take_up(row));
        self.take_up_all(rows, GONE).await
    }

    /// The same for these jobs alone, which were given to it.
    pub async fn receive(
        &self,
        replica: ReplicaNumber,
        ids: Vec<String>,
    ) -> Result<usize, crate::log::Error> {
        let mut rows = self.log().unfinished_jobs_among(replica, ids).await?;
        rows.retain(|row| self.is_to_take_up(row));
        self.take_up_all(rows, GONE).await
    }

    fn is_to_take_up(&self, row: &JobRow) -> bool {
        !self.is_making(row.stream) && self.live_context(&row.id).is_none()
    }

    async fn take_up_all(&self, rows: Vec<JobRow>, text: &str) -> Result<usize, crate::log::Error> {
        let rows = parents_first(rows);
        let cancelled_before = self.cancelled_before(&rows).await?;
        // Whoever asked was told that it stops, and is not told to submit it again.
        let given_up = |stream, why| match cancelled_before.contains(&stream) {
            true => cancelled(),
            false => Outcome::Failed(why),
        };
        let streams = rows.iter().map(|row| row.stream).collect();
        let hosted = self.log().hosted_jobs(streams).await?;
        let mut hosted: HashMap<_, _> = hosted.into_iter().map(|row| (row.stream, row)).collect();
        let mut ended = 0;
        let mut taken_up: HashMap<String, (Arc<Family>, u32)> = HashMap::new();
        let (mut families, mut budgets) = (Vec::new(), Vec::new());
        let mut started = Vec::new();
        for row in rows {
            // Read before the records are counted: those of this epoch are only what is
            // said from here on.
            let Some(epoch) = self.log().epoch(row.stream).await? else {
                // It went on to another replica meanwhile.
                continue;
            };
            let (log, stream) = (self.log(), row.stream);
            let last_seq = log.seq_at(stream, log.committed()).await?;
            let since = Since { last_seq, epoch };
            let agent = self.agents().recover(&row.agent);
            let attempt = hosted.get(&row.stream).map(|hosted| hosted.attempt);
            let trace = self.take_up_trace(&row, attempt).await?;
            let above = match &row.grant.parent_id {
                None => Above::Nobody,
                Some(parent) => match taken_up.get(parent) {
                    Some((family, depth)) => Above::Here(family.clone(), *depth),
                    None => self.above(parent).await?,
                },
            };
            let (Some(hosted), Some(agent)) = (hosted.remove(&row.stream), agent) else {
                let end = given_up(row.stream, Failure::internal(text));
                self.context(row, since, trace).end(end);
                ended += 1;
                continue;
            };
            if let Above::Over = above {
                self.context(row, since, trace).end(parent_is_over());
                ended += 1;
                continue;
            }
            let is_root = !matches!(above, Above::Here(..));
            match self.grant_again(&row, above).await {
                Ok(grant) => {
                    let job_id = row.id.clone();
                    if let Some(grant) = &grant {
                        let family = (grant.family.clone(), grant.depth);
                        taken_up.insert(row.id.clone(), family);
                        families.extend(is_root.then(|| grant.family.clone()));
                        budgets.push((grant.family.clone(), row.stream));
                    }
                    let stream = row.stream;
                    let credential = self.credential_again(stream, &row.session_id).await?;
                    let context = self.context(row, since, trace);
                    self.take_up(context, hosted, agent, (grant, credential));
                    let job = self.live_context(&job_id);
                    started.extend(job.clone());
                    if let Some(job) = job.filter(JobContext::is_apart) {
                        self.follow_parent(&job);
                    }
                }
                Err(failure) => {
                    let end = given_up(row.stream, failure);
                    self.context(row, since, trace).end(end);
                    ended += 1;
                }
            }
        }
        for family in &families {
            self.follow_absent(family).await?;
        }
        // Hosts are let in after this, and find the jobs that they come back with.
        for job in &started {
            job.called().await;
        }
        // What a stream told last may be of before the crash, or of a child that has
        // just ended.
        for (family, stream) in budgets {
            family.tell(vec![stream]);
        }
        Ok(ended)
    }

    /// Those of these, parents first, that were asked to stop, and all that they delegated.
    async fn cancelled_before(
        &self,
        rows: &[JobRow],
    ) -> Result<HashSet<StreamId>, crate::log::Error> {
        let streams = rows.iter().map(|row| row.stream).collect();
        let mut cancelled = self.log().cancelled_jobs(streams).await?;
        let mut ids = HashSet::new();
        for row in rows {
            let parent = row.grant.parent_id.as_ref();
            if cancelled.contains(&row.stream) || parent.is_some_and(|id| ids.contains(id)) {
                cancelled.insert(row.stream);
                ids.insert(&row.id);
            }
        }
        Ok(cancelled)
    }

    /// The authority of a job that is taken up again: what was granted, less what the
    /// log says was spent.
    async fn grant_again(&self, row: &JobRow, above: Above) -> Result<Option<Grant>, Failure> {
        let lease = stored_lease(row)?;
        Ok(match above {
            Above::Here(family, depth) => {
                let parent_id = row.grant.parent_id.clone();
                Some(self.grant_in(family, lease, depth + 1, parent_id))
            }
            Above::Apart(depth) => {
                let parent_id = row.grant.parent_id.clone();
                let family = self.restored(row).await?;
                let grant = self.grant_in(family, lease, depth, parent_id);
                Some(Grant {
                    is_apart: true,
                    ..grant
                })
            }
            Above::Over => None,
            Above::Nobody if self.grant(row, lease.clone()).is_none() => None,
            Above::Nobody => Some(self.grant_in(self.restored(row).await?, lease, 0, None)),
        })
    }

    /// What a job was delegated by that is not taken up with it.
    async fn above(&self, parent_id: &str) -> Result<Above, crate::log::Error> {
        if !self.log().is_replicated() {
            return Ok(Above::Over);
        }
        let depth = self.depth_below(parent_id).await?;
        Ok(depth.map_or(Above::Over, Above::Apart))
    }

    /// Its trace goes on; what it has reported so far is read for that.
    async fn take_up_trace(
        &self,
        row: &JobRow,
        attempt: Option<u32>,
    ) -> Result<Arc<JobTrace>, crate::log::Error> {
        let (telemetry, log) = (self.telemetry(), self.log());
        let stored = match telemetry.is_on() || attempt.is_some() {
            true => log.job_trace(row.stream).await?,
            false => None,
        };
        let trace = JobTrace::stored(telemetry, row, stored);
        if trace.recorded {
            let earlier = log.read_stream(row.stream, 0, log.committed(), EARLIER_BYTES_MAX);
            telemetry.taken_up(&trace, row, attempt, earlier.await?);
        }
        Ok(trace)
    }

    fn take_up(
        &self,
        context: JobContext,
        hosted: HostedRow,
        agent: Arc<dyn Agent>,
        (grant, credential): (Option<Grant>, Option<Holding>),
    ) {
        let deadline = hosted.deadline_ms.map(Timestamp);
        let left = deadline.map(|at| {
            let ms = at.0.saturating_sub(now().0);
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        });
        let (job_id, cancelled) = (context.job_id().to_owned(), hosted.cancelled);
        let context = context.with(deadline, Some(hosted));
        let context = context.provided(credential).granted(grant);
        self.start_job(context, agent, left);
        if cancelled {
            self.cancel_again(&job_id);
        }
    }

    /// The account of a job that is taken up after a restart, with all below it.
    async fn restored(&self, row: &JobRow) -> Result<Arc<Family>, Failure> {
        let lease = stored_lease(row)?;
        let below = self.log().descendants(&row.id).await.map_err(unavailable)?;
        let mut ledger = Ledger::default();
        ledger.restore(row.stream, None, lease.budget.clone());
        let mut streams = std::collections::HashMap::from([(row.id.clone(), row.stream)]);
        for child in &below {
            let parent = child
                .grant
                .parent_id
                .as_ref()
                .and_then(|id| streams.get(id));
            let Some(parent) = parent.copied() else {
                continue;
            };
            streams.insert(child.id.clone(), child.stream);
            ledger.restore(child.stream, Some(parent), stored_lease(child)?.budget);
        }
        for job in std::iter::once(row).chain(&below) {
            if let Some(spent) = &job.grant.spent_json {
                let spent = amounts_from_json(spent).map_err(Failure::internal)?;
                ledger.set_spent(job.stream, spent);
            }
        }
        for over in below.iter().rev().filter(|job| job.end_position.is_some()) {
            ledger.end(over.stream);
        }
        Ok(Family::new(ledger, row, &lease))
    }
}

/// A child's number may be the lower one: each replica numbers what it makes by itself.
fn parents_first(mut rows: Vec<JobRow>) -> Vec<JobRow> {
    let parents: HashMap<_, _> = rows
        .iter()
        .map(|row| (row.id.clone(), row.grant.parent_id.clone()))
        .collect();
    let above = |row: &JobRow| {
        let parent = row.grant.parent_id.as_ref();
        std::iter::successors(parent, |id| parents.get(*id)?.as_ref()).count()
    };
    rows.sort_by_cached_key(|row| (above(row), row.stream));
    rows
}

fn stored_lease(row: &JobRow) -> Result<Lease, Failure> {
    let lease = Lease::stored(&row.grant.lease_json);
    let mut lease = lease.map_err(|error| {
        Failure::internal(format!(
            "the stored lease of {} cannot be read: {error}",
            row.id
        ))
    })?;
    lease.expires_at = row.grant.expires_at_ms.map(Timestamp);
    Ok(lease)
}
