//! A job's way over hosts: place, activation, offer, and its end or another try.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::activation::{Activation, Phase};
use super::place::Place;
use super::registry::Hosts;
use crate::credential::Holding;
use crate::job::{Agent, AgentResult, AgentRun, JobContext};
use crate::log::{Command, HostedRow, Outcome, ReportMark};
use crate::protocol::event::RETRYING;
use crate::protocol::host::{HostReply, LossPolicy};
use crate::protocol::{ErrorCode, EventBody, Failure};
use crate::telemetry;

/// How often a job that waits for a place looks for one at other replicas.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(500);

/// `name@version`, wherever its hosts are.
pub(super) struct HostAgent {
    pub hosts: Arc<Hosts>,
    pub agent: String,
}

impl Agent for HostAgent {
    fn run(&self, job: JobContext) -> AgentRun {
        let drive = Drive {
            hosts: self.hosts.clone(),
            agent: self.agent.clone(),
            job,
            attempt: 0,
            checkpoint: None,
        };
        Box::pin(drive.run())
    }

    fn is_hosted(&self) -> bool {
        true
    }
}

struct Drive {
    hosts: Arc<Hosts>,
    agent: String,
    job: JobContext,
    /// Activations that a host has accepted.
    attempt: u32,
    checkpoint: Option<Bytes>,
}

/// How one activation ended.
enum End {
    /// The terminal is in the job's buffer.
    Completed,
    /// Nobody has started it: as if it had not been.
    NotStarted,
    Lost(String, LossPolicy),
}

/// Takes an activation back from its host, however its job is left.
struct Offered {
    activation: Arc<Activation>,
    place: Place,
}

impl Drop for Offered {
    fn drop(&mut self) {
        let reason = "the job is over";
        let has_moved = self.activation.job.is_elsewhere();
        let tell = (!self.activation.is_over() && !has_moved).then_some(reason);
        self.place.host.drop_activation(&self.activation, tell);
        self.activation.move_to(Phase::Lost(reason.into()));
        if !self.activation.is_completed() {
            self.activation.detach();
        }
    }
}

/// One that waits for its host after a restart. When its job ends meanwhile, the
/// host that comes for it is told.
struct Orphan {
    hosts: Arc<Hosts>,
    activation: Arc<Activation>,
    /// Somebody else waits for its end from now on.
    adopted: bool,
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.hosts.drop_orphan(&self.activation);
        if !self.adopted {
            self.activation.forsake();
        }
    }
}

impl Drive {
    async fn run(mut self) -> Result<AgentResult, Failure> {
        let mut end = match self.job.recovered().cloned() {
            Some(row) => self.recover(row).await?,
            None => End::NotStarted,
        };
        loop {
            match end {
                // The first terminal stands; what is returned here comes after it.
                End::Completed => return Ok("null".to_owned().into()),
                End::NotStarted => {}
                End::Lost(reason, policy) => self.may_run_again(&reason, policy).await?,
            }
            end = self.activate().await?;
        }
    }

    /// After a restart of the runtime: the host may still be at it, also where its
    /// accept came too late to be stored.
    async fn recover(&mut self, row: HostedRow) -> Result<End, Failure> {
        self.attempt = row.attempt;
        self.checkpoint = row.checkpoint;
        let Some(token_hash) = row.token_hash else {
            return Ok(End::NotStarted);
        };
        let mark = ReportMark {
            seq: row.reported,
            result: row.result,
            checkpoint: None,
        };
        let policy = policy_from(row.loss_policy);
        let job = self.job.clone();
        let activation = Activation::recovered(job, row.attempt, policy, token_hash, mark);
        let activation = Arc::new(activation);
        self.hosts.add_orphan(row.host.clone(), activation.clone());
        let mut orphan = Orphan {
            hosts: self.hosts.clone(),
            activation: activation.clone(),
            adopted: false,
        };
        let mut phase = activation.phase();
        let limit = self.hosts.options.lost_after;
        let mut waited = tokio::time::timeout(limit, moved_on(&mut phase)).await;
        // It is here, and the log has yet to answer what it waits for.
        while waited.is_err() && self.hosts.is_arriving(&row.host) {
            waited = tokio::time::timeout(limit, moved_on(&mut phase)).await;
        }
        if waited.is_err() {
            self.hosts.drop_orphan(&activation);
            let reason = "it did not come back after the runtime was restarted";
            // Unless it came just now.
            activation.move_to(Phase::Lost(reason.into()));
        }
        match activation.adopted_by() {
            Some(place) => {
                let offered = Offered { activation, place };
                orphan.adopted = true;
                drop(orphan);
                self.set_running(telemetry::now_ns()).await;
                self.until_over(offered, phase).await
            }
            // Who is back without it has not begun; of who is gone it is not known,
            // and a job that must not run twice does not.
            None if !row.accepted && (waited.is_ok() || policy != LossPolicy::Fail) => {
                self.attempt -= 1;
                Ok(End::NotStarted)
            }
            None => {
                let telemetry = self.job.telemetry();
                telemetry.host_lost(
                    (self.job.trace(), self.job.stream()),
                    "",
                    self.attempt,
                    policy_name(policy),
                );
                Ok(End::Lost("the agent host is gone".into(), policy))
            }
        }
    }

