//! `drain`: this host gives no address to a container any more, and gives back what is idle, until an operator says otherwise.
//!
//! Containers that run keep theirs, and each that ends gives its own back. ENIs of other hosts that are served here are not
//! meant: they are drained where their containers run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::domain::address::{Row, State};
use crate::domain::block::Block;
use crate::domain::id::EniId;
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::{Eni, Outside};
use crate::error::Error;

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// To drain it.
    Begin,
    /// To have it as it was.
    End,
    /// To know how far it is.
    Look,
}

/// How far it is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Drained {
    /// Whether it is drained.
    pub drained: bool,
    /// For how long, where that is known.
    pub drained_seconds: Option<u64>,
    /// Addresses that containers have.
    pub leases: usize,
    /// Idle ones, on the ENIs still. Those of a block of which a container has another stay as long as that, and do not count.
    pub idle: usize,
    /// Those of which EC2 has not said whether they are on the ENI.
    pub pending: usize,
    /// What is in the way.
    pub trouble: Option<String>,
}

impl Drained {
    /// Whether nothing of this host's ENIs is left but what containers have.
    pub fn is_done(&self) -> bool {
        self.drained && self.idle == 0 && self.pending == 0 && self.trouble.is_none()
    }

    fn count(&mut self, state: State) {
        match state {
            State::Lease => self.leases += 1,
            State::Ready => self.idle += 1,
            State::On | State::Off => self.pending += 1,
            State::Free | State::Foreign | State::Reserved => {}
        }
    }
}

/// How far it is is asked again and again: what is slow counts as not known.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Does it.
pub struct Drainer {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
}

impl Drainer {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, served: &Arc<Served>) -> Self {
        Self { outside: Arc::clone(outside), interfaces: Arc::clone(interfaces), served: Arc::clone(served) }
    }

    /// Does it, and says how far it is. Repeats are harmless.
    ///
    /// # Errors
    /// It cannot be kept over a restart, or nothing of this host's own is served here.
    pub async fn obey(&self, order: Order, until: Instant) -> Result<Drained, Error> {
        match order {
            Order::Begin => self.begin().await?,
            Order::End => self.end().await?,
            Order::Look => {}
        }
        Ok(self.look(until).await)
    }

    async fn begin(&self) -> Result<(), Error> {
        if self.served.distant().is_served() && self.own().await.is_empty() {
            return Err(Error::Asked(
                "this server has no interface of its own to drain, and those of other hosts are drained there, by ending their \
                 containers: to take the server out of use, stop it"
                    .into(),
            ));
        }
        // IMDS may be away: the journal knows which instance this was.
        let instance = self.outside.imds.instance().await.ok().map(|instance| instance.id);
        let instance = instance.or_else(|| self.outside.journal.opened().instance);
        if let Some(instance) = &instance {
            self.outside.drain.belongs_to(instance);
        }
        self.outside.drain.begin(instance).await.map_err(|why| {
            Error::Asked(format!("nothing is done, as it would be forgotten: the state folder takes no writes: {why}"))
        })?;
        tracing::warn!("this host is drained: no container gets an address, and idle ones are given back");
        self.wake().await;
        Ok(())
    }

    async fn end(&self) -> Result<(), Error> {
        self.outside.drain.end().await.map_err(|why| {
            Error::Asked(format!("it stays drained, as the state folder cannot be changed: remove the file: {why}"))
        })?;
        tracing::info!("this host is not drained any more: containers get addresses");
        self.wake().await;
        Ok(())
    }

    /// Each ENI's task sees to it at once; the fleet hears of it after the next round.
    async fn wake(&self) {
        for eni in self.own().await {
            eni.look_again();
        }
    }

    async fn own(&self) -> Vec<Arc<Eni>> {
        let mut own = self.served.all().await;
        own.retain(|eni| !eni.is_distant());
        own
    }

    /// By the table, which alone knows what is not settled, as it will follow the journal; where it is away, by the journal.
    async fn look(&self, until: Instant) -> Drained {
        let drain = &self.outside.drain;
        let seconds = drain.lasts().map(|lasts| lasts.as_secs());
        let mut found = Drained { drained: drain.is_on(), drained_seconds: seconds, ..Drained::default() };
        let until = until.min(Instant::now() + PATIENCE);
        let (own, host) = (self.own().await, self.interfaces.host_by(until).await);
        // What is not served yet, as after a restart, has addresses too.
        let listed = host.as_ref().map(|host| host.interfaces.iter().map(|nic| nic.eni.clone())).into_iter().flatten();
        let enis: BTreeSet<EniId> = own.iter().map(|eni| eni.nic.eni.clone()).chain(listed).collect();
        found.trouble = host.as_ref().err().filter(|_| own.is_empty()).map(ToString::to_string);
        let store = self.outside.store.now();
        let mut doubted = 0;
        for eni in &enis {
            doubted += self.outside.journal.of(eni).iter().filter(|holding| holding.doubted).count();
            let read = match &store {
                Ok(store) => self.served.rows(store, eni, until).await.map_err(Error::from),
                Err(why) => Err(why.clone()),
            };
            match read {
                Ok(rows) => {
                    let is_lease = |row: &&Row| row.in_block && row.state() == State::Lease;
                    let used: BTreeSet<Block> = rows.iter().filter(is_lease).map(|row| Block::of(row.ip)).collect();
                    let stays =
                        |row: &Row| row.in_block && row.state() == State::Ready && used.contains(&Block::of(row.ip));
                    rows.iter().filter(|row| !row.primary && !stays(row)).for_each(|row| found.count(row.state()));
                }
                Err(why) => {
                    let journal = &self.outside.journal;
                    journal.of(eni).iter().for_each(|holding| found.count(holding.row(&journal.now()).state()));
                    found.trouble = Some(why.to_string());
                }
            }
        }
        let doubted = match doubted {
            0 => None,
            1 => Some("1 address is".to_owned()),
            more => Some(format!("{more} addresses are")),
        };
        let doubted = doubted.map(|some| format!("{some} in doubt until Docker has shown its containers"));
        found.trouble = found.trouble.or(doubted);
        if found.idle + found.pending > 0 {
            found.trouble = found.trouble.or_else(|| own.iter().find_map(|eni| eni.last_error()));
        }
        found
    }
}
