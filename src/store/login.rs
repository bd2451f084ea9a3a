//! How a server's user shows who it is: by a password, or by a token that is made for each connection.
//!
//! What goes in never comes out again but to a connection: no `Debug` or error shows it.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// How a server's user logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// The password that the URL has; it may be empty.
    Password(Password),
    /// Whatever this file has when a connection is made.
    PasswordFile(PathBuf),
    /// A token for each connection, sent to a server alone whose name is verified.
    Token(Tokens),
}

/// A password. Not printable.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// For the login alone.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// Whoever makes tokens. Clones are the same one.
#[derive(Clone)]
pub struct Tokens(Arc<Make>);

type Make = dyn Fn((String, u16), String) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync;

impl Tokens {
    /// `make` is given a host's name and port as the URL has them, and the user; its error is a sentence for a user.
    pub fn new<F>(make: impl Fn((String, u16), String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        Self(Arc::new(move |at, user| Box::pin(make(at, user))))
    }

    /// Of settings alone, before there is anybody to make them.
    pub fn none() -> Self {
        Self::new(async |_, _| Err("nobody makes tokens here".to_owned()))
    }

    /// A token for this user at a host's name and port, good for a login now.
    ///
    /// # Errors
    /// Why there is none: it may pass.
    pub async fn make(&self, (name, port): (&str, u16), user: &str) -> Result<String, String> {
        (self.0)((name.to_owned(), port), user.to_owned()).await
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tokens {}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}