    /// One activation, from a free place to its end.
    async fn activate(&mut self) -> Result<End, Failure> {
        let place = self.place().await?;
        let policy = self.hosts.loss_policy(&self.agent);
        let activation = Activation::new(self.job.clone(), self.attempt + 1, policy);
        let activation = Arc::new(activation);
        let command = Command::Activate {
            stream: self.job.stream(),
            attempt: self.attempt + 1,
            token_hash: activation.token_hash(),
            loss_policy: policy_number(policy),
            host: place.host.key(),
        };
        // Before the offer: its token must be known however this process ends.
        let stored = match self.job.log_of_jobs().execute(command).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, trace_id = self.job.trace_id(), session_id = self.job.session_id(), job_id = self.job.job_id(), "an activation was not stored; it is tried again once the store answers");
                drop(place);
                return self.store_again().await;
            }
        };
        if stored == Outcome::Stale {
            // Another replica has the job by now: it is let go of here.
            return std::future::pending().await;
        }
        let mut phase = activation.phase();
        let offered = Offered { activation, place };
        let host = offered.place.host.clone();
        let checkpoint = match policy {
            LossPolicy::Checkpoint => self.checkpoint.as_ref().map(|state| state.to_vec()),
            LossPolicy::Fail | LossPolicy::Retry => None,
        };
        let offered_ns = telemetry::now_ns();
        host.assign(&offered.activation, checkpoint);
        let accept_within = self.hosts.options.accept_within;
        let accepted = tokio::select! {
            () = moved_on(&mut phase) => true,
            () = tokio::time::sleep(accept_within) => false,
            () = self.job.cancelled() => return Err(cancelled()),
        };
        if !accepted && offered.activation.withdraw() {
            tracing::warn!(
                host = host.name,
                trace_id = self.job.trace_id(),
                session_id = self.job.session_id(),
                job_id = self.job.job_id(),
                "an offer was not accepted in time"
            );
            self.hosts.pause(&host);
            host.drop_activation(&offered.activation, Some("not accepted in time"));
            return Ok(End::NotStarted);
        }
        if offered.activation.is_lost() && !offered.activation.has_started() {
            // Declined, or its host went before it had started.
            return Ok(End::NotStarted);
        }
        self.attempt += 1;
        self.set_running(offered_ns).await;
        self.until_over(offered, phase).await
    }

    /// The job was acknowledged: it waits. An activation that is stored late was offered to
    /// nobody, and the next one takes its place.
    async fn store_again(&self) -> Result<End, Failure> {
        tokio::select! {
            () = self.job.log_of_jobs().until_settled() => Ok(End::NotStarted),
            () = self.job.cancelled() => Err(cancelled()),
        }
    }

    /// `since_ns` is when it was offered: whoever accepts may begin before that is known.
    async fn set_running(&self, since_ns: u64) {
        let stream = self.job.stream();
        self.job.running_on_host(self.attempt, since_ns);
        let running = Command::SetRunning { stream };
        if let Err(error) = self.job.log_of_jobs().execute(running).await {
            tracing::warn!(%error, trace_id = self.job.trace_id(), session_id = self.job.session_id(), job_id = self.job.job_id(), "a job is running and not listed so");
        }
    }

    async fn place(&self) -> Result<Place, Failure> {
        let limit = self.hosts.options.pending_max;
        let place = tokio::time::timeout(limit, self.hosts.place(&self.agent));
        tokio::pin!(place);
        let mut look = tokio::time::interval(LOOK_ELSEWHERE);
        loop {
            tokio::select! {
                place = &mut place => return place.map_err(|_| {
                    let text = format!(
                        "no host of {} took the job within {} seconds",
                        self.agent,
                        limit.as_secs()
                    );
                    Failure::new(ErrorCode::AgentNotAvailable, text)
                }),
                () = self.job.cancelled() => return Err(cancelled()),
                // No place is taken while it may be given away.
                () = self.room_elsewhere(&mut look) => self.offer_elsewhere().await,
            }
        }
    }

    /// Resolves when other replicas are to be looked at.
    async fn room_elsewhere(&self, look: &mut tokio::time::Interval) {
        let elsewhere = self.hosts.elsewhere.get();
        let Some(elsewhere) = elsewhere.filter(|_| self.job.may_leave()) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = look.tick() => {}
            () = elsewhere.more_room() => {}
        }
    }

    /// Gives the job to a replica that has room for it, if there is one: then this ends
    /// with the job's run here.
    async fn offer_elsewhere(&self) {
        let to = self.hosts.elsewhere.get().and_then(|elsewhere| {
            let to = elsewhere.room_for(&self.agent)?;
            Some(elsewhere.give(self.job.stream(), self.job.job_id(), to))
        });
        if let Some(given) = to
            && given.await
        {
            std::future::pending().await
        }
    }

    /// Waits for the end of what a host works on; passes a cancel on.
    async fn until_over(
        &mut self,
        offered: Offered,
        mut phase: watch::Receiver<Phase>,
    ) -> Result<End, Failure> {
        let mut told = false;
        let mut holding = self.job.holding();
        loop {
            tokio::select! {
                () = another(&mut holding) => {
                    if let Some(json) = self.job.credentials_json() {
                        let of = offered.activation.reference();
                        let reply = HostReply::Credentials { of, json };
                        let outbox = &offered.place.host.outbox;
                        outbox.push_about(&offered.activation, reply);
                    }
                }
                reason = over(&mut phase) => return Ok(match reason {
                    None => End::Completed,
                    Some(reason) => {
                        self.job.telemetry().host_lost(
                            (self.job.trace(), self.job.stream()),
                            &offered.place.host.name,
                            self.attempt,
                            policy_name(offered.activation.loss_policy),
                        );
                        // Or it would mix with the next attempt's.
                        offered.activation.settled().await;
                        let later = offered.activation.take_checkpoint();
                        self.checkpoint = later.or(self.checkpoint.take());
                        End::Lost(reason, offered.activation.loss_policy)
                    }
                }),
                () = self.job.cancelled(), if !told => {
                    told = true;
                    let reply = HostReply::Cancel {
                        of: offered.activation.reference(),
                        reason: "cancelled by the client".into(),
                        grace: self.job.limits().cancel_grace,
                    };
                    offered.place.host.outbox.push_about(&offered.activation, reply);
                    let stream = self.job.stream();
                    let stored = self.job.log_of_jobs().execute(Command::SetCancelled { stream });
                    if let Err(error) = stored.await {
                        tracing::warn!(%error, trace_id = self.job.trace_id(), session_id = self.job.session_id(), job_id = self.job.job_id(), "a cancel would not survive a restart");
                    }
                }
            }
        }
    }

    /// Whether the job may be given to another host after this.
    async fn may_run_again(&self, reason: &str, policy: LossPolicy) -> Result<(), Failure> {
        if self.job.is_cancelled() {
            return Err(cancelled());
        }
        let lost = |what: &str| Failure::internal(format!("agent host lost: {reason}{what}"));
        if policy == LossPolicy::Fail {
            return Err(lost("; submit the job again"));
        }
        let limit = self.hosts.options.attempts_max;
        if self.attempt >= limit {
            return Err(lost(&format!("; that was attempt {limit} of {limit}")));
        }
        self.job
            .emit(EventBody::Status {
                phase: RETRYING.into(),
                message: Some(format!("agent host lost: {reason}")),
                details_json: Some(format!(r#"{{"attempt":{}}}"#, self.attempt + 1)),
            })
            .await
    }
}

/// Resolves when an offer was answered. The sender is in the activation, which its
/// driver holds.
async fn moved_on(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase != Phase::Offered).await;
}

