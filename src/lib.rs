//! The ARCP v1.1 runtime as a library and a network service.
//!
//! A module may use those below it in this list, never one above; `agent`
//! implements the seam that `job` offers.

pub mod agent;
pub mod bench;
pub mod cli;
pub mod client;
pub mod fanout;
pub mod job;
pub mod log;
pub mod protocol;
pub mod server;
pub mod session;
pub mod transport;
pub mod wire;
