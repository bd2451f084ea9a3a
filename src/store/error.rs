//! Why the store could not do it.

/// Why the store could not do it. One sentence fit for a user: no SQL, no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say it")]
pub enum StoreError {
    /// Nothing answers, or stopped answering.
    #[error("the database {at} cannot be reached: {why}")]
    Unreachable { at: String, why: String },
    /// It answers, and refuses us: credentials, unknown database, missing rights.
    #[error("the database {at} refuses the driver: {why}")]
    Refused { at: String, why: String },
    /// It takes no writes, or none of its hosts does.
    #[error(
        "the database {at} is read-only: let EC2_IPAM_DATABASE_URL name the server that takes writes (or several, host1,host2, and \
         the driver finds it), or make it writable"
    )]
    ReadOnly { at: String },
    /// SKIP LOCKED is missing.
    #[error(
        "the database server is {found}, which cannot skip locked rows: MySQL 8.0.1 or MariaDB 10.6 is the oldest that can"
    )]
    TooOld { found: String },
    /// The tables do not fit and may not be changed by this user.
    #[error(
        "the database lacks {lacks}, and its user may not add that: have an administrator run what `ec2-ipam schema` prints"
    )]
    Schema { lacks: String, sql: String },
    /// Somebody was in the way until the time was up.
    #[error("the database {at} was busy until the time was up: {why}")]
    Busy { at: String, why: &'static str },
    /// What it holds, or what it is, is nothing to work with.
    #[error("the database {at} cannot be used: {why}")]
    Unfit { at: String, why: String },
    /// Anything else that the server or the file says.
    #[error("the database {at} failed: {why}")]
    Failed { at: String, why: String },
}

impl StoreError {
    /// Whether it may pass by itself; else somebody has to change something first.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::ReadOnly { .. } | Self::Busy { .. } | Self::Failed { .. } => true,
            Self::Refused { .. } | Self::TooOld { .. } | Self::Schema { .. } | Self::Unfit { .. } => false,
        }
    }
}
