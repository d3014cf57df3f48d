//! The connection to the servers that have the log, and the stream there.

mod found;
mod settings;

use std::future::{Ready, ready};
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerError};
use secrecy::{ExposeSecret, SecretString};

use super::{ClusterOptions, refused, subject};
use crate::log::Error;
use crate::log::denied::Denied;

/// An entry with the largest command or block there is, and a full one beside it.
const PAYLOAD_MIN: usize = 2 * 1024 * 1024;
/// A server that is paused, or behind a network that drops packets, takes a connection and
/// says nothing: then the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After three that are not answered the connection is given up for another server.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection to the stream's leader: of three servers none of twelve is to it once
/// in a hundred times.
pub(super) const LEADER_TRIES: usize = 12;
const LEADER_WITHIN: Duration = Duration::from_millis(500);

/// Who this replica is to the servers, and how it knows them.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub login: Login,
    pub require_tls: bool,
    /// PEM; trusted instead of the machine's authorities. Read for each connection, as
    /// the identity is: a renewed certificate is used from the next one.
    pub tls_ca: Option<PathBuf>,
    /// PEM: the certificate and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// What they do not let it do; of all connections that were made with this.
    pub denied: Denied,
}

#[derive(Clone, Debug, Default)]
pub enum Login {
    #[default]
    Nobody,
    /// A `.creds` file: a JWT and the key it is for.
    Credentials(SecretString),
    Password {
        user: String,
        password: SecretString,
    },
    Token(SecretString),
}

/// What a connection is for, as the servers list it.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// What this replica writes and asks.
    Write,
    Follow,
    Presence,
}

/// A connection to one of the servers.
pub async fn client(
    cluster: &ClusterOptions,
    purpose: Purpose,
) -> Result<async_nats::Client, Error> {
    let servers: Vec<_> = cluster.servers.split(',').map(str::trim).collect();
    let connected = options(cluster, purpose)?.connect(servers).await;
    connected.map_err(|error| unreachable(cluster, &error.to_string(), hint(cluster, error.kind())))
}

pub(super) async fn connect(
    cluster: &ClusterOptions,
    purpose: Purpose,
    absent: Absent,
) -> Result<(async_nats::Client, jetstream::Context, stream::Stream), Error> {
    let client = client(cluster, purpose).await?;
    let payload = client.server_info().max_payload;
    if payload < PAYLOAD_MIN {
        return Err(refused(
            cluster,
            &format!(
                "its servers take messages of {payload} bytes, {PAYLOAD_MIN} are needed; set \
                 max_payload: 8MB in their configuration"
            ),
        ));
    }
    let stream = found::found(&context(&client), cluster, absent).await?;
    let config = &stream.cached_info().config;
    if let Some(why) = settings::amiss(config, &subject(&cluster.name)) {
        return Err(refused(cluster, &why));
    }
    let has = config.num_replicas;
    if has < cluster.replication {
        return Err(refused(
            cluster,
            &format!(
                "it is kept {has} times and {} are asked for; raise its replicas, or say \
                 --cluster-replication {has}",
                cluster.replication
            ),
        ));
    }
    let client = beside_leader(cluster, purpose, client, stream.cached_info()).await;
    let jetstream = context(&client);
    let stream = found::found(&jetstream, cluster, Absent::Refused).await?;
    Ok((client, jetstream, stream))
}

fn context(client: &async_nats::Client) -> jetstream::Context {
    let mut jetstream = jetstream::new(client.clone());
    jetstream.set_timeout(ACK_TIMEOUT);
    jetstream
}

/// What goes to the stream by another server than its leader goes from there to the leader,
/// and back the same way. Each connection is to a server at random, so some are made. It is
/// no loss where there is none in time, or the leader changes later.
async fn beside_leader(
    cluster: &ClusterOptions,
    purpose: Purpose,
    client: async_nats::Client,
    info: &stream::Info,
) -> async_nats::Client {
    let servers = info.cluster.as_ref();
    let Some(leader) = servers.and_then(|servers| servers.leader.as_ref()) else {
        return client;
    };
    let is_there = |client: &async_nats::Client| client.server_info().server_name == *leader;
    if is_there(&client) {
        return client;
    }
    let look = async {
        for _ in 0..LEADER_TRIES {
            match self::client(cluster, purpose).await {
                Ok(another) if is_there(&another) => return Some(another),
                _ => {}
            }
        }
        None
    };
    let found = tokio::time::timeout(LEADER_WITHIN, look).await;
    found.ok().flatten().unwrap_or(client)
}

/// What a stream that is not there is to whoever connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// A cell that begins: it is made.
    Made,
    /// A loss: this replica has followed it.
    Lost,
    /// A wrong name, or a loss: there is nothing to read.
    Refused,
}

fn options(cluster: &ClusterOptions, purpose: Purpose) -> Result<ConnectOptions, Error> {
    let access = &cluster.access;
    let purpose = match purpose {
        Purpose::Write => "writes",
        Purpose::Follow => "follows",
        Purpose::Presence => "presence",
    };
    let mut options = ConnectOptions::new()
        .name(format!("arcpd {} {purpose}", cluster.replica))
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .require_tls(access.require_tls)
        .event_callback(listener(access.denied.clone()));
    if let Some(path) = &access.tls_ca {
        options = options.add_root_certificates(path.clone());
    }
    if let Some((cert, key)) = &access.tls_identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(match &access.login {
        Login::Nobody => options,
        Login::Credentials(text) => options
            // It has to end as a line does, and a secret's file is read without its end.
            .credentials(&format!("{}\n", text.expose_secret()))
            // What it says may have a part of the file in it.
            .map_err(|_| {
                let why = "cluster.credentials_file: has no JWT and key as nsc writes them";
                Error::Unavailable(why.into())
            })?,
        Login::Password { user, password } => {
            options.user_and_password(user.clone(), password.expose_secret().into())
        }
        Login::Token(token) => options.token(token.expose_secret().into()),
    })
}

/// The client library logs each event by itself.
fn listener(denied: Denied) -> impl Fn(Event) -> Ready<()> + Send + Sync + 'static {
    move |event| {
        if let Event::ServerError(ServerError::Other(said)) = event {
            denied.on_error(&said);
        }
        ready(())
    }
}

/// What to look at when there is no connection.
fn hint(cluster: &ClusterOptions, kind: ConnectErrorKind) -> &'static str {
    match (kind, &cluster.access.login) {
        (ConnectErrorKind::AuthorizationViolation, Login::Nobody) => {
            "they ask who this is; give cluster.credentials_file, cluster.user with \
             cluster.password_file, or cluster.token_file"
        }
        (ConnectErrorKind::AuthorizationViolation, Login::Credentials(_)) => {
            "check cluster.credentials_file"
        }
        (ConnectErrorKind::AuthorizationViolation, Login::Password { .. }) => {
            "check cluster.user and cluster.password_file"
        }
        (ConnectErrorKind::AuthorizationViolation, Login::Token(_)) => "check cluster.token_file",
        _ if cluster.access.require_tls || kind == ConnectErrorKind::Tls => {
            "check --cluster, and for TLS cluster.tls_ca_file, cluster.tls_cert_file and \
             cluster.tls_key_file"
        }
        _ => "check --cluster",
    }
}

fn unreachable(cluster: &ClusterOptions, error: &str, hint: &str) -> Error {
    let servers = &cluster.servers;
    Error::Unavailable(format!("cluster: cannot reach {servers}: {error}; {hint}"))
}
