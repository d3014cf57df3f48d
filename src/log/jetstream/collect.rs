//! What has come from the stream, as much as is applied in one transaction.
//!
//! Most of what a replica costs is what others write. Where nobody here waits for it, it
//! is one transaction with what comes in the next moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::entry::Entry;
use super::place::Received;
use crate::log::sqlite::State;

/// Entries in one transaction.
const BATCH: usize = 256;
const BATCH_KIB: u32 = 4 * 1024;
/// For what nobody here waits for.
const REST: Duration = Duration::from_millis(5);

/// An entry as the stream has it.
pub(super) struct Read {
    pub sequence: u64,
    pub published_at_ns: i64,
    pub bytes: usize,
    pub entry: Entry,
}

pub(super) struct Collect {
    pub received: mpsc::Receiver<Received>,
    /// In KiB, for what is received.
    pub room: Arc<Semaphore>,
    pub state: Arc<State>,
    /// This replica's life.
    pub origin: String,
    /// Of the last entry that came.
    pub sequence: u64,
    /// Of the room, by those that were taken last.
    pub taken: u32,
}

impl Collect {
    /// `None` when nobody reads the stream any more; an error when it cannot be followed.
    /// Those that were given before are applied.
    pub async fn next(&mut self) -> Option<Result<Vec<Read>, String>> {
        self.room
            .add_permits(std::mem::take(&mut self.taken) as usize);
        let first = self.received.recv().await?;
        Some(self.with(first).await)
    }

    async fn with(&mut self, first: Received) -> Result<Vec<Read>, String> {
        let until = Instant::now() + REST;
        let first = self.decode(first)?;
        let mut awaited = self.is_awaited(&first.entry);
        let mut entries = vec![first];
        while entries.len() < BATCH && self.taken < BATCH_KIB {
            let next = match self.received.try_recv() {
                Ok(next) => next,
                Err(_) if awaited => break,
                Err(_) => match tokio::time::timeout_at(until, self.received.recv()).await {
                    Ok(Some(next)) => next,
                    _ => break,
                },
            };
            let next = self.decode(next)?;
            awaited = awaited || self.is_awaited(&next.entry);
            entries.push(next);
        }
        Ok(entries)
    }

    /// Commands may be for a host here, or change what is answered here.
    fn is_awaited(&self, entry: &Entry) -> bool {
        let Some(watched) = self.state.watched.get() else {
            return true;
        };
        let mut blocks = entry.blocks.iter();
        entry.origin == self.origin
            || !entry.commands.is_empty()
            || blocks.any(|block| block.terminal.is_some() || watched(block.stream))
            || self.state.closing.load(Ordering::Acquire)
    }

    fn decode(&mut self, received: Received) -> Result<Read, String> {
        self.taken += received.kib();
        let Received {
            sequence,
            published_at_ns,
            bytes,
        } = received;
        let last = self.sequence;
        if sequence != last + 1 {
            return Err(format!(
                "the stream goes on at {sequence} after {last}: what was between is no longer \
                 kept; start from a copy of another replica's data directory"
            ));
        }
        let entry = Entry::decode(&bytes).map_err(|why| format!("entry {sequence}: {why}"))?;
        self.sequence = sequence;
        if entry.is_of_nobody() {
            tracing::error!(
                sequence,
                "a message in the log is not of arcpd and is passed over; nobody but replicas \
                 is to publish there"
            );
        }
        Ok(Read {
            sequence,
            published_at_ns,
            bytes: bytes.len(),
            entry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::Files;
    use crate::log::{Command, Durability, OpenOptions, PendingBlock, StreamId};

    const WATCHED: StreamId = 7;
    /// Within what is waited for.
    const SOON: Duration = Duration::from_millis(2);

    struct Stream {
        sent: mpsc::Sender<Received>,
        sequence: u64,
    }

    impl Stream {
        async fn has(&mut self, commands: Vec<Command>, streams: &[StreamId]) {
            self.sequence += 1;
            let entry = Entry {
                origin: "another".into(),
                number: self.sequence,
                commands,
                blocks: streams.iter().map(|stream| block(*stream)).collect(),
            };
            let received = Received {
                sequence: self.sequence,
                published_at_ns: 0,
                bytes: entry.encode().unwrap(),
            };
            self.sent.send(received).await.unwrap();
        }
    }

    fn block(stream: StreamId) -> PendingBlock {
        PendingBlock {
            stream,
            first_seq: 1,
            count: 1,
            data: bytes::Bytes::from_static(&[1, 7]),
            terminal: None,
            mark: None,
            spent_json: None,
            traced: false,
            epoch: 0,
        }
    }

    fn opened(dir: &std::path::Path) -> (Collect, Stream) {
        let options = OpenOptions {
            dir: dir.into(),
            durability: Durability::Process,
        };
        let state = Files::open(options).unwrap().state;
        let watched = |stream| stream == WATCHED;
        state.watched.set(Box::new(watched)).ok().unwrap();
        let (sent, received) = mpsc::channel(16);
        let collect = Collect {
            received,
            room: Arc::new(Semaphore::new(0)),
            state,
            origin: "own".into(),
            sequence: 0,
            taken: 0,
        };
        (collect, Stream { sent, sequence: 0 })
    }

    async fn come(collect: &mut Collect) -> (usize, Duration) {
        let began = Instant::now();
        let entries = collect.next().await.unwrap().unwrap();
        (entries.len(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_watches_is_taken_with_what_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut collect, mut stream) = opened(dir.path());
        stream.has(vec![], &[1]).await;
        let later = async {
            tokio::time::sleep(SOON).await;
            stream.has(vec![], &[2]).await;
        };
        let ((came, after), ()) = tokio::join!(come(&mut collect), later);
        assert_eq!((came, after), (2, REST));
    }

    /// What was read and not applied was bounded by its number alone: a gigabyte of it.
    #[tokio::test]
    async fn what_is_applied_gives_back_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let (mut collect, mut stream) = opened(dir.path());
        for _ in 0..2 {
            stream.has(vec![Command::Barrier], &[]).await;
        }
        assert_eq!(come(&mut collect).await.0, 2);
        assert_eq!(collect.room.available_permits(), 0);
        stream.has(vec![Command::Barrier], &[]).await;
        assert_eq!(come(&mut collect).await.0, 1);
        assert_eq!(collect.room.available_permits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_is_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut collect, mut stream) = opened(dir.path());
        stream.has(vec![], &[1, WATCHED]).await;
        assert_eq!(come(&mut collect).await, (1, Duration::ZERO));
        stream.has(vec![Command::Barrier], &[]).await;
        assert_eq!(come(&mut collect).await, (1, Duration::ZERO));
        // The first of these waits no longer than until the second comes.
        stream.has(vec![], &[1]).await;
        let later = async {
            tokio::time::sleep(SOON).await;
            stream.has(vec![], &[WATCHED]).await;
        };
        let ((came, after), ()) = tokio::join!(come(&mut collect), later);
        assert_eq!((came, after), (2, SOON));
    }
}
