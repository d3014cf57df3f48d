//! A gRPC client that decodes and checks everything it receives; the same for
//! the runtime and the floor.

use anyhow::{Context, bail, ensure};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::wire::proto::envelope::Payload;
use crate::wire::proto::runtime_service_client::RuntimeServiceClient;
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
    pub session_id: String,
    pub token: String,
    /// The last numbered envelope.
    pub last_seq: u64,
    next_id: u64,
}

impl Peer {
    /// `name` tells the floor what to do; the runtime does not mind it.
    pub async fn open(
        channel: Channel,
        name: &str,
        resume: Option<proto::Resume>,
    ) -> anyhow::Result<Self> {
        let (requests, rx) = mpsc::channel(64);
        let last_seq = resume.as_ref().map_or(0, |resume| resume.last_event_seq);
        let hello = proto::SessionHello {
            client_name: name.into(),
            auth_scheme: "bearer".into(),
            features: crate::protocol::feature::SUPPORTED
                .map(String::from)
                .to_vec(),
            resume,
            ..Default::default()
        };
        requests
            .send(request("h", "", "", Payload::SessionHello(hello)))
            .await?;
        let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client.session(ReceiverStream::new(rx)).await?.into_inner();
        Ok(Self {
            requests,
            responses,
            ready: Vec::new().into_iter(),
            session_id: String::new(),
            token: String::new(),
            last_seq,
            next_id: 0,
        })
    }

    /// A session of the runtime.
    pub async fn session(channel: Channel) -> anyhow::Result<Self> {
        Self::open(channel, "bench", None).await?.welcomed().await
    }

    pub async fn welcomed(mut self) -> anyhow::Result<Self> {
        let envelope = self.recv().await?;
        let Some(Payload::SessionWelcome(welcome)) = envelope.payload else {
            bail!("no welcome: {envelope:?}");
        };
        self.session_id = envelope.session_id;
        self.token = welcome.resume_token;
        Ok(self)
    }

    pub async fn send(&mut self, job_id: &str, payload: Payload) -> anyhow::Result<()> {
        self.next_id += 1;
        let id = format!("b{}", self.next_id);
        let request = request(&id, &self.session_id, job_id, payload);
        Ok(self.requests.send(request).await?)
    }

    pub async fn recv(&mut self) -> anyhow::Result<Envelope> {
        loop {
            if let Some(envelope) = self.ready.next() {
                return Ok(envelope);
            }
            let response = self.responses.message().await?;
            self.ready = response.context("the stream ended")?.envelopes.into_iter();
        }
    }

    pub async fn submit(&mut self, agent: &str, input_json: &str) -> anyhow::Result<()> {
        let submit = proto::JobSubmit {
            agent: agent.into(),
            input_json: input_json.into(),
            ..Default::default()
        };
        self.send("", Payload::JobSubmit(submit)).await
    }

    /// The job of the submit that was sent.
    pub async fn accepted(&mut self) -> anyhow::Result<String> {
        loop {
            let envelope = self.recv().await?;
            match envelope.payload {
                Some(Payload::JobAccepted(_)) => return Ok(envelope.job_id),
                Some(Payload::SessionError(error)) => bail!("refused: {}", error.message),
                _ => {}
            }
        }
    }

    pub async fn subscribe(&mut self, job_id: &str, history: bool) -> anyhow::Result<()> {
        let subscribe = proto::JobSubscribe {
            history,
            ..Default::default()
        };
        self.send(job_id, Payload::JobSubscribe(subscribe)).await?;
        loop {
            match self.recv().await?.payload {
                Some(Payload::JobSubscribed(_)) => return Ok(()),
                Some(Payload::SessionError(error)) => bail!("refused: {}", error.message),
                _ => {}
            }
        }
    }

    /// Reads numbered envelopes up to a terminal; returns how many. Each must
    /// have the number after the last.
    pub async fn until_terminal(&mut self) -> anyhow::Result<u64> {
        let first = self.last_seq;
        loop {
            let envelope = self.recv().await?;
            if envelope.event_seq == 0 {
                continue;
            }
            let (expected, found) = (self.last_seq + 1, envelope.event_seq);
            ensure!(
                found == expected,
                "event_seq {found} where {expected} was due"
            );
            self.last_seq = found;
            match envelope.payload {
                Some(Payload::JobResult(_)) => return Ok(self.last_seq - first),
                Some(Payload::JobError(error)) => bail!("the job failed: {}", error.message),
                _ => {}
            }
        }
    }
}

fn request(id: &str, session_id: &str, job_id: &str, payload: Payload) -> SessionRequest {
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
