//! Where connections come from: the driver's own socket, and addresses for clients elsewhere.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::tls::Tls;
use crate::config::{Listen, Tcp};

/// As many as the kernel lets wait by default (`net.core.somaxconn`): a thousand Engines may come back at once.
const BACKLOG: u32 = 4096;
/// A peer that went without a word is noticed within some minutes; and a load balancer that forgets a connection which says
/// nothing for 350 s (AWS, "Network Load Balancers", idle timeout) has none to forget.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// All that is listened on.
pub struct Listeners {
    pub(super) all: Vec<Listener>,
    pub(super) tls: Option<Arc<Tls>>,
    /// Where metrics are to be had, beside the driver's own socket.
    pub(super) metrics: Option<SocketAddr>,
    names: Vec<String>,
}

/// One place that is listened on.
pub(super) enum Listener {
    Own(UnixListener),
    Tcp { listener: TcpListener, tls: Option<Arc<Tls>> },
}

/// A connection that has come.
pub(super) enum Accepted {
    Local(UnixStream),
    Remote { stream: TcpStream, address: IpAddr, tls: Option<Arc<Tls>> },
}

impl Listeners {
    /// The driver's own socket.
    ///
    /// # Errors
    /// A sentence with the path, and what keeps it from being listened on.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let own = Listener::Own(own(path)?);
        Ok(Self { all: vec![own], tls: None, metrics: None, names: vec![path.display().to_string()] })
    }

    /// The addresses for clients elsewhere: all of them, or none.
    ///
    /// # Errors
    /// A sentence with the setting, its address or its file, and what is wrong with it.
    pub fn open_tcp(&mut self, listen: &Listen) -> anyhow::Result<()> {
        let tls = listen.tls.as_ref().map(Tls::open).transpose().map_err(|why| anyhow!(why))?.map(Arc::new);
        let mut opened = Vec::new();
        for address in &listen.tcp {
            let listener = tcp(address.at).map_err(|why| refused(address, &why))?;
            opened.push(Listener::Tcp { listener, tls: tls.clone().filter(|_| address.is_tls) });
        }
        for plain in listen.tcp.iter().filter(|address| !address.is_tls && !address.is_loopback()) {
            tracing::warn!(
                "{plain} is not encrypted: anybody on the way can read and change what is asked and answered"
            );
        }
        self.all.extend(opened);
        self.metrics = listen.metrics;
        self.names.extend(listen.tcp.iter().map(ToString::to_string));
        self.tls = tls;
        Ok(())
    }
}

/// All of their names.
impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

impl Listener {
    pub(super) fn is_tcp(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Tcp { .. } => true,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Own(listener) => listener.accept().await.map(|(stream, _)| Accepted::Local(stream)),
            Self::Tcp { listener, tls } => {
                let (stream, peer) = listener.accept().await?;
                // Each answer is written at once, and nothing is to wait for more of it.
                let _ = stream.set_nodelay(true);
                // An address of IPv4 comes as one of IPv6 where all of both are listened on.
                Ok(Accepted::Remote { stream, address: peer.ip().to_canonical(), tls: tls.clone() })
            }
        }
    }
}

/// The driver's own socket, mode 0600. A socket that nobody listens on any more is replaced, and nothing else that is there.
fn own(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another driver listens on {}; stop it first", path.display()),
        Err(why) => match std::fs::symlink_metadata(path) {
            // Refused: a socket of those that connect, whose listener is gone.
            Ok(there) if there.file_type().is_socket() && why.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
            }
            Ok(_) => bail!(
                "{} is there, and is no socket of a driver that ended: remove it, or set EC2_IPAM_LISTEN to another path",
                path.display()
            ),
            Err(_) => {}
        },
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

pub(super) fn tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of an earlier life may not be over yet.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    // Its connections have it from it (tcp(7)).
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.listen(BACKLOG)
}

fn refused(address: &Tcp, why: &io::Error) -> anyhow::Error {
    let known = [
        (ErrorKind::AddrInUse, "another program listens there"),
        (ErrorKind::AddrNotAvailable, "that is no address of this host"),
        (ErrorKind::PermissionDenied, "a port below 1024 takes CAP_NET_BIND_SERVICE"),
    ];
    let said = known.iter().find(|(kind, _)| *kind == why.kind());
    let said = said.map_or_else(|| format!("that cannot be listened on: {why}"), |(_, said)| (*said).to_owned());
    anyhow!("EC2_IPAM_LISTEN has \"{address}\", but {said}")
}
