//! Activations that were given out before a restart, until their host shows up.

use std::collections::HashMap;
use std::sync::Arc;

use super::activation::{Activation, Phase};
use crate::log::HostKey;
use crate::protocol::host::AssignmentRef;

/// By job, each with the host it was given to.
#[derive(Default)]
pub(super) struct Orphans(HashMap<String, (HostKey, Arc<Activation>)>);

impl Orphans {
    pub fn add(&mut self, host: HostKey, activation: Arc<Activation>) {
        let job_id = activation.job.job_id().to_owned();
        self.0.insert(job_id, (host, activation));
    }

    pub fn has(&self, job_id: &str) -> bool {
        self.0.contains_key(job_id)
    }

    pub fn remove(&mut self, activation: &Arc<Activation>) {
        self.0.remove(activation.job.job_id());
    }

    /// The one that a host of its principal shows the token of: a token that has come
    /// into other hands opens nothing.
    pub fn adopt(&mut self, principal: &str, of: &AssignmentRef) -> Option<Arc<Activation>> {
        let (given_to, orphan) = self.0.get(&of.job_id)?;
        if given_to.principal != principal || !orphan.is_named_by(&of.lease_token) {
            return None;
        }
        let (_, orphan) = self.0.remove(&of.job_id)?;
        Some(orphan)
    }

    /// What a host that is back has not named: its process does not have it.
    pub fn disown(&mut self, key: &HostKey) {
        for (_, (_, orphan)) in self.0.extract_if(|_, (of, _)| of == key) {
            orphan.move_to(Phase::Lost("the host no longer has the job".into()));
        }
    }
}
