//! `AdminService`: what the runtime has now, to operators. In the port of clients,
//! where callers have a name; the admin port knows nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message;
use secrecy::ExposeSecret;
use tonic::{Request, Response, Status};

use super::MESSAGE_BYTES_MAX;
use super::status::status;
use crate::agent::host::Hosts;
use crate::job::{JobContext, now};
use crate::protocol::{ErrorCode, Failure, Timestamp};
use crate::session::{Live, Sessions};
use crate::telemetry;
use crate::telemetry::metrics::transport_of;
use crate::wire::proto::admin_service_server::{AdminService, AdminServiceServer};
use crate::wire::proto::{self, LimitUse};
use crate::wire::ts_to_proto;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

pub type Service = AdminServiceServer<Inspection>;

/// What there is to see, and who may.
#[derive(Clone)]
pub struct Inspection {
    pub sessions: Arc<Sessions>,
    pub hosts: Arc<Hosts>,
    pub connections_open: Arc<AtomicUsize>,
    pub connections_max: usize,
    pub started: Timestamp,
    pub operators: Vec<String>,
}

pub fn service(inspection: Inspection) -> Service {
    AdminServiceServer::new(inspection)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX)
}

impl Inspection {
    /// The message of a call, if its caller is an operator.
    fn open<M: Message>(&self, request: Request<M>, method: &'static str) -> Result<M, Status> {
        let bearer = super::bearer(&request.metadata().clone().into_headers());
        let token = bearer.as_ref().map_or("", |token| token.expose_secret());
        let known = self.sessions.authenticate(token, telemetry::Service::Admin);
        let principal = known.map_err(status)?;
        if !self.operators.contains(&principal) {
            self.audit_refused(&principal, method);

            let text = "this principal is not an operator of this runtime";
            return Err(status(Failure::new(ErrorCode::PermissionDenied, text)));
        }
        Ok(request.into_inner())
    }

    fn audit_refused(&self, principal: &str, method: &'static str) {
        if self
            .sessions
            .jobs
            .telemetry()
            .lines
            .admits("inspect", principal)
        {
            tracing::warn!(
                target: "arcpd::audit",
                operation = "inspect",
                principal,
                method,
                decision = "refused",
                rule = "operators",
            );
        }
    }

    async fn overview(&self) -> proto::GetOverviewResponse {
        let (sessions, log) = (&self.sessions, &self.sessions.log);
        let jobs = sessions.jobs.live();
        let pending = jobs.iter().filter(|job| job.status() == "pending").count();
        let not_ready = super::admin::not_ready(sessions);
        proto::GetOverviewResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: ts_to_proto(self.started),
            at: ts_to_proto(now()),
            state: not_ready.unwrap_or_else(|| "ready".into()),
            sessions_attached: sessions.attached() as u64,
            sessions_parked: log.sessions_parked().await.unwrap_or(0) as u64,
            jobs_pending: pending as u64,
            jobs_running: (jobs.len() - pending) as u64,
            hosts: self.hosts.count() as u64,
            records: sessions.jobs.telemetry().metrics.records.get(),
            committed_position: log.committed() as u64,
            first_position: log.first_position().await.unwrap_or(0) as u64,
            store_used_bytes: log.bytes_used().await.unwrap_or(0),
            fanout_lag_blocks: (log.committed() - sessions.hub.published()).max(0) as u64,
            fanout_catch_ups: sessions.hub.catch_ups(),
            limits: self.limits(),
        }
    }

    fn limits(&self) -> Vec<LimitUse> {
        let shared = |name: &str, used: usize, max: usize| LimitUse {
            name: name.into(),
            used: used as u64,
            max: max as u64,
            principal: String::new(),
        };
        let each = |name: &str, most: Option<(String, usize)>, max: usize| {
            let (principal, used) = most.unwrap_or_default();
            LimitUse {
                principal,
                ..shared(name, used, max)
            }
        };
        let sessions = &self.sessions;
        let (most_jobs, jobs_max) = sessions.jobs.most_running();
        let (taken, places) = self.hosts.places();
        vec![
            shared(
                "connections_max",
                self.connections_open.load(Ordering::Relaxed),
                self.connections_max,
            ),
            each(
                "sessions_per_principal_max",
                sessions.most_attached(),
                sessions.limits.sessions_per_principal_max,
            ),
            each("running_jobs_per_principal_max", most_jobs, jobs_max),
            shared("hosts_max", self.hosts.count(), self.hosts.hosts_max()),
            shared("host_places", taken as usize, places as usize),
        ]
    }

    async fn job(&self, job: JobContext, host_name: String) -> Result<proto::LiveJob, Status> {
        let log = &self.sessions.log;
        let last = log.seq_at(job.stream(), log.committed()).await;
        let last = last.map_err(|_| status(Failure::internal("the store is not available")))?;
        Ok(proto::LiveJob {
            job_id: job.job_id().into(),
            agent: job.agent().into(),
            principal: job.principal().into(),
            session_id: job.session_id().into(),
            parent_job_id: job.parent_id().unwrap_or_default().into(),
            status: job.status().into(),
            created_at: ts_to_proto(job.created_at()),
            trace_id: job.trace_id().into(),
            last_job_seq: last,
            watchers: self.sessions.hub.watchers(job.stream()) as u32,
            host_name,
            cancelling: job.is_cancelled(),
        })
    }
}

