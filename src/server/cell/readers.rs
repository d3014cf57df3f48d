//! Who at other replicas has still to read a job that is to be trimmed here.
//!
//! One replica of a cell trims, and what it removes is gone everywhere; what a session has
//! read is known where it is connected. So the others are asked, and nothing goes while
//! one does not answer. From its answer until the trim each holds back whoever begins to
//! read, as the one that trims does.
//!
//! ```text
//!  trims ──question──▶ others    which of these does a session of yours read?
//!        ◀──answers───           these; nobody begins until you are done
//!        ──log: TrimJobs──▶
//!        ──over─────▶ others
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::fanout::Hub;
use crate::log::{Error, Log, ReplicaNumber, StreamId};

/// For all answers; who takes longer is asked again with the next pass. Until then those
/// who answered hold readers back.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Readers are held back so long for one that does not say that it is done: longer than
/// it waits for the others' answers and then for the log's.
const HELD_MAX: Duration = Duration::from_secs(15);
/// The log is asked again so soon whether the trim is in it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize, Serialize)]
struct Question {
    replica: ReplicaNumber,
    /// Empty when the trim is over.
    streams: Vec<StreamId>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    replica: ReplicaNumber,
    read: Vec<StreamId>,
}

/// The sessions of the cell, of which this replica has a part.
#[derive(Clone)]
pub struct Readers {
    pub(super) me: ReplicaNumber,
    pub(super) subject: String,
    pub(super) client: async_nats::Client,
    pub(super) log: Log,
}

impl Readers {
    /// Whether this is the replica that trims: the oldest. Two that do so for a moment
    /// do no harm.
    pub async fn trims(&self) -> Result<bool, Error> {
        let others = self.others().await?;
        Ok(others.iter().all(|other| *other > self.me))
    }

    /// By the log, heard of or not.
    async fn others(&self) -> Result<HashSet<ReplicaNumber>, Error> {
        let all = self.log.replicas().await?.into_iter();
        let there = all.filter(|replica| !replica.gone && replica.number != self.me);
        Ok(there.map(|replica| replica.number).collect())
    }

    /// Those that sessions elsewhere have still to read; none if that cannot be said now.
    /// [`Readers::over`] follows in either case.
    pub async fn of(&self, streams: &[StreamId]) -> Result<Option<HashSet<StreamId>>, Error> {
        let mut missing = self.others().await?;
        if missing.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        let asked = self.ask(streams, &mut missing);
        Ok(match timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(read)) => Some(read),
            Ok(Err(why)) => {
                tracing::warn!(why, "the other replicas were not asked what they read");
                None
            }
            Err(_) => {
                tracing::info!(
                    ?missing,
                    "nothing is trimmed: replicas do not say what they read"
                );
                None
            }
        })
    }

    async fn ask(
        &self,
        streams: &[StreamId],
        missing: &mut HashSet<ReplicaNumber>,
    ) -> Result<HashSet<StreamId>, String> {
        // Not one of the client's: whoever may be a replica may publish below this.
        let inbox = format!("{}.{}", self.subject, ulid::Ulid::generate());
        let answers = self.client.subscribe(inbox.clone()).await;
        let mut answers = answers.map_err(|error| error.to_string())?;
        let question = self.question(streams)?;
        let asked = (self.client).publish_with_reply(self.subject.clone(), inbox, question);
        asked.await.map_err(|error| error.to_string())?;
        let mut read = HashSet::new();
        while !missing.is_empty() {
            let message = answers.next().await.ok_or("the connection is closed")?;
            let answer: Answer =
                serde_json::from_slice(&message.payload).map_err(|error| error.to_string())?;
            missing.remove(&answer.replica);
            read.extend(answer.read);
        }
        Ok(read)
    }

    fn question(&self, streams: &[StreamId]) -> Result<bytes::Bytes, String> {
        let question = Question {
            replica: self.me,
            streams: streams.to_vec(),
        };
        let json = serde_json::to_vec(&question);
        json.map(Into::into).map_err(|error| error.to_string())
    }

    /// What was asked for is trimmed, or stays.
    pub async fn over(&self) {
        if let Ok(over) = self.question(&[]) {
            // Who does not hear it holds readers back for a moment more.
            let _ = self.client.publish(self.subject.clone(), over).await;
        }
    }

    /// Answers the others.
    pub(super) async fn answer(self, mut asked: async_nats::Subscriber, hub: Arc<Hub>) {
        while let Some(message) = asked.next().await {
            let Some(question) = self.read(&message) else {
                continue;
            };
            let (false, Some(inbox)) = (question.streams.is_empty(), message.reply) else {
                continue;
            };
            let _trimming = hub.trimming().await;
            let followed = |stream: &StreamId| hub.is_followed(*stream);
            let answer = Answer {
                replica: self.me,
                read: question.streams.into_iter().filter(followed).collect(),
            };
            let Ok(answer) = serde_json::to_vec(&answer) else {
                continue;
            };
            if self.client.publish(inbox, answer.into()).await.is_ok() {
                let trimmed = self.trimmed(&mut asked, question.replica);
                let _ = timeout(HELD_MAX, trimmed).await;
            }
        }
    }

    /// Resolves once what a replica asked about is trimmed here too.
    async fn trimmed(&self, asked: &mut async_nats::Subscriber, by: ReplicaNumber) {
        while let Some(message) = asked.next().await {
            // That it is done, or the next it asks, where that was lost: it asks that again.
            if self.read(&message).is_some_and(|next| next.replica == by) {
                break;
            }
        }
        // While the log does not answer the trim may still come.
        while self.log.caught_up().await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn read(&self, message: &async_nats::Message) -> Option<Question> {
        match serde_json::from_slice::<Question>(&message.payload) {
            Ok(question) => (question.replica != self.me).then_some(question),
            Err(error) => {
                tracing::warn!(%error, "a question that cannot be read");
                None
            }
        }
    }
}
