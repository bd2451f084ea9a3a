//! Where the driver listens, and the files that https needs.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;

use super::LISTEN;
use super::check::{file, flag, socket};

const NAME: &str = "EC2_IPAM_LISTEN";
const METRICS: &str = "EC2_IPAM_METRICS";
/// Shown where an address is wrong.
const EXAMPLES: &str = "a socket such as unix:///run/docker/plugins/ec2-ipam.sock, or https://0.0.0.0:8031";

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The driver's own socket: of the Engine of this host, and of the command line.
    pub unix: PathBuf,
    /// For clients elsewhere.
    pub tcp: Vec<Tcp>,
    /// What https needs; none: no address is of https.
    pub tls: Option<TlsFiles>,
    /// Where metrics are to be had, beside the own socket.
    pub metrics: Option<SocketAddr>,
}

/// An address for clients elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// The address, which may be that of all interfaces, and the port.
    pub at: SocketAddr,
    /// Whether it speaks TLS.
    pub is_tls: bool,
}

/// PEM files, which may be exchanged while the driver runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of the clients' certificates; none: no client needs one.
    pub client_ca: Option<PathBuf>,
}

/// The settings of it, as they were typed.
pub(super) struct Typed<'a> {
    pub(super) listen: &'a str,
    pub(super) plain: &'a str,
    pub(super) cert: &'a str,
    pub(super) key: &'a str,
    pub(super) client_ca: &'a str,
    pub(super) metrics: &'a str,
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.at)
    }
}

impl Tcp {
    /// Whether only this host can reach it.
    pub fn is_loopback(&self) -> bool {
        self.at.ip().to_canonical().is_loopback()
    }
}

/// Whether nobody can listen on both: the address of all interfaces has each, and that of IPv6 those of IPv4 too.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let has = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port() && (one.ip() == other.ip() || has(one, other) || has(other, one))
}

impl Typed<'_> {
    pub(super) fn listen(&self) -> anyhow::Result<Listen> {
        let (unix, tcp) = addresses(self.listen)?;
        let is_plain_meant = flag("EC2_IPAM_LISTEN_PLAIN", self.plain)?;
        if let Some(plain) = tcp.iter().find(|tcp| !tcp.is_tls && !tcp.is_loopback() && !is_plain_meant) {
            bail!(
                "{NAME} has \"{plain}\", but must have https there: http, which anybody on the way can read and change, is \
                 for a loopback address, or has to be meant (EC2_IPAM_LISTEN_PLAIN=true)"
            );
        }
        for (n, one) in tcp.iter().enumerate() {
            if let Some(before) = tcp.iter().take(n).find(|before| overlap(before.at, one.at)) {
                bail!("{NAME} has \"{one}\", but \"{before}\" has it too: leave one of them out");
            }
        }
        let metrics = self.metrics()?;
        if let Some(other) = tcp.iter().find(|tcp| metrics.is_some_and(|at| overlap(tcp.at, at))) {
            bail!("{METRICS} is {:?}, but must be another address than {NAME} has: \"{other}\"", self.metrics);
        }
        Ok(Listen { unix, tls: self.tls(tcp.iter().find(|tcp| tcp.is_tls))?, tcp, metrics })
    }

    fn metrics(&self) -> anyhow::Result<Option<SocketAddr>> {
        match self.metrics.strip_prefix("http://").unwrap_or(self.metrics).parse::<SocketAddr>() {
            _ if self.metrics.is_empty() => Ok(None),
            Ok(at) if at.port() != 0 => Ok(Some(at)),
            _ => bail!("{METRICS} is {:?}, but must be an IP address and a port, such as 127.0.0.1:9809", self.metrics),
        }
    }

    fn tls(&self, https: Option<&Tcp>) -> anyhow::Result<Option<TlsFiles>> {
        let files = [
            ("EC2_IPAM_TLS_CERT", self.cert, "a certificate"),
            ("EC2_IPAM_TLS_KEY", self.key, "its certificate's key"),
            ("EC2_IPAM_TLS_CLIENT_CA", self.client_ca, "the authorities of its clients"),
        ];
        let Some(https) = https else {
            return match files.iter().find(|(_, text, _)| !text.is_empty()) {
                Some((name, text, _)) => bail!("{name} is {text:?}, but no address of {NAME} is of https"),
                None => Ok(None),
            };
        };
        if let Some((name, _, what)) = files.iter().take(2).find(|(_, text, _)| text.is_empty()) {
            bail!("{NAME} has \"{https}\", but {name} is not set: https needs {what}");
        }
        let [cert, key, client_ca] = files.map(|(name, text, _)| file(name, text, "/etc/ec2-ipam/tls.pem"));
        Ok(Some(TlsFiles {
            cert: cert?,
            key: key?,
            client_ca: if self.client_ca.is_empty() { None } else { Some(client_ca?) },
        }))
    }
}

