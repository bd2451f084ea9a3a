//! One host of the URL: the addresses behind its name, and a session on one of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::{FuturesUnordered, StreamExt};
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::login::Login;
use super::super::url::{HostPort, Server, Tls};
use super::proof::{Proof, proof};
use super::session;
use super::trouble::{Trouble, together};

/// What was found behind a name is taken for so long without asking again.
const FRESH: Duration = Duration::from_secs(30);
/// It is still used for so long when the name server does not answer, or knows the name no more.
const STALE: Duration = Duration::from_secs(600);
/// A name server's time when an older answer is at hand.
const BRIEF: Duration = Duration::from_secs(1);

pub(super) struct NamedHost {
    pub(super) at: String,
    place: HostPort,
    options: Opts,
    tls: Tls,
    user: String,
    login: Login,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// The one that let us in last comes first.
    addresses: Vec<IpAddr>,
    /// When they were looked up.
    found: Option<Instant>,
    /// Whether to ask again though they are fresh.
    doubted: bool,
    looking: Option<LookUp>,
}

/// Goes on by itself when nobody waits for it: a slow answer serves the next call.
type LookUp = Shared<BoxFuture<'static, Result<Vec<IpAddr>, String>>>;

impl NamedHost {
    pub(super) fn new(server: &Server, host: &HostPort) -> Self {
        Self {
            at: host.to_string(),
            place: host.clone(),
            options: session::options(server, host),
            tls: server.tls.clone(),
            user: server.user.clone(),
            login: server.login.clone(),
            known: Arc::default(),
        }
    }

    /// A session: the name's addresses and what to log in with have until `found_by`, logging in has so long for all of them.
    pub(super) async fn connect(&self, found_by: Instant, patience: Duration) -> Result<Conn, Trouble> {
        let proof = self.proof(found_by).await?;
        // Neither a local socket nor an address is looked up.
        if self.options.socket().is_some() || self.place.name.parse::<IpAddr>().is_ok() {
            let silent = |_| Err(Trouble::silent());
            let login = session::connect(self.options.clone(), &self.tls, &self.login, proof);
            return timeout_at(Instant::now() + patience, login).await.unwrap_or_else(silent);
        }
        let addresses = self.addresses(found_by).await?;
        let outcome = self.race(addresses, &proof, patience).await;
        if outcome.is_err() {
            // The name may lead somewhere else by now, as it does after a failover.
            self.known().doubted = true;
        }
        outcome
    }

    /// What one session logs in with.
    async fn proof(&self, until: Instant) -> Result<Proof, Trouble> {
        let late = |_| Err(Trouble::Full("nothing to log in with was had in time".to_owned()));
        let asked = proof(&self.login, (&self.place.name, self.place.port), &self.user);
        timeout_at(until, asked).await.unwrap_or_else(late)
    }

    /// What a call is told whose time ends on the way here.
    pub(super) fn silence(&self) -> Trouble {
        let known = self.known();
        if known.found.is_none() && known.looking.is_some() {
            self.not_looked_up("no answer in time")
        } else {
            Trouble::silent()
        }
    }

    fn not_looked_up(&self, why: &str) -> Trouble {
        Trouble::Lost(format!("the name {} cannot be looked up: {why}", self.place.name))
    }

    /// Begins to look the name up, if that is called for: the names of a list are looked up at once.
    pub(super) fn look_up(&self) {
        if !self.place.name.is_empty() && self.place.name.parse::<IpAddr>().is_err() && self.options.socket().is_none()
        {
            let _ = self.looking();
        }
    }

    async fn addresses(&self, found_by: Instant) -> Result<Vec<IpAddr>, Trouble> {
        let older = {
            let known = self.known();
            let still = known.found.is_some_and(|found| found.elapsed() < STALE);
            if still { known.addresses.clone() } else { Vec::new() }
        };
        let Some(looking) = self.looking() else { return Ok(older) };
        let until = if older.is_empty() { found_by } else { found_by.min(Instant::now() + BRIEF) };
        match timeout_at(until, looking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) if !older.is_empty() => Ok(older),
            Ok(Err(why)) => Err(self.not_looked_up(&why)),
            Err(_) => Err(self.not_looked_up("no answer in time")),
        }
    }

    /// The look-up under way, or a new one; none where what is known will do.
    fn looking(&self) -> Option<LookUp> {
        let mut known = self.known();
        if !known.doubted && known.found.is_some_and(|found| found.elapsed() < FRESH) {
            return None;
        }
        if let Some(looking) = &known.looking {
            return Some(looking.clone());
        }
        let (place, shared) = ((self.place.name.clone(), self.place.port), Arc::clone(&self.known));
        let task = tokio::spawn(async move {
            let answer = tokio::net::lookup_host(place).await;
            let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
            known.looking = None;
            let mut addresses: Vec<IpAddr> =
                answer.map_err(|e| e.to_string())?.map(|found: SocketAddr| found.ip()).collect();
            addresses.dedup();
            let last = known.addresses.first().copied();
            addresses.sort_by_key(|ip| Some(*ip) != last);
            (known.addresses, known.found, known.doubted) = (addresses.clone(), Some(Instant::now()), false);
            Ok(addresses)
        });
        let looking =
            task.map(|done| done.unwrap_or_else(|_| Err("the driver is stopping".to_owned()))).boxed().shared();
        known.looking = Some(looking.clone());
        Some(looking)
    }

    /// The addresses share the patience: while one does not answer, the next one's turn comes, and whichever lets us in is
    /// taken. One after the other, since each is a login.
    async fn race(&self, addresses: Vec<IpAddr>, proof: &Proof, patience: Duration) -> Result<Conn, Trouble> {
        let begun = Instant::now();
        let share = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut turn = begun;
        let mut left = addresses.iter().copied();
        let mut logins = FuturesUnordered::new();
        let mut troubles: Vec<(String, Trouble)> = Vec::new();
        loop {
            if (logins.is_empty() || Instant::now() >= turn)
                && let Some(ip) = left.next()
            {
                turn = Instant::now() + share;
                let options = OptsBuilder::from_opts(self.options.clone()).resolved_ips(Some(vec![ip]));
                let login = session::connect(options.into(), &self.tls, &self.login, proof.clone());
                logins.push(login.map(move |outcome| (ip, outcome)));
            }
            let end = begun + patience;
            let next = if left.len() > 0 { turn.min(end) } else { end };
            tokio::select! {
                login = logins.next() => match login {
                    Some((ip, Ok(conn))) => {
                        self.known().addresses.sort_by_key(|known| *known != ip);
                        return Ok(conn);
                    }
                    Some((ip, Err(trouble))) => {
                        troubles.push((ip.to_string(), trouble));
                        turn = Instant::now();
                    }
                    // All have failed, or there is none.
                    None if left.len() == 0 => return Err(of_all(troubles)),
                    None => {}
                },
                () = sleep_until(next) => if Instant::now() >= end {
                    let told = |ip: &IpAddr| troubles.iter().any(|(at, _)| *at == ip.to_string());
                    let silent: Vec<_> = addresses.iter().filter(|ip| !told(ip)).map(|ip| (ip.to_string(), Trouble::silent())).collect();
                    troubles.extend(silent);
                    return Err(of_all(troubles));
                },
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a name has one address, the name says enough.
fn of_all(mut troubles: Vec<(String, Trouble)>) -> Trouble {
    if troubles.len() > 1 {
        together(troubles)
    } else {
        troubles.pop().map_or_else(Trouble::silent, |(_, trouble)| trouble)
    }
}
