//! The stream of the log at servers that may have just begun: whether it will be there in
//! a moment, has to be made, or is not to be had.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream};
use tokio::time::Instant;

use super::super::{ClusterOptions, FORMAT_KEY, refused, stream_name, subject};
use super::{Absent, unreachable};
use crate::log::Error;

/// For servers that begin one after the other to find each other, agree on a leader and
/// give a new stream its own.
const FORMED_WITHIN: Duration = Duration::from_secs(60);
/// Servers that have just begun may not know of a stream yet.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Servers that have just begun, and a stream that another replica has just made, have a
/// leader in a moment and answer nobody before.
pub(super) async fn found(
    jetstream: &jetstream::Context,
    cluster: &ClusterOptions,
    absent: Absent,
) -> Result<stream::Stream, Error> {
    let until = Instant::now() + FORMED_WITHIN;
    let mut absent_since = None;
    let mut said = String::new();
    loop {
        let failure = match absent {
            Absent::Made => made(jetstream, cluster).await,
            Absent::Lost | Absent::Refused => there(jetstream, cluster).await,
        };
        let (error, until) = match failure {
            Ok(stream) => return Ok(stream),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Soon(error)) => {
                absent_since = None;
                (error, until)
            }
            Err(Failure::Absent) => {
                let since = *absent_since.get_or_insert_with(Instant::now);
                (not_there(cluster, absent), since + KNOWN_WITHIN)
            }
        };
        if Instant::now() >= until {
            return Err(error);
        }
        let why = error.to_string();
        if said != why {
            tracing::info!(error = why, "the stream of the log is asked for again");
            said = why;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

enum Failure {
    Soon(Error),
    Absent,
    Refused(Error),
}

async fn made(
    jetstream: &jetstream::Context,
    cluster: &ClusterOptions,
) -> Result<stream::Stream, Failure> {
    let made = jetstream.get_or_create_stream(wanted(cluster)).await;
    made.map_err(|error| match error.kind() {
        CreateStreamErrorKind::TimedOut => unanswered(cluster, &error.to_string()),
        CreateStreamErrorKind::JetStream(error) => match may_be_there_soon(error.error_code()) {
            true => Failure::Soon(answered(cluster, &error)),
            false => Failure::Refused(answered(cluster, &error)),
        },
        _ => Failure::Refused(refuses(cluster, &error.to_string())),
    })
}

async fn there(
    jetstream: &jetstream::Context,
    cluster: &ClusterOptions,
) -> Result<stream::Stream, Failure> {
    let there = jetstream.get_stream(stream_name(&cluster.name)).await;
    there.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            Failure::Absent
        }
        GetStreamErrorKind::JetStream(error) => Failure::Soon(answered(cluster, &error)),
        GetStreamErrorKind::Request => unanswered(cluster, &error.to_string()),
        _ => Failure::Refused(refuses(cluster, &error.to_string())),
    })
}

/// Whoever has no right to ask is not answered either.
fn unanswered(cluster: &ClusterOptions, error: &str) -> Failure {
    match cluster.access.denied.lately() {
        Some(denied) => Failure::Refused(unreachable(cluster, error, &denied)),
        None => Failure::Soon(refuses(cluster, error)),
    }
}

fn may_be_there_soon(code: ErrorCode) -> bool {
    matches!(
        code,
        // Another replica has made it in the same moment, with an identity of its own.
        ErrorCode::STREAM_NAME_EXIST
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::CLUSTER_INCOMPLETE
            | ErrorCode::CLUSTER_NO_PEERS
    )
}

/// What the servers have answered, and what to do about it.
fn answered(cluster: &ClusterOptions, error: &jetstream::Error) -> Error {
    let copies = cluster.replication;
    let hint = match error.error_code() {
        ErrorCode::CLUSTER_NOT_AVAILABLE
        | ErrorCode::CLUSTER_NOT_LEADER
        | ErrorCode::CLUSTER_NOT_ACTIVE => "the NATS servers have no leader: more than half of \
             them must run and reach each other"
            .into(),
        ErrorCode::CLUSTER_INCOMPLETE | ErrorCode::CLUSTER_NO_PEERS => format!(
            "--cluster-replication {copies} needs {copies} NATS servers with room: start the \
             others, or ask for fewer copies"
        ),
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => format!(
            "--cluster-replication {copies} is for a NATS cluster of {copies} servers or more, \
             and this one has no others: give one, or say --cluster-replication 1, which keeps \
             one copy of the log and loses it with that server"
        ),
        _ => return refuses(cluster, &error.to_string()),
    };
    refused(cluster, &format!("{error}; {hint}"))
}

fn refuses(cluster: &ClusterOptions, error: &str) -> Error {
    let hint = "check that JetStream is on and that this user may use it";
    unreachable(cluster, error, hint)
}

fn not_there(cluster: &ClusterOptions, absent: Absent) -> Error {
    let why = match absent {
        Absent::Made | Absent::Refused => {
            "there is none; check --cluster and cluster.name, and if it is lost see \"Backup and \
             restore\" in docs/cluster.md"
        }
        Absent::Lost => {
            "it is not there, and the data directory is of one: check --cluster and cluster.name; \
             if the servers have lost it, see \"Backup and restore\" in docs/cluster.md"
        }
    };
    refused(cluster, why)
}

fn wanted(cluster: &ClusterOptions) -> stream::Config {
    stream::Config {
        name: stream_name(&cluster.name),
        subjects: vec![subject(&cluster.name)],
        storage: stream::StorageType::File,
        num_replicas: cluster.replication,
        // Nothing is refused or lost for age or size: a log that is too large is an
        // operator's to shorten, after all replicas have read it.
        retention: stream::RetentionPolicy::Limits,
        discard: stream::DiscardPolicy::New,
        deny_delete: true,
        allow_direct: true,
        metadata: [(FORMAT_KEY.into(), ulid::Ulid::generate().to_string())].into(),
        description: Some("The log of an arcpd cell; see docs/cluster.md".into()),
        ..stream::Config::default()
    }
}