/// The one socket, and the addresses for clients elsewhere; by commas or blanks.
pub(super) fn addresses(listen: &str) -> anyhow::Result<(PathBuf, Vec<Tcp>)> {
    let (mut unix, mut tcp): (Vec<PathBuf>, Vec<Tcp>) = (Vec::new(), Vec::new());
    for word in words(listen) {
        match word.split_once("://") {
            Some(("unix", path)) => unix.push(socket(NAME, path)?),
            Some((scheme @ ("http" | "https"), at)) => match at.parse::<SocketAddr>() {
                Ok(at) if at.port() != 0 => {
                    let one = Tcp { at, is_tls: scheme == "https" };
                    if tcp.iter().any(|other| other.at == at) {
                        bail!("{NAME} has {at} twice, but must have each address once");
                    }
                    tcp.push(one);
                }
                _ => bail!(
                    "{NAME} has {word:?}, but must have an IP address and a port there, such as https://0.0.0.0:8031"
                ),
            },
            _ => bail!("{NAME} is {word:?}, but must be {EXAMPLES}"),
        }
    }
    match unix.as_slice() {
        // The command line, and this host's Engine, have no other way.
        [] => Ok((socket(NAME, LISTEN.trim_start_matches("unix://"))?, tcp)),
        [one] => Ok((one.clone(), tcp)),
        [one, other, ..] => bail!("{NAME} has the sockets {one:?} and {other:?}, but must have one: the driver's own"),
    }
}

/// Without what is for clients elsewhere, where something is wrong with that.
pub(super) fn own_alone(listen: &str) -> String {
    words(listen).filter(|word| word.starts_with("unix://")).collect::<Vec<_>>().join(",")
}

