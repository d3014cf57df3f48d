//! `AgentHostService.Serve` over tonic. What the host says goes to
//! [`crate::agent::host`]; a status only ends the stream, or refuses to open it.

use std::sync::Arc;

use futures_util::StreamExt;
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::MESSAGE_BYTES_MAX;
use super::status::of_host;
use crate::agent::host::{Hosts, serve};
use crate::log::Log;
use crate::protocol::host::HostRequest;
use crate::wire::proto::agent_host_service_server::{AgentHostService, AgentHostServiceServer};
use crate::wire::proto::{ServeRequest, ServeResponse};
use crate::wire::{Invalid, host_reply_to_proto, host_request_from_proto};

/// Replies that may wait for the transport.
const REPLIES_MAX: usize = 64;

pub type Service = AgentHostServiceServer<Serving>;

pub fn service(hosts: Arc<Hosts>, log: Log) -> Service {
    AgentHostServiceServer::new(Serving { hosts, log })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX)
}

pub struct Serving {
    hosts: Arc<Hosts>,
    log: Log,
}

#[tonic::async_trait]
impl AgentHostService for Serving {
    type ServeStream = futures_util::stream::BoxStream<'static, Result<ServeResponse, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<ServeRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let bearer = super::bearer(&request.metadata().clone().into_headers());
        let token = bearer.map_or_else(String::new, |token| token.expose_secret().to_owned());
        let stay = request.extensions().get().cloned();
        let stay = stay.ok_or_else(|| Status::internal("the connection has no stay"))?;
        let inbound = super::until_broken(request.into_inner())
            .filter_map(|frame| std::future::ready(received(frame)))
            .boxed();
        let (outbound, replies) = mpsc::channel(REPLIES_MAX);
        let served = tokio::spawn(serve(
            self.hosts.clone(),
            token,
            inbound,
            outbound,
            self.log.clone(),
            stay,
        ));
        let replies = ReceiverStream::new(replies).map(|reply| Ok(host_reply_to_proto(reply)));
        let end = futures_util::stream::once(async move {
            match served.await {
                Ok(refusal) => Err(of_host(refusal)),
                Err(_) => Err(Status::internal("the stream's task panicked")),
            }
        });
        Ok(Response::new(replies.chain(end).boxed()))
    }
}

/// `None` when the stream is broken: the host has gone.
fn received(frame: Result<ServeRequest, Status>) -> Option<Result<HostRequest, Invalid>> {
    match frame {
        Ok(request) => Some(host_request_from_proto(request)),
        Err(status) if status.code() == tonic::Code::OutOfRange => {
            Some(Err(Invalid::new(format!(
                "message: larger than {MESSAGE_BYTES_MAX} bytes; the stream ends here, dial again"
            ))))
        }
        Err(status) if status.code() == tonic::Code::Internal => Some(Err(Invalid::new(format!(
            "message: not a ServeRequest; the stream ends here: {}",
            status.message()
        )))),
        Err(_) => None,
    }
}
