//! The credentials of jobs that run, in memory: the only place with their values
//! in clear.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Credential;
use crate::log::StreamId;

/// What a job has now.
#[derive(Debug)]
pub struct Held {
    pub credential: Credential,
    /// What the upstream knows it by.
    pub handle: String,
    /// 1 for the first; one more with each rotation.
    pub generation: u32,
    /// Who submitted the job; empty for one without a session.
    pub session_id: String,
}

/// A job's view of its own. None while its value is not known: a restart loses it
/// unless it is stored, and another is on its way.
pub type Holding = watch::Receiver<Option<Arc<Held>>>;

#[derive(Default)]
pub(super) struct HeldMap(Mutex<HashMap<StreamId, watch::Sender<Option<Arc<Held>>>>>);

impl HeldMap {
    /// The present one of a job that may get others.
    pub fn put(&self, stream: StreamId, held: Option<Held>) -> Holding {
        let mut map = self.0.lock();
        let sender = map.entry(stream).or_default();
        sender.send_replace(held.map(Arc::new));
        sender.subscribe()
    }

    /// None also of a job that no longer runs here.
    pub fn get(&self, stream: StreamId) -> Option<Arc<Held>> {
        let map = self.0.lock();
        let sender = map.get(&stream).filter(|sender| !sender.is_closed())?;
        sender.borrow().clone()
    }

    /// The one that is revoked is the one that its job has: the job is over.
    pub fn forget(&self, stream: StreamId, handle: &str) {
        self.0.lock().retain(|of, sender| {
            let held = sender.borrow().clone();
            let over = *of == stream && held.is_some_and(|held| held.handle == handle);
            // Nobody has a view of those whose jobs ended without a value.
            !over && !sender.is_closed()
        });
    }
}
