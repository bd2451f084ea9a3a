//! What the tests run against.

pub(crate) mod agreement;
pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod clock;
pub(crate) mod docker;
pub(crate) mod engine;
pub(crate) mod galera;
pub(crate) mod host;
pub(crate) mod mariadb;
pub(crate) mod mysql;
pub(crate) mod plugin;
pub(crate) mod proxy;
pub(crate) mod secrets;
pub(crate) mod server;
