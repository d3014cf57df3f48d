//! The ARCP v1.1 runtime as a library and a network service.

pub mod protocol;
pub mod wire;
