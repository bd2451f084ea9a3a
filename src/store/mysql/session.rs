//! A new connection: its options, what every session is told, and which servers are recent enough.

use std::time::Duration;

use futures_util::FutureExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, SslOpts};

use super::super::login::Login;
use super::super::url::{HostPort, Server, Tls};
use super::proof::{Proof, remedy};
use super::trouble::Trouble;
use super::{column, variables};

/// Whether it is a server to write to. Not all servers know all of these, and a node that its cluster has left behind
/// answers nothing else.
const STANDING: &str = "'read_only','innodb_read_only','wsrep_provider'";
const READY: &str = "SHOW STATUS LIKE 'wsrep\\_ready'";

pub(super) fn options(server: &Server, host: &HostPort) -> Opts {
    let socket = server.socket.as_ref().map(|path| path.to_string_lossy().into_owned());
    OptsBuilder::default()
        .ip_or_hostname(host.name.clone())
        .tcp_port(host.port)
        .user(Some(server.user.clone()))
        .db_name(Some(server.database.clone()))
        .socket(socket)
        // Else a guarded change to what is there already reads as "somebody moved".
        .client_found_rows(true)
        .tcp_keepalive(Some(Duration::from_secs(10)))
        .stmt_cache_size(Some(0))
        // Given here they need not be asked for; a server's own limits are at least 16 MiB and matter for what we send.
        .prefer_socket(Some(false))
        .max_allowed_packet(Some(16 << 20))
        .wait_timeout(Some(600))
        .into()
}

/// Logs in and sets the session up, on a server to write to: two round trips after the login's own, three on a Galera
/// cluster, or where the server has defaults of its own.
pub(super) async fn connect(options: Opts, tls: &Tls, login: &Login, proof: Proof) -> Result<Conn, Trouble> {
    let options = showing(OptsBuilder::from_opts(options), proof, protection(tls).await?)?;
    let mut coming = Coming(Some(Conn::new(options).await.map_err(|error| of_login(error, login))?));
    let conn = coming.0.as_mut().ok_or_else(Trouble::silent)?;
    let names = variables::looked_at();
    let packet = format!(
        "{};SELECT VERSION();SHOW VARIABLES WHERE variable_name IN ({STANDING},{names});{READY}",
        variables::SESSION
    );
    let mut answer = conn.query_iter(packet).await?;
    for _ in 0..3 {
        answer.collect::<mysql_async::Row>().await?;
    }
    let version = answer.collect::<mysql_async::Row>().await?.pop();
    let mut told = told(answer.collect().await?);
    told.extend(self::told(answer.collect().await?));
    answer.drop_result().await?;
    let version: String = match version {
        Some(mut row) => column(&mut row, 0)?,
        None => return Err(Trouble::Strange("it does not tell its version".to_owned())),
    };
    if !skips_locked(&version) {
        return Err(Trouble::TooOld(named(&version)));
    }
    let is_node = standing(&told)? == Standing::Node;
    variables::settle(conn, &told, is_node).await?;
    coming.0.take().ok_or_else(Trouble::silent)
}

/// The one place where what a login needs goes into a connection. A token goes out as it is, which the client's library would
/// do without TLS as well: so only a verified server gets one, and no local socket, which has no TLS whatever is asked for.
fn showing(options: OptsBuilder, proof: Proof, protection: Protection) -> Result<OptsBuilder, Trouble> {
    match (proof, protection) {
        (Proof::Password(password), Protection::None) => Ok(options.pass(Some(password))),
        (Proof::Password(password), Protection::Encrypted(tls) | Protection::Verified(tls)) => {
            Ok(options.pass(Some(password)).ssl_opts(Some(tls)))
        }
        (Proof::Token(token), Protection::Verified(tls)) => {
            let options = options.socket(None::<String>).ssl_opts(Some(tls));
            Ok(options.pass(Some(token)).enable_cleartext_plugin(true))
        }
        (Proof::Token(_), Protection::None | Protection::Encrypted(_)) => {
            Err(Trouble::Strange("a token is for a server alone whose name is verified (ssl-mode)".to_owned()))
        }
    }
}

