//! The `arcpd` command.

/// Blocks are made on one thread and freed on another: the system's allocator
/// spends a tenth of a stream's time waiting for itself there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What blocks a thread when all else has ended, a disk that does not answer, is not waited for.
const BLOCKED_MAX: std::time::Duration = std::time::Duration::from_secs(1);

fn main() -> std::process::ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("arcpd: its threads cannot be started: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(arcpd::cli::run());
    runtime.shutdown_timeout(BLOCKED_MAX);
    code
}
