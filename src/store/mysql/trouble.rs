//! What a server or the way to it can do to us, sorted by what helps.

use mysql_async::{DriverError, Error, IoError, TlsError};

use super::super::StoreError;

/// Why a packet brought no answer worth having. The connection it went over is closed in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody was in the way; nothing happened. Again helps.
    Conflict(By),
    /// Somebody inserted the same row; nothing happened. Looking again helps.
    Duplicate,
    /// The connection is gone, or silent. Whether the packet took effect is unknown, so a new one has to look first.
    Lost(String),
    /// As lost, and another host is the one to ask: this one is leaving, or has lost its cluster.
    Away(String),
    /// The server has no connection left for us, or there is nothing to log in with: those that are there go on.
    Full(String),
    /// As away: it takes no writes, and what is read there is behind.
    ReadOnly,
    /// The server will not have us.
    Refused(String),
    /// The server cannot do what we need.
    TooOld(String),
    /// The user lacks a right: says the server, in these words.
    MayNot(String),
    /// A column, key or table was there already.
    There,
    /// An answer that is not known to be final, of a server on its way down or of a proxy: what became of the packet is unknown,
    /// waiting may help, and so may another host.
    Unknown(String),
    /// A table, column or key is missing or not what it was: the schema's check knows more.
    Schema(String),
    /// An error that will be there the next time too.
    Strange(String),
}

/// Who was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Other hosts, at the same rows at the same moment.
    Hosts,
    /// Calls of this host, which had its connections.
    Calls,
    /// Somebody held a lock for longer than a statement waits.
    Lock,
    /// A lock on rows.
    Rows,
    /// A lock on the table or on all of the server.
    Table,
}

impl By {
    fn why(self) -> &'static str {
        match self {
            Self::Hosts => "other hosts were at the same rows",
            Self::Calls => "earlier calls of this host took all of it",
            Self::Lock => "another session holds a lock on the table or its rows (SHOW PROCESSLIST)",
            Self::Rows => {
                "other sessions hold the rows: a transaction that was left open (information_schema.innodb_trx shows it), or many hosts \
                 at once"
            }
            Self::Table => {
                "the table is locked as a whole: a backup (FLUSH TABLES WITH READ LOCK), LOCK TABLES or ALTER TABLE \
                 (SHOW PROCESSLIST shows it)"
            }
        }
    }
}

impl Trouble {
    /// A time-out.
    pub(super) fn silent() -> Self {
        Self::Lost("no answer in time".to_owned())
    }

    /// The reason alone, where several hosts have one each.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Lost(why)
            | Self::Full(why)
            | Self::Away(why)
            | Self::Refused(why)
            | Self::MayNot(why)
            | Self::Unknown(why)
            | Self::Schema(why)
            | Self::Strange(why) => why,
            Self::ReadOnly => "it is read-only",
            Self::TooOld(_) => "it is too old (MySQL 8.0.1 or MariaDB 10.6 is needed)",
            Self::Conflict(by) => by.why(),
            Self::Duplicate | Self::There => By::Hosts.why(),
        }
    }

    /// Whether waiting may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Lost(_)
            | Self::Full(_)
            | Self::Away(_)
            | Self::Unknown(_)
            | Self::ReadOnly
            | Self::Conflict(_)
            | Self::Duplicate
            | Self::There => true,
            Self::Refused(_) | Self::TooOld(_) | Self::MayNot(_) | Self::Schema(_) | Self::Strange(_) => false,
        }
    }

    pub(super) fn into_error(self, at: &str) -> StoreError {
        let at = at.to_owned();
        match self {
            Self::Conflict(by) => StoreError::Busy { at, why: by.why() },
            Self::Duplicate | Self::There => StoreError::Busy { at, why: By::Hosts.why() },
            Self::Lost(why) | Self::Full(why) | Self::Away(why) => StoreError::Unreachable { at, why },
            Self::ReadOnly => StoreError::ReadOnly { at },
            Self::Refused(why) | Self::MayNot(why) => StoreError::Refused { at, why },
            Self::TooOld(found) => StoreError::TooOld { found },
            Self::Schema(why) => {
                let why = format!(
                    "its tables are not as the driver left them, and nothing is lacking that it could add: {why}"
                );
                StoreError::Unfit { at, why }
            }
            Self::Strange(why) => StoreError::Unfit { at, why },
            Self::Unknown(why) => StoreError::Failed { at, why },
        }
    }
}