/// A login that failed, with what helps where the server does not let the user in.
fn of_login(error: Error, login: &Login) -> Trouble {
    // ER_ACCESS_DENIED_ERROR, and MariaDB's ER_ACCESS_DENIED_NO_PASSWORD_ERROR.
    let is_denied = matches!(&error, Error::Server(error) if matches!(error.code, 1045 | 1698));
    match (error.into(), remedy(login)) {
        (Trouble::Refused(why), Some(remedy)) if is_denied => Trouble::Refused(format!("{why}: {remedy}")),
        (trouble, _) => trouble,
    }
}

/// How far a connection is protected.
#[derive(Debug)]
enum Protection {
    None,
    /// By whatever certificate the server has.
    Encrypted(SslOpts),
    /// And the certificate is valid for the server's name.
    Verified(SslOpts),
}

/// Made for each connection, with `ssl-ca` as it is now: authorities are renewed while the driver runs.
async fn protection(tls: &Tls) -> Result<Protection, Trouble> {
    let (ca, name) = match tls {
        Tls::Disabled => return Ok(Protection::None),
        Tls::Required => {
            return Ok(Protection::Encrypted(SslOpts::default().with_danger_accept_invalid_certs(true)));
        }
        Tls::VerifyIdentity { ca, name } => (ca, name),
    };
    let mut known = SslOpts::default();
    if let Some(file) = ca {
        let unfit = |why: String| Trouble::Refused(format!("TLS fails: the file {} of ssl-ca {why}", file.display()));
        let bytes = tokio::fs::read(file).await.map_err(|error| unfit(format!("cannot be read ({})", error.kind())))?;
        // PEM, or the one certificate itself.
        if !bytes.starts_with(&[0x30]) && !bytes.windows(PEM.len()).any(|part| part == PEM) {
            return Err(unfit("holds no certificate".to_owned()));
        }
        known = known.with_root_certs(vec![bytes.into()]).with_disable_built_in_roots(true);
    }
    Ok(Protection::Verified(known.with_danger_tls_hostname_override(name.clone())))
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A connection that is not set up yet.
struct Coming(Option<Conn>);

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            goodbye(conn);
        }
    }
}

/// Polled once: a goodbye if it can be written at once, and then the socket is closed. A plain drop would leave a task
/// behind that reads what a stalled server never sends.
pub(super) fn goodbye(conn: Conn) {
    let _ = conn.disconnect().now_or_never();
}

/// Whether a server that was one to write to when we came still is.
pub(super) async fn stands(conn: &mut Conn) -> Result<(), Trouble> {
    let look = format!("SHOW VARIABLES WHERE variable_name IN ({STANDING});{READY}");
    let mut answer = conn.query_iter(look).await?;
    let mut told = told(answer.collect().await?);
    told.extend(self::told(answer.collect().await?));
    answer.drop_result().await?;
    standing(&told).map(|_| ())
}

fn told(rows: Vec<(String, Option<String>)>) -> Vec<(String, String)> {
    rows.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Server,
    /// Of a Galera cluster.
    Node,
}

/// Read-only are replicas, readers of Aurora (`innodb_read_only`) and secondaries of Group Replication. They are left
/// even where our user might write all the same: what they hold is behind, and nobody else would learn of it.
fn standing(told: &[(String, String)]) -> Result<Standing, Trouble> {
    let is = |name: &str, not: [&str; 2]| told.iter().any(|(n, value)| n == name && !not.contains(&value.as_str()));
    let galera = is("wsrep_provider", ["none", ""]);
    if galera && !is("wsrep_ready", ["OFF", ""]) {
        return Err(Trouble::Away("its node is joining or is cut off from its Galera cluster".to_owned()));
    }
    if is("read_only", ["OFF", "0"]) || is("innodb_read_only", ["OFF", "0"]) {
        return Err(Trouble::ReadOnly);
    }
    Ok(if galera { Standing::Node } else { Standing::Server })
}

