//! ARCP JSON over WebSocket: one envelope per text frame, on `/arcp` and `/`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use secrecy::SecretString;
use tokio::sync::mpsc;

use super::{MESSAGE_BYTES_MAX, OUTBOUND_CHUNKS_MAX};
use crate::drain::Stay;
use crate::protocol::TraceContext;
use crate::session::{Chunk, Connection, Encoding, Goodbye, Inbound, Sessions, attach};
use crate::telemetry::Via;
use crate::wire::{Invalid, parse_json};

/// What is only just too large is read whole, so that it can be answered; a socket that
/// is closed with something unread takes the answer with it.
const READ_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// A session's share of memory: the default of 128 KiB would be most of it.
const READ_BUFFER_BYTES: usize = 4 * 1024;

pub fn router(sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route("/arcp", any(upgrade))
        .route("/", any(upgrade))
        .with_state(sessions)
}

async fn upgrade(
    State(sessions): State<Arc<Sessions>>,
    Extension(stay): Extension<Stay>,
    headers: http::HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !same_origin(&headers) {
        let text = "Origin: must be the host of this runtime\n";
        return (http::StatusCode::FORBIDDEN, text).into_response();
    }
    let (bearer, trace) = (super::bearer(&headers), super::trace(&headers));
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(READ_BYTES_MAX)
        .max_frame_size(READ_BYTES_MAX)
        .on_upgrade(move |socket| serve(sessions, socket, bearer, trace, stay))
}

/// A browser says where a page comes from; one from elsewhere may not use the
/// sockets of whoever looks at it. Other clients send no Origin.
fn same_origin(headers: &http::HeaderMap) -> bool {
    let Some(origin) = headers.get(http::header::ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
    let host = headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    origin.is_some_and(|(_, origin)| Some(origin) == host)
}

async fn serve(
    sessions: Arc<Sessions>,
    socket: WebSocket,
    bearer: Option<SecretString>,
    trace: TraceContext,
    stay: Stay,
) {
    let (sink, stream) = socket.split();
    let (outbound, chunks) = mpsc::channel(OUTBOUND_CHUNKS_MAX);
    let broken = Arc::new(OnceLock::new());
    let every = sessions.limits.heartbeat_interval;
    let writer = tokio::spawn(write(sink, chunks, every, broken.clone()));
    let metrics = sessions.jobs.telemetry().metrics.clone();
    let frames = stream
        .take_while(|frame| std::future::ready(!matches!(frame, Ok(Message::Close(_)))))
        .inspect(move |frame| {
            let bytes = match frame {
                Ok(Message::Text(text)) => text.len(),
                Ok(Message::Binary(bytes)) => bytes.len(),
                _ => return,
            };
            metrics.received(Via::WebSocket, bytes);
        })
        .filter_map(move |frame| std::future::ready(request(frame, &broken)));
    let inbound = super::until_broken(frames)
        .filter_map(|frame| std::future::ready(frame.map_or_else(|Broken(last)| last, Some)));
    let connection = Connection {
        inbound: Inbound::new(inbound),
        outbound,
        encoding: Encoding::Json,
        bearer,
        trace,
        stay,
    };
    attach(sessions, connection).await;
    // The writer ends with the channel; a panic in it is of no use to the peer.
    let _ = writer.await;
}

type Parsed = Result<crate::protocol::Request, Invalid>;

/// Nothing is read behind this; the session may still answer it.
struct Broken(Option<Parsed>);

/// A frame that ends the connection leaves its code.
fn request(
    frame: Result<Message, axum::Error>,
    broken: &OnceLock<u16>,
) -> Option<Result<Parsed, Broken>> {
    match frame {
        Ok(Message::Text(text)) if text.len() > MESSAGE_BYTES_MAX => {
            let _ = broken.set(close_code::SIZE);
            let text = format!(
                "frame: {} bytes, the limit is {MESSAGE_BYTES_MAX}",
                text.len()
            );
            Some(Err(Broken(Some(Err(Invalid::new(text))))))
        }
        Ok(Message::Text(text)) => Some(Ok(parse_json(&text))),
        Ok(Message::Binary(_)) => {
            let text = "frame: must be a text frame with one JSON object";
            Some(Ok(Err(Invalid::new(text))))
        }
        // The library answers pings.
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_)) => None,
        Err(error) => {
            use tokio_tungstenite::tungstenite::Error;
            let error = error.into_inner();
            let code = match error.downcast_ref::<Error>() {
                Some(Error::Capacity(_)) => close_code::SIZE,
                Some(Error::Utf8(_)) => close_code::INVALID,
                // Of a socket that is gone nobody reads it.
                _ => close_code::PROTOCOL,
            };
            let _ = broken.set(code);
            Some(Err(Broken(None)))
        }
    }
}

fn code_of(goodbye: Goodbye) -> u16 {
    match goodbye {
        Goodbye::Done => close_code::NORMAL,
        Goodbye::Away(_) => close_code::AWAY,
        Goodbye::Refused => close_code::POLICY,
        Goodbye::Malformed => close_code::PROTOCOL,
        Goodbye::Fault => close_code::ERROR,
    }
}

/// Feeds every frame of a chunk and flushes once: a flush per frame was
/// measured at a twentieth of the rate.
///
/// After each silence of `every` a ping, which the peer's library answers by itself: a
/// proxy takes a socket that says nothing for dead, and not every peer has heartbeats.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut chunks: mpsc::Receiver<Chunk>,
    every: Duration,
    broken: Arc<OnceLock<u16>>,
) {
    let mut goodbye = Goodbye::Done;
    loop {
        let chunk = match tokio::time::timeout(every, chunks.recv()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(_silent) => match sink.send(Message::Ping(Bytes::new())).await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let bytes = chunk.bytes.freeze();
        let mut start = 0;
        for end in chunk.ends {
            let text = Utf8Bytes::try_from(bytes.slice(start..end));
            start = end;
            // What is sent was encoded from strings.
            let Ok(text) = text else { continue };
            if sink.feed(Message::Text(text)).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
        if let Some(why) = chunk.goodbye {
            goodbye = why;
            break;
        }
    }
    let frame = CloseFrame {
        code: broken.get().copied().unwrap_or(code_of(goodbye)),
        reason: Utf8Bytes::from_static(""),
    };
    // The peer may have gone first, or have said it first: then this is refused and
    // the answer to its own is what is flushed.
    let _ = sink.send(Message::Close(Some(frame))).await;
    let _ = sink.flush().await;
}
