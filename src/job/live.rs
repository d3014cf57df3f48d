//! The jobs that run now, and what ends one: its agent, a cancel and the grace
//! after it, or `max_runtime`. Whichever writes the terminal first stands.
//!
//! A job is one task; a timer is a task beside it, so that an agent that never
//! yields is still ended on time, and exists only when there is a time to keep.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::delegation::parent_is_over;
use super::places::Places;
use super::{Agent, JobContext, runner, steady_now};
use crate::protocol::{ErrorCode, Failure, Outcome, Timestamp, TraceContext};
use crate::telemetry::Via;

pub(super) struct LiveJobs {
    cancel_grace: Duration,
    places: Arc<Places>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    jobs: HashMap<String, Running>,
    /// Delegated jobs that run, by the job that delegated them.
    children: HashMap<String, Vec<String>>,
}

struct Running {
    context: JobContext,
    task: AbortHandle,
    timers: Vec<AbortHandle>,
}

impl LiveJobs {
    pub fn new(cancel_grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            cancel_grace,
            places: Arc::default(),
            state: Mutex::default(),
        })
    }

    pub fn start(
        self: &Arc<Self>,
        context: JobContext,
        agent: Arc<dyn Agent>,
        max_runtime: Option<Duration>,
        expiry_grace: Duration,
    ) {
        let id = context.job_id().to_owned();
        // Held while the task is made: it cannot be over before it is listed.
        let mut state = self.state.lock();
        if let Some(parent) = context.parent_id()
            && !context.is_apart()
            && !state.jobs.contains_key(parent)
        {
            // It has ended since it delegated, and its children with it.
            drop(state);
            return context.end(parent_is_over());
        }
        context.take_place(&self.places);
        let (own, live) = (context.clone(), self.clone());
        let task = tokio::spawn(async move {
            runner::run(&*agent, &own).await;
            live.remove(own.job_id());
        });
        let limit = max_runtime.map(|limit| {
            let message = "max_runtime_sec is over".into();
            self.end_after(limit, id.clone(), Outcome::TimedOut { message })
        });
        let expiry = context.lease_expires_at().map(|at| {
            let at = Timestamp(at.0.saturating_add(expiry_grace.as_millis() as i64));
            self.end_at(at, id.clone())
        });
        let mut cancelled = false;
        if let Some(parent) = context.parent_id() {
            let children = state.children.entry(parent.to_owned()).or_default();
            children.push(id.clone());
            let parent = state.jobs.get(parent);
            cancelled = parent.is_some_and(|parent| parent.context.is_cancelled());
        }
        let running = Running {
            context,
            task: task.abort_handle(),
            timers: limit.into_iter().chain(expiry).collect(),
        };
        state.jobs.insert(id.clone(), running);
        drop(state);
        if cancelled {
            // Its parent was asked to stop while it was made, or before a restart.
            self.cancel(&id);
        }
    }

    /// Asks a job to stop, and those it delegated, and ends them after the grace.
    /// False when it does not run.
    pub fn cancel(self: &Arc<Self>, job_id: &str) -> bool {
        let children = {
            let mut state = self.state.lock();
            let Some(running) = state.jobs.get_mut(job_id) else {
                return false;
            };
            if !running.context.is_cancelled() {
                running.context.cancel();
                let timer = self.end_after(self.cancel_grace, job_id.into(), runner::cancelled());
                running.timers.push(timer);
            }
            // Who is made from now on sees that its parent is to stop.
            state.children.get(job_id).cloned()
        };
        for child in children.into_iter().flatten() {
            let newly = self.context(&child).filter(|child| !child.is_cancelled());
            if let Some(child) = newly {
                let nobody = TraceContext::default();
                child
                    .telemetry()
                    .cancelled(child.trace(), &nobody, Via::Inside);
            }
            self.cancel(&child);
        }
        true
    }

    /// A job that is over ends those it delegated, at once: what they may do, and
    /// their credentials, came from it.
    fn remove(self: &Arc<Self>, job_id: &str) -> Option<Running> {
        let (running, children) = {
            let mut state = self.state.lock();
            let running = state.remove(job_id)?;
            (running, state.children.remove(job_id))
        };
        for child in children.into_iter().flatten() {
            self.end(&child, parent_is_over());
        }
        Some(running)
    }

    /// The terminal first: what the agent says of its end comes too late.
    pub fn end(self: &Arc<Self>, job_id: &str, outcome: Outcome) {
        if let Some(context) = self.context(job_id) {
            context.end(outcome);
        }
        if let Some(running) = self.remove(job_id) {
            running.context.cancel();
            running.task.abort();
        }
    }

    /// Without a terminal: that is for who has it now to write. Its children run on.
    pub fn let_go(self: &Arc<Self>, job_id: &str) -> Option<JobContext> {
        let running = self.state.lock().remove(job_id)?;
        running.context.let_go();
        running.task.abort();
        Some(running.context)
    }

    /// Counts a child that runs at another replica among its parent's.
    pub fn count_apart(&self, parent_id: &str, child_id: &str) {
        let mut state = self.state.lock();
        let children = state.children.entry(parent_id.into()).or_default();
        children.push(child_id.into());
    }

    pub fn uncount_apart(&self, parent_id: &str, child_id: &str) {
        self.state.lock().remove_child(parent_id, child_id);
    }

    pub fn children(&self, job_id: &str) -> Vec<String> {
        let state = self.state.lock();
        state.children.get(job_id).cloned().unwrap_or_default()
    }

    pub fn context(&self, job_id: &str) -> Option<JobContext> {
        let state = self.state.lock();
        state
            .jobs
            .get(job_id)
            .map(|running| running.context.clone())
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<JobContext> {
        let state = self.state.lock();
        let jobs = state.jobs.values();
        jobs.map(|running| running.context.clone()).collect()
    }

    pub fn children_of(&self, job_id: &str) -> usize {
        self.state.lock().children.get(job_id).map_or(0, Vec::len)
    }

    /// Ends a job whose lease has expired. The clock is looked at again and again: it
    /// may be set, and no timer is as long as a lease may be.
    fn end_at(self: &Arc<Self>, at: Timestamp, job_id: String) -> AbortHandle {
        const LOOK: Duration = Duration::from_secs(60);
        let live = self.clone();
        let timer = tokio::spawn(async move {
            loop {
                let left = at.0.saturating_sub(steady_now().0);
                let Ok(left @ 1..) = u64::try_from(left) else {
                    break;
                };
                tokio::time::sleep(Duration::from_millis(left).min(LOOK)).await;
            }
            let text = "lease: it has expired; submit the job again for a new one";
            let failure = Failure::new(ErrorCode::LeaseExpired, text);
            live.end(&job_id, Outcome::Failed(failure));
        });
        timer.abort_handle()
    }

    pub fn count(&self) -> usize {
        self.state.lock().jobs.len()
    }

    pub fn count_of(&self, principal: &str) -> usize {
        self.places.taken_by(principal)
    }

    /// The principal with most jobs, and how many.
    pub fn most(&self) -> Option<(String, usize)> {
        self.places.most()
    }

    fn end_after(
        self: &Arc<Self>,
        limit: Duration,
        job_id: String,
        outcome: Outcome,
    ) -> AbortHandle {
        let live = self.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            live.end(&job_id, outcome);
        });
        timer.abort_handle()
    }
}

