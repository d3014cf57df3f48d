//! A thread with an async runtime of its own, so that a runtime with one worker that
//! is busy, or waits for the last flush, cannot stand in its own way.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::sync_channel;

use futures_util::FutureExt;

/// Runs to the end, and says in the log if that was a panic: nobody should have to find
/// it out by what is missing. Whether it was none.
pub(super) async fn unless_panicked(what: &str, run: impl Future<Output = ()>) -> bool {
    let ended = AssertUnwindSafe(run).catch_unwind().await;
    if ended.is_err() {
        tracing::error!(what, "telemetry has panicked and sends nothing any more");
    }
    ended.is_ok()
}

/// Returns once `start` has made what is to run, inside the new runtime.
pub(super) fn spawn<S, R>(name: &str, start: S) -> Result<(), String>
where
    S: FnOnce() -> Result<R, String> + Send + 'static,
    R: Future<Output = ()>,
{
    let (started_tx, started) = sync_channel(1);
    let thread = name.to_owned();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(started_tx.send(Err(error.to_string()))),
        };
        runtime.block_on(async {
            match start() {
                Ok(run) => {
                    drop(started_tx.send(Ok(())));
                    unless_panicked(&thread, run).await;
                }
                Err(error) => drop(started_tx.send(Err(error))),
            }
        });
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| error.to_string())?;
    let ended = |_| format!("the {name} thread ended while it started");
    started.recv().map_err(ended)?
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_said_once_in_the_log() {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || written.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let fine = unless_panicked("metrics", async {}).now_or_never();
            let panicked = unless_panicked("telemetry", async { panic!("a bug") });
            assert_eq!((fine, panicked.now_or_never()), (Some(true), Some(false)));
        });
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(said.matches("ERROR").count(), 1, "{said}");
        assert!(said.contains("telemetry has panicked"), "{said}");
    }
}
