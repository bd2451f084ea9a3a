//! Many hosts at once on a nearly full subnet: every address once, no false "none left", no error.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ec2_ipam::domain::address::{Change, Event, Status};
use ec2_ipam::domain::id::{Claim, Kind};
use ec2_ipam::store::{FreeClaim, Store};

use super::bed::{Bed, eni, ip, new_row, on_all, soon, subnet, token, told};

on_all! {
    of_many_hosts_at_once_each_address_goes_to_one_and_the_rest_are_told
    what_many_hosts_tell_at_once_of_their_addresses_is_what_the_table_says
    many_hosts_churn_a_nearly_full_subnet
}

const HOSTS: u8 = 12;

/// Who has which address, as the callers were told.
#[derive(Default)]
pub struct Held(Mutex<HashMap<Ipv4Addr, Claim>>);

impl Held {
    pub fn take(&self, ip: Ipv4Addr, claim: &Claim) {
        let before = self.0.lock().unwrap().insert(ip, claim.clone());
        assert!(before.is_none(), "I1: {ip} was given to {claim} while {before:?} has it");
    }

    /// Before the table is told, since the next one may have it at once.
    pub fn let_go(&self, ip: Ipv4Addr) {
        self.0.lock().unwrap().remove(&ip).unwrap();
    }

    pub fn all(&self) -> HashMap<Ipv4Addr, Claim> {
        self.0.lock().unwrap().clone()
    }
}

pub async fn claim_one(store: &Store, n: u8, claim: &Claim) -> Option<Ipv4Addr> {
    let (eni, subnet) = (eni(n), subnet());
    let wanted = FreeClaim {
        subnet: &subnet,
        eni: &eni,
        sub_pool: None,
        cooldown: Duration::ZERO,
        except: &[],
        count: 1,
        claim,
    };
    let rows = store.claim_free(&wanted, soon()).await.unwrap();
    assert!(rows.len() <= 1, "I1: asked for one, got {rows:?}");
    rows.first().map(|row| row.ip)
}

/// The row must be as this caller left it, so the change must find it.
pub async fn move_on(store: &Store, ip: Ipv4Addr, event: Event) {
    let row = store.row(ip, soon()).await.unwrap().unwrap();
    let change = row.on(event).unwrap_or_else(|_| panic!("I1: {ip} is {:?} though nobody else may move it", row));
    assert_eq!(store.apply(&[change], soon()).await.unwrap(), [true], "I1: somebody else moved {ip}");
}

/// The last change of a row that is anybody's after it: when its answer was lost, another may have the row before we look.
pub async fn free(store: &Store, ip: Ipv4Addr) {
    let row = store.row(ip, soon()).await.unwrap().unwrap();
    let change = row.on(Event::Gone).unwrap_or_else(|_| panic!("I1: {ip} is {row:?} though nobody else may move it"));
    store.apply(&[change], soon()).await.unwrap();
    let after = store.row(ip, soon()).await.unwrap().unwrap();
    assert_ne!(after.claim, row.claim, "{ip} is as it was");
}

/// A subnet with so many free addresses; the others are in use.
async fn nearly_full(bed: &Bed, free: u8) {
    let status = |last| if last <= free { Status::Free } else { Status::Occupied };
    let rows: Vec<_> = (1..=254).map(|last| new_row(ip(last), status(last))).collect();
    bed.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
}

/// So many calls at once from each host: who got what, and how many got nothing.
async fn at_once<F>(hosts: &[Arc<Store>], times: usize, call: impl Fn(Arc<Store>) -> F) -> (Held, usize)
where
    F: Future<Output = Option<(Ipv4Addr, Claim)>> + Send + 'static,
{
    let calls: Vec<_> = (0..times).flat_map(|_| hosts).map(|store| tokio::spawn(call(Arc::clone(store)))).collect();
    let (held, mut empty) = (Held::default(), 0);
    for call in calls {
        match call.await.unwrap() {
            Some((ip, claim)) => held.take(ip, &claim),
            None => empty += 1,
        }
    }
    (held, empty)
}

