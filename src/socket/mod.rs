//! The driver's socket: Docker's seven calls, and the driver's own for its command line.

mod caller;
mod connections;
pub mod control;
pub mod docker;
mod reply;
pub mod server;
mod span;
mod stream;
mod wire;
