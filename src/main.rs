//! The `arcpd` command.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    arcpd::cli::run().await
}
