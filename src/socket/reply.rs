//! What comes of a call.

use hyper::StatusCode;
use serde_json::Value;

use crate::eni::Lease;
use crate::error::Error;

/// An answer.
#[derive(Default)]
pub struct Reply {
    /// The JSON.
    pub json: Value,
    /// To be taken back if Docker does not get the answer.
    pub lease: Option<Lease>,
    /// What it means for Docker's networks, for the log; none: nothing.
    pub done: Option<String>,
}

/// An answer that carries nothing else.
impl From<Value> for Reply {
    fn from(json: Value) -> Self {
        Self { json, ..Self::default() }
    }
}

/// A refusal, and HTTP's word for it.
pub struct Refusal {
    pub(super) status: StatusCode,
    /// Why.
    pub why: Error,
}

impl Refusal {
    /// The caller's own mistake.
    pub(super) fn asked(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: Error::Asked(why.into()) }
    }
}

impl From<Error> for Refusal {
    fn from(why: Error) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, why }
    }
}
