//! The store's contract: on a real MariaDB, a real MySQL, a Galera cluster of three nodes, and SQLite files.

mod bed;
mod blocks;
mod calls;
mod claims;
mod clocks;
mod codes;
mod contention;
mod contract;
mod crowd;
mod defaults;
mod faults;
mod galera;
mod history;
mod hosts;
mod locks;
mod login;
mod names;
mod net;
mod outages;
mod roll;
mod schema;
mod shares;
mod sqlite;
mod takeover;
mod task;
mod year;
