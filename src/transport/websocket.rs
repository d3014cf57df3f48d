//! ARCP JSON over WebSocket: one envelope per text frame, on `/arcp` and `/`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use secrecy::SecretString;
use tokio::sync::mpsc;

use super::{MESSAGE_BYTES_MAX, OUTBOUND_CHUNKS_MAX};
use crate::session::{Chunk, Connection, Encoding, Sessions, attach};
use crate::wire::{Invalid, parse_json};

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
    headers: http::HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !same_origin(&headers) {
        let text = "Origin: must be the host of this runtime\n";
        return (http::StatusCode::FORBIDDEN, text).into_response();
    }
    let bearer = super::bearer(&headers);
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| serve(sessions, socket, bearer))
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

async fn serve(sessions: Arc<Sessions>, socket: WebSocket, bearer: Option<SecretString>) {
    let (sink, stream) = socket.split();
    let (outbound, chunks) = mpsc::channel(OUTBOUND_CHUNKS_MAX);
    let writer = tokio::spawn(write(sink, chunks));
    let inbound = stream
        .take_while(|frame| std::future::ready(!matches!(frame, Err(_) | Ok(Message::Close(_)))))
        .filter_map(|frame| std::future::ready(frame.ok().and_then(request)))
        .boxed();
    let connection = Connection {
        inbound,
        outbound,
        encoding: Encoding::Json,
        bearer,
    };
    attach(sessions, connection).await;
    // The writer ends with the channel; a panic in it is of no use to the peer.
    let _ = writer.await;
}

fn request(frame: Message) -> Option<Result<crate::protocol::Request, Invalid>> {
    match frame {
        Message::Text(text) => Some(parse_json(&text)),
        Message::Binary(_) => Some(Err(Invalid::new(
            "frame: must be a text frame with one JSON object",
        ))),
        // The library answers pings.
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => None,
    }
}

/// Feeds every frame of a chunk and flushes once: a flush per frame was
/// measured at a twentieth of the rate.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut chunks: mpsc::Receiver<Chunk>) {
    while let Some(chunk) = chunks.recv().await {
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
        if chunk.last {
            break;
        }
    }
    let frame = CloseFrame {
        code: close_code::NORMAL,
        reason: Utf8Bytes::from_static(""),
    };
    // The peer may have gone first, or have said it first: then this is refused and
    // the answer to its own is what is flushed.
    let _ = sink.send(Message::Close(Some(frame))).await;
    let _ = sink.flush().await;
}
