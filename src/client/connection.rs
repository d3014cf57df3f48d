//! One gRPC stream, from hello to wherever it breaks.

use std::collections::VecDeque;

use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Error, Options};
use crate::protocol::feature;
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::runtime_service_client::RuntimeServiceClient;
use crate::wire::proto::{self, Envelope, SessionRequest};

/// Requests on their way to the transport.
const REQUESTS_MAX: usize = 16;

pub(super) struct Connection {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<proto::SessionResponse>,
    ready: VecDeque<Envelope>,
}

impl Connection {
    /// Dials, says hello, and returns with the welcome.
    pub async fn open(
        options: &Options,
        resume: Option<proto::Resume>,
    ) -> Result<(Self, String, proto::SessionWelcome), Error> {
        let unreachable = |reason: String| Error::Unreachable {
            server: options.server.clone(),
            reason,
        };
        let channel = options.channel().await?;
        let (requests, rx) = mpsc::channel(REQUESTS_MAX);
        let hello = Envelope {
            arcp: crate::protocol::VERSION.into(),
            id: "c0".into(),
            payload: Some(Payload::SessionHello(hello(options, resume))),
            ..Default::default()
        };
        let envelope = Some(hello);
        // The channel is empty and its receiver is right here.
        let _ = requests.try_send(SessionRequest { envelope });
        let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client.session(ReceiverStream::new(rx)).await;
        let responses = responses.map_err(|s| unreachable(s.message().into()))?;
        let mut connection = Self {
            requests,
            responses: responses.into_inner(),
            ready: VecDeque::new(),
        };
        let first = connection.recv().await;
        let first = first.ok_or_else(|| unreachable("the stream ended before a welcome".into()))?;
        match first.payload {
            Some(Payload::SessionWelcome(welcome)) => Ok((connection, first.session_id, welcome)),
            Some(Payload::SessionError(error)) => Err(error.into()),
            other => Err(Error::Unexpected(format!(
                "{other:?} in place of a welcome"
            ))),
        }
    }

    /// `None` once the stream is over, for whatever reason.
    pub async fn recv(&mut self) -> Option<Envelope> {
        while self.ready.is_empty() {
            let response = self.responses.message().await.ok()??;
            self.ready.extend(response.envelopes);
        }
        self.ready.pop_front()
    }

    /// False when the stream is over.
    pub async fn send(&mut self, envelope: Envelope) -> bool {
        let envelope = Some(envelope);
        self.requests
            .send(SessionRequest { envelope })
            .await
            .is_ok()
    }
}

fn hello(options: &Options, resume: Option<proto::Resume>) -> proto::SessionHello {
    proto::SessionHello {
        client_name: env!("CARGO_PKG_NAME").into(),
        client_version: env!("CARGO_PKG_VERSION").into(),
        auth_scheme: "bearer".into(),
        auth_token: options.token.expose_secret().into(),
        encodings: vec!["protobuf".into()],
        features: feature::SUPPORTED.map(String::from).to_vec(),
        resume,
    }
}
