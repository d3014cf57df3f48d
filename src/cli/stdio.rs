//! For programs that speak ARCP over a child process (draft §4): lines in and
//! out, passed through as they are.

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_tungstenite::tungstenite::Message;

use super::Status;
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Stdio {
    #[command(flatten)]
    target: Target,
}

impl Stdio {
    pub async fn run(self) -> anyhow::Result<Status> {
        let server = &self.target.server;
        let url = match server.split_once("://") {
            Some(("https", rest)) => format!("wss://{rest}/arcp"),
            Some((_, rest)) => format!("ws://{rest}/arcp"),
            None => format!("ws://{server}/arcp"),
        };
        let (socket, _) = tokio_tungstenite::connect_async(&url).await.map_err(|e| {
            crate::client::Error::Unreachable {
                server: url,
                reason: e.to_string(),
            }
        })?;
        let (mut sink, mut stream) = socket.split();
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut out = tokio::io::stdout();
        loop {
            tokio::select! {
                line = lines.next_line() => match line.context("stdin")? {
                    Some(line) if line.trim().is_empty() => {}
                    Some(line) => sink.send(Message::text(line)).await?,
                    // The parent has gone: the session can be resumed.
                    None => break,
                },
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        out.write_all(text.as_bytes()).await?;
                        out.write_all(b"\n").await?;
                        out.flush().await?;
                    }
                    Some(Ok(Message::Close(_))) | None => break,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                },
            }
        }
        Ok(Status::Success)
    }
}
