//! The gRPC side of a client; the same for the runtime and the floor.

use anyhow::Context;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{Ask, Kind, Received, Resume};
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::{self, Envelope, SessionRequest, SessionResponse};

pub async fn channel(address: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(5 * 1024 * 1024)
        .tcp_nodelay(true)
        .connect()
        .await?)
}

pub struct Peer {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
    ready: std::vec::IntoIter<Envelope>,
    next_id: u64,
}

impl Peer {
    pub async fn open(
        channel: Channel,
        name: &str,
        resume: Option<&Resume>,
    ) -> anyhow::Result<Self> {
        let (requests, rx) = mpsc::channel(64);
        requests
            .send(request("h", "", Ask::Hello(name, resume)))
            .await?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        // The floor's fan-out sends messages that are encoded already.
        let path = PathAndQuery::from_static(match name {
            "fan" => "/fan/Session",
            _ => "/arcp.v1.RuntimeService/Session",
        });
        let codec = tonic_prost::ProstCodec::<SessionRequest, SessionResponse>::default();
        let stream = tonic::Request::new(ReceiverStream::new(rx));
        let responses = grpc.streaming(stream, path, codec).await?.into_inner();
        Ok(Self {
            requests,
            responses,
            ready: Vec::new().into_iter(),
            next_id: 0,
        })
    }

    pub async fn send(&mut self, session_id: &str, ask: Ask<'_>) -> anyhow::Result<()> {
        self.next_id += 1;
        let request = request(&format!("b{}", self.next_id), session_id, ask);
        Ok(self.requests.send(request).await?)
    }

    pub async fn recv(&mut self) -> anyhow::Result<Received> {
        loop {
            if let Some(envelope) = self.ready.next() {
                return Ok(received(envelope));
            }
            let response = self.responses.message().await?;
            self.ready = response.context("the stream ended")?.envelopes.into_iter();
        }
    }
}

fn received(envelope: Envelope) -> Received {
    let kind = match envelope.payload {
        Some(Payload::JobEvent(event)) => Kind::Event(match &event.body {
            Some(proto::job_event::Body::Log(log)) => super::count(&log.message),
            _ => None,
        }),
        Some(Payload::JobResult(_)) => Kind::Result,
        Some(Payload::JobError(error)) => Kind::Error(error.message),
        Some(Payload::SessionError(error)) => Kind::Error(error.message),
        Some(Payload::SessionJobs(page)) => Kind::Jobs(page.jobs.len()),
        Some(Payload::JobAccepted(_)) => Kind::Accepted,
        Some(Payload::JobSubscribed(_)) => Kind::Subscribed,
        Some(Payload::SessionBye(bye)) => {
            let after = bye.reconnect_after.and_then(|after| after.try_into().ok());
            Kind::Bye(after.unwrap_or_default())
        }
        Some(Payload::SessionWelcome(welcome)) => Kind::Welcome(Resume {
            session_id: envelope.session_id,
            token: welcome.resume_token,
            last_event_seq: 0,
        }),
        _ => Kind::Other,
    };
    Received {
        event_seq: envelope.event_seq,
        job_id: envelope.job_id,
        kind,
    }
}

fn request(id: &str, session_id: &str, ask: Ask) -> SessionRequest {
    let (job_id, payload) = match ask {
        Ask::Hello(name, resume) => ("", Payload::SessionHello(hello(name, resume))),
        Ask::Submit(agent, input_json) => {
            let submit = proto::JobSubmit {
                agent: agent.into(),
                input_json: input_json.into(),
                ..Default::default()
            };
            ("", Payload::JobSubmit(submit))
        }
        Ask::Subscribe(job_id) => (job_id, Payload::JobSubscribe(Default::default())),
        Ask::Unsubscribe(job_id) => (job_id, Payload::JobUnsubscribe(Default::default())),
        Ask::Jobs(since) => {
            let list = proto::SessionListJobs {
                created_after: crate::wire::ts_to_proto(since),
                ..Default::default()
            };
            ("", Payload::SessionListJobs(list))
        }
        Ask::Ping => ("", Payload::SessionPing(Default::default())),
    };
    let envelope = Envelope {
        arcp: crate::protocol::VERSION.into(),
        id: id.into(),
        session_id: session_id.into(),
        job_id: job_id.into(),
        payload: Some(payload),
        ..Default::default()
    };
    SessionRequest {
        envelope: Some(envelope),
    }
}

fn hello(name: &str, resume: Option<&Resume>) -> proto::SessionHello {
    proto::SessionHello {
        client_name: name.into(),
        auth_scheme: "bearer".into(),
        features: crate::protocol::feature::SUPPORTED
            .map(String::from)
            .to_vec(),
        resume: resume.map(|resume| proto::Resume {
            session_id: resume.session_id.clone(),
            resume_token: resume.token.clone(),
            last_event_seq: resume.last_event_seq,
        }),
        ..Default::default()
    }
}

/// An envelope like those of a firehose, number and terminal aside.
pub fn sample(event_seq: u64) -> Envelope {
    let log = proto::Log {
        level: "info".into(),
        message: format!("{:.<128}", format!("{event_seq:08}")),
        attributes_json: String::new(),
    };
    Envelope {
        arcp: crate::protocol::VERSION.into(),
        id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        session_id: "sess_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        job_id: "job_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        event_seq,
        payload: Some(Payload::JobEvent(proto::JobEvent {
            ts: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 123_000_000,
            }),
            body: Some(proto::job_event::Body::Log(log)),
        })),
        ..Default::default()
    }
}

/// The terminal of a floor's stream.
pub fn sample_end(event_seq: u64) -> Envelope {
    Envelope {
        payload: Some(Payload::JobResult(proto::JobResult::default())),
        ..sample(event_seq)
    }
}
