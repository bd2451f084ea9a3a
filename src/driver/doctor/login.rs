//! How the table's user logs in, and whether there is something to log in with.

use tokio::time::{Instant, timeout_at};

use super::check::{Check, bad, ok, warning};
use crate::store::{Database, Login, Server, password_file};

const NAME: &str = "login";

/// None where the table is a file, which has no user.
pub(super) async fn check_login(database: &Database, until: Instant) -> Option<Check> {
    match database {
        Database::MySql(server) => Some(by(server, until).await),
        Database::Sqlite(_) => None,
    }
}

async fn by(server: &Server, until: Instant) -> Check {
    let user = &server.user;
    match &server.login {
        Login::Password(password) if password.is_empty() => ok(NAME, format!("{user}, without a password")),
        Login::Password(_) => ok(NAME, format!("{user}, by the password that stands with its name")),
        Login::PasswordFile(path) => match password_file::read(path).await {
            Ok(found) => match found.exposed {
                Some(exposed) => warning(NAME, format!("{user}, by the password in {path:?}"), exposed),
                None => ok(NAME, format!("{user}, by the password in {path:?}")),
            },
            Err(why) => bad(NAME, why, "write the password there, and nothing else: it is read for each login"),
        },
        Login::Token(tokens) => {
            let Some(at) = server.hosts.first() else { return bad(NAME, "the URL has no host", "name one") };
            let remedy = "give the instance a role that may do rds-db:connect, and see that IMDS can be reached";
            match timeout_at(until, tokens.make((&at.name, at.port), user)).await {
                Ok(Ok(_)) => ok(NAME, format!("{user}, by tokens of IAM, of which one is signed for {at}")),
                Ok(Err(why)) => bad(NAME, format!("{user}, by tokens of IAM, of which there is none: {why}"), remedy),
                Err(_) => bad(NAME, format!("{user}, by tokens of IAM, of which none was had in time"), remedy),
            }
        }
    }
}
