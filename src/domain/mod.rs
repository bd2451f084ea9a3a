//! Values and decisions: no IO, no async.

pub mod address;
pub mod block;
pub mod history;
pub mod holding;
pub mod id;
pub mod map;
pub mod on_eni;
pub mod peer;
pub mod plan;
pub mod roll;
pub mod square;
pub mod subnet;
pub mod told;
