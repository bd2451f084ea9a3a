//! Where the table lives: the text of `EC2_IPAM_DATABASE_URL`, or the parts in an original's `config.json`.
//!
//! A password goes in and never comes out again: no `Debug`, `Display` or error shows it, nor the text it came in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::login::{Login, Password, Tokens};

/// A database for the table of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `mysql://user:password@host1:3306,host2:3306/database?ssl-mode=…`, shared by a fleet.
    MySql(Server),
    /// `sqlite:///absolute/path`, this host's own file.
    Sqlite(PathBuf),
}

/// A MySQL or MariaDB server, or several that stand for one another, and the database on it.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Server {
    /// In the order in which they are tried; one at least.
    pub hosts: Vec<HostPort>,
    pub user: String,
    pub database: String,
    /// A local socket to use instead of the one host and its port.
    pub socket: Option<PathBuf>,
    pub tls: Tls,
    pub login: Login,
}

/// A host and its port, shown as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HostPort {
    pub name: String,
    pub port: u16,
}

/// How far the connection to a server is protected; MySQL's own words for `ssl-mode`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tls {
    /// `disabled`, the default: plain TCP.
    #[default]
    Disabled,
    /// `required`: encrypted, but anybody's certificate will do.
    Required,
    /// `verify-identity`: from a known authority and for this very host. What `ssl-ca` alone means. MySQL's weaker
    /// `verify-ca` is refused: the TLS library checks the name whatever it is told.
    VerifyIdentity {
        /// `ssl-ca`: the authority's certificates (PEM). None: those that browsers trust.
        ca: Option<PathBuf>,
        /// `ssl-name`: the name that the certificate must bear, if that is not the host.
        name: Option<String>,
    },
}

/// A URL that does not say where the table lives. The sentence is fit for a user and holds nothing of the URL's
/// secret part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the database URL {0}")]
pub struct BadUrl(String);

const PORT: u16 = 3306;
const FORMS: &str =
    "mysql://user:password@host:3306/database (several: host1:3306,host2:3306) or sqlite:///absolute/path";
const OPTIONS: &str = "ssl-mode, ssl-ca, ssl-name, socket";
const MODES: &str = "disabled, required, verify-identity";

impl Server {
    /// From parts: one host, without TLS.
    pub fn new(host: String, port: u16, user: String, password: String, database: String) -> Self {
        let hosts = vec![HostPort { name: host, port }];
        let login = Login::Password(Password::new(password));
        Self { hosts, user, database, socket: None, tls: Tls::Disabled, login }
    }

    fn parse(rest: &str) -> Result<Self, BadUrl> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The tail of a password whose `?` somebody forgot to encode: no error may quote that.
        if query.contains('@') {
            return Err(bad("has an `@` after its `?`: in a user or password a `?` is written %3F, an `@` %40"));
        }
        // A password may hold an `@` or `/` that somebody forgot to encode; a host cannot.
        let (login, place) =
            rest.rsplit_once('@').ok_or_else(|| bad("names no user: mysql://user:password@host/database"))?;
        let (address, database) = place.split_once('/').unwrap_or((place, ""));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let mut server = Self {
            hosts: address.split(',').map(host).collect::<Result<_, _>>()?,
            user: decoded(user, "user")?,
            database: decoded(database, "database name")?,
            socket: None,
            tls: Tls::Disabled,
            login: Login::Password(Password::new(decoded(password, "password")?)),
        };
        if server.user.is_empty() {
            return Err(bad("names no user: mysql://user:password@host/database"));
        }
        if server.database.is_empty() {
            return Err(bad("names no database after the host: mysql://user:password@host/database"));
        }
        if place.contains('#') {
            return Err(bad("has a `#` after the host: in a user, password or database name it is written %23"));
        }
        if server.database.contains('/') {
            return Err(bad("has a `/` too many: in a user or password it is written %2F, an `@` %40"));
        }
        if database.contains(['&', '=']) || database.contains(char::is_whitespace) {
            return Err(bad(
                "has a `&`, `=` or blank in its database name: options come after a `?`, and nothing after them",
            ));
        }
        if address.contains(char::is_whitespace) {
            return Err(bad("has a blank among its hosts: mysql://user:password@host1,host2/database"));
        }
        server.options(query)?;
        if server.socket.is_some() && server.hosts.len() > 1 {
            return Err(bad("names several hosts beside a socket, which leads to one server"));
        }
        if server.socket.is_none() && server.hosts.iter().any(|host| host.name.is_empty()) {
            return Err(bad("names no host, or has a comma too many: mysql://user:password@host1,host2/database"));
        }
        Ok(server)
    }

    fn options(&mut self, query: &str) -> Result<(), BadUrl> {
        let (mut mode, mut ca, mut name) = (None, None, None);
        let mut seen = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            if seen.contains(&dashed(key)) {
                return Err(bad(&format!("has the option `{key}` twice")));
            }
            seen.push(dashed(key));
            let value = decoded(value, key)?;
            match dashed(key).as_str() {
                // As MySQL's own programs write it: VERIFY_IDENTITY.
                "ssl-mode" => mode = Some(dashed(&value)),
                "ssl-ca" | "socket" if !value.starts_with('/') => {
                    return Err(bad(&format!("has an option {key} that is not an absolute path")));
                }
                "ssl-name" => name = Some(value),
                "ssl-ca" => ca = Some(PathBuf::from(value)),
                "socket" => self.socket = Some(PathBuf::from(value)),
                _ => return Err(bad(&format!("has an option `{key}` that is not known: {OPTIONS}"))),
            }
        }
        self.tls = match (mode.as_deref(), ca.is_some() || name.is_some()) {
            (None | Some("disabled"), false) => Tls::Disabled,
            (Some("required"), false) => Tls::Required,
            (None, true) | (Some("verify-identity"), _) => Tls::VerifyIdentity { ca, name },
            (Some("disabled" | "required"), true) => {
                return Err(bad("has an ssl-ca or ssl-name that its ssl-mode never checks: use verify-identity"));
            }
            (Some("verify-ca"), _) => {
                return Err(bad(
                    "asks for verify-ca: use verify-identity, with ssl-name=NAME if the certificate names another host",
                ));
            }
            (Some("preferred"), _) => {
                return Err(bad(
                    "asks for ssl-mode preferred, which whoever stands in between can switch off: use required, \
                     verify-identity, or disabled",
                ));
            }
            (Some(_), _) => return Err(bad(&format!("has an ssl-mode that is none of {MODES}"))),
        };
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(socket) => write!(f, "{}:{}", socket.display(), self.database),
            None => {
                let hosts: Vec<_> = self.hosts.iter().map(HostPort::to_string).collect();
                write!(f, "{}/{}", hosts.join(","), self.database)
            }
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self}, {:?})", self.tls)
    }
}

