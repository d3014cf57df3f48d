//! The `arcpd` command.

/// Blocks are made on one thread and freed on another: the system's allocator
/// spends a tenth of a stream's time waiting for itself there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    arcpd::cli::run().await
}
