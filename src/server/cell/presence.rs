//! That a replica is there: what it says of itself each second, and hears of the others.
//!
//! It is said twice. Once beside all else that a replica does, at once when what its
//! hosts offer changes; and once by a thread that does nothing else, over a connection
//! that carries nothing else, to another server where there is one: a replica that is
//! busy, has much on its way to NATS, or whose server stands still, is not a replica that
//! is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::peers::Peers;
use crate::agent::host::Hosts;
use crate::log::ReplicaNumber;
use crate::log::jetstream::{self, ClusterOptions, Purpose};

pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// A runtime that got to nothing for so long does not come back: others may have its work.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// What a replica says of itself.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Presence {
    pub replica: ReplicaNumber,
    /// Free places by `name@version`.
    #[serde(default)]
    pub free: BTreeMap<String, u32>,
}

/// Whose presence it is, and who is told of others'.
#[derive(Clone)]
pub(super) struct Present {
    pub me: ReplicaNumber,
    pub subject: String,
    pub peers: Arc<Peers>,
    pub hosts: Arc<Hosts>,
    /// What else it has to say goes this way.
    pub client: async_nats::Client,
}

impl Present {
    pub async fn say(&self, client: &async_nats::Client) {
        let presence = Presence {
            replica: self.me,
            free: self.hosts.free(),
        };
        let Ok(payload) = serde_json::to_vec(&presence) else {
            return;
        };
        if let Err(error) = client.publish(self.subject.clone(), payload.into()).await {
            tracing::debug!(%error, "presence was not said");
        }
    }

    /// Whether a connection is to the same one of several servers as the rest.
    fn is_together(&self, client: &async_nats::Client, cluster: &ClusterOptions) -> bool {
        let (one, rest) = (client.server_info(), self.client.server_info());
        let several = cluster.servers.contains(',') || one.connect_urls.len() > 1;
        several && one.server_id == rest.server_id
    }

    fn hear(&self, message: &async_nats::Message) {
        match serde_json::from_slice::<Presence>(&message.payload) {
            Ok(presence) if presence.replica == self.me => self.peers.heard_own(),
            Ok(presence) => {
                if self.peers.heard(presence) {
                    self.hosts.set_elsewhere_offered(self.peers.offered());
                }
            }
            Err(error) => tracing::warn!(%error, "a presence that cannot be read"),
        }
    }

    /// Keeps what the others say of themselves.
    pub async fn listen(self, mut heard: async_nats::Subscriber) {
        while let Some(message) = heard.next().await {
            self.hear(&message);
        }
    }
}

/// The thread, until this is dropped.
pub(super) struct Pulse {
    _stops: DropGuard,
    _seen: AbortOnDropHandle<()>,
}

impl Pulse {
    /// On the runtime that it speaks for.
    pub fn start(present: Present, cluster: ClusterOptions) -> Self {
        let stopped = CancellationToken::new();
        let seen_at = Arc::new(Mutex::new(Instant::now()));
        let seen = see(seen_at.clone());
        let until = stopped.clone();
        let thread = std::thread::Builder::new().name("presence".into());
        let started = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        () = until.cancelled() => {}
                        () = beat(&present, &cluster, &seen_at) => {}
                    }
                }),
                Err(error) => tracing::error!(%error, "presence has no runtime of its own"),
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "presence has no thread of its own");
        }
        Self {
            _stops: stopped.drop_guard(),
            _seen: AbortOnDropHandle::new(tokio::spawn(seen)),
        }
    }
}

/// Shows that the runtime gets to what it is given.
async fn see(seen_at: Arc<Mutex<Instant>>) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        *seen_at.lock() = Instant::now();
    }
}

async fn beat(present: &Present, cluster: &ClusterOptions, seen_at: &Mutex<Instant>) {
    let (mut client, mut heard) = loop {
        match connect(present, cluster).await {
            Ok(both) => break both,
            Err(error) => {
                tracing::warn!(error, "presence has no connection of its own yet");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    };
    // Beside the beats: a server that stands still takes its time to say nothing.
    let mut moving: Option<AbortOnDropHandle<_>> = None;
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let seen = seen_at.lock().elapsed();
                if seen < STUCK_AFTER {
                    present.say(&client).await;
                }
                if moving.is_none() && present.is_together(&client, cluster) {
                    let (present, cluster) = (present.clone(), cluster.clone());
                    let next = async move { connect(&present, &cluster).await };
                    moving = Some(AbortOnDropHandle::new(tokio::spawn(next)));
                }
            }
            moved = async { moving.as_mut()?.await.ok() }, if moving.is_some() => {
                moving = None;
                match moved {
                    Some(Ok((next, hears))) if !present.is_together(&next, cluster) => {
                        (client, heard) = (next, hears);
                    }
                    // At the next beat.
                    _ => {}
                }
            }
            Some(message) = heard.next() => present.hear(&message),
        }
    }
}

async fn connect(
    present: &Present,
    cluster: &ClusterOptions,
) -> Result<(async_nats::Client, async_nats::Subscriber), String> {
    let client = jetstream::client(cluster, Purpose::Presence).await;
    let client = client.map_err(|error| error.to_string())?;
    let heard = client.subscribe(present.subject.clone()).await;
    let heard = heard.map_err(|error| error.to_string())?;
    Ok((client, heard))
}
