//! What is to be done about credentials after they are issued: revoke them at
//! their job's end, however often it takes, and replace those that end before it
//! ([`super::rotation`]).
//!
//! All of it is read from the store, so it goes on after a restart where it was.
//! An upstream that refuses to revoke leaves a credential `unrevocable`: the
//! operator is told, and it is asked again every hour, at a restart, and when the
//! operator says so.
//!
//! Of several replicas each sees to those that the log says are its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::{Budget, Credentials};
use crate::clock::now;
use crate::log::{Command, CredentialRow, CredentialState, Outcome};
use crate::protocol::{EventBody, Timestamp};

/// Asked of an upstream at once.
const AT_ONCE_MAX: usize = 16;
const REVOKE_TIMEOUT: Duration = Duration::from_secs(20);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
const RETRY_REFUSED: Duration = Duration::from_secs(3600);
/// After the store failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells a job of its new credential.
pub trait Holder: Send + Sync + 'static {
    /// Puts a record into the job's stream. False when it does not run.
    fn announce(
        &self,
        job_id: &str,
        event: EventBody,
    ) -> Pin<Box<dyn Future<Output = bool> + Send>>;

    /// What is left of what the first credential of a job that runs was for.
    fn unspent(&self, job_id: &str, first: &[Budget]) -> Option<Vec<Budget>>;
}

