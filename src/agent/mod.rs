//! Agents that come with the runtime.

pub mod demo;
