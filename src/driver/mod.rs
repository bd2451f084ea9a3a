//! The driver: it composes what serves Docker's calls, and what keeps rows, EC2 and Docker in agreement.

pub mod addresses;
pub mod distant;
pub mod docker_watch;
pub mod doctor;
pub mod drain;
pub mod exposition;
pub mod format;
pub mod found;
pub mod history;
pub mod hosts;
pub mod interfaces;
pub mod ipam;
pub mod leases;
pub mod list;
pub mod map;
pub mod operate;
mod page;
pub mod pool;
pub mod reconcile;
pub mod recycle;
pub mod roll;
pub mod scan;
pub mod served;
pub mod status;
mod subnets;
pub mod take_up;
pub mod tokens;
