//! Who has a session now: one connection at a time, each waiting until the one
//! it displaced has let go.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::inspect::Seen;
use super::{Sessions, unavailable};
use crate::job::now;
use crate::log::{Command, Error, Outcome, StreamId};
use crate::protocol::Failure;

/// Between two tries to say that a session has no connection.
const PARK_AGAIN: Duration = Duration::from_secs(1);

/// The connection a session has now.
pub(super) struct Attached {
    /// Tells two connections of one session apart.
    generation: u64,
    principal: Arc<str>,
    displaced: CancellationToken,
    inbox: Arc<Inbox>,
    /// Its claim is in the log.
    is_taken_up: bool,
    /// True once the connection has let go of the session.
    released: watch::Receiver<bool>,
}

/// Held by the connection that has the session; dropping it lets go.
pub(super) struct Claim {
    sessions: Arc<Sessions>,
    pub session_id: String,
    generation: u64,
    /// Turns when another connection takes the session.
    pub displaced: CancellationToken,
    pub inbox: Arc<Inbox>,
    released: watch::Sender<bool>,
}

/// What others have for a session while a connection has it.
#[derive(Default)]
pub(super) struct Inbox {
    /// Jobs that were delegated in it. Those made while nobody has it are found in
    /// the log by who comes next.
    delegated: Mutex<Vec<StreamId>>,
    /// Operators that want to see it.
    asked: Mutex<Vec<oneshot::Sender<Seen>>>,
    more: Notify,
}

impl Inbox {
    pub fn delegated(&self) -> Vec<StreamId> {
        std::mem::take(&mut self.delegated.lock())
    }

    pub fn asked(&self) -> Vec<oneshot::Sender<Seen>> {
        std::mem::take(&mut self.asked.lock())
    }

    fn ask(&self) -> oneshot::Receiver<Seen> {
        let (answer_tx, answer) = oneshot::channel();
        let mut asked = self.asked.lock();
        // Of a session that does not look: who has gone is not kept.
        asked.retain(|answer| !answer.is_closed());
        asked.push(answer_tx);
        self.more.notify_one();
        answer
    }

    /// Resolves when there is something to take.
    pub async fn some(&self) {
        self.more.notified().await;
    }
}

impl Sessions {
    /// A job of this session made another one.
    pub fn delegated(&self, session_id: &str, stream: StreamId) {
        let attached = self.attached.lock();
        if let Some(entry) = attached.sessions.get(session_id) {
            entry.inbox.delegated.lock().push(stream);
            entry.inbox.more.notify_one();
        }
    }

    /// Another replica has claimed it: the connection here is to let go, if the claim by
    /// which that has the session is not of later.
    pub async fn taken_elsewhere(&self, session_id: &str) {
        let displaced = {
            let attached = self.attached.lock();
            let entry = attached.sessions.get(session_id);
            // Where the own claim is on its way, the log says which was last.
            let entry = entry.filter(|entry| entry.is_taken_up);
            entry.map(|entry| entry.displaced.clone())
        };
        if let Some(displaced) = displaced
            && !self.has(session_id).await
        {
            displaced.cancel();
        }
    }

    /// Whether a session is this replica's, as far as the log is known here.
    async fn has(&self, session_id: &str) -> bool {
        let has = self.log.has_session(session_id).await;
        has.unwrap_or_else(|error| {
            tracing::warn!(%error, session_id, "who has a session is not known");
            true
        })
    }

    pub(super) fn ask(&self, session_id: &str) -> Option<oneshot::Receiver<Seen>> {
        let attached = self.attached.lock();
        attached.sessions.get(session_id).map(|e| e.inbox.ask())
    }

    /// Asks the sessions behind one of them, by id: ids, principals, answers.
    pub(super) fn ask_after(
        &self,
        after: &str,
        limit: usize,
    ) -> Vec<(String, Arc<str>, oneshot::Receiver<Seen>)> {
        let attached = self.attached.lock();
        let all = attached.sessions.iter();
        let mut behind: Vec<_> = all.filter(|(id, _)| &***id > after).collect();
        behind.sort_unstable_by_key(|(id, _)| *id);
        behind.truncate(limit);
        let asked = behind.into_iter();
        asked
            .map(|(id, entry)| (id.clone(), entry.principal.clone(), entry.inbox.ask()))
            .collect()
    }

    /// The principal with most connections in the cell, and how many.
    pub fn most_attached(&self) -> Option<(String, usize)> {
        if self.log.is_replicated() {
            return self.log.most_connected();
        }
        let attached = self.attached.lock();
        let most = attached
            .by_principal
            .iter()
            .max_by_key(|(_, count)| **count);
        most.map(|(principal, count)| (principal.to_string(), *count))
    }

    pub(super) fn is_attached(&self, session_id: &str) -> bool {
        self.attached.lock().sessions.contains_key(session_id)
    }

    /// Whether a principal may have one more connection in the whole cell: by what is in
    /// the log, so that those on their way at the same moment are let in.
    pub(super) async fn check_room(&self, principal: &str) -> Result<(), Failure> {
        let limit = self.limits.sessions_per_principal_max;
        if self.log.connected_of(principal) < limit {
            return Ok(());
        }
        // One that has ended elsewhere may not be known here yet.
        self.log.caught_up().await.map_err(unavailable)?;
        match self.log.connected_of(principal) < limit {
            true => Ok(()),
            false => Err(no_room(limit)),
        }
    }