/// One sentence of several: where each was met, and what it was.
pub(super) fn together(troubles: Vec<(String, Trouble)>) -> Trouble {
    if troubles.iter().all(|(_, trouble)| *trouble == Trouble::ReadOnly) {
        return Trouble::ReadOnly;
    }
    let why = troubles.iter().map(|(at, trouble)| format!("{at}: {}", trouble.why())).collect::<Vec<_>>().join("; ");
    if troubles.iter().any(|(_, trouble)| trouble.may_pass()) { Trouble::Lost(why) } else { Trouble::Refused(why) }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => server(error.code, &error.message),
            // rustls wraps what it thinks of a certificate into an IO error.
            Error::Io(IoError::Io(error)) if is_tls(TlsError::Tls, &error) => {
                Self::Refused(format!("TLS fails: {error}"))
            }
            Error::Io(IoError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Lost(NOT_MYSQL.to_owned())
            }
            Error::Io(IoError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::Lost(format!("{} (a socket or certificate file)", plain(&error)))
            }
            Error::Io(IoError::Io(error)) => Self::Lost(plain(&error)),
            Error::Io(IoError::Tls(error)) => Self::Refused(format!("TLS fails: {error}")),
            Error::Driver(error) => driver(&error),
            // Neither a URL nor a callback of anybody else is in use.
            Error::Other(_) | Error::Url(_) => Self::Unknown("the connection cannot be set up".to_owned()),
        }
    }
}

/// Whether an error of this kind is within. The TLS library's own type has no name here but in its wrapper.
fn is_tls<E: std::error::Error + 'static>(_: fn(E) -> TlsError, error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|within| within.is::<E>())
}

const NOT_MYSQL: &str = "what answers does not speak MySQL's protocol";

/// "Connection refused", without "(os error 111)".
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's list of failures; only what is known to be final is"
)]
fn driver(error: &DriverError) -> Trouble {
    match error {
        DriverError::ConnectionClosed | DriverError::PacketOutOfOrder => {
            Trouble::Lost("the connection was closed".to_owned())
        }
        DriverError::NoClientSslFlagFromServer => {
            Trouble::Refused("TLS is asked for (ssl-mode), and the server offers none".to_owned())
        }
        DriverError::UnknownAuthPlugin { name } => {
            Trouble::Refused(format!("its user logs in by {name}, which the driver does not speak"))
        }
        DriverError::MysqlOldPasswordDisabled | DriverError::CleartextPluginDisabled => {
            let why = "its user logs in by a method that gives the password away, as one of IAM on RDS does: for that one set \
                       EC2_IPAM_DATABASE_AUTH=rds-iam";
            Trouble::Refused(why.to_owned())
        }
        DriverError::UnexpectedPacket { .. } => Trouble::Lost(NOT_MYSQL.to_owned()),
        other => Trouble::Unknown(other.to_string().trim_end_matches('.').to_owned()),
    }
}

/// Only codes that are known to be final are: proxies have codes of their own, and servers on their way down many.
fn server(code: u16, message: &str) -> Trouble {
    match code {
        1205 => Trouble::Conflict(By::Lock),
        // Deadlock, "record has changed since last read", interrupted, altered meanwhile, statement time
        // limits, rolled back by Group Replication's certification.
        1213 | 1020 | 1028 | 1317 | 1412 | 1969 | 3024 | 3101 => Trouble::Conflict(By::Hosts),
        1062 => Trouble::Duplicate,
        // Shutting down, not in its cluster, leaving its group.
        1053 | 1047 | 3100 => Trouble::Away(sentence(message)),
        1290 | 1792 | 1836 => Trouble::ReadOnly,
        // Too many connections, in three ways.
        1040 | 1203 | 1226 => Trouble::Full(sentence(message)),
        // Killed, cut.
        1927 | 3169 | 4031 | 1152 | 1158..=1161 | 1184 => Trouble::Lost(sentence(message)),
        // Credentials, database, host, locked or expired account, TLS demanded.
        1045 | 1698 | 1129 | 1130 | 1251 | 1820 | 1862 | 2049 | 3118 | 3159 | 4151 => {
            Trouble::Refused(sentence(message))
        }
        1049 => Trouble::Refused(format!("{}: create it, or correct the URL", sentence(message))),
        // Its database was dropped; a new session is told so.
        1046 => Trouble::Lost(sentence(message)),
        1044 | 1142 | 1143 | 1227 | 1370 => Trouble::MayNot(sentence(message)),
        1050 | 1060 | 1061 => Trouble::There,
        // Its message quotes the statement.
        1064 => Trouble::Strange("it does not understand a statement (error 1064)".to_owned()),
        _ if SCHEMA.contains(&code) => Trouble::Schema(coded(code, message)),
        _ if FINAL.contains(&code) => Trouble::Strange(coded(code, message)),
        _ => Trouble::Unknown(coded(code, message)),
    }
}

