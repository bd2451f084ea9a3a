//! The store's contract, on a real MariaDB and on SQLite files.

mod bed;
mod claims;
mod contract;
mod faults;
mod locks;
mod login;
mod sqlite;
mod takeover;
mod task;
