//! The files of TLS together: the certificate and its key, which must fit each other, and whose certificates clients must have.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

use super::pem::PemFile;
use super::validity;
use crate::config::TlsFiles;

/// The files, by the settings that name them.
pub(super) struct Files {
    cert: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
}

/// What the files had. It holds the key: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

/// What came of a look at them.
pub(super) type Read = Result<Texts, String>;

impl Files {
    pub(super) fn new(files: &TlsFiles) -> Self {
        Self {
            cert: PemFile::new("EC2_IPAM_TLS_CERT", files.cert.clone()),
            key: PemFile::new("EC2_IPAM_TLS_KEY", files.key.clone()),
            client_ca: files.client_ca.clone().map(|file| PemFile::new("EC2_IPAM_TLS_CLIENT_CA", file)),
        }
    }

    /// All of them.
    pub(super) fn read(&self) -> Read {
        Ok(Texts {
            cert: self.cert.read()?,
            key: self.key.read()?,
            client_ca: self.client_ca.as_ref().map(PemFile::read).transpose()?,
        })
    }

    /// The certificate's setting, and its file.
    pub(super) fn cert(&self) -> String {
        self.cert.name()
    }

    /// When the first of the certificates ends that are shown to clients.
    pub(super) fn end(&self, texts: &Texts) -> Option<SystemTime> {
        self.cert.certificates(&texts.cert).ok()?.iter().filter_map(validity::end).min()
    }

    /// Why the key is no secret, where it is none.
    pub(super) fn exposed(&self) -> Option<String> {
        self.key.exposed()
    }

    /// TLS with what they have.
    ///
    /// # Errors
    /// A sentence with the setting, its file, and what is wrong with it.
    pub(super) fn config(&self, texts: &Texts) -> Result<ServerConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let own = self.certified(texts, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|why| self.cert.wrong(why))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let authorities = authorities(file, texts.client_ca.as_deref().unwrap_or_default())?;
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|why| file.wrong(why))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        // What the Engine speaks. Who offers something else only is told so.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A client is checked at each connection, by what the files have then.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn certified(&self, texts: &Texts, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let chain = self.cert.certificates(&texts.cert)?;
        let key = self.key.key(&texts.key)?;
        let key = provider.key_provider.load_private_key(key);
        let key = key
            .map_err(|_| self.key.wrong("is no key that can be used: RSA, ECDSA of P-256, P-384, P-521, or Ed25519"))?;
        let own = CertifiedKey::new(chain, key);
        match own.keys_match() {
            Ok(()) => Ok(own),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(self.key.wrong("that is not the key of the first certificate in EC2_IPAM_TLS_CERT"))
            }
            Err(_) => Err(self.cert.wrong("its first certificate cannot be read")),
        }
    }
}

fn authorities(file: &PemFile, text: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut all = RootCertStore::empty();
    for certificate in file.certificates(text)? {
        all.add(certificate).map_err(|_| file.wrong("one of its certificates cannot be read"))?;
    }
    Ok(Arc::new(all))
}
