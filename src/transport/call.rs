//! One gRPC call by hand: its message in, messages out that are encoded
//! already, its status behind them.
//!
//! It does what `tonic::server::Grpc` does but for two things: bytes of the log
//! go out without being decoded, and a message that cannot be read is refused
//! with details like any other.

use std::convert::Infallible;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstDecoder;

use super::MESSAGE_BYTES_MAX;
use crate::protocol::Failure;
use crate::session::Chunk;

const GRPC: &str = "application/grpc";

/// A refusal when the request is not gRPC, or compressed.
pub fn refuse(headers: &http::HeaderMap) -> Option<http::Response<Body>> {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    if !content_type.is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes())) {
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(response);
    }
    let encoding = headers.get("grpc-encoding");
    encoding
        .filter(|encoding| *encoding != "identity")
        .map(|_| Status::unimplemented("grpc-encoding: only identity is supported").into_http())
}

/// The one message of a call.
pub async fn message<M: Message + Default + 'static>(body: Body) -> Result<M, Failure> {
    let decoder = ProstDecoder::default();
    let limit = Some(MESSAGE_BYTES_MAX);
    let mut messages = Streaming::<M>::new_request(decoder, body, None, limit);
    match messages.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Failure::invalid("frame: the call has no message")),
        Err(status) if status.code() == Code::OutOfRange => Err(Failure::invalid(format!(
            "frame: larger than {MESSAGE_BYTES_MAX} bytes"
        ))),
        Err(status) => Err(Failure::invalid(format!("frame: {}", status.message()))),
    }
}

/// A message behind room for its length.
pub fn encoded(message: &impl Message) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(Chunk::PREFIX_BYTES + message.encoded_len());
    bytes.extend_from_slice(&[0; Chunk::PREFIX_BYTES]);
    message.encode_raw(&mut bytes);
    bytes
}

/// Not compressed, and the length, in the room left for them.
fn framed(mut message: BytesMut) -> Bytes {
    let length = message.len() - Chunk::PREFIX_BYTES;
    message[1..Chunk::PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    message.freeze()
}

/// Answers with messages; the call ends well, or with the status of the first error.
pub fn answer<S>(messages: S) -> http::Response<Body>
where
    S: Stream<Item = Result<BytesMut, Status>> + Send + 'static,
{
    let ended = stream::once(std::future::ready(Err(Status::ok(""))));
    let frames = messages.chain(ended).scan(false, |over, message| {
        let frame = match (std::mem::replace(over, message.is_err()), message) {
            (true, _) => None,
            (false, Ok(message)) => Some(Frame::data(framed(message))),
            (false, Err(status)) => Some(Frame::trailers(trailers(&status))),
        };
        std::future::ready(frame.map(Ok::<_, Infallible>))
    });
    let mut response = http::Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(GRPC),
    );
    response
}

fn trailers(status: &Status) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // A message that is no header value; the code is what counts.
        let code = http::HeaderValue::from(status.code() as i32);
        trailers.insert("grpc-status", code);
    }
    trailers
}