/// What the same statement will be told the next time too.
#[rustfmt::skip]
const FINAL: &[u16] = &[
    // What the server cannot do, or not with its settings.
    1005, 1071, 1115, 1118, 1149, 1193, 1229, 1231, 1235, 1238, 1267, 1273, 1286, 1298, 1305, 1665, 1845, 1846,
    // Limits of a statement: its size, the rows that it may look at or change.
    1104, 1153, 1175,
];

/// Somebody changed the tables under us.
#[rustfmt::skip]
const SCHEMA: &[u16] = &[
    // A table, column or key that is not there, or is something else.
    1033, 1054, 1072, 1146, 1176, 1194, 1195, 1288, 1347, 1932,
    // What does not fit a column, a key or a constraint.
    1048, 1264, 1265, 1292, 1364, 1366, 1406, 1451, 1452, 3819, 4025,
];

fn coded(code: u16, message: &str) -> String {
    format!("{} (error {code})", sentence(message))
}

/// A server's message in the middle of ours.
fn sentence(message: &str) -> String {
    message.trim_end_matches(['.', ' ']).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_what_helps() {
        for code in [1213, 1020, 3101] {
            assert_eq!(server(code, "x"), Trouble::Conflict(By::Hosts));
        }
        for code in [1047, 1053] {
            assert_eq!(server(code, "Leaving."), Trouble::Away("Leaving".into()));
        }
        for code in [1290, 1792, 1836] {
            assert_eq!(server(code, "x"), Trouble::ReadOnly);
        }
        assert_eq!(server(1205, "x"), Trouble::Conflict(By::Lock));
        assert_eq!(server(1040, "Full."), Trouble::Full("Full".into()));
        assert_eq!(server(1927, "Killed."), Trouble::Lost("Killed".into()));
        for code in [1045, 1698] {
            assert_eq!(server(code, "No."), Trouble::Refused("No".into()));
        }
        assert!(matches!(server(1049, "No."), Trouble::Refused(why) if why.starts_with("No: create it")));
        for code in [1044, 1142] {
            assert_eq!(server(code, "No."), Trouble::MayNot("No".into()));
        }
        let Trouble::Strange(why) = server(1064, "near 'SELECT'") else { panic!() };
        assert!(!why.contains("SELECT"));
        for code in [1146, 1054, 1176, 1406] {
            assert_eq!(server(code, "Table x."), Trouble::Schema(format!("Table x (error {code})")));
        }
        // RDS Proxy, ProxySQL, MaxScale, a server going down, a commit of which nobody knows, a code of tomorrow.
        for code in [9501, 9001, 1815, 2013, 2002, 1105, 1180, 65_535] {
            assert_eq!(server(code, "Gone."), Trouble::Unknown(format!("Gone (error {code})")));
            assert!(server(code, "Gone.").may_pass());
        }
    }

    #[test]
    fn garbage_is_not_called_tls() {
        let garbage = std::io::Error::new(std::io::ErrorKind::InvalidData, "bad handshake");
        assert_eq!(Trouble::from(Error::from(garbage)), Trouble::Lost(NOT_MYSQL.into()));
    }

    #[test]
    fn an_os_error_reads_as_a_reason() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(Trouble::from(Error::from(refused)), Trouble::Lost("Connection refused".into()));
    }
}
