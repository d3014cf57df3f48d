//! The floor of a remote agent: bare tonic between a host's stream and a client's, and
//! an echo of its questions.
//! Every report is decoded, put into an envelope and encoded again, by prost;
//! nothing is stored or checked.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::bench::client::{sample, sample_end};
use crate::wire::proto::agent_host_service_server::AgentHostService;
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::serve_request::Message as Say;
use crate::wire::proto::serve_response::Message as Hear;
use crate::wire::proto::{
    self, AssignmentRef, Envelope, ServeRequest, ServeResponse, SessionResponse, report,
};

type Responses = mpsc::Sender<Result<SessionResponse, Status>>;

/// From the one host to the one client there is at a time.
#[derive(Clone, Default)]
pub struct Relay(Arc<Mutex<Option<Responses>>>);

impl Relay {
    /// The client's stream, from now on.
    pub fn to(&self, client: Responses) {
        *self.0.lock() = Some(client);
    }
}

#[tonic::async_trait]
impl AgentHostService for Relay {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<ServeResponse, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<ServeRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut requests = request.into_inner();
        let (replies, rx) = mpsc::channel(4);
        let of = AssignmentRef {
            job_id: "job_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
            lease_token: "token".into(),
        };
        let r#ref = Some(of);
        let assign = proto::Assign {
            r#ref,
            ..Default::default()
        };
        for message in [Hear::Registered(Default::default()), Hear::Assign(assign)] {
            let message = Some(message);
            // The channel has room for both.
            let _ = replies.try_send(Ok(ServeResponse { message }));
        }
        let relay = self.clone();
        tokio::spawn(async move {
            let header = sample(0);
            while let Ok(Some(request)) = requests.message().await {
                let reports = match request.message {
                    Some(Say::Reports(reports)) => reports,
                    Some(Say::Authorize(asked)) => {
                        let answer = Hear::AuthorizeResult(proto::AuthorizeResult {
                            r#ref: asked.r#ref,
                            call_id: asked.call_id,
                            allowed: true,
                            ..Default::default()
                        });
                        let message = Some(answer);
                        // A peer that has gone ends the round.
                        let _ = replies.send(Ok(ServeResponse { message })).await;
                        continue;
                    }
                    _ => continue,
                };
                let envelopes = reports.reports.into_iter();
                let envelopes = envelopes.map(|report| envelope(&header, report)).collect();
                let client = relay.0.lock().clone();
                if let Some(client) = client {
                    // A peer that has gone ends the round.
                    let _ = client.send(Ok(SessionResponse { envelopes })).await;
                }
            }
            drop(replies);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

fn envelope(header: &Envelope, report: proto::Report) -> Envelope {
    match report.report {
        Some(report::Report::Event(event)) => Envelope {
            arcp: header.arcp.clone(),
            id: header.id.clone(),
            session_id: header.session_id.clone(),
            job_id: header.job_id.clone(),
            trace_id: header.trace_id.clone(),
            event_seq: report.seq,
            payload: Some(Payload::JobEvent(event)),
            ..Default::default()
        },
        _ => sample_end(report.seq),
    }
}
