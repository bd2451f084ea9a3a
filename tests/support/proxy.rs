//! A TCP proxy in front of the database that can stall, cut, or swallow an answer, and counts round trips.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    /// Nothing is passed on either way.
    stalled: AtomicBool,
    /// After the next request that holds this text has gone out, its answer is dropped and the connection cut.
    swallow: std::sync::Mutex<Option<&'static str>>,
    /// Requests that went out (bytes read from the client at once).
    requests: AtomicUsize,
    connections: AtomicUsize,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    cut: watch::Sender<u32>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        Self::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), port)
    }

    /// On a listener that the caller has made, maybe in another network namespace.
    pub fn on(listener: std::net::TcpListener, port: u16) -> Self {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let state = Arc::new(State::default());
        let (cut, cutting) = watch::channel(0);
        let proxy = Self { port: listener.local_addr().unwrap().port(), state: Arc::clone(&state), cut };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, cutting) = (Arc::clone(&state), cutting.clone());
                state.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let _ = pass(client, port, &state, cutting).await;
                });
            }
        });
        proxy
    }

    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Swallows the answer to the next request with this text in it.
    pub fn swallow(&self, text: &'static str) {
        *self.state.swallow.lock().unwrap() = Some(text);
    }

    pub fn swallowed(&self) -> bool {
        self.state.swallow.lock().unwrap().is_none()
    }

    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, port: u16, state: &State, mut cut: watch::Receiver<u32>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    cut.mark_unchanged();
    let (mut up, mut down) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        while state.stalled.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::select! {
            n = client.read(&mut up) => {
                let n = n?;
                if n == 0 || state.stalled.load(Ordering::Relaxed) {
                    if n == 0 { return Ok(()) } else { continue }
                }
                state.requests.fetch_add(1, Ordering::Relaxed);
                server.write_all(&up[..n]).await?;
                let hit = state.swallow.lock().unwrap().is_some_and(|t| up[..n].windows(t.len()).any(|w| w == t.as_bytes()));
                if hit {
                    // The server has answered, so it has committed.
                    let _ = server.read(&mut down).await?;
                    *state.swallow.lock().unwrap() = None;
                    return Ok(());
                }
            }
            n = server.read(&mut down) => {
                let n = n?;
                if n == 0 { return Ok(()) }
                client.write_all(&down[..n]).await?;
            }
            _ = cut.changed() => return Ok(()),
        }
    }
}
