//! Hands on what is read of the stream, as far as there is room for it.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::news::News;
use super::place::Received;

/// Who takes what is read, and who is told when there can be no more.
pub(super) struct Takers {
    pub received: mpsc::Sender<Received>,
    /// In KiB, for what they have not applied.
    pub room: Arc<Semaphore>,
    pub news: mpsc::UnboundedSender<News>,
    /// Cancelled by whoever ends first, who writes or who reads.
    pub stopped: CancellationToken,
}

impl Takers {
    /// False when nobody takes what is read any more.
    pub async fn take(&self, next: Received) -> bool {
        let room = tokio::select! {
            biased;
            room = self.room.acquire_many(next.kib()) => room,
            () = self.received.closed() => return false,
        };
        // Given back by whoever has applied it. It is never closed.
        room.expect("there is room at times").forget();
        self.received.send(next).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    fn of_kib(kib: usize) -> Received {
        Received {
            sequence: 1,
            published_at_ns: 0,
            bytes: Bytes::from(vec![0; (kib - 1) * 1024]),
        }
    }

    /// A replica that applied nothing kept what it read, a gigabyte of large entries.
    #[tokio::test]
    async fn no_more_is_read_than_there_is_room_for() {
        let (received, mut taken) = mpsc::channel(16);
        let takers = Takers {
            received,
            room: Arc::new(Semaphore::new(6)),
            news: mpsc::unbounded_channel().0,
            stopped: CancellationToken::new(),
        };
        assert!(takers.take(of_kib(4)).await);
        assert_eq!(takers.take(of_kib(4)).now_or_never(), None);
        assert!(takers.take(of_kib(2)).await);
        takers.room.add_permits(4);
        assert!(takers.take(of_kib(4)).await);
        assert_eq!(taken.len(), 3);
        taken.close();
        assert!(!takers.take(of_kib(1)).await, "and who waits is told");
    }
}
