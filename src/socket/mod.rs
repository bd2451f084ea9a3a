//! The driver's socket, and addresses for clients elsewhere: Docker's seven calls, and the driver's own for its command line.

mod caller;
mod certificates;
mod connections;
pub mod control;
pub mod docker;
mod limits;
pub mod listen;
mod names;
mod pem;
mod reply;
pub mod server;
mod span;
mod stream;
mod tls;
mod unread;
mod wire;
