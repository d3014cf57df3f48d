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

use super::{Agent, JobContext, runner};
use crate::protocol::Outcome;

pub(super) struct LiveJobs {
    cancel_grace: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    jobs: HashMap<String, Running>,
    by_principal: HashMap<String, usize>,
}

struct Running {
    principal: String,
    context: JobContext,
    task: AbortHandle,
    timers: Vec<AbortHandle>,
}

impl LiveJobs {
    pub fn new(cancel_grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            cancel_grace,
            state: Mutex::default(),
        })
    }

    pub fn start(
        self: &Arc<Self>,
        context: JobContext,
        agent: Arc<dyn Agent>,
        max_runtime: Option<Duration>,
    ) {
        let (id, principal) = (context.job_id().to_owned(), context.principal().to_owned());
        // Held while the task is made: it cannot be over before it is listed.
        let mut state = self.state.lock();
        let (own, live) = (context.clone(), self.clone());
        let task = tokio::spawn(async move {
            runner::run(&*agent, &own).await;
            live.state.lock().remove(own.job_id());
        });
        let timers = max_runtime.map(|limit| {
            let message = "max_runtime_sec is over".into();
            self.end_after(limit, id.clone(), Outcome::TimedOut { message })
        });
        let running = Running {
            principal: principal.clone(),
            context,
            task: task.abort_handle(),
            timers: timers.into_iter().collect(),
        };
        *state.by_principal.entry(principal).or_default() += 1;
        state.jobs.insert(id, running);
    }

    /// Asks a job to stop, and ends it after the grace. False when it does not run.
    pub fn cancel(self: &Arc<Self>, job_id: &str) -> bool {
        let mut state = self.state.lock();
        let Some(running) = state.jobs.get_mut(job_id) else {
            return false;
        };
        if !running.context.is_cancelled() {
            running.context.cancel();
            let timer = self.end_after(self.cancel_grace, job_id.into(), runner::cancelled());
            running.timers.push(timer);
        }
        true
    }

    pub fn count(&self) -> usize {
        self.state.lock().jobs.len()
    }

    pub fn count_of(&self, principal: &str) -> usize {
        let state = self.state.lock();
        state.by_principal.get(principal).copied().unwrap_or(0)
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
            let ended = live.state.lock().remove(&job_id);
            if let Some(running) = ended {
                // The terminal first: what the agent says of its end comes too late.
                running.context.end(outcome);
                running.context.cancel();
                running.task.abort();
            }
        });
        timer.abort_handle()
    }
}

impl State {
    /// Once for each job, whoever is first.
    fn remove(&mut self, job_id: &str) -> Option<Running> {
        let running = self.jobs.remove(job_id)?;
        running.timers.iter().for_each(AbortHandle::abort);
        if let Some(count) = self.by_principal.get_mut(&running.principal) {
            *count -= 1;
            if *count == 0 {
                self.by_principal.remove(&running.principal);
            }
        }
        Some(running)
    }
}