/// Resolves when the job has been given something else; never for one that was
/// given nothing.
async fn another(holding: &mut Option<Holding>) {
    if let Some(holding) = holding
        && holding.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Resolves at the end, with the reason of a loss.
async fn over(phase: &mut watch::Receiver<Phase>) -> Option<String> {
    let over = |phase: &Phase| matches!(phase, Phase::Completed | Phase::Lost(_));
    match phase.wait_for(over).await.as_deref() {
        Ok(Phase::Lost(reason)) => Some(reason.clone()),
        _ => None,
    }
}

fn cancelled() -> Failure {
    Failure::new(ErrorCode::Cancelled, "cancelled by the client")
}

// Kept stable: these numbers are on disk.
fn policy_number(policy: LossPolicy) -> u8 {
    match policy {
        LossPolicy::Fail => 1,
        LossPolicy::Retry => 2,
        LossPolicy::Checkpoint => 3,
    }
}

fn policy_name(policy: LossPolicy) -> &'static str {
    match policy {
        LossPolicy::Fail => "fail",
        LossPolicy::Retry => "retry",
        LossPolicy::Checkpoint => "checkpoint",
    }
}

fn policy_from(number: u8) -> LossPolicy {
    match number {
        2 => LossPolicy::Retry,
        3 => LossPolicy::Checkpoint,
        _ => LossPolicy::Fail,
    }
}