impl State {
    /// Once for each job, whoever is first.
    fn remove(&mut self, job_id: &str) -> Option<Running> {
        let running = self.jobs.remove(job_id)?;
        running.timers.iter().for_each(AbortHandle::abort);
        if let Some(parent) = running.context.parent_id() {
            self.remove_child(parent, job_id);
        }
        Some(running)
    }

    fn remove_child(&mut self, parent_id: &str, child_id: &str) {
        if let Some(children) = self.children.get_mut(parent_id) {
            children.retain(|child| child != child_id);
            if children.is_empty() {
                self.children.remove(parent_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::AgentResult;
    use crate::log::{Durability, Log, OpenOptions};

    async fn endless(_: JobContext) -> Result<AgentResult, Failure> {
        std::future::pending().await
    }

    /// A submitter that went on at once was refused for the job whose end it had seen.
    #[tokio::test]
    async fn the_next_job_has_room_before_the_end_of_the_last_can_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        let live = LiveJobs::new(Duration::ZERO);
        let job = JobContext::for_test(log);
        live.start(job.clone(), Arc::new(endless), None, Duration::ZERO);
        assert_eq!(live.count_of("alice"), 1);
        job.end(runner::cancelled());
        assert_eq!((live.count_of("alice"), live.count()), (0, 1));
    }
}
