//! What waits for the writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use crate::log::{BlockSource, Command, Error, Outcome};

pub(in crate::log) type Answer = oneshot::Sender<Result<Outcome, Error>>;

/// How long records are given to become larger blocks when there are many.
const GATHER: Duration = Duration::from_micros(150);

/// Its length is bounded by who may wait: one entry a job, one command a session.
#[derive(Default)]
pub(in crate::log) struct Queue {
    waiting: Mutex<Waiting>,
    /// For a thread that takes, and for a task.
    more: Condvar,
    arrived: Notify,
}

/// In the order in which it came, which is the order in which it is committed.
#[derive(Default)]
pub(in crate::log) struct Waiting {
    pub items: VecDeque<Item>,
    /// Of the items.
    commands: usize,
    woken: bool,
}

pub(in crate::log) enum Item {
    Source(Arc<dyn BlockSource>),
    Command(Box<Command>, Answer),
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn push(&mut self, item: Item) {
        self.commands += usize::from(matches!(item, Item::Command(..)));
        self.items.push_back(item);
    }

    /// A wake is the close, and stays: what was taken with it comes first.
    fn drain(&mut self) -> Self {
        let woken = self.woken;
        let taken = std::mem::take(self);
        self.woken = woken;
        taken
    }
}

impl Queue {
    pub fn push_source(&self, source: Arc<dyn BlockSource>) {
        self.waiting.lock().push(Item::Source(source));
        self.tell();
    }

    pub fn push_command(&self, command: Command, answer: Answer) {
        self.waiting
            .lock()
            .push(Item::Command(Box::new(command), answer));
        self.tell();
    }

    fn tell(&self) {
        self.more.notify_one();
        self.arrived.notify_one();
    }

    /// What there was no room for: it goes before what has come since.
    pub fn put_back(&self, left: VecDeque<Item>) {
        let mut waiting = self.waiting.lock();
        let since = waiting.drain().items;
        for item in left.into_iter().chain(since) {
            waiting.push(item);
        }
    }

    /// Refuses the commands that wait; what jobs have said stays.
    pub fn refuse(&self, error: &Error) {
        let why = error.why();
        let mut waiting = self.waiting.lock();
        for item in waiting.drain().items {
            match item {
                Item::Source(_) => waiting.push(item),
                // A caller that went away needs no answer.
                Item::Command(_, answer) => {
                    let _ = answer.send(Err(Error::Unavailable(why.clone())));
                }
            }
        }
    }

    pub fn wake(&self) {
        self.waiting.lock().woken = true;
        self.tell();
    }

    /// Everything that waits; blocks while there is nothing, unless woken. When
    /// busy, records are given a moment to become larger blocks; a command is not
    /// made to wait.
    pub fn take(&self, busy: bool) -> Waiting {
        let mut waiting = self.waiting.lock();
        if busy && !waiting.woken {
            let until = Instant::now() + GATHER;
            while waiting.commands == 0 && !self.more.wait_until(&mut waiting, until).timed_out() {}
        }
        while waiting.is_empty() && !waiting.woken {
            self.more.wait(&mut waiting);
        }
        waiting.drain()
    }

    /// Everything that waits, once there is something or it is woken.
    pub async fn taken(&self) -> Waiting {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.is_empty() || waiting.woken {
                    return waiting.drain();
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Everything that waits now.
    pub fn take_now(&self) -> Waiting {
        self.waiting.lock().drain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A close that came together with a last command was forgotten with it: the
    /// writer waited for ever, and the process with it.
    #[test]
    fn a_close_beside_a_command_is_not_forgotten() {
        let queue = Arc::new(Queue::default());
        let (answer, _answered) = oneshot::channel();
        queue.push_command(Command::ParkAll { at_ms: 0 }, answer);
        queue.wake();
        assert_eq!(queue.take(false).items.len(), 1);
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(queue.take(false).items.len()));
        assert_eq!(ended.recv_timeout(Duration::from_secs(5)), Ok(0));
    }
}