/// Three at once from each host; thirty can be served.
async fn of_many_hosts_at_once_each_address_goes_to_one_and_the_rest_are_told(bed: Bed) {
    nearly_full(&bed, 30).await;
    let hosts: Vec<_> = bed.hosts(HOSTS.into()).await.into_iter().map(Arc::new).collect();
    for _ in 0..2 {
        let (held, empty) = at_once(&hosts, 3, |store| async move {
            let claim = token(Kind::On);
            Some((claim_one(&store, 1, &claim).await?, claim))
        })
        .await;
        assert_eq!((held.all().len(), empty), (30, 6), "30 free addresses, 36 claims");
        for (store, ip) in hosts.iter().cycle().zip(held.all().into_keys()) {
            move_on(store, ip, Event::Refuse { address_at_fault: false }).await;
        }
    }
}

/// Each of its own interface, several addresses at a time, in an order of its own.
async fn what_many_hosts_tell_at_once_of_their_addresses_is_what_the_table_says(bed: Bed) {
    for n in 0..HOSTS {
        // Beside one another in the table, each host's between those of others.
        bed.warm(n, &[n, n + HOSTS, n + 2 * HOSTS], 100).await;
    }
    let hosts: Vec<_> = (0..HOSTS)
        .zip(bed.hosts(HOSTS.into()).await)
        .map(|(n, store)| {
            tokio::spawn(async move {
                let mut rows = store.rows_of_eni(&eni(n), soon()).await.unwrap();
                for round in 0..8 {
                    fastrand::shuffle(&mut rows);
                    let lease = (round % 2 == 0).then(|| token(Kind::Lease));
                    let idle = Duration::from_secs(100);
                    let changes: Vec<Change> =
                        rows.iter().map(|row| row.on(told(lease.clone(), idle)).unwrap()).collect();
                    let done = store.apply(&changes, soon()).await.unwrap();
                    assert_eq!(done, [true; 3], "I5: nobody else moves what is host {n}'s");
                    rows = rows.iter().zip(&changes).map(|(row, change)| change.after(row)).collect();
                    let mut read = store.rows_of_eni(&eni(n), soon()).await.unwrap();
                    read.sort_unstable_by_key(|row| row.ip);
                    let says: Vec<_> = read.iter().map(|row| (row.state(), row.claim.clone())).collect();
                    assert_eq!(says, vec![(rows[0].state(), lease); 3], "host {n}, round {round}");
                }
            })
        })
        .collect();
    for host in hosts {
        host.await.unwrap();
    }
}

/// As many free addresses as hosts, one for each at any moment: nobody may ever be told that there is none.
async fn many_hosts_churn_a_nearly_full_subnet(bed: Bed) {
    nearly_full(&bed, HOSTS).await;
    let held = Arc::new(Held::default());
    let hosts: Vec<_> = (0..HOSTS)
        .zip(bed.hosts(HOSTS.into()).await)
        .map(|(n, store)| {
            let held = Arc::clone(&held);
            tokio::spawn(async move {
                for round in 0..12 {
                    let claim = token(Kind::On);
                    let ip = claim_one(&store, n, &claim).await;
                    let ip = ip.unwrap_or_else(|| panic!("host {n} was told in round {round} that there is none"));
                    held.take(ip, &claim);
                    tokio::task::yield_now().await;
                    held.let_go(ip);
                    move_on(&store, ip, Event::Refuse { address_at_fault: round % 2 == 0 }).await;
                }
            })
        })
        .collect();
    for host in hosts {
        host.await.unwrap();
    }
    let left = bed.store.rows_taken(&subnet(), soon()).await.unwrap();
    assert!(left.iter().all(|row| row.claim.is_none()), "claims that nobody was told of: {left:?}");
}
