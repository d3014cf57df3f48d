//! What a peer says, in order, and which of it was there before it was welcomed.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::{FutureExt, Stream, StreamExt};

use crate::protocol::{Request, RequestBody};
use crate::wire::Invalid;

/// Of what is taken before it is asked for.
const EARLY_MAX: usize = 8;

type Requests = Pin<Box<dyn Stream<Item = Result<Request, Invalid>> + Send>>;

pub struct Inbound {
    requests: Requests,
    early: VecDeque<Result<Request, Invalid>>,
    /// There was more than was taken.
    has_more: bool,
    is_over: bool,
}

/// One message.
pub(super) struct Said {
    pub request: Result<Request, Invalid>,
    /// It was there before the welcome: it says nothing of what the peer has read.
    is_early: bool,
}

impl Inbound {
    pub fn new(requests: impl Stream<Item = Result<Request, Invalid>> + Send + 'static) -> Self {
        Self {
            requests: requests.boxed(),
            early: VecDeque::new(),
            has_more: false,
            is_over: false,
        }
    }

    /// `None` once the peer has said all. May be dropped before it is ready.
    pub(super) async fn next(&mut self) -> Option<Said> {
        if let Some(request) = self.early.pop_front() {
            return Some(Said {
                request,
                is_early: true,
            });
        }
        if self.is_over {
            return None;
        }
        let (next, is_early) = match self.at_once() {
            Some(next) => (next, true),
            None => (self.requests.next().await, false),
        };
        self.is_over = next.is_none();
        next.map(|request| Said { request, is_early })
    }

    /// What was there and was not taken, as far as it can be told: until there is nothing.
    fn at_once(&mut self) -> Option<Option<Result<Request, Invalid>>> {
        let next = self.has_more.then(|| self.requests.next().now_or_never());
        self.has_more = matches!(next, Some(Some(Some(_))));
        next.flatten()
    }

    /// Takes what has come, without waiting.
    pub(super) fn look(&mut self) {
        while !self.is_over && self.early.len() < EARLY_MAX {
            match self.requests.next().now_or_never() {
                Some(Some(request)) => self.early.push_back(request),
                Some(None) => self.is_over = true,
                None => return,
            }
        }
        self.has_more = !self.is_over;
    }

    /// Whether the peer has said all, as far as was looked.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the peer has said, as far as was looked, that it leaves.
    pub(super) fn has_left(&self) -> bool {
        self.early.iter().any(is_goodbye)
    }

    /// Until the peer has said all.
    pub(super) async fn rest(mut self) {
        while self.next().await.is_some() {}
    }
}

impl Said {
    /// Whether it tells that the peer has read its welcome. Who leaves may do that because
    /// there was none.
    pub fn is_answer(&self) -> bool {
        !self.is_early && !is_goodbye(&self.request)
    }
}

fn is_goodbye(request: &Result<Request, Invalid>) -> bool {
    let body = request.as_ref().map(|request| &request.body);
    matches!(body, Ok(RequestBody::Bye | RequestBody::Close))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    fn something() -> Result<Request, Invalid> {
        Err(Invalid {
            request_id: None,
            message: String::new(),
            of_submit: false,
        })
    }

    /// The ninth told that the peer had read its welcome, and so that its token of before
    /// was no longer needed.
    #[tokio::test]
    async fn what_was_there_before_the_welcome_is_no_answer_to_it_however_much_it_is() {
        let (peer, requests) = mpsc::unbounded_channel();
        let mut inbound = Inbound::new(UnboundedReceiverStream::new(requests));
        for _ in 0..2 * EARLY_MAX {
            peer.send(something()).unwrap();
        }
        inbound.look();
        for _ in 0..2 * EARLY_MAX {
            assert!(!inbound.next().await.unwrap().is_answer());
        }
        assert!(inbound.next().now_or_never().is_none());
        peer.send(something()).unwrap();
        assert!(inbound.next().await.unwrap().is_answer());
        drop(peer);
        assert!(inbound.next().await.is_none());
    }
}
