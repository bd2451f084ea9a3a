//! The socket: bound, and served until the driver is told to stop.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::UnixListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::caller::Caller;
use super::connections::Connections;
use crate::driver::ipam::Ipam;

/// What runs when the driver is told to stop may go on for so long; dockerd kills it after 10 s.
pub const DRAIN: Duration = Duration::from_secs(8);

/// Binds the socket, mode 0600. A socket that nobody listens on any more is replaced, and nothing else that is there.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
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

/// Serves until told to stop, then lets what runs finish.
pub async fn serve(listener: UnixListener, ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken) {
    let connections = Connections::new(stop.clone());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = tokio::select! {
                    () = stop.cancelled() => return,
                    place = connections.place() => place,
                };
                let caller = Caller::new(Arc::clone(&ipam), tasks.clone(), stop.clone(), place);
                tasks.spawn(caller.serve(stream));
            }
            // Out of file descriptors, most likely: one comes back with each connection that goes.
            Err(why) => {
                tracing::error!("cannot accept a connection: {why}");
                connections.end_one();
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
