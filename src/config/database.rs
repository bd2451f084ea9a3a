//! Where the table is, and how its user logs in: three settings that have to fit one another.

use anyhow::{Context, bail};

use super::check::file;
use crate::store::{Database, Login, Server, Tls, Tokens};

const URL: &str = "EC2_IPAM_DATABASE_URL";
const PASSWORD_FILE: &str = "EC2_IPAM_DATABASE_PASSWORD_FILE";
const AUTH: &str = "EC2_IPAM_DATABASE_AUTH";
/// The default: one host, nothing to set up.
const DEFAULT: &str = "sqlite:///var/lib/ec2-ipam/ec2-ipam.db";

/// The settings of it, as they were typed.
pub(super) struct Typed<'a> {
    pub(super) url: &'a str,
    pub(super) password_file: &'a str,
    pub(super) auth: &'a str,
}

impl Typed<'_> {
    /// `original`: that of the original's config.json, which a URL outweighs.
    pub(super) fn database(&self, original: Option<Server>) -> anyhow::Result<Database> {
        let (database, named) = match (self.url, original) {
            ("", Some(server)) => (Database::MySql(server), "config.json"),
            ("", None) => (DEFAULT.parse()?, URL),
            (url, _) => (url.parse().context(URL)?, URL),
        };
        let Some((login, set)) = self.login()? else { return Ok(database) };
        let Database::MySql(server) = database else {
            bail!(
                "{set}, but the table is an SQLite file, which has no user: let {URL} be a mysql:// URL, or set neither"
            );
        };
        if matches!(&server.login, Login::Password(password) if !password.is_empty()) {
            bail!("{set}, but {named} has a password too: leave it out there (mysql://user@host/database)");
        }
        if matches!(login, Login::Token(_)) {
            if server.socket.is_some() {
                bail!("{set}, but {URL} leads to a local socket, where nobody takes tokens");
            }
            if !matches!(server.tls, Tls::VerifyIdentity { .. }) {
                bail!(
                    "{set}, but without the server's name verified whoever is on the way could log in with the token: add \
                     ?ssl-ca=/path/of/its/authorities.pem to {URL}, or ?ssl-mode=verify-identity"
                );
            }
        }
        Ok(Database::MySql(Server { login, ..server }))
    }

    /// Another way to log in than the URL's password, and the setting that says so.
    fn login(&self) -> anyhow::Result<Option<(Login, String)>> {
        let by_file = format!("{PASSWORD_FILE} is {:?}", self.password_file);
        match (self.auth, self.password_file) {
            ("" | "password", "") => Ok(None),
            ("" | "password", text) => {
                Ok(Some((Login::PasswordFile(file(PASSWORD_FILE, text, "/var/lib/ec2-ipam/password")?), by_file)))
            }
            // Whoever makes them comes later.
            ("rds-iam", "") => Ok(Some((Login::Token(Tokens::none()), format!("{AUTH} is \"rds-iam\"")))),
            ("rds-iam", _) => {
                bail!("{by_file}, but {AUTH} is \"rds-iam\", which takes no password: leave one of them out")
            }
            (other, _) => bail!("{AUTH} is {other:?}, but must be password or rds-iam"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Typed<'_> = Typed { url: "", password_file: "", auth: "" };
    const VERIFIED: &str = "mysql://u@h/d?ssl-ca=/ca.pem";

    fn original(password: &str) -> Option<Server> {
        Some(Server::new("h".into(), 3306, "u".into(), password.into(), "d".into()))
    }

    #[test]
    fn a_user_logs_in_by_what_is_set() {
        let login = |typed: &Typed<'_>, original| match typed.database(original).unwrap() {
            Database::MySql(server) => Some(server.login),
            Database::Sqlite(_) => None,
        };
        let file = Some(Login::PasswordFile("/f".into()));
        assert_eq!(login(&NOTHING, None), None);
        assert_eq!(login(&Typed { auth: "password", ..NOTHING }, None), None);
        assert!(matches!(login(&Typed { url: "mysql://u:p@h/d", ..NOTHING }, None), Some(Login::Password(_))));
        for url in ["mysql://u@h/d", "mysql://u:@h/d", "mysql://u@/d?socket=/s", VERIFIED] {
            assert_eq!(login(&Typed { url, password_file: "/f", ..NOTHING }, None), file, "{url}");
        }
        assert_eq!(login(&Typed { password_file: "/f", auth: "password", ..NOTHING }, original("")), file);
        for url in [VERIFIED, "mysql://u@a,b/d?ssl-mode=VERIFY_IDENTITY", "mysql://u@h/d?ssl-name=n"] {
            let login = login(&Typed { url, auth: "rds-iam", ..NOTHING }, original("p"));
            assert!(matches!(login, Some(Login::Token(_))), "{url}");
        }
    }

    #[test]
    fn what_contradicts_is_refused_without_its_secret() {
        let with = |url, password_file, auth| Typed { url, password_file, auth };
        for (typed, original, says) in [
            (with("", "/f", ""), None, "EC2_IPAM_DATABASE_PASSWORD_FILE is \"/f\", but the table is an SQLite file"),
            (
                with("sqlite:///f", "", "rds-iam"),
                None,
                "EC2_IPAM_DATABASE_AUTH is \"rds-iam\", but the table is an SQLite",
            ),
            (
                with("mysql://u:hunter2@h/d", "/f", ""),
                None,
                "EC2_IPAM_DATABASE_PASSWORD_FILE is \"/f\", but EC2_IPAM_DATABASE_URL has a password too",
            ),
            (
                with("", "/f", "password"),
                original("hunter2"),
                "EC2_IPAM_DATABASE_PASSWORD_FILE is \"/f\", but config.json has a password too",
            ),
            (
                with("mysql://u:hunter2@h/d?ssl-ca=/c", "", "rds-iam"),
                None,
                "EC2_IPAM_DATABASE_AUTH is \"rds-iam\", but EC2_IPAM_DATABASE_URL has a password too",
            ),
            (
                with("mysql://u@h/d", "f", ""),
                None,
                "EC2_IPAM_DATABASE_PASSWORD_FILE is \"f\", but must be a file's whole path",
            ),
            (
                with(VERIFIED, "/f", "rds-iam"),
                None,
                "EC2_IPAM_DATABASE_PASSWORD_FILE is \"/f\", but EC2_IPAM_DATABASE_AUTH is",
            ),
            (
                with("mysql://u@h/d", "", "rds-iam"),
                None,
                "EC2_IPAM_DATABASE_AUTH is \"rds-iam\", but without the server's name",
            ),
            (
                with("mysql://u@h/d?ssl-mode=required", "", "rds-iam"),
                None,
                "EC2_IPAM_DATABASE_AUTH is \"rds-iam\", but without",
            ),
            (
                with("", "", "rds-iam"),
                original(""),
                "EC2_IPAM_DATABASE_AUTH is \"rds-iam\", but without the server's name",
            ),
            (
                with("mysql://u@/d?socket=/s&ssl-ca=/c", "", "rds-iam"),
                None,
                "EC2_IPAM_DATABASE_AUTH is \"rds-iam\", but EC2_IPAM_DATABASE_URL leads to a local socket",
            ),
            (with(VERIFIED, "", "iam"), None, "EC2_IPAM_DATABASE_AUTH is \"iam\", but must be password or rds-iam"),
            (with("mysql://u", "/f", ""), None, "EC2_IPAM_DATABASE_URL"),
        ] {
            let why = format!("{:#}", typed.database(original).unwrap_err());
            assert!(why.starts_with(says) && !why.contains("hunter2"), "{why}");
        }
    }
}
