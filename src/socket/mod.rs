//! The driver's socket: Docker's seven calls, and the driver's own for its command line.

mod connections;
pub mod control;
pub mod docker;
mod line;
pub mod server;
mod wire;
