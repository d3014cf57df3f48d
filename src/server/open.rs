//! Opens the store, takes up what hosts may still work on and ends what else a
//! crash left running.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Config;
use super::cell::Membership;
use super::config::Provisioning;
use super::hosting::HostRights;
use crate::agent::host::{HostedAgents, Hosts};
use crate::credential::Credentials;
use crate::drain::Drain;
use crate::fanout::{self, Hub};
use crate::job::{Jobs, now};
use crate::log::{Command, Log, OpenOptions, first_stream, transfer};
use crate::session::Sessions;
use crate::telemetry::Telemetry;

/// Groups of blocks between the writer and the dispatcher.
const COMMITTED_GROUPS_MAX: usize = 1024;

pub(super) struct Opened {
    pub sessions: Arc<Sessions>,
    pub hosts: Arc<Hosts>,
    /// Ends with the log.
    pub dispatched: JoinHandle<()>,
    pub membership: Option<Membership>,
}

pub(super) async fn open(config: Config) -> anyhow::Result<Opened> {
    let telemetry = Telemetry::start(config.telemetry).map_err(anyhow::Error::msg)?;
    config.agent_spans.connect(&telemetry);
    let (committed_tx, committed) = mpsc::channel(COMMITTED_GROUPS_MAX);
    let options = OpenOptions {
        dir: config.data_dir,
        durability: config.durability,
    };
    let dir = options.dir.clone();
    tokio::task::spawn_blocking(move || transfer::sweep(&dir)).await??;
    let (log, joined) = match &config.cluster {
        None => {
            let log = tokio::task::spawn_blocking(move || Log::open(options, committed_tx));
            (log.await??, None)
        }
        Some(cluster) => {
            let denied = &cluster.access.denied;
            let joined = Log::join(options, cluster.clone(), committed_tx).await;
            let (log, joined) = joined.map_err(|error| denied.named(error))?;
            log.set_denied(denied.clone());
            (log, Some(joined))
        }
    };
    let drain = Drain::new(log.is_replicated());
    let hub = Hub::new(log.committed());
    log.set_watched({
        let hub = hub.clone();
        move |stream| hub.is_followed(stream)
    });
    let dispatched = tokio::spawn(fanout::dispatch(hub.clone(), committed, telemetry.clone()));
    let last_stream = match &joined {
        None => log.last_stream().await?,
        Some(joined) => first_stream(joined.number),
    };
    let rights = HostRights {
        tokens: config.tokens.clone(),
        hosting: config.hosting,
        telemetry: telemetry.clone(),
    };
    let mut agents = config.agents;
    let hosts = Hosts::new(
        config.host_options,
        Box::new(rights),
        agents.names(),
        log.hosted_agents().await?,
        drain.clone(),
    );
    agents.set_provider(Arc::new(HostedAgents(hosts.clone())));
    let credentials = config.provisioning.map(|provisioning| {
        let Provisioning {
            provisioner,
            sealer,
            options,
        } = provisioning;
        Credentials::new(provisioner, sealer, options, log.clone())
    });
    if credentials.is_none() && log.credential_next_at().await?.is_some() {
        tracing::error!(
            "there are credentials to be revoked and no provisioner is configured that could"
        );
    }
    let jobs = Jobs::new(
        log.clone(),
        agents,
        config.job_limits,
        config.policy,
        credentials,
        last_stream,
        telemetry,
    );
    if joined.is_none() {
        let ended = jobs.recover().await?;
        if ended > 0 {
            tracing::warn!(
                jobs = ended,
                "ended jobs that ran when the runtime last stopped"
            );
        }
        // The connections of the last run are gone; their windows begin.
        log.execute(Command::ParkAll { at_ms: now().0 }).await?;
    }
    let authenticator = Box::new(config.tokens);
    let sessions = Sessions::new(log, hub, jobs, config.session_limits, authenticator, drain);
    let told = Arc::downgrade(&sessions);
    sessions.jobs.on_delegated(move |session_id, stream| {
        if let Some(sessions) = told.upgrade() {
            sessions.delegated(session_id, stream);
        }
    });
    let membership = joined.zip(config.cluster);
    let membership = membership.map(|(joined, cluster)| Membership {
        joined,
        cluster,
        peers: Arc::default(),
        sessions: sessions.clone(),
        hosts: hosts.clone(),
        taking: Arc::default(),
    });
    if let Some(membership) = &membership {
        membership.prepare();
    }
    Ok(Opened {
        sessions,
        hosts,
        dispatched,
        membership,
    })
}
