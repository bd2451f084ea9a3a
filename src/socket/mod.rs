//! The driver's socket: Docker's seven calls, and the driver's own for its command line.

pub mod control;
pub mod docker;
pub mod server;
mod wire;