impl Database {
    /// With tokens of these, where its user logs in by tokens.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        match self {
            Self::MySql(server) if matches!(server.login, Login::Token(_)) => {
                Self::MySql(Server { login: Login::Token(tokens), ..server })
            }
            other @ (Self::MySql(_) | Self::Sqlite(_)) => other,
        }
    }
}

impl FromStr for Database {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        if let Some(rest) = text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://")) {
            Server::parse(rest).map(Self::MySql)
        } else if let Some(path) = text.strip_prefix("sqlite://") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(bad("names no file by its absolute path: sqlite:///absolute/path"));
            }
            Ok(Self::Sqlite(PathBuf::from(path)))
        } else {
            Err(bad(&format!("has neither of the forms {FORMS}")))
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(server) => server.fmt(f),
            Self::Sqlite(file) => file.display().fmt(f),
        }
    }
}

fn bad(why: &str) -> BadUrl {
    BadUrl(why.to_owned())
}

/// `VERIFY_CA` as `verify-ca`.
fn dashed(word: &str) -> String {
    word.to_lowercase().replace('_', "-")
}

fn host(address: &str) -> Result<HostPort, BadUrl> {
    let (name, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => (name, port.strip_prefix(':')),
        None => address.split_once(':').map_or((address, None), |(name, port)| (name, Some(port))),
    };
    let port = match port {
        None => PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| bad("has a port that is not a number from 1 to 65535"))?,
    };
    Ok(HostPort { name: name.to_owned(), port })
}

