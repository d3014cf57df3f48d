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
        // Where the log did not answer in time the job may have been made with it: then
        // it is the job's. A replacement nobody was told of is void all the same.
        let seen = (row.generation <= 1).then_some(CredentialState::Issuing);
        if self.revoke_at(row.handle.clone(), seen, now).await {
            return;
        }
        match self.log.credentials(Some(row.stream)).await {
            Ok(rows) if !rows.iter().any(|stored| stored.handle == row.handle) => {}
            Ok(_) => return,
            Err(error) => {
                let credential = row.handle;
                tracing::warn!(%error, credential, "whether it is a job's is not known");
                return;
            }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::credential::provisioner::{Asked, Revoked};
    use crate::credential::{Options, Provisioner};
    use crate::log::{Durability, GrantRow, JobRow, Log, OpenOptions, Outcome};
    use crate::protocol::Timestamp;

    /// Nobody asks it for anything.
    struct Upstream;

    impl Provisioner for Upstream {
        fn name(&self) -> &'static str {
            "upstream"
        }

        fn applies(&self, _request: &Request) -> bool {
            true
        }

        fn issue(&self, _request: Request) -> Asked {
            Box::pin(std::future::pending())
        }

        fn revoke(&self, _handle: String) -> Revoked {
            Box::pin(std::future::pending())
        }
    }

    fn request(handle: &str) -> Request {
        Request {
            handle: handle.into(),
            id: handle.into(),
            job_id: "job_1".into(),
            principal: "alice".into(),
            agent: "a@1.0.0".into(),
            traceparent: String::new(),
            asked_at: Timestamp(1),
            budget: Vec::new(),
            models: Vec::new(),
            expires_at: None,
            ends_at: None,
            first_budget: Vec::new(),
            replaces: None,
            purse: None,
        }
    }

    fn issued(handle: &str) -> IssuedRow {
        IssuedRow {
            handle: handle.into(),
            expires_at_ms: None,
            next_at_ms: None,
            issued_json: String::new(),
            sealed: None,
        }
    }

    fn create(handle: &str) -> Command {
        let job = JobRow {
            id: "job_1".into(),
            stream: 1,
            session_id: String::new(),
            principal: "alice".into(),
            agent: "a@1.0.0".into(),
            input_json: "null".into(),
            trace_id: "t".into(),
            created_at_ms: 1,
            status: "running".into(),
            ended_at_ms: None,
            last_seq: 0,
            end_position: None,
            idempotency_key: None,
            fingerprint: Vec::new(),
            idempotency_expires_at_ms: None,
            grant: GrantRow::default(),
        };
        Command::CreateJob {
            job: Box::new(job),
            op: None,
            hosted: None,
            credentials: vec![issued(handle)],
            trace: None,
            owner: None,
        }
    }

    /// A submit that the log did not answer in time gave its key back, and the job, which
    /// was made after all, ran with one that was void.
    #[tokio::test]
    async fn a_key_that_is_given_back_stays_with_the_job_that_was_made_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        let options = Options {
            issue_timeout: Duration::from_secs(1),
            ttl: None,
            rotate_before: Duration::from_secs(1),
            agents: Vec::new(),
        };
        let credentials = Credentials::new(Arc::new(Upstream), None, options, log.clone());
        let give_back = async |handle, generation, then: Option<Command>| {
            let owed = credentials.intend(&request(handle), generation, 1).await;
            let owed = owed.expect("an intent that is stored");
            if let Some(then) = then {
                assert_eq!(log.execute(then).await.unwrap(), Outcome::Done);
            }
            let row = owed.row.clone();
            owed.release();
            credentials.give_back(row).await;
            let rows = log.credentials(Some(1)).await.unwrap();
            let row = rows.into_iter().find(|row| row.handle == handle);
            row.expect("it is stored").state
        };
        let unused = give_back("unused", 1, None).await;
        assert_eq!(unused, CredentialState::Revoking);
        let first = give_back("first", 1, Some(create("first"))).await;
        assert_eq!(first, CredentialState::Live);
        // Its job was not told of it and has the one before.
        let replacement = Command::CredentialIssued(issued("second"));
        let second = give_back("second", 2, Some(replacement)).await;
        assert_eq!(second, CredentialState::Revoking);
        tokio::task::spawn_blocking(move || log.close())
            .await
            .unwrap();
    }
}
