//! One spend cap for the credentials of a whole tree of jobs.
//!
//! Each credential has the cap of its own job's budget, and the runtime takes a
//! child's from its parent's. But it counts what agents report, and the upstream
//! what they spend: an agent that reports nothing gets back from each child what was
//! not reported, and could give it to the next. So the upstream counts the tree as
//! well, in a purse of the root's budget that is opened before the root is there and
//! closed when it ends. It is stored like a credential, as generation 0.

use std::sync::Arc;

use super::{Credentials, IssueError, Request};
use crate::log::{Command, IssuedRow};
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
    handle: String,
    armed: bool,
}

impl Owed {
    pub fn new(credentials: Arc<Credentials>, handle: String) -> Self {
        Self {
            credentials,
            handle,
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
        let (credentials, handle) = (self.credentials.clone(), self.handle.clone());
        let now = crate::clock::now().0;
        // If this cannot be stored either, the intent is due by itself.
        tokio::spawn(async move { credentials.revoke_at(handle, now).await });
    }
}

impl Credentials {
    /// Stores the intent first, like a credential's.
    pub(super) async fn open_purse(
        self: &Arc<Self>,
        root: &Request,
        stream: crate::log::StreamId,
    ) -> Result<(Owed, IssuedRow), Failure> {
        let purse = Request {
            handle: handle(&root.job_id),
            id: handle(&root.job_id),
            ..root.clone()
        };
        self.intend(&purse, 0, stream).await?;
        let handle = purse.handle.clone();
        let owed = Owed::new(self.clone(), handle.clone());
        let opened = self.within_time(self.provisioner.open_purse(purse)).await;
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

    /// What the submitter is told; what was not made is not owed.
    pub(super) async fn not_issued(&self, job_id: &str, owed: Owed, error: IssueError) -> Failure {
        let handle = owed.handle.clone();
        tracing::warn!(%error, job_id, credential = handle, "no credential was issued");
        if !error.may_exist() {
            owed.release();
            // If it stays it is revoked in a while: there is none, which is fine.
            let _ = self.log.execute(Command::RemoveCredential { handle }).await;
        }
        error.failure()
    }
}
