//! A caller's stream that remembers whether the caller left before it had read all that it was sent, and that loses nothing
//! which the caller had sent when it ends.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// The stream.
pub(super) struct CallerStream {
    pub(super) stream: UnixStream,
    /// Set once the caller has left so.
    pub(super) left: Arc<AtomicBool>,
    /// From then on nothing more is taken in.
    pub(super) end: CancellationToken,
}

impl CallerStream {
    /// A unix socket tells: a write to one that was closed is a broken pipe, and one that was closed with bytes unread is
    /// reset, not at its end (Linux, `net/unix/af_unix.c`, `unix_release_sock`).
    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(why)) = &outcome
            && matches!(why.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        {
            self.left.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

/// A request is then either there already, to be read before the end of the stream, or its caller cannot send any of it, and
/// sends it whole on another connection. A connection closed with a request unread would be reset, and the Engine would
/// repeat that request without its body.
fn take_no_more(stream: &UnixStream) -> io::Result<()> {
    // Only the standard library's stream can be closed in this direction.
    std::os::unix::net::UnixStream::from(stream.as_fd().try_clone_to_owned()?).shutdown(Shutdown::Read)
}

impl AsyncRead for CallerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.is_cancelled() {
            // Without a file descriptor for a moment: what comes now may be lost, as it is quiet.
            let _ = take_no_more(&self.stream);
        }
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(outcome)
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