/// Undoes percent-encoding. `part` is what the text is, for the error.
fn decoded(text: &str, part: &str) -> Result<String, BadUrl> {
    let wrong = || bad(&format!("has a {part} that is not well percent-encoded: a `%` itself is written %25"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push(high * 16 + low);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        match text.parse().unwrap() {
            Database::MySql(server) => server,
            Database::Sqlite(file) => panic!("{file:?}"),
        }
    }

    fn by(password: &str) -> Login {
        Login::Password(Password::new(password.into()))
    }

    fn at(name: &str, port: u16) -> HostPort {
        HostPort { name: name.into(), port }
    }

    #[test]
    fn a_url_tells_every_part() {
        let s = server("mysql://ip%40am:p%40ss%3A%2F%25@db.example:3307/i%20pam?ssl-name=db&ssl-ca=/etc/ca.pem");
        assert_eq!(s.login, by("p@ss:/%"));
        assert_eq!(s.tls, Tls::VerifyIdentity { ca: Some("/etc/ca.pem".into()), name: Some("db".into()) });
        assert_eq!(s.to_string(), "db.example:3307/i pam");
        assert_eq!((s.hosts, s.user, s.database), (vec![at("db.example", 3307)], "ip@am".into(), "i pam".into()));
        let s = server("mysql://root@[fd00::1]/ipam");
        assert_eq!(s.to_string(), "[fd00::1]:3306/ipam");
        assert_eq!((s.hosts, s.login, s.tls), (vec![at("fd00::1", 3306)], by(""), Tls::Disabled));
        assert_eq!(server("mysql://root@/ipam?socket=/run/m.sock").to_string(), "/run/m.sock:ipam");
        assert_eq!(
            server("mysql://u:p@h/d?ssl-ca=/ca").tls,
            Tls::VerifyIdentity { ca: Some("/ca".into()), name: None }
        );
        assert_eq!("sqlite:///var/lib/x.db".parse(), Ok(Database::Sqlite("/var/lib/x.db".into())));
    }

    #[test]
    fn what_other_programs_write_will_do() {
        assert_eq!(server("mariadb://u:p@h/d"), server("mysql://u:p@h/d"));
        for mode in ["REQUIRED", "Required", "required"] {
            assert_eq!(server(&format!("mysql://u:p@h/d?ssl_mode={mode}")).tls, Tls::Required);
        }
        assert_eq!(server("mysql://u:p@h/d?ssl-mode=DISABLED").tls, Tls::Disabled);
        let verified = Tls::VerifyIdentity { ca: Some("/ca".into()), name: None };
        assert_eq!(server("mysql://u:p@h/d?ssl-mode=VERIFY_IDENTITY&ssl_ca=/ca").tls, verified);
        // What has no other meaning before the last `@` need not be encoded.
        assert_eq!(server("mysql://u:a/b#c@d:e@h/d").login, by("a/b#c@d:e"));
    }

    #[test]
    fn several_hosts_have_a_port_each() {
        let s = server("mysql://u:p@a,[fd00::1]:3307,[fd00::2],b.example:3308/d?ssl-mode=required");
        let hosts = [at("a", 3306), at("fd00::1", 3307), at("fd00::2", 3306), at("b.example", 3308)];
        assert_eq!((s.hosts.as_slice(), &s.tls), (hosts.as_slice(), &Tls::Required));
        assert_eq!(s.to_string(), "a:3306,[fd00::1]:3307,[fd00::2]:3306,b.example:3308/d");
    }

    #[test]
    fn a_bad_url_says_what_is_wrong_with_it_and_no_secret() {
        for (url, says) in [
            ("", "neither of the forms"),
            ("postgres://u:hunter2@h/d", "neither of the forms"),
            ("mysql://host/d", "names no user"),
            ("mysql://u:hunter2@h", "names no database"),
            ("mysql://u:hunter2@/d", "names no host"),
            ("mysql://u:hunter2@h:port/d", "port"),
            ("mysql://u:hunter2@h:0/d", "port"),
            ("mysql://u:hunter2@a:1,b:x/d", "port"),
            ("mysql://u:hunter2@a:1,/d", "a comma too many"),
            ("mysql://u:hunter2@a,,b/d", "a comma too many"),
            ("mysql://u:hunter2@a,b/d?socket=/run/m.sock", "beside a socket"),
            ("mysql://u:hunter2%zz@h/d", "percent-encoded"),
            ("mysql://u:hunter2@h/d/e", "too many"),
            ("mysql://u:p@h/d?hunter2@h/d", "an `@` after its `?`"),
            ("mysql://u:hunter2?x@h/d", "a `?` is written %3F"),
            ("mysql://u:p?hunter2#/@h/d?ssl-mode=required", "a `?` is written %3F"),
            ("mysql://u:hunter2@h/d#x", "written %23"),
            ("mysql://u:hunter2@h/d?ssl-mode=PREFERRED", "use required"),
            ("mysql://u:hunter2@h/d?ssl-mode=VERIFY_CA", "use verify-identity"),
            ("mysql://u:hunter2@h/d?tls=on", "`tls` that is not known: ssl-mode, ssl-ca, ssl-name, socket"),
            ("mysql://u:hunter2@h/d?ssl-mode=on", "verify-identity"),
            ("mysql://u:hunter2@h/d&ssl-mode=required", "options come after a `?`"),
            ("mysql://u:hunter2@h/d ", "blank in its database name"),
            ("mysql://u:hunter2@h, k/d", "blank among its hosts"),
            ("mysql://u:hunter2@h/d?ssl-mode=required&SSL_MODE=disabled", "twice"),
            ("mysql://u:hunter2@h/d?ssl-mode=required&ssl-ca=/ca", "never checks"),
            ("mysql://u:hunter2@h/d?ssl-ca=ca.pem", "absolute path"),
            ("mysql://u:hunter2@h/d?ssl-mode=verify-ca", "use verify-identity"),
            ("sqlite://x.db", "absolute path"),
        ] {
            let error = url.parse::<Database>().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{url}: {error}");
        }
        let shown = server("mysql://u:hunter2@h/d");
        assert!(!format!("{shown} {shown:?} {:?}", Database::MySql(shown.clone())).contains("hunter2"));
    }
}
