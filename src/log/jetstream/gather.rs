//! Makes entries of what waits.
//!
//! A task among those of the jobs that have something to say: where there is little, the
//! thread that brought it sends it, and none has to be woken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::entry::Entry;
use super::outstanding::Outstanding;
use crate::log::Error;
use crate::log::sqlite::State;
use crate::log::sqlite::group::Group;
use crate::log::sqlite::queue::Queue;

/// Of one entry, but for a last block or a lone command.
const ENTRY_BYTES: usize = 256 * 1024;

/// Entries on their way beside which no other is made at once: what comes meanwhile is one
/// larger entry, which costs the servers and each replica less than many small ones.
const UNDER_WAY: usize = 4;
/// How often it is looked whether what waits for room is to be refused.
const LOOK: Duration = Duration::from_millis(250);
/// A log that answers late is sent more all the same.
const REST_MAX: Duration = Duration::from_millis(20);

/// An entry on its way.
pub(super) struct Sent {
    pub number: u64,
    pub bytes: Bytes,
}

pub(super) struct Gather {
    pub origin: String,
    /// Of the last entry.
    pub number: u64,
    pub queue: Arc<Queue>,
    pub state: Arc<State>,
    pub outstanding: Arc<Outstanding>,
    /// Bounded: a log that does not keep up makes larger entries.
    pub entries: mpsc::Sender<Sent>,
}

impl Gather {
    pub async fn run(mut self) {
        let (mut busy, mut alive) = (false, true);
        loop {
            self.until_room().await;
            self.outstanding.until_fewer(UNDER_WAY, REST_MAX).await;
            if busy {
                // Whoever is about to say something does it first.
                tokio::task::yield_now().await;
            }
            let waiting = self.queue.taken().await;
            // Read after the wait, which the close ends.
            if waiting.is_empty() && self.state.closing.load(Ordering::Acquire) {
                return;
            }
            let mut group = Group::default();
            self.queue.put_back(group.add(waiting.items, ENTRY_BYTES));
            let failing = match alive {
                true => self.state.health.failing(),
                false => Some("this replica writes nothing any more"),
            };
            if let Some(failing) = failing {
                group.refuse(&Error::Unavailable(failing.into()));
            }
            busy = group.is_large();
            if alive && !group.is_empty() {
                alive = self.send(group).await;
            }
        }
    }

    /// Once there is room for an entry, or nobody takes any. A command that comes meanwhile
    /// is refused as soon as the log fails: there may be no room for as long as that lasts.
    async fn until_room(&self) {
        while let Err(_elapsed) = tokio::time::timeout(LOOK, self.entries.reserve()).await {
            if let Some(failing) = self.state.health.failing() {
                self.queue.refuse(&Error::Unavailable(failing.into()));
            }
        }
    }

    /// False when nothing of this replica is applied any more.
    async fn send(&mut self, group: Group) -> bool {
        let Group {
            commands,
            blocks,
            mut told,
            ..
        } = group;
        let entry = Entry {
            origin: self.origin.clone(),
            number: self.number + 1,
            commands,
            blocks,
        };
        match entry.encode() {
            Ok(bytes) => {
                self.number = entry.number;
                self.outstanding.add(entry.number, told);
                let number = entry.number;
                let sent = self.entries.send(Sent { number, bytes }).await;
                if sent.is_err() {
                    let error = Error::Unavailable("this replica writes nothing any more".into());
                    self.outstanding.refuse_all(&error);
                }
                sent.is_ok()
            }
            Err(error) => {
                // Of values that JSON and protobuf had room for: it is not expected.
                tracing::error!(error, "an entry was not sent");
                told.refuse(&Error::Unavailable(error));
                true
            }
        }
    }
}