/// Whether the server of this version text knows SKIP LOCKED: MySQL 8.0.1, MariaDB 10.6. `5.5.5-` is what MariaDB puts
/// before its version for old replicas' sake; Aurora writes `8.0.mysql_aurora.3.04.0`.
fn skips_locked(version: &str) -> bool {
    let maria = version.contains("MariaDB");
    let version = if maria { version.strip_prefix("5.5.5-").unwrap_or(version) } else { version };
    let mut parts = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (parts.next(), parts.next(), parts.next());
    match (major, minor) {
        (Some(major), Some(minor)) if maria => (major, minor) >= (10, 6),
        (Some(major), Some(minor)) => (major, minor, patch.unwrap_or(u32::MAX)) >= (8, 0, 1),
        (_, _) => false,
    }
}

fn named(version: &str) -> String {
    if version.contains("MariaDB") { version.to_owned() } else { format!("MySQL {version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_to_write_to_is_told_from_others() {
        let told = |words: &[(&str, &str)]| {
            standing(&words.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect::<Vec<_>>())
        };
        let plain = ("wsrep_provider", "none");
        let node = ("wsrep_provider", "/usr/lib/galera/libgalera_smm.so");
        // MariaDB, MySQL; a node; a secondary or replica, of a newer MariaDB too; an Aurora reader; a lonely node.
        assert_eq!(told(&[("read_only", "OFF"), ("innodb_read_only", "OFF"), plain]), Ok(Standing::Server));
        assert_eq!(told(&[("read_only", "OFF"), ("innodb_read_only", "OFF")]), Ok(Standing::Server));
        assert_eq!(told(&[("read_only", "OFF"), node, ("wsrep_ready", "ON")]), Ok(Standing::Node));
        assert_eq!(told(&[plain, ("read_only", "OFF"), ("wsrep_ready", "OFF")]), Ok(Standing::Server));
        for read_only in ["ON", "NO_LOCK"] {
            assert_eq!(told(&[("read_only", read_only)]), Err(Trouble::ReadOnly));
        }
        assert_eq!(told(&[("read_only", "OFF"), ("innodb_read_only", "ON")]), Err(Trouble::ReadOnly));
        assert!(matches!(told(&[("read_only", "OFF"), node, ("wsrep_ready", "OFF")]), Err(Trouble::Away(_))));
    }

    #[test]
    fn a_token_goes_to_a_verified_server_and_nowhere_else() {
        let token = || Proof::Token("hunter2".into());
        let options = || OptsBuilder::default().socket(Some("/run/mysqld/mysqld.sock"));
        for weak in [Protection::None, Protection::Encrypted(SslOpts::default())] {
            let why = showing(options(), token(), weak).unwrap_err();
            assert!(matches!(&why, Trouble::Strange(why) if !why.contains("hunter2")), "{why:?}");
        }
        let sent: Opts = showing(options(), token(), Protection::Verified(SslOpts::default())).unwrap().into();
        assert!(sent.enable_cleartext_plugin() && sent.ssl_opts().is_some() && sent.socket().is_none());
        assert_eq!(sent.pass(), Some("hunter2"));
        // A password never goes out as it is.
        for any in
            [Protection::None, Protection::Encrypted(SslOpts::default()), Protection::Verified(SslOpts::default())]
        {
            let sent: Opts = showing(options(), Proof::Password("hunter2".into()), any).unwrap().into();
            assert!(!sent.enable_cleartext_plugin() && sent.socket().is_some());
        }
    }

    #[test]
    fn old_servers_are_told_from_new_ones() {
        for good in [
            "8.0.1",
            "8.0.35-27",
            "8.4.3",
            "9.7.4",
            "8.0.mysql_aurora.3.04.0",
            "8.0.28-log",
            "10.6.0-MariaDB",
            "5.5.5-10.6.12-MariaDB-log",
            "10.11.19-MariaDB-0+deb12u1",
            "11.4.2-MariaDB-ubu2404",
        ] {
            assert!(skips_locked(good), "{good}");
        }
        for bad in
            ["5.7.44", "8.0.0-dmr", "5.7.mysql_aurora.2.11.3", "5.5.5-10.5.23-MariaDB", "10.3.39-MariaDB", "x", ""]
        {
            assert!(!skips_locked(bad), "{bad}");
        }
        assert_eq!(named("5.7.44"), "MySQL 5.7.44");
    }
}
