//! An authority of a test's own, and certificates of it, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An authority, whose files are in a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    name: String,
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let ca = Self { folder: folder.to_owned(), name: name.to_owned() };
        let new = "req -x509 -nodes -days 30 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
        openssl(folder, &format!("{new} -subj /CN={name} -keyout {name}.key -out {name}.pem"));
        ca
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// A certificate of this subject, such as `/CN=x`, with these alternative names, such as `DNS:x,URI:y`.
    pub(crate) fn issue(&self, file: &str, subject: &str, names: &str) -> Issued {
        let Self { folder, name } = self;
        std::fs::write(folder.join("extensions"), format!("subjectAltName={names}\n")).unwrap();
        let new = "req -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
        openssl(folder, &format!("{new} -subj {subject} -keyout {file}.key -out {file}.csr"));
        let by = format!("-CA {name}.pem -CAkey {name}.key -CAcreateserial -days 30 -extfile extensions");
        openssl(folder, &format!("x509 -req -in {file}.csr {by} -out {file}.pem"));
        Issued { cert: folder.join(format!("{file}.pem")), key: folder.join(format!("{file}.key")) }
    }

    /// The same key in another form, or another kind of item, as a file of this name.
    pub(crate) fn openssl(&self, args: &str) {
        openssl(&self.folder, args);
    }

    /// TLS as a client that trusts this authority, with a certificate of its own or without one.
    pub(crate) async fn connect<S>(&self, stream: S, own: Option<&Issued>) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cert()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_file(&own.cert).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap()).unwrap()
            }
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
