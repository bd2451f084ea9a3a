//! What one connection logs in with, and what helps where it is not taken.

use super::super::login::Login;
use super::super::password_file;
use super::trouble::Trouble;

/// What one connection logs in with. Not printable.
#[derive(Clone)]
pub(super) enum Proof {
    Password(String),
    Token(String),
}

/// What a connection made now logs in with, at a host's name and port. Where there is nothing, connections that are there go on.
pub(super) async fn proof(login: &Login, at: (&str, u16), user: &str) -> Result<Proof, Trouble> {
    match login {
        Login::Password(password) => Ok(Proof::Password(password.text().to_owned())),
        Login::PasswordFile(path) => match password_file::read(path).await {
            Ok(found) => Ok(Proof::Password(found.password)),
            Err(why) => Err(Trouble::Strange(why)),
        },
        Login::Token(tokens) => match tokens.make(at, user).await {
            Ok(token) => Ok(Proof::Token(token)),
            Err(why) => Err(Trouble::Full(format!("no token to log in with: {why}"))),
        },
    }
}

/// What helps where the server does not let the user in; none where its own words say enough.
pub(super) fn remedy(login: &Login) -> Option<String> {
    match login {
        Login::Password(_) => None,
        Login::PasswordFile(path) => Some(format!(
            "the password that it has for this user belongs into {} (EC2_IPAM_DATABASE_PASSWORD_FILE), which is read for \
             each login",
            path.display()
        )),
        Login::Token(_) => Some(
            "it takes no token for this user: see that the credentials may do rds-db:connect as this user, that the user \
             is one of AWSAuthenticationPlugin, that the URL has the endpoint's own name, that AWS_REGION is its region, \
             and that this host's clock is right"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::login::{Password, Tokens};
    use super::*;

    #[tokio::test]
    async fn a_token_is_made_for_a_place_and_a_user_and_nothing_shows_it() {
        let tokens = Tokens::new(async |(name, port), user| Ok(format!("{name} {port} {user} hunter2")));
        let login = Login::Token(tokens);
        let Ok(Proof::Token(token)) = proof(&login, ("h", 3307), "u").await else { panic!() };
        assert_eq!(token, "h 3307 u hunter2");
        assert_ne!(login, Login::Token(Tokens::none()));
        let nobody = proof(&Login::Token(Tokens::none()), ("h", 3307), "u").await.err();
        assert_eq!(nobody, Some(Trouble::Full("no token to log in with: nobody makes tokens here".into())));
        let password = Login::Password(Password::new("hunter2".into()));
        assert!(!format!("{login:?} {password:?}").contains("hunter2"));
    }
}
