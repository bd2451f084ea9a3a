//! What the tests run against.

pub(crate) mod docker;
pub(crate) mod engine;
pub(crate) mod host;
pub(crate) mod mariadb;
pub(crate) mod proxy;
pub(crate) mod secrets;
pub(crate) mod vpc;
