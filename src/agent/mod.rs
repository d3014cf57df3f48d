//! Agents that run inside the runtime's reach: programs, and demonstrations.

pub mod command;
pub mod demo;
