//! A caller's stream that tells what becomes of the answers that are sent on it, and that loses nothing which the caller had
//! sent when it ends.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::unread::Unread;

/// The stream, of a unix socket or of TCP. What TLS makes of it lies outside.
pub(super) struct CallerStream<S> {
    pub(super) stream: S,
    pub(super) unread: Arc<Unread>,
    /// From then on nothing more is taken in.
    pub(super) end: CancellationToken,
}

impl<S> CallerStream<S> {
    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(why)) = &outcome {
            self.unread.failed(why.kind());
        }
        outcome
    }
}

/// A request is then either there already, to be read before the end of the stream, or its caller cannot send any of it, and
/// sends it whole on another connection. A connection closed with a request unread would be reset, and the Engine would
/// repeat that request without its body. Over TCP what is on its way may still come too late.
fn take_no_more(stream: &impl AsFd) {
    // Fails where the peer has gone already.
    let _ = SockRef::from(stream).shutdown(Shutdown::Read);
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for CallerStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.is_cancelled() {
            take_no_more(&self.stream);
        }
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CallerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.unread.sent();
        }
        self.note(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
