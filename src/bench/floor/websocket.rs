//! A bare WebSocket, served by the library that serves the runtime's.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::SinkExt;
use serde_json::Value;

use super::{Fan, Role};
use crate::bench::client::{sample_text, sample_text_end};

/// Texts that are flushed together.
type Texts = Arc<[Utf8Bytes]>;

pub async fn upgrade(State(fan): State<Fan<Texts>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .read_buffer_size(4096)
        .on_upgrade(move |socket| async move {
            // A client that has gone says so itself.
            let _ = serve(socket, fan).await;
        })
}

async fn serve(mut socket: WebSocket, fan: Fan<Texts>) -> Result<(), axum::Error> {
    match hello(&mut socket).await {
        Some(Role::Echo) => echo(&mut socket).await?,
        Some(Role::Stream { count, batch }) => stream(&mut socket, count, batch).await?,
        Some(Role::Fan) => fan_out(&mut socket, fan).await?,
        _ => return Ok(()),
    }
    // Until the client has read it all and goes.
    while socket.recv().await.transpose()?.is_some() {}
    Ok(())
}

/// What the next text asks for.
async fn hello(socket: &mut WebSocket) -> Option<Role> {
    let text = socket.recv().await?.ok()?.into_text().ok()?;
    let hello: Value = serde_json::from_str(&text).ok()?;
    Role::of(hello["payload"]["client"]["name"].as_str()?)
}

async fn echo(socket: &mut WebSocket) -> Result<(), axum::Error> {
    let text = Utf8Bytes::from(sample_text(0));
    socket.send(Message::Text(text.clone())).await?;
    while let Some(request) = socket.recv().await {
        if let Message::Text(_) = request? {
            socket.send(Message::Text(text.clone())).await?;
        }
    }
    Ok(())
}

/// Begins with the text after the hello.
async fn stream(socket: &mut WebSocket, count: u64, batch: u64) -> Result<(), axum::Error> {
    socket.send(Message::Text(sample_text(0).into())).await?;
    socket.recv().await.transpose()?;
    // All but its number is the same in each.
    let sample = sample_text(1);
    let (before, after) = sample.split_once(":1,").unwrap_or_default();
    for seq in 1..=count {
        let text = format!("{before}:{seq},{after}");
        socket.feed(Message::Text(text.into())).await?;
        if seq % batch == 0 {
            socket.flush().await?;
        }
    }
    socket
        .send(Message::Text(sample_text_end(count + 1).into()))
        .await
}

async fn fan_out(socket: &mut WebSocket, fan: Fan<Texts>) -> Result<(), axum::Error> {
    let mut texts = fan.0.subscribe();
    socket.send(Message::Text(sample_text(0).into())).await?;
    loop {
        tokio::select! {
            texts = texts.recv() => {
                // A client that lost some is left; it says so.
                let Ok(texts) = texts else { return Ok(()) };
                for text in &*texts {
                    socket.feed(Message::Text(text.clone())).await?;
                }
                socket.flush().await?;
            }
            role = hello(socket) => match role {
                Some(Role::Start { count }) => {
                    let fan = fan.clone();
                    tokio::spawn(async move { fan.feed(count, encode).await });
                }
                _ => return Ok(()),
            },
        }
    }
}

/// Those beyond `count` are terminals.
fn encode(numbers: std::ops::Range<u64>, count: u64) -> Texts {
    numbers
        .map(|seq| match seq > count {
            true => sample_text_end(seq).into(),
            false => sample_text(seq).into(),
        })
        .collect()
}
