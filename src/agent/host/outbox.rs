//! What is to be said to one host, whether or not it is connected just now.
//!
//! Bounded by what the host takes: an assignment, its cancel and its revocation
//! for each place, one ack for each assignment. Answers to a host's own requests
//! wait in its connection instead, which reads no more until they are sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::activation::Activation;
use crate::protocol::host::HostReply;

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    more: Notify,
    /// A job of the host went to another replica, where it has dialled.
    moved: AtomicBool,
}

#[derive(Default)]
struct State {
    replies: VecDeque<Queued>,
    /// To be acked as far as they are durable when it is their turn.
    acks: VecDeque<Arc<Activation>>,
}

struct Queued {
    reply: HostReply,
    /// What the host is to have for this to be of use to it.
    about: Option<Arc<Activation>>,
}

impl Queued {
    fn is_void(&self) -> bool {
        self.about.as_ref().is_some_and(|about| about.is_over())
    }
}

impl Outbox {
    pub fn push(&self, reply: HostReply) {
        self.queue(Queued { reply, about: None });
    }

    /// Not said once the activation is over: a host that dials anew without naming the
    /// job knows nothing of it.
    pub fn push_about(&self, activation: &Arc<Activation>, reply: HostReply) {
        let about = Some(activation.clone());
        self.queue(Queued { reply, about });
    }

    fn queue(&self, queued: Queued) {
        self.state.lock().replies.push_back(queued);
        self.more.notify_one();
    }

    /// Called on the log's thread, for each commit.
    pub fn ack(&self, activation: Arc<Activation>) {
        // Once in line is enough: the figure is read when it is sent.
        if activation.queue_ack() {
            self.state.lock().acks.push_back(activation);
            self.more.notify_one();
        }
    }

    pub fn pop(&self) -> Option<HostReply> {
        let mut state = self.state.lock();
        if let Some(activation) = state.acks.pop_front() {
            return Some(activation.take_ack());
        }
        while let Some(queued) = state.replies.pop_front() {
            if !queued.is_void() {
                return Some(queued.reply);
            }
        }
        None
    }

    /// Where it is not, there may still be nothing to say.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.replies.is_empty() && state.acks.is_empty()
    }

    /// Nothing is said of that here. The host may have given that dial up and be at work on
    /// the job: it dials anew, and has it again.
    pub fn set_moved(&self) {
        self.moved.store(true, Ordering::Release);
        self.more.notify_one();
    }

    pub fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// A new connection is told anew what still holds.
    pub fn clear(&self) {
        self.moved.store(false, Ordering::Release);
        let mut state = self.state.lock();
        state.replies.clear();
        for activation in state.acks.drain(..) {
            activation.take_ack();
        }
    }

    /// Resolves when there may be something.
    pub async fn filled(&self) {
        self.more.notified().await;
    }
}
