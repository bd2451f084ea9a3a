//! TLS of the https addresses.
//!
//! Its files are read anew once they change. Connections that are there keep what they were made with. Files that are of no
//! use leave the earlier ones in use.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::{Error, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{Files, Read, Texts};
use super::names::names;
use crate::config::TlsFiles;
use crate::driver::tls_watch::{TlsSeen, TlsWatch};

/// A handshake has two round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the files are read, which takes less than a millisecond. What cannot be used is told at the second look: files
/// that are exchanged one after the other do not fit each other in between.
const LOOK: Duration = Duration::from_secs(2);

/// TLS with what the files have.
pub(super) struct Tls {
    files: Arc<Files>,
    config: Mutex<Arc<ServerConfig>>,
    /// What the files had when the driver started.
    first: Texts,
}

impl Tls {
    /// # Errors
    /// A sentence with the setting, its file, and what is wrong with it.
    pub(super) fn open(files: &TlsFiles) -> Result<Self, String> {
        let files = Arc::new(Files::new(files));
        let first = files.read()?;
        let config = Mutex::new(Arc::new(files.config(&first)?));
        Ok(Self { files, config, first })
    }

    /// A handshake. Gives the stream, and the names of the client's certificate.
    ///
    /// # Errors
    /// Why there is none; the other side has been told as far as it could be.
    pub(super) async fn handshake<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Option<Vec<String>>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let Ok(outcome) = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await else {
            let why = format!("the handshake was not done within {} s", HANDSHAKE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        };
        let stream = outcome?;
        let (_, session) = stream.get_ref();
        let names = session.peer_certificates().and_then(|all| all.first()).map(names);
        Ok((stream, names))
    }

    /// Reads the files anew when they change, for as long as it is let.
    pub(super) async fn follow_files(&self, watch: &TlsWatch) {
        let mut looks = Looks { used: self.first.clone(), seen: None, told: None };
        let mut unusable = None;
        loop {
            let files = Arc::clone(&self.files);
            let read = tokio::task::spawn_blocking(move || (files.read(), files.exposed())).await;
            if let Ok((read, exposed)) = read {
                match looks.look(read, |texts| self.files.config(texts)) {
                    Some(Ok(config)) => {
                        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                        tracing::info!("the TLS files have changed: new connections go by what they have now");
                    }
                    Some(Err(why)) => {
                        let why = format!("{why}; what the TLS files had before stays in use");
                        tracing::error!("{why}");
                        unusable = Some(why);
                    }
                    None => {}
                }
                unusable = unusable.filter(|_| looks.told.is_some());
                let (cert, ends) = (self.files.cert(), self.files.end(&looks.used));
                watch.note(TlsSeen { cert, ends, unusable: unusable.clone(), exposed });
            }
            sleep(LOOK).await;
        }
    }
}

/// What the looks at the files have come to.
struct Looks {
    used: Texts,
    /// Of no use, and seen once.
    seen: Option<Read>,
    /// Of no use, and told.
    told: Option<Read>,
}

impl Looks {
    /// What is to be done now: use what they have, or tell that it is of no use.
    fn look<T>(&mut self, read: Read, make: impl Fn(&Texts) -> Result<T, String>) -> Option<Result<T, String>> {
        if read.as_ref() == Ok(&self.used) {
            (self.seen, self.told) = (None, None);
            return None;
        }
        if self.told.as_ref() == Some(&read) {
            return None;
        }
        let made = read.as_ref().map_err(Clone::clone).and_then(|texts| make(texts).map(|made| (texts.clone(), made)));
        match made {
            Ok((texts, made)) => {
                *self = Self { used: texts, seen: None, told: None };
                Some(Ok(made))
            }
            Err(why) if self.seen.as_ref() == Some(&read) => {
                (self.seen, self.told) = (None, Some(read));
                Some(Err(why))
            }
            Err(_) => {
                self.seen = Some(read);
                None
            }
        }
    }
}

/// Why a handshake failed, for whoever runs the driver.
pub(super) fn said(why: &io::Error) -> String {
    match why.get_ref().and_then(|why| why.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => "what it sends is no TLS; is it http that it speaks?".to_owned(),
        Some(Error::NoCertificatesPresented) => {
            "it has no certificate, which EC2_IPAM_TLS_CLIENT_CA demands".to_owned()
        }
        Some(why) => why.to_string(),
        None => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(cert: &str) -> Texts {
        Texts { cert: cert.into(), key: Vec::new(), client_ca: None }
    }

    #[test]
    fn what_is_of_no_use_is_told_once_and_at_the_second_look() {
        let make = |texts: &Texts| match texts.cert.as_slice() {
            b"bad" | b"worse" => Err(String::from_utf8(texts.cert.clone()).unwrap()),
            good => Ok(good.len()),
        };
        let mut looks = Looks { used: texts("a"), seen: None, told: None };
        for (cert, expected) in [
            ("a", None),
            ("bb", Some(Ok(2))),
            ("bb", None),
            // Half of a change.
            ("bad", None),
            ("ccc", Some(Ok(3))),
            ("bad", None),
            ("bad", Some(Err("bad"))),
            ("bad", None),
            ("bad", None),
            ("worse", None),
            ("worse", Some(Err("worse"))),
            ("worse", None),
            // What is in use is there again: a next fault is a new one.
            ("ccc", None),
            ("worse", None),
            ("worse", Some(Err("worse"))),
            ("bb", Some(Ok(2))),
        ] {
            let outcome = looks.look(Ok(texts(cert)), make);
            assert_eq!(outcome, expected.map(|outcome| outcome.map_err(str::to_owned)), "{cert}");
        }
        let gone = || Err("gone".to_owned());
        assert_eq!(looks.look(gone(), make), None);
        assert_eq!(looks.look(gone(), make), Some(Err("gone".to_owned())));
        assert_eq!(looks.look(gone(), make), None);
        assert_eq!(looks.used.cert, b"bb");
    }
}
