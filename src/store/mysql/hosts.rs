//! The hosts of the URL: one is used at a time, and left for the next one when it is away, leaving or read-only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mysql_async::Conn;
use tokio::time::Instant;

use super::super::login::Login;
use super::super::url::Server;
use super::host::NamedHost;
use super::pulse::ATTEMPT;
use super::trouble::{Trouble, together};

/// A host's time to let us in while there is another one to try: a black hole must not eat a request's deadline.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A name server's time, for all names of the list together. Resolvers ask a second one after five seconds.
const LOOK_UP: Duration = Duration::from_secs(8);
/// Logins by token of a whole fleet come within so long after a failover: RDS lets in some 200 a second (AWS, "IAM database
/// authentication", limitations).
const SPREAD: Duration = Duration::from_secs(5);

pub(super) struct Hosts {
    hosts: Vec<NamedHost>,
    /// The one that worked last, or the next one to try.
    now: AtomicUsize,
    /// What was wrong with each since one let us in.
    troubles: Mutex<Vec<Option<Trouble>>>,
    /// Whether logins are spread over time, and when the next one may be.
    is_spread: bool,
    next_login: Mutex<Option<Instant>>,
}

impl Hosts {
    pub(super) fn new(server: &Server) -> Self {
        let hosts: Vec<_> = server.hosts.iter().map(|host| NamedHost::new(server, host)).collect();
        let troubles = Mutex::new(vec![None; hosts.len()]);
        let is_spread = matches!(server.login, Login::Token(_));
        Self { hosts, now: AtomicUsize::new(0), troubles, is_spread, next_login: Mutex::default() }
    }

    /// The host to use.
    pub(super) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// A session on the host that worked last, or on the next one that lets us in.
    pub(super) async fn connect(&self) -> Result<(usize, Conn), Trouble> {
        if let Some(trouble) = self.waits() {
            return Err(trouble);
        }
        let (first, count) = (self.now(), self.hosts.len());
        let found_by = Instant::now() + LOOK_UP;
        self.hosts.iter().for_each(NamedHost::look_up);
        for (n, (index, host)) in self.hosts.iter().enumerate().cycle().skip(first).take(count).enumerate() {
            let patience = if n + 1 < count { PATIENCE } else { ATTEMPT };
            match host.connect(found_by, patience).await {
                Ok(conn) => {
                    self.now.store(index, Ordering::Relaxed);
                    self.troubles().fill(None);
                    *self.next_login() = None;
                    return Ok((index, conn));
                }
                Err(trouble) => self.fails(index, trouble),
            }
        }
        self.spread();
        Err(self.verdict())
    }

    /// The server was lost, for all hosts of the fleet most likely: no login by token for a moment that chance says.
    pub(super) fn spread(&self) {
        if self.is_spread {
            *self.next_login() = Some(Instant::now() + SPREAD.mul_f64(fastrand::f64()));
        }
    }

    /// What whoever wants to log in before that is told.
    fn waits(&self) -> Option<Trouble> {
        self.next_login().filter(|then| Instant::now() < *then)?;
        if self.troubles().iter().any(Option::is_some) {
            return Some(self.verdict());
        }
        Some(Trouble::Full("the connection was lost, and logins by token are spread over some seconds".to_owned()))
    }

    /// The next host's turn, if nobody has seen to that already.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.hosts.len().max(1);
        let _ = self.now.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn fails(&self, index: usize, trouble: Trouble) {
        if let Some(record) = self.troubles().get_mut(index) {
            *record = Some(trouble);
        }
        self.leave(index);
    }

    /// A time-out: of the host in use; or on the way to one, when others have failed already.
    pub(super) fn silent(&self) -> Trouble {
        let silence = self.hosts.get(self.now()).map_or_else(Trouble::silent, NamedHost::silence);
        if self.troubles().iter().all(Option::is_none) {
            return silence;
        }
        self.fails(self.now(), silence);
        self.verdict()
    }

