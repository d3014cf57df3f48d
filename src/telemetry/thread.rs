//! A thread with an async runtime of its own, so that a runtime with one worker that
//! is busy, or waits for the last flush, cannot stand in its own way.

use std::sync::mpsc::sync_channel;

/// Returns once `start` has made what is to run, inside the new runtime.
pub(super) fn spawn<S, R>(name: &str, start: S) -> Result<(), String>
where
    S: FnOnce() -> Result<R, String> + Send + 'static,
    R: Future<Output = ()>,
{
    let (started_tx, started) = sync_channel(1);
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
                    run.await;
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
