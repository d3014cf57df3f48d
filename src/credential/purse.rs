//! One spend cap for the credentials of a whole tree of jobs.
//!
//! Each credential has the cap of its own job's budget, and the runtime takes a
//! child's from its parent's. But it counts what agents report, and the upstream
//! what they spend: an agent that reports nothing gets back from each child what was
//! not reported, and could give it to the next. So the upstream counts the tree as
//! well, in a purse of the root's budget that is opened before the root is there and
//! closed when it ends. It is stored like a credential, as generation 0.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Credentials, IssueError, Request};
use crate::log::{Command, CredentialRow, CredentialState, IssuedRow, StreamId};
use crate::protocol::Failure;

const PREFIX: &str = "purse_";

/// Of the tree below that job.
pub fn handle(root_job_id: &str) -> String {
    let id = root_job_id.strip_prefix("job_").unwrap_or(root_job_id);
    format!("{PREFIX}{id}")
}

pub fn is_purse(handle: &str) -> bool {
    handle.starts_with(PREFIX)
}

/// Something that the upstream has, or may have: given back when dropped.
pub(super) struct Owed {
    credentials: Arc<Credentials>,
    row: CredentialRow,
    armed: bool,
}

impl Owed {
    /// `row` is stored.
    pub fn new(credentials: Arc<Credentials>, row: CredentialRow) -> Self {
        Self {
            credentials,
            row,
            armed: true,
        }
    }

    /// It has an owner now, or is not there.
    pub fn release(mut self) {
        self.armed = false;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (credentials, row) = (self.credentials.clone(), self.row.clone());
        // If this cannot be stored either, the intent is due by itself.
        tokio::spawn(async move { credentials.give_back(row).await });
    }
}

impl Credentials {
    /// Stores the intent first, like a credential's.
    pub(super) async fn open_purse(
        self: &Arc<Self>,
        root: &Request,
        stream: StreamId,
        until: Instant,
    ) -> Result<(Owed, IssuedRow), Failure> {
        let purse = Request {
            handle: handle(&root.job_id),
            id: handle(&root.job_id),
            ..root.clone()
        };
        let owed = self.intend(&purse, 0, stream).await?;
        let handle = purse.handle.clone();
        let opened = self.within_time(until, self.provisioner.open_purse(purse));
        let opened = opened.await;
        match opened {
            Ok(()) => {
                let row = IssuedRow {
                    handle,
                    expires_at_ms: None,
                    next_at_ms: None,
                    issued_json: String::new(),
                    sealed: None,
                };
                Ok((owed, row))
            }
            Err(error) => Err(self.not_issued(&root.job_id, owed, error).await),
        }
    }

    /// A gateway takes a key for a purse that is not there, and then nothing holds the
    /// tree: its root may have been submitted before there was anybody to ask for one.
    pub(super) async fn check_purse(
        &self,
        request: &Request,
        root: StreamId,
    ) -> Result<(), Failure> {
        let Some(purse) = &request.purse else {
            return Ok(());
        };
        let rows = self.log.credentials(Some(root)).await;
        let rows = rows.map_err(|_| Failure::internal("the store is not available; try again"))?;
        let live = |row: &CredentialRow| row.handle == *purse && row.state == CredentialState::Live;
        match rows.iter().any(live) {
            true => Ok(()),
            false => Err(Failure::invalid(
                "delegate: no credential can be had: the first job above was submitted before \
                 this runtime could cap what its tree spends; submit it again",
            )),
        }
    }

    async fn give_back(&self, row: CredentialRow) {
        let now = crate::clock::now().0;
        if self.revoke_at(row.handle.clone(), now).await {
            return;
        }
        // It was not there when it was revoked, and may have been made after that.
        let again = CredentialRow {
            state: CredentialState::Revoking,
            next_at_ms: Some(now),
            ..row
        };
        if let Err(error) = self.log.execute(Command::IntendCredential(again)).await {
            tracing::error!(%error, "a credential that may be there is not in the store");
        }
        self.wanted.notify_one();
    }

    /// What the submitter is told; what was not made is not owed.
    pub(super) async fn not_issued(&self, job_id: &str, owed: Owed, error: IssueError) -> Failure {
        let handle = owed.row.handle.clone();
        tracing::warn!(%error, job_id, credential = handle, "no credential was issued");
        if !error.may_exist() {
            owed.release();
            // If it stays it is revoked in a while: there is none, which is fine.
            let _ = self.log.execute(Command::RemoveCredential { handle }).await;
        }
        error.failure()
    }
}
