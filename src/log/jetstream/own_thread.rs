//! A thread of the log with a runtime of its own.
//!
//! What goes from a socket to the file passes no other thread on its way: each that is to
//! be woken costs tens of microseconds, and the runtime of sessions may be busy with what
//! has nothing to do with the log.

use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::thread;
use crate::log::Error;

/// Runs what is spawned on it until it is given its work, and then until that ends.
/// Dropped before, it ends.
pub(super) struct OwnThread {
    handle: Handle,
    work: oneshot::Sender<BoxFuture<'static, ()>>,
    thread: JoinHandle<()>,
}

impl OwnThread {
    pub fn start(name: &str) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Error::Unavailable(format!("no runtime for the thread {name}: {error}"))
        })?;
        let handle = runtime.handle().clone();
        let (work, given) = oneshot::channel();
        let thread = thread(name, move || {
            if let Ok(work) = runtime.block_on(given) {
                runtime.block_on::<BoxFuture<'static, ()>>(work);
            }
        });
        Ok(Self {
            handle,
            work,
            thread,
        })
    }

    /// For what belongs to the work, a connection say: it is served by this thread.
    pub async fn prepare<T: Send + 'static>(
        &self,
        what: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let prepared = self.handle.spawn(what).await;
        prepared.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
    }

    pub fn run(self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // It waits for this.
        let _ = self.work.send(Box::pin(work));
        self.thread
    }
}