fn words(listen: &str) -> impl Iterator<Item = &str> {
    listen.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Typed<'_> = Typed { listen: "", plain: "", cert: "", key: "", client_ca: "", metrics: "" };
    const TLS: Typed<'_> = Typed { cert: "/c.pem", key: "/k.pem", ..NOTHING };

    fn shown(typed: &Typed<'_>) -> Result<String, String> {
        let listen = typed.listen().map_err(|why| why.to_string())?;
        let tcp: Vec<String> = listen.tcp.iter().map(ToString::to_string).collect();
        assert_eq!(listen.tls.is_some(), listen.tcp.iter().any(|tcp| tcp.is_tls));
        Ok(format!("{} {}", listen.unix.display(), tcp.join(" ")).trim_end().to_owned())
    }

    #[test]
    fn there_is_one_socket_whatever_else_is_listened_on() {
        for (listen, expected) in [
            ("", "/run/docker/plugins/ec2-ipam.sock"),
            (" , ", "/run/docker/plugins/ec2-ipam.sock"),
            ("unix:///a.sock", "/a.sock"),
            ("https://0.0.0.0:8031", "/run/docker/plugins/ec2-ipam.sock https://0.0.0.0:8031"),
            (
                "https://[::]:8031, unix:///a.sock http://127.0.0.1:1,http://[::1]:2",
                "/a.sock https://[::]:8031 http://127.0.0.1:1 http://[::1]:2",
            ),
        ] {
            let tls = if listen.contains("https") { TLS } else { NOTHING };
            assert_eq!(shown(&Typed { listen, ..tls }).as_deref(), Ok(expected), "{listen}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (listen, says) in [
            ("tcp://0.0.0.0:80", "is \"tcp://0.0.0.0:80\", but must be a socket such as unix://"),
            ("/run/a.sock", "is \"/run/a.sock\", but must be"),
            ("unix:///a unix:///b", "has the sockets \"/a\" and \"/b\", but must have one"),
            ("unix://a", "is \"a\", but must be the absolute path of a socket"),
            ("https://localhost:8031", "has \"https://localhost:8031\", but must have an IP address and a port"),
            ("https://0.0.0.0", "has \"https://0.0.0.0\", but must have an IP address and a port"),
            ("https://0.0.0.0:0", "but must have an IP address and a port"),
            ("https://0.0.0.0:8031/", "but must have an IP address and a port"),
            ("https://0.0.0.0:8031 http://0.0.0.0:8031", "has 0.0.0.0:8031 twice"),
            ("http://0.0.0.0:8031", "has \"http://0.0.0.0:8031\", but must have https there"),
            ("https://0.0.0.0:8032 http://10.0.0.1:8031", "has \"http://10.0.0.1:8031\", but must have https there"),
        ] {
            let why = shown(&Typed { listen, ..TLS }).unwrap_err();
            assert!(why.starts_with("EC2_IPAM_LISTEN ") && why.contains(says), "{listen}: {why}");
        }
        assert!(shown(&Typed { listen: "http://0.0.0.0:8031", plain: "true", ..NOTHING }).is_ok());
        assert!(shown(&Typed { listen: "http://[::ffff:127.0.0.1]:8031", ..NOTHING }).is_ok());
        for plain in ["yes", "1", "TRUE"] {
            let why = shown(&Typed { plain, ..NOTHING }).unwrap_err();
            assert!(why.starts_with("EC2_IPAM_LISTEN_PLAIN is ") && why.contains("must be true or false"), "{why}");
        }
        let https = Typed { listen: "https://0.0.0.0:8031", ..TLS };
        for (typed, says) in [
            (
                Typed { cert: "", ..https },
                "EC2_IPAM_LISTEN has \"https://0.0.0.0:8031\", but EC2_IPAM_TLS_CERT is not set",
            ),
            (
                Typed { key: "", ..https },
                "EC2_IPAM_LISTEN has \"https://0.0.0.0:8031\", but EC2_IPAM_TLS_KEY is not set",
            ),
            (Typed { key: "k.pem", ..https }, "EC2_IPAM_TLS_KEY is \"k.pem\", but must be a file's whole path"),
            (Typed { client_ca: "ca", ..https }, "EC2_IPAM_TLS_CLIENT_CA is \"ca\", but must be a file's whole path"),
            (Typed { cert: "", listen: "", ..TLS }, "EC2_IPAM_TLS_KEY is \"/k.pem\", but no address of"),
            (Typed { client_ca: "/ca", ..NOTHING }, "EC2_IPAM_TLS_CLIENT_CA is \"/ca\", but no address of"),
        ] {
            let why = shown(&typed).unwrap_err();
            assert!(why.starts_with(says), "{why}");
        }
    }

    #[test]
    fn metrics_have_an_address_of_their_own() {
        let at = |metrics| Typed { metrics, listen: "http://127.0.0.1:8031", ..NOTHING }.listen();
        for (metrics, expected) in
            [("", None), ("127.0.0.1:9809", Some("127.0.0.1:9809")), ("http://[::]:9809", Some("[::]:9809"))]
        {
            assert_eq!(at(metrics).unwrap().metrics.map(|at| at.to_string()).as_deref(), expected, "{metrics}");
        }
        for metrics in
            ["9809", "true", "localhost:9809", "127.0.0.1:0", "127.0.0.1:9809/metrics", "https://127.0.0.1:9809"]
        {
            let why = at(metrics).unwrap_err().to_string();
            assert!(
                why.starts_with("EC2_IPAM_METRICS is ") && why.contains("must be an IP address and a port"),
                "{why}"
            );
        }
        let why = at("127.0.0.1:8031").unwrap_err().to_string();
        assert!(why.starts_with("EC2_IPAM_METRICS is ") && why.contains("another address"), "{why}");
    }

    #[test]
    fn the_own_socket_is_what_stays() {
        assert_eq!(own_alone("https://0.0.0.0:1, unix:///a.sock"), "unix:///a.sock");
        assert_eq!(own_alone("https://0.0.0.0:1"), "");
    }
}