    fn verdict(&self) -> Trouble {
        let troubles = self.troubles();
        let found = self.hosts.iter().zip(troubles.iter());
        let found: Vec<_> = found.filter_map(|(host, t)| Some((host.at.clone(), t.clone()?))).collect();
        if let ([_], [(_, trouble)]) = (self.hosts.as_slice(), found.as_slice()) {
            return trouble.clone();
        }
        together(found)
    }

    fn next_login(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubles(&self) -> MutexGuard<'_, Vec<Option<Trouble>>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::{Database, Tokens};
    use super::*;

    fn hosts(list: &str, troubles: &[Trouble]) -> Hosts {
        let Ok(Database::MySql(server)) = format!("mysql://u:hunter2@{list}/d").parse() else { panic!("{list}") };
        let hosts = Hosts::new(&server);
        for (index, trouble) in troubles.iter().enumerate() {
            hosts.fails(index, trouble.clone());
        }
        hosts
    }

    #[test]
    fn one_sentence_tells_what_is_wrong_with_each_host() {
        let refused = Trouble::Lost("Connection refused".into());
        let denied = Trouble::Refused("Access denied".into());
        assert_eq!(hosts("a", std::slice::from_ref(&denied)).verdict(), denied);
        let all = hosts("a,[fd00::1]:3307,c", &[refused.clone(), denied.clone(), Trouble::ReadOnly]).verdict();
        let why = "a:3306: Connection refused; [fd00::1]:3307: Access denied; c:3306: it is read-only";
        assert_eq!(all, Trouble::Lost(why.into()));
        // Nothing that passes by itself: not worth waiting for.
        let both = hosts("a,b", &[denied.clone(), denied]).verdict();
        assert_eq!(both, Trouble::Refused("a:3306: Access denied; b:3306: Access denied".into()));
        assert_eq!(hosts("a,b", &[Trouble::ReadOnly, Trouble::ReadOnly]).verdict(), Trouble::ReadOnly);
        assert_eq!(hosts("a,b", &[]).silent(), Trouble::silent());
        let on_the_way = hosts("a,b,c", &[refused]);
        let silent = on_the_way.silent();
        assert_eq!(on_the_way.now(), 2, "the next attempt does not begin in the black hole");
        assert_eq!(silent, Trouble::Lost("a:3306: Connection refused; b:3306: no answer in time".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn logins_by_token_are_spread_after_a_loss_and_others_are_not() {
        let by_password = hosts("a", &[]);
        by_password.spread();
        assert_eq!(by_password.waits(), None);
        let Ok(Database::MySql(server)) = "mysql://u@a/d".parse() else { panic!() };
        let hosts = Hosts::new(&Server { login: Login::Token(Tokens::none()), ..server });
        assert_eq!(hosts.waits(), None, "the first one is at once");
        hosts.spread();
        assert!(matches!(hosts.waits(), Some(Trouble::Full(why)) if why.contains("spread")));
        tokio::time::advance(SPREAD).await;
        assert_eq!(hosts.waits(), None);
        // One that fails is told why, and so is whoever comes before the next.
        let failed = hosts.connect().await.unwrap_err();
        assert!(matches!(&failed, Trouble::Full(why) if why.contains("no token")), "{failed:?}");
        assert_eq!(hosts.connect().await.unwrap_err(), failed);
        let spans: BTreeSet<Instant> = (0..20)
            .filter_map(|_| {
                hosts.spread();
                *hosts.next_login()
            })
            .collect();
        assert!(spans.len() > 10 && spans.iter().all(|then| *then <= Instant::now() + SPREAD));
    }

    #[test]
    fn a_host_is_left_once_by_all_who_fail_on_it() {
        let hosts = hosts("a,b,c", &[]);
        hosts.leave(0);
        hosts.leave(0);
        assert_eq!(hosts.now(), 1);
        hosts.leave(1);
        hosts.leave(2);
        assert_eq!(hosts.now(), 0);
    }
}
