//! What a file can do to us.

use rusqlite::ErrorCode;

use super::super::StoreError;

#[derive(Debug)]
pub(super) enum Trouble {
    /// Another process holds the file's lock.
    Busy,
    /// No answer from the disk.
    Silent,
    /// A table or column is missing that was there.
    Schema(String),
    /// The disk is full, or fails.
    Disk(String),
    /// An error that will be there the next time too.
    Broken(String),
}

impl Trouble {
    pub(super) fn silent() -> Self {
        Self::Silent
    }

    pub(super) fn io(what: &str, error: &std::io::Error) -> Self {
        let text = error.to_string();
        Self::Broken(format!("{what} ({})", text.split(" (os error").next().unwrap_or_default()))
    }

    pub(super) fn into_error(self, at: &str) -> StoreError {
        let at = at.to_owned();
        match self {
            Self::Busy => StoreError::Busy { at, why: "another process has the file" },
            Self::Silent => StoreError::Unreachable { at, why: "no answer from the disk in time".to_owned() },
            Self::Disk(why) => StoreError::Failed { at, why },
            Self::Schema(why) | Self::Broken(why) => StoreError::Unfit { at, why },
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    #[allow(clippy::wildcard_enum_match_arm, reason = "SQLite's own list of failures")]
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(_, Some(why)) | rusqlite::Error::SqlInputError { msg: why, .. } = &error
            && ["no such table", "no such column", "has no column"].iter().any(|lack| why.contains(lack))
        {
            return Self::Schema(format!("its tables are not as the driver left them: {why}"));
        }
        let why = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => return Self::Busy,
            Some(ErrorCode::NotADatabase) => "the file is not a database; move it away, or name another".to_owned(),
            Some(ErrorCode::DatabaseCorrupt) => {
                "the file is damaged; move it away, and the driver makes a new one".to_owned()
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "it may not be written to".to_owned(),
            Some(ErrorCode::CannotOpen) => "it cannot be opened for writing".to_owned(),
            Some(ErrorCode::DiskFull) => return Self::Disk("the disk is full".to_owned()),
            Some(ErrorCode::SystemIoFailure) => return Self::Disk("the disk fails to read or write".to_owned()),
            Some(code) => format!("SQLite gives up ({code:?})"),
            None => "a row is not what it should be".to_owned(),
        };
        Self::Broken(why)
    }
}