fn session(live: Live) -> proto::LiveSession {
    let Live {
        session_id,
        principal,
        seen,
    } = live;
    let named = proto::LiveSession {
        session_id,
        principal,
        state: "opening".into(),
        ..Default::default()
    };
    let Some(seen) = seen else { return named };
    proto::LiveSession {
        transport: transport_of(seen.via).into(),
        state: seen.state.into(),
        created_at: ts_to_proto(seen.created_at),
        idle_ms: seen.idle.as_millis() as u64,
        subscriptions: seen.watched.len() as u32,
        last_event_seq: seen.last_event_seq,
        ack_lag: seen.ack_lag,
        unsent_bytes: seen.unsent_bytes as u64,
        ..named
    }
}

/// How many a page has.
fn size(asked: u32) -> usize {
    match asked as usize {
        0 => PAGE_DEFAULT,
        asked => asked.min(PAGE_MAX),
    }
}

/// A number that a page ended with.
fn after<N: std::str::FromStr + Default>(token: &str) -> Result<N, Status> {
    let parsed = match token {
        "" => Some(N::default()),
        token => token.parse().ok(),
    };
    parsed.ok_or_else(|| {
        status(Failure::invalid(
            "page_token: is not one that a page came with",
        ))
    })
}

/// The place behind a page that is full.
fn next<T>(page: &[T], size: usize, place: impl Fn(&T) -> String) -> String {
    let last = page.last().filter(|_| page.len() >= size);
    last.map(place).unwrap_or_default()
}

#[tonic::async_trait]
impl AdminService for Inspection {
    async fn get_overview(
        &self,
        request: Request<proto::GetOverviewRequest>,
    ) -> Result<Response<proto::GetOverviewResponse>, Status> {
        self.open(request, "GetOverview")?;
        Ok(Response::new(self.overview().await))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        let list = self.open(request, "ListSessions")?;
        let size = size(list.page_size);
        let live = self.sessions.live(&list.page_token, size).await;
        let next_page_token = next(&live, size, |live| live.session_id.clone());
        Ok(Response::new(proto::ListSessionsResponse {
            sessions: live.into_iter().map(session).collect(),
            next_page_token,
        }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<proto::ListSubscriptionsRequest>,
    ) -> Result<Response<proto::ListSubscriptionsResponse>, Status> {
        let list = self.open(request, "ListSubscriptions")?;
        let (size, after) = (size(list.page_size), after(&list.page_token)?);
        let watched = self.sessions.watched(&list.session_id, after, size).await;
        let watched = watched.map_err(status)?;
        let watched =
            watched.ok_or_else(|| Status::not_found("session_id: no session with a connection"))?;
        let next_page_token = next(&watched, size, |watched| watched.stream.to_string());
        let subscriptions = watched.into_iter().map(|watched| proto::Subscription {
            job_id: watched.job_id,
            agent: watched.agent,
            principal: watched.principal,
            job_seq: watched.job_seq,
            lag: watched.lag,
        });
        Ok(Response::new(proto::ListSubscriptionsResponse {
            subscriptions: subscriptions.collect(),
            next_page_token,
        }))
    }

    async fn list_live_jobs(
        &self,
        request: Request<proto::ListLiveJobsRequest>,
    ) -> Result<Response<proto::ListLiveJobsResponse>, Status> {
        let list = self.open(request, "ListLiveJobs")?;
        let size = size(list.page_size);
        let mut live = self.sessions.jobs.live();
        live.retain(|job| job.job_id() > &*list.page_token);
        live.sort_unstable_by(|a, b| a.job_id().cmp(b.job_id()));
        live.truncate(size);
        let next_page_token = next(&live, size, |job| job.job_id().into());
        let mut by_job = self.hosts.by_job();
        let mut jobs = Vec::with_capacity(live.len());
        for job in live {
            let host_name = by_job.remove(job.job_id()).unwrap_or_default();
            jobs.push(self.job(job, host_name).await?);
        }
        Ok(Response::new(proto::ListLiveJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    async fn list_hosts(
        &self,
        request: Request<proto::ListHostsRequest>,
    ) -> Result<Response<proto::ListHostsResponse>, Status> {
        let list = self.open(request, "ListHosts")?;
        let (size, after) = (size(list.page_size), after(&list.page_token)?);
        let live = self.hosts.live(after, size);
        let next_page_token = next(&live, size, |host| host.id.to_string());
        let hosts = live.into_iter().map(|host| proto::LiveHost {
            host_instance_id: host.instance_id,
            host_name: host.name,
            principal: host.principal,
            state: host.state.into(),
            places_taken: host.used,
            places: host.max,
            agents: host
                .agents
                .into_iter()
                .map(|of| proto::LiveHostAgent {
                    agent: of.agent,
                    places_taken: of.used,
                    places: of.max,
                })
                .collect(),
        });
        Ok(Response::new(proto::ListHostsResponse {
            hosts: hosts.collect(),
            next_page_token,
        }))
    }
}
