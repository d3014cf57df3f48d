//! Requests and their answers. One that a broken connection left without an
//! answer is sent again after the resume, under the same id.

use super::{Client, Error};
use crate::protocol::{Timestamp, id};
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::{self, Envelope};
use crate::wire::ts_to_proto;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Submit {
    /// `name` or `name@version`.
    pub agent: String,
    /// JSON text; empty is null.
    pub input_json: String,
    /// Made up when empty, so that a retry never makes a second job.
    pub idempotency_key: String,
    /// 0 is no limit.
    pub max_runtime_sec: u64,
    /// 32 hex digits; the runtime makes one up when empty.
    pub trace_id: String,
    /// Capability to patterns, a JSON object; empty asks for nothing.
    pub lease_request_json: String,
    pub lease_expires_at: Option<Timestamp>,
}

/// A job the runtime has taken.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub job_id: String,
    /// `name@version`.
    pub agent: String,
    pub trace_id: String,
}

impl Client {
    pub async fn submit(&mut self, submit: Submit) -> Result<Accepted, Error> {
        let idempotency_key = match submit.idempotency_key.is_empty() {
            true => format!("arcpd-{}", id::message_id()),
            false => submit.idempotency_key,
        };
        let payload = Payload::JobSubmit(proto::JobSubmit {
            agent: submit.agent,
            input_json: submit.input_json,
            idempotency_key,
            max_runtime_sec: submit.max_runtime_sec,
            lease_request_json: submit.lease_request_json,
            lease_expires_at: submit.lease_expires_at.and_then(ts_to_proto),
        });
        let answer = self.request("", &submit.trace_id, payload).await?;
        match answer.payload {
            Some(Payload::JobAccepted(accepted)) => Ok(Accepted {
                job_id: answer.job_id,
                agent: accepted.agent,
                trace_id: answer.trace_id,
            }),
            other => Err(Error::Unexpected(format!("{other:?} to a submit"))),
        }
    }

    /// Follows a job; with `history`, from its start.
    pub async fn subscribe(
        &mut self,
        job_id: &str,
        history: bool,
    ) -> Result<proto::JobSubscribed, Error> {
        let payload = Payload::JobSubscribe(proto::JobSubscribe {
            history,
            ..Default::default()
        });
        match self.request(job_id, "", payload).await?.payload {
            Some(Payload::JobSubscribed(subscribed)) => Ok(subscribed),
            other => Err(Error::Unexpected(format!("{other:?} to a subscribe"))),
        }
    }

    /// Asks a job to stop; its terminal comes in the stream.
    pub async fn cancel(&mut self, job_id: &str, reason: &str) -> Result<(), Error> {
        let payload = Payload::JobCancel(proto::JobCancel {
            reason: reason.into(),
            code: String::new(),
        });
        self.request(job_id, "", payload).await.map(drop)
    }

    /// One page of this principal's jobs.
    pub async fn list(
        &mut self,
        list: proto::SessionListJobs,
    ) -> Result<proto::SessionJobs, Error> {
        match self
            .request("", "", Payload::SessionListJobs(list))
            .await?
            .payload
        {
            Some(Payload::SessionJobs(jobs)) => Ok(jobs),
            other => Err(Error::Unexpected(format!("{other:?} to a list"))),
        }
    }

    /// Says goodbye. Jobs run on; the session can still be resumed for a while.
    pub async fn close(mut self) {
        self.send("", "", Payload::SessionClose(Default::default()))
            .await;
        while let Some(connection) = &mut self.connection {
            match connection.recv().await {
                Some(envelope) if !matches!(envelope.payload, Some(Payload::SessionClosed(_))) => {}
                _ => break,
            }
        }
    }

    async fn request(
        &mut self,
        job_id: &str,
        trace_id: &str,
        payload: Payload,
    ) -> Result<Envelope, Error> {
        let id = self.send(job_id, trace_id, payload.clone()).await;
        let mut resumed = self.resumed;
        loop {
            let envelope = self.step().await?;
            if self.resumed != resumed {
                // The question may have been lost with the connection.
                resumed = self.resumed;
                self.send_as(&id, job_id, trace_id, payload.clone()).await;
            }
            let Some(envelope) = envelope else { continue };
            match &envelope.payload {
                Some(Payload::SessionError(error)) if error.request_id == id => {
                    return Err(error.clone().into());
                }
                Some(Payload::SessionError(error)) if error.request_id.is_empty() => {
                    return Err(error.clone().into());
                }
                payload if answers(payload.as_ref(), &id, &envelope.job_id, job_id) => {
                    return Ok(envelope);
                }
                _ => self.ready.push_back(envelope),
            }
        }
    }
}

fn answers(payload: Option<&Payload>, id: &str, about: &str, job_id: &str) -> bool {
    match payload {
        Some(Payload::JobAccepted(answer)) => answer.request_id == id,
        Some(Payload::JobSubscribed(answer)) => answer.request_id == id,
        Some(Payload::SessionJobs(answer)) => answer.request_id == id,
        // Has no request_id; the job tells.
        Some(Payload::JobCancelled(_)) => about == job_id,
        _ => false,
    }
}
