//! The driver's socket, and addresses for clients elsewhere: Docker's seven calls, the driver's own for its command line, and
//! figures for Prometheus.

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
mod scrapes;
pub mod server;
mod span;
mod stream;
mod tls;
mod unread;
mod validity;
mod wire;