impl Credentials {
    /// Until it is dropped.
    pub async fn keep(self: Arc<Self>, holder: Arc<dyn Holder>) {
        if let Err(error) = self.ask_refusers_again().await {
            tracing::warn!(%error, "credentials that were refused are asked for later");
        }
        loop {
            match self.do_due(&*holder).await {
                Ok(next_at) => self.until(next_at).await,
                Err(error) => {
                    tracing::error!(%error, "credentials wait for the store");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Tries a revocation again now. False when there is none of that handle.
    pub async fn retry(&self, handle: &str) -> Result<bool, crate::log::Error> {
        let rows = self.log.credentials(None).await?;
        let left = |row: &&CredentialRow| {
            let left = [CredentialState::Revoking, CredentialState::Unrevocable];
            row.handle == handle && left.contains(&row.state)
        };
        if !rows.iter().any(|row| left(&row)) {
            return Ok(false);
        }
        self.revoke_at(handle.into(), None, now().0).await;
        Ok(true)
    }

    /// In the store, or the intent does it later. False when it is not there, or not in
    /// the state that it is to be in.
    pub(super) async fn revoke_at(
        &self,
        handle: String,
        seen: Option<CredentialState>,
        at_ms: i64,
    ) -> bool {
        let command = Command::SetCredential {
            handle,
            seen,
            state: CredentialState::Revoking,
            attempts: 0,
            next_at_ms: Some(at_ms),
            error: String::new(),
        };
        let done = self.log.execute(command).await;
        if let Err(error) = &done {
            tracing::warn!(%error, "a credential is revoked later");
        }
        self.wanted.notify_one();
        !matches!(done, Ok(Outcome::Stale))
    }

    pub(super) async fn set(
        &self,
        row: &CredentialRow,
        state: CredentialState,
        attempts: u32,
        next_at_ms: Option<i64>,
        error: &str,
    ) -> Result<(), crate::log::Error> {
        let set = self.set_if_seen(row, state, attempts, next_at_ms, error);
        set.await.map(drop)
    }

    /// False when it is no longer in the state that was seen.
    async fn set_if_seen(
        &self,
        row: &CredentialRow,
        state: CredentialState,
        attempts: u32,
        next_at_ms: Option<i64>,
        error: &str,
    ) -> Result<bool, crate::log::Error> {
        let command = Command::SetCredential {
            handle: row.handle.clone(),
            seen: Some(row.state),
            state,
            attempts,
            next_at_ms,
            error: error.into(),
        };
        let done = self.log.execute(command).await?;
        Ok(!matches!(done, Outcome::Stale))
    }

    async fn ask_refusers_again(&self) -> Result<(), crate::log::Error> {
        for row in self.log.credentials_refused().await? {
            self.set(&row, row.state, row.attempts, Some(now().0), &row.error)
                .await?;
        }
        Ok(())
    }

    /// Returns when there is something to do next.
    async fn do_due(
        self: &Arc<Self>,
        holder: &dyn Holder,
    ) -> Result<Option<i64>, crate::log::Error> {
        loop {
            let due = self.log.credentials_due(now().0, AT_ONCE_MAX).await?;
            if due.is_empty() {
                return self.log.credential_next_at().await;
            }
            let done = due.into_iter().map(|row| self.attend(row, holder));
            for done in join_all(done).await {
                done?;
            }
        }
    }

    async fn until(&self, next_at_ms: Option<i64>) {
        let next = async {
            match next_at_ms {
                Some(at) => {
                    let ms = u64::try_from(at - now().0).unwrap_or(0);
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next => {}
            () = self.wanted.notified() => {}
            () = self.log.until_credentials_due() => {}
        }
    }

    async fn attend(
        self: &Arc<Self>,
        mut row: CredentialRow,
        holder: &dyn Holder,
    ) -> Result<(), crate::log::Error> {
        match row.state {
            CredentialState::Live => self.rotate(row, holder).await,
            CredentialState::Issuing => {
                // From here on it cannot become a job's, if it has not.
                let at = Some(now().0);
                let revoking = CredentialState::Revoking;
                if !self.set_if_seen(&row, revoking, 0, at, "").await? {
                    return Ok(());
                }
                row.state = CredentialState::Revoking;
                self.revoke(row).await
            }
            CredentialState::Revoking | CredentialState::Unrevocable => self.revoke(row).await,
        }
    }

    async fn revoke(&self, row: CredentialRow) -> Result<(), crate::log::Error> {
        self.held.forget(row.stream, &row.handle);
        let asked = match row.provisioner == self.provisioner.name() {
            true => {
                tokio::time::timeout(REVOKE_TIMEOUT, self.provisioner.revoke(row.handle.clone()))
                    .await
                    .unwrap_or_else(|_| Err(super::RevokeError::transient("not answered in time")))
            }
            false => Err(super::RevokeError::permanent(format!(
                "it was made by the provisioner {}, which is not configured",
                row.provisioner
            ))),
        };
        let attempts = row.attempts.saturating_add(1);
        let (job_id, credential) = (&row.job_id, &row.handle);
        match asked {
            // Asked for and given up: it may have been made after this.
            Ok(()) if now().0 < row.settles_at_ms => {
                let at = Some(row.settles_at_ms);
                self.set(&row, CredentialState::Revoking, 0, at, "").await
            }
            Ok(()) => {
                tracing::info!(job_id, credential, "revoked a credential");
                let handle = row.handle.clone();
                let command = Command::RemoveCredential { handle };
                self.log.execute(command).await.map(drop)
            }
            Err(error) if error.permanent => {
                if row.state != CredentialState::Unrevocable {
                    let error = &error.reason;
                    tracing::error!(job_id, credential, error, "a credential cannot be revoked");
                }
                let next_at = Some(after(now(), RETRY_REFUSED));
                let state = CredentialState::Unrevocable;
                self.set(&row, state, attempts, next_at, &error.reason)
                    .await
            }
            Err(error) => {
                let reason = &error.reason;
                tracing::warn!(
                    job_id,
                    credential,
                    attempts,
                    error = reason,
                    "a revocation is tried again"
                );
                let next_at = Some(after(now(), backoff(attempts)));
                self.set(&row, CredentialState::Revoking, attempts, next_at, reason)
                    .await
            }
        }
    }
}

pub(super) fn after(at: Timestamp, wait: Duration) -> i64 {
    at.0 + wait.as_millis() as i64
}

/// Twice as long each time, half of it by chance.
pub(super) fn backoff(attempts: u32) -> Duration {
    let whole = RETRY_FIRST * 2u32.saturating_pow(attempts.saturating_sub(1).min(16));
    whole
        .min(RETRY_MAX)
        .mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
