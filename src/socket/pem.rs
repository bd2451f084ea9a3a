//! PEM files that settings name: what is in them, or a sentence that says why they are of no use. Nothing of a file's text is
//! ever in a sentence.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Far beyond a certificate's chain, or all authorities there are.
const LARGEST: u64 = 1 << 20;
/// Of a file's mode: others than its owner and its group may read or write it.
const OTHERS: u32 = 0o006;

/// A file that a setting names.
pub(super) struct PemFile {
    setting: &'static str,
    path: PathBuf,
}

impl PemFile {
    pub(super) fn new(setting: &'static str, path: PathBuf) -> Self {
        Self { setting, path }
    }

    /// The setting, and the file that it names.
    pub(super) fn name(&self) -> String {
        format!("{} is {:?}", self.setting, self.path)
    }

    /// Why it is no secret, where it is none.
    pub(super) fn exposed(&self) -> Option<String> {
        let mode = std::fs::metadata(&self.path).ok()?.permissions().mode();
        (mode & OTHERS != 0).then(|| {
            format!(
                "{}: everybody on the host may read or change it (mode {:04o}): chmod 600",
                self.name(),
                mode & 0o7777
            )
        })
    }

    /// The sentence of what is wrong with it.
    pub(super) fn wrong(&self, why: impl Display) -> String {
        format!("{}, but {why}", self.name())
    }

    /// Its text.
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        let text = self.bytes().map_err(|why| self.wrong(why))?;
        match text.trim_ascii() {
            [] => Err(self.wrong("that file is empty")),
            _ => Ok(text),
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        let there = std::fs::metadata(&self.path).map_err(said)?;
        if there.is_dir() {
            return Err("that is a directory, and must be a PEM file".to_owned());
        }
        // What is no file may never come to its end.
        if !there.is_file() || there.len() > LARGEST {
            return Err("that is no PEM file".to_owned());
        }
        std::fs::read(&self.path).map_err(said)
    }

    /// The certificates in its text, one at least.
    pub(super) fn certificates(&self, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        match all {
            Ok(all) if all.is_empty() => Err(self.wrong(format!("has no certificate: {}", what_is_in(text)))),
            Ok(all) => Ok(all),
            Err(_) => Err(self.wrong("is damaged: a part of it has no end, or is no base64")),
        }
    }

    /// The key in its text.
    pub(super) fn key(&self, text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
        if is_encrypted(text) {
            return Err(self.wrong("that key is encrypted: the driver has no passphrase, and takes a key without one"));
        }
        if !labels(text).any(is_of_key) {
            return Err(self.wrong(format!("has no private key: {}", what_is_in(text))));
        }
        PrivateKeyDer::from_pem_slice(text)
            .map_err(|_| self.wrong("is damaged, or of another kind than PKCS #8, PKCS #1 (RSA) and SEC 1 (EC)"))
    }
}

fn said(why: io::Error) -> String {
    if why.kind() == ErrorKind::NotFound {
        return "there is no such file".to_owned();
    }
    format!("that file cannot be read: {why}")
}

/// As PKCS #8 has it, and as PEM had it before (RFC 1421, 4.6.1.1).
fn is_encrypted(text: &[u8]) -> bool {
    labels(text).any(|label| label == "ENCRYPTED PRIVATE KEY")
        || lines(text).any(|line| line == "Proc-Type: 4,ENCRYPTED")
}

fn is_of_key(label: &str) -> bool {
    label.ends_with("PRIVATE KEY")
}

/// Told by kinds that are known, since whatever stands there may be a secret.
fn what_is_in(text: &[u8]) -> String {
    let kind = |label| match label {
        "CERTIFICATE" => "a certificate",
        label if is_of_key(label) => "a private key",
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "a public key",
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "a request for a certificate",
        "X509 CRL" => "a list of revoked certificates",
        "EC PARAMETERS" | "DH PARAMETERS" => "parameters",
        _ => "something else",
    };
    labels(text).map(kind).next().map_or("it is no PEM file".to_owned(), |kind| format!("it begins with {kind}"))
}

fn labels(text: &[u8]) -> impl Iterator<Item = &str> {
    lines(text).filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line.trim_ascii()).ok())
}
