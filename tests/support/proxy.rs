//! A TCP proxy in front of the database that loses, swallows, delays, stalls and cuts, and counts round trips.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never reaches the server, and the connection is cut.
    Lost,
    /// It reaches the server, which answers; the answer is dropped and the connection cut.
    Swallowed,
    /// It reaches the server; the answer never comes, and the connection stays.
    Unanswered,
    /// It reaches the server a while later.
    Late,
}

/// The packet of COM_PING.
const PING: [u8; 5] = [1, 0, 0, 0, 0x0e];
/// How late a request comes that comes late.
const LATE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    /// Nothing is passed on either way.
    stalled: AtomicBool,
    /// Whoever comes is turned away.
    away: AtomicBool,
    /// Whoever comes or asks is told this error, as by a proxy without a server; none: 0.
    error: AtomicU16,
    /// What becomes of the next request that holds this text.
    fate: std::sync::Mutex<Option<(&'static str, Fate)>>,
    /// How long each packet is under way, milliseconds.
    latency: AtomicU64,
    /// Requests that went out (bytes read from the client at once), but for a connection's signs of life.
    requests: AtomicUsize,
    connections: AtomicUsize,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    cut: watch::Sender<u32>,
    forget: watch::Sender<u32>,
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
        let (forget, forgetting) = watch::channel(0);
        let proxy = Self { port: listener.local_addr().unwrap().port(), state: Arc::clone(&state), cut, forget };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, signals) = (Arc::clone(&state), (cutting.clone(), forgetting.clone()));
                state.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let _ = pass(client, port, &state, signals).await;
                });
            }
        });
        proxy
    }

    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Cuts what is connected, and turns away whoever comes while it lasts.
    pub fn away(&self, away: bool) {
        self.state.away.store(away, Ordering::Relaxed);
        self.cut();
    }

    /// Answers newcomers and requests alike with this error, until told 0.
    pub fn errs(&self, code: u16) {
        self.state.error.store(code, Ordering::Relaxed);
    }

    /// Whether whoever comes gets through, as far as was told until now.
    pub fn passes(&self) -> bool {
        let State { stalled, away, error, .. } = &*self.state;
        !stalled.load(Ordering::Relaxed) && !away.load(Ordering::Relaxed) && error.load(Ordering::Relaxed) == 0
    }

    pub fn slow(&self, latency: Duration) {
        self.state.latency.store(u64::try_from(latency.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// What becomes of the next request with this text in it.
    pub fn next(&self, text: &'static str, fate: Fate) {
        *self.state.fate.lock().unwrap() = Some((text, fate));
    }

    /// Whether that request has met its fate.
    pub fn met(&self) -> bool {
        self.state.fate.lock().unwrap().is_none()
    }

    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// Swallows whatever comes over the connections that are there, as a firewall that forgot them; new ones pass.
    pub fn forget(&self) {
        self.forget.send_modify(|n| *n += 1);
    }

    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl State {
    async fn delay(&self) {
        tokio::time::sleep(Duration::from_millis(self.latency.load(Ordering::Relaxed))).await;
    }

    fn fate_of(&self, request: &[u8]) -> Option<Fate> {
        let mut next = self.fate.lock().unwrap();
        let (text, fate) = (*next)?;
        let hit = request.windows(text.len()).any(|window| window == text.as_bytes());
        hit.then(|| {
            *next = None;
            fate
        })
    }
}

/// An error packet of the protocol: with an SQL state once both sides know each other.
fn error_packet(code: u16, sequence: u8) -> Vec<u8> {
    let state = if sequence == 0 { "" } else { "#HY000" };
    let message = format!("{state}No server behind this proxy.");
    let mut packet = vec![u8::try_from(message.len() + 3).unwrap(), 0, 0, sequence, 0xff];
    packet.extend(code.to_le_bytes());
    packet.extend(message.bytes());
    packet
}

async fn pass(
    mut client: TcpStream,
    port: u16,
    state: &State,
    (mut cut, mut forget): (watch::Receiver<u32>, watch::Receiver<u32>),
) -> std::io::Result<()> {
    if state.away.load(Ordering::Relaxed) {
        return Ok(());
    }
    let error = state.error.load(Ordering::Relaxed);
    if error > 0 {
        return client.write_all(&error_packet(error, 0)).await;
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    cut.mark_unchanged();
    forget.mark_unchanged();
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
                if up[..n] != PING {
                    state.requests.fetch_add(1, Ordering::Relaxed);
                }
                state.delay().await;
                let error = state.error.load(Ordering::Relaxed);
                // Not a goodbye, which has no answer.
                if error > 0 && n > 5 {
                    client.write_all(&error_packet(error, 1)).await?;
                    continue;
                }
                let fate = state.fate_of(&up[..n]);
                match fate {
                    Some(Fate::Lost) => return Ok(()),
                    Some(Fate::Late) => tokio::time::sleep(LATE).await,
                    Some(Fate::Swallowed | Fate::Unanswered) | None => {}
                }
                server.write_all(&up[..n]).await?;
                if matches!(fate, Some(Fate::Swallowed | Fate::Unanswered)) {
                    // The server has answered, so it has committed.
                    let _ = server.read(&mut down).await?;
                }
                match fate {
                    Some(Fate::Unanswered) => { let _ = client.read(&mut up).await?; return Ok(()) }
                    Some(Fate::Lost | Fate::Swallowed) => return Ok(()),
                    Some(Fate::Late) | None => {}
                }
            }
            n = server.read(&mut down) => {
                let n = n?;
                if n == 0 { return Ok(()) }
                state.delay().await;
                client.write_all(&down[..n]).await?;
            }
            _ = cut.changed() => return Ok(()),
            // Both ends stay open, and nothing passes any more.
            _ = forget.changed() => std::future::pending().await,
        }
    }
}
