//! What runs jobs beside the embedding program's own functions: programs,
//! processes that dial in, and demonstrations.

pub mod command;
pub mod demo;
pub mod host;
