//! A credential in the place of another: one that ends before its job, or one whose
//! value a restart has lost.
//!
//! ```text
//!  issued ─▶ live, stored ─▶ held, so the agent has it ─▶ recorded ─▶ the one before is revoked
//! ```
//! Killed in between, the next process finds two that are live, of which nobody may
//! know the newer: it makes another, and revokes both.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::held::{Held, Holding};
use super::keeper::{Holder, after, backoff};
use super::purse::is_purse;
use super::{Credential, Credentials, Request};
use crate::clock::now;
use crate::log::{Command, CredentialRow, CredentialState, Error, Outcome, StreamId};
use crate::protocol::event::ROTATED;
use crate::protocol::{EventBody, id};

/// What is under way with a value when it is replaced may end with it.
const OVERLAP_MAX: Duration = Duration::from_secs(10);

impl Credentials {
    /// What a job that goes on after a restart has; none if it has none. A value
    /// that was not stored is lost, and a new one is made.
    pub async fn recover(
        &self,
        stream: StreamId,
        session_id: &str,
    ) -> Result<Option<Holding>, Error> {
        let rows = self.log.credentials(Some(stream)).await?;
        let live = rows
            .into_iter()
            .filter(|row| row.state == CredentialState::Live && !is_purse(&row.handle));
        let mut live: Vec<_> = live.collect();
        live.sort_by_key(|row| row.generation);
        let Some(newest) = live.pop() else {
            return Ok(None);
        };
        // Killed between a new one and the word of it: nobody has it. The next
        // rotation is announced, and ends these too.
        let held = match live.is_empty() {
            true => self.open(&newest, session_id),
            false => None,
        };
        if held.is_none() {
            self.set(&newest, CredentialState::Live, 0, Some(now().0), "")
                .await?;
        }
        for earlier in live {
            self.set(&earlier, CredentialState::Revoking, 0, Some(now().0), "")
                .await?;
        }
        Ok(Some(self.held.put(stream, held)))
    }

    /// The newest that is live, where its value is kept.
    pub(super) async fn stored(&self, stream: StreamId) -> Result<Option<Held>, Error> {
        let rows = self.log.credentials(Some(stream)).await?;
        let live = rows
            .into_iter()
            .filter(|row| row.state == CredentialState::Live && !is_purse(&row.handle));
        let Some(newest) = live.max_by_key(|row| row.generation) else {
            return Ok(None);
        };
        let job = self.log.job_by_stream(stream).await?;
        Ok(job.and_then(|job| self.open(&newest, &job.session_id)))
    }

    fn open(&self, row: &CredentialRow, session_id: &str) -> Option<Held> {
        let value = self
            .sealer
            .as_ref()?
            .open(&row.handle, row.sealed.as_ref()?)?;
        let terms = serde_json::from_str(&row.issued_json).ok()?;
        let id = row.id.clone();
        Some(Held {
            credential: Credential { id, value, terms },
            handle: row.handle.clone(),
            generation: row.generation,
            session_id: session_id.into(),
        })
    }

    /// A new value for a job that outlives the present one.
    pub(super) async fn rotate(
        self: &Arc<Self>,
        row: CredentialRow,
        holder: &dyn Holder,
    ) -> Result<(), Error> {
        let Ok(before) = serde_json::from_str::<Request>(&row.asked_json) else {
            return self.set(&row, row.state, 0, None, "").await;
        };
        let (generation, at) = (row.generation + 1, now());
        let first = match &before.first_budget[..] {
            [] => before.budget.clone(),
            first => first.to_vec(),
        };
        let next = Request {
            // Not by its number: one whose answer was lost may still have that.
            handle: id::credential_id(),
            asked_at: at,
            expires_at: self.expiry(at, before.ends_at),
            replaces: Some(row.handle.clone()),
            budget: holder.unspent(&row.job_id, &first).unwrap_or(before.budget),
            first_budget: first,
            ..before
        };
        let session_id = self
            .held
            .get(row.stream)
            .map(|held| held.session_id.clone());
        let session_id = match session_id {
            Some(session_id) => session_id,
            None => self
                .log
                .job_by_stream(row.stream)
                .await?
                .map(|job| job.session_id)
                .unwrap_or_default(),
        };
        let until = Instant::now() + self.options.issue_timeout;
        let asked = self.ask(next, generation, row.stream, session_id, until);
        let Ok(fresh) = asked.await else {
            let attempts = row.attempts.saturating_add(1);
            let next_at = Some(after(now(), backoff(attempts)));
            return self.set(&row, row.state, attempts, next_at, "").await;
        };
        let [issued] = &fresh.rows()[..] else {
            return Ok(());
        };
        match self
            .log
            .execute(Command::CredentialIssued(issued.clone()))
            .await?
        {
            Outcome::Done => {}
            // The job has ended meanwhile; its terminal saw to the one before.
            Outcome::Stale | Outcome::Duplicate(_) | Outcome::Dialled(_) => return Ok(()),
        }
        fresh.keep();
        holder
            .announce(&row.job_id, rotated(&row.id, generation))
            .await;
        // The writer takes this behind the record, so that is durable by then.
        let overlap = OVERLAP_MAX.min(self.options.rotate_before / 2);
        let until = Some(after(now(), overlap));
        self.set(&row, CredentialState::Revoking, 0, until, "")
            .await
    }
}

/// The record of a rotation, without the value (§9.8.2).
fn rotated(id: &str, generation: u32) -> EventBody {
    EventBody::Status {
        phase: ROTATED.into(),
        message: Some(id.into()),
        details_json: Some(serde_json::json!({ "id": id, "generation": generation }).to_string()),
    }
}
