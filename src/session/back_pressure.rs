//! Acks and what a client that acks is told when it falls behind (§6.5).
//!
//! The notice is a record of the log addressed to this session, so it has its
//! number and is replayed like any other; nobody else sees it.

use bytes::BytesMut;

use super::actor::{Actor, End};
use super::unavailable;
use super::view::{Change, Op};
use crate::job::now;
use crate::log::{Command, Position};
use crate::protocol::{Event, EventBody, Failure};
use crate::wire;

impl Actor {
    /// Never beyond what was sent, never backwards.
    pub(super) fn on_ack(&mut self, last_processed_seq: u64) {
        if !self.has("ack") {
            return;
        }
        let sent = self.next_seq - 1;
        self.acks.acked = self.acks.acked.max(last_processed_seq.min(sent));
        self.acks.seen = true;
        self.sessions.jobs.telemetry().metrics.acks.inc();
        if sent - self.acks.acked <= self.sessions.limits.ack_lag_max / 2 {
            self.acks.told = false;
        }
    }

    pub(super) async fn check_lag(&mut self) -> Result<(), End> {
        let lag = (self.next_seq - 1).saturating_sub(self.acks.acked);
        let behind = self.acks.seen && lag > self.sessions.limits.ack_lag_max;
        if !behind || self.acks.told || self.is_replaying() {
            return Ok(());
        }
        self.acks.told = true;
        self.sessions.jobs.telemetry().metrics.back_pressure.inc();
        match self.tell_back_pressure(lag).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.fail(failure)),
        }
    }

    async fn tell_back_pressure(&mut self, lag: u64) -> Result<(), Failure> {
        let log = self.sessions.log.clone();
        // An event is about a job: one that is running, so that the client knows it.
        let Some(job_stream) = self.feed.newest(self.row.stream) else {
            return Ok(());
        };
        let job = log.job_by_stream(job_stream).await.map_err(unavailable)?;
        let Some(job) = job else { return Ok(()) };
        let stream = self.row.stream;
        if !self.feed.watches(stream) {
            let after_seq = log
                .seq_at(stream, Position::MAX)
                .await
                .map_err(unavailable)?;
            let (at, change) = (self.cursor(), Change::Watch { stream, after_seq });
            self.record(&[Op { at, change }]).await?;
            self.feed.watch(stream, after_seq, false);
        }
        let event = Event {
            ts: now(),
            body: EventBody::Status {
                phase: "back_pressure".into(),
                message: Some(format!("{lag} messages are not acknowledged")),
                details_json: Some(format!(
                    r#"{{"threshold":{},"current_seq":{},"last_ack":{}}}"#,
                    self.sessions.limits.ack_lag_max,
                    self.next_seq - 1,
                    self.acks.acked
                )),
            },
        };
        let mut record = BytesMut::new();
        wire::encode_own_event(event, &job.id, &job.trace_id, &mut record);
        let record = record.freeze();
        let appended = log.execute(Command::AppendOwn { stream, record }).await;
        appended.map(drop).map_err(unavailable)
    }
}
