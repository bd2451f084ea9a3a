//! Adapters: one IO each. They decide nothing and never import each other.

pub mod ec2;
pub mod engine;
pub mod imds;
pub mod link;
pub mod rds;
