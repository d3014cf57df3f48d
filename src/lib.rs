//! The ARCP v1.1 runtime (Agent Runtime Control Protocol) as a network service,
//! and as a library for programs that want it inside.
//!
//! A job's records are committed to one ordered log before anyone sees them, and
//! everything a client sees is a view of that log: see [`session`].
//!
//! ```text
//!  client ⇄ transport ──▶ session ──▶ job ──▶ log ──▶ fanout ──▶ session ──▶ transport ⇄ client
//!                                       ▲ agent
//! ```
//!
//! To embed a runtime, register agents in a [`job::AgentDirectory`] and hand them
//! to [`server::Server`]:
//!
//! ```no_run
//! use arcpd::job::{AgentDirectory, JobContext};
//! use arcpd::protocol::Failure;
//! use arcpd::server::{Config, Server, Tokens};
//!
//! async fn echo(job: JobContext) -> Result<String, Failure> {
//!     job.log("info", "working").await?;
//!     Ok(job.input_json().to_owned())
//! }
//!
//! # async fn run() -> anyhow::Result<()> {
//! let mut agents = AgentDirectory::default();
//! agents.register("echo", "1.0.0", echo).map_err(anyhow::Error::msg)?;
//! let tokens = Tokens::parse("me=a-token-of-16-bytes").map_err(anyhow::Error::msg)?;
//! let server = Server::bind(Config::new("data", tokens, agents)).await?;
//! println!("{}", server.address()?);
//! server.run(std::future::pending()).await
//! # }
//! ```
//!
//! A module may use those to its right, never one to its left:
//! `cli, bench → server → transport → session → job, fanout → telemetry, credential → log → wire → protocol`;
//! `authority` is pure and stands on `protocol`;
//! `agent` implements the seam that `job` offers, `client` stands on `wire` alone, and
//! `drain`, on `protocol`, is everybody's.

pub mod agent;
pub mod authority;
pub mod bench;
pub mod cli;
pub mod client;
mod clock;
pub mod credential;
pub mod drain;
pub mod fanout;
pub mod job;
pub mod log;
mod masked;
pub mod protocol;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod transport;
pub mod wire;