    /// Takes the session from whoever has it and waits until they have let go.
    pub(super) async fn claim(
        self: &Arc<Self>,
        session_id: &str,
        principal: &str,
    ) -> Result<Claim, Failure> {
        let (claim, earlier) = self.enter(session_id, principal)?;
        if let Some(mut earlier) = earlier {
            // An error means that the other is gone, which is what is waited for.
            let _ = earlier.wait_for(|released| *released).await;
        }
        Ok(claim)
    }

    fn enter(
        self: &Arc<Self>,
        session_id: &str,
        principal: &str,
    ) -> Result<(Claim, Option<watch::Receiver<bool>>), Failure> {
        let (released_tx, released) = watch::channel(false);
        let displaced = CancellationToken::new();
        let inbox = Arc::new(Inbox::default());
        let generation = rand::random();
        let mut attached = self.attached.lock();
        let limit = self.limits.sessions_per_principal_max;
        let count = attached.count(principal);
        if count >= limit && !attached.sessions.contains_key(session_id) {
            return Err(no_room(limit));
        }
        let entry = Attached {
            generation,
            principal: principal.into(),
            displaced: displaced.clone(),
            inbox: inbox.clone(),
            is_taken_up: false,
            released,
        };
        let earlier = attached.insert(session_id, entry);
        drop(attached);
        let earlier = earlier.map(|earlier| {
            earlier.displaced.cancel();
            earlier.released
        });
        let claim = Claim {
            sessions: self.clone(),
            session_id: session_id.into(),
            generation,
            displaced,
            inbox,
            released: released_tx,
        };
        Ok((claim, earlier))
    }
}

fn no_room(limit: usize) -> Failure {
    Failure::internal(format!(
        "sessions: this principal has {limit} connected, which is the limit; close some"
    ))
}

impl Claim {
    /// It is in the log: from here on another replica's claim ends the connection.
    pub async fn taken_up(&self) {
        let (sessions, id) = (&self.sessions, &self.session_id);
        sessions.attached.lock().take_up(id, self.generation);
        // One that came between was heard of while this one did not count yet.
        if !sessions.has(id).await {
            self.displaced.cancel();
        }
    }

    /// The resume window starts when the connection is gone (§6.3), unless another
    /// has the session by now. Durable before the claim is let go: a session that is
    /// connected for the log alone is never forgotten, and its jobs are its own to cancel.
    pub async fn park(self) {
        if self.displaced.is_cancelled() {
            return;
        }
        if let Err(error) = self.parked().await {
            tracing::warn!(%error, session_id = self.session_id, "parking a session was not recorded; it is tried again until it is");
            tokio::spawn(self.park_later());
        }
    }

    async fn park_later(self) {
        let parked = async {
            loop {
                tokio::time::sleep(PARK_AGAIN).await;
                if self.parked().await.is_ok() {
                    tracing::info!(
                        session_id = self.session_id,
                        "parking a session is recorded"
                    );
                    return;
                }
            }
        };
        tokio::select! {
            () = self.displaced.cancelled() => {}
            () = parked => {}
        }
    }

    async fn parked(&self) -> Result<Outcome, Error> {
        let (id, at_ms) = (self.session_id.clone(), now().0);
        let log = &self.sessions.log;
        log.execute(Command::ParkSession { id, at_ms }).await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.sessions
            .attached
            .lock()
            .remove(&self.session_id, self.generation);
        // The receiver may be gone; then nobody waits.
        let _ = self.released.send(true);
    }
}

/// All attached sessions, and how many each principal has.
#[derive(Default)]
pub(super) struct Registry {
    sessions: std::collections::HashMap<String, Attached>,
    by_principal: std::collections::HashMap<Arc<str>, usize>,
}

impl Registry {
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    fn count(&self, principal: &str) -> usize {
        self.by_principal.get(principal).copied().unwrap_or(0)
    }

    fn insert(&mut self, session_id: &str, entry: Attached) -> Option<Attached> {
        *self
            .by_principal
            .entry(entry.principal.clone())
            .or_default() += 1;
        let earlier = self.sessions.insert(session_id.into(), entry);
        if let Some(earlier) = &earlier {
            self.uncount(&earlier.principal.clone());
        }
        earlier
    }

    fn take_up(&mut self, session_id: &str, generation: u64) {
        let entry = self.sessions.get_mut(session_id);
        if let Some(entry) = entry.filter(|entry| entry.generation == generation) {
            entry.is_taken_up = true;
        }
    }

    fn remove(&mut self, session_id: &str, generation: u64) {
        let own = self
            .sessions
            .get(session_id)
            .is_some_and(|entry| entry.generation == generation);
        if own && let Some(entry) = self.sessions.remove(session_id) {
            self.uncount(&entry.principal);
        }
    }

    fn uncount(&mut self, principal: &str) {
        if let Some(count) = self.by_principal.get_mut(principal) {
            *count -= 1;
            if *count == 0 {
                self.by_principal.remove(principal);
            }
        }
    }
}
