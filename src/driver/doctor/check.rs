//! One prerequisite, and what came of looking at it.

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but not for long or not well.
    Warning,
    /// Containers cannot start.
    Failure,
}

/// One prerequisite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// Of what.
    pub name: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What mends it; none where nothing needs mending.
    pub remedy: Option<String>,
}

pub(crate) fn ok(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: Verdict::Ok, found: found.into(), remedy: None }
}

pub(crate) fn bad(name: &str, found: impl ToString, remedy: &str) -> Check {
    Check { name: name.into(), verdict: Verdict::Failure, found: found.to_string(), remedy: Some(remedy.into()) }
}

pub(crate) fn warning(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: Verdict::Warning, found: found.into(), remedy: Some(remedy.into()) }
}
