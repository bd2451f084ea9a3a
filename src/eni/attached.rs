//! Whether the ENI still is this instance's: asked before anything is done with its addresses. Once it is not, the life that
//! served it ends, and its rows belong to whoever has it now.

use std::sync::{Arc, Mutex as Plain, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Eni, Outside, STORE_TIME, Shared};
use crate::domain::plan::attachment::{Attachment, Whose, Word};
use crate::error::Error;
use crate::outside::ec2::Ec2Error;
use crate::outside::imds::{Instance, Nic};
use crate::outside::link::{LinkError, Parent};
use crate::supervise::supervised;

/// The ENI and the instance that it is attached to for as long as it is served.
pub(super) struct Place {
    pub(super) nic: Nic,
    pub(super) instance: String,
    /// The instance is another one than this host: IMDS here knows nothing of it.
    pub(super) is_distant: bool,
    outside: Arc<Outside>,
    /// Since when.
    pub(super) began: Instant,
    /// Ends everything that is done for the ENI.
    pub(super) left: CancellationToken,
    /// Why it is served no more.
    lost: OnceLock<Error>,
    /// Until when nobody needs to be asked. Locked while somebody is, so that requests share an answer.
    sure_until: Mutex<Instant>,
    doubted: Plain<Option<Instant>>,
}

/// IMDS's word is good for so long: requests come by the hundred.
const FRESH: Duration = Duration::from_secs(1);
/// EC2's is, of a distant one. Its calls are counted for the whole account.
const FRESH_OF_EC2: Duration = Duration::from_secs(60);
/// Neither silence nor EC2's word against IMDS's is asked for again for so long.
const REST: Duration = Duration::from_secs(10);
/// It answers within a few milliseconds where it is well.
const BRIEF: Duration = Duration::from_millis(250);
/// IMDS is a link-local hop away; what does not answer says nothing.
const IMDS: Duration = Duration::from_secs(1);
/// The same of EC2. Short, for requests wait for it.
const EC2: Duration = Duration::from_secs(3);

impl Place {
    pub(super) fn new(nic: Nic, instance: &Instance, is_distant: bool, outside: Arc<Outside>) -> Self {
        Self {
            nic,
            instance: instance.id.clone(),
            is_distant,
            outside,
            began: Instant::now(),
            left: CancellationToken::new(),
            lost: OnceLock::new(),
            sure_until: Mutex::new(Instant::now()),
            doubted: Plain::default(),
        }
    }

    /// The refusal once it is served no more.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.lost.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// What a word means, after what was said before. If the ENI is not ours, its service ends.
    pub(super) fn judge(&self, word: &Word) -> Whose {
        let whose = {
            let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
            let since = *doubted.get_or_insert_with(Instant::now);
            let whose = word.whose(since.elapsed());
            if whose == Whose::Ours {
                *doubted = None;
            }
            whose
        };
        if whose == Whose::NotOurs {
            self.leave(self.refusal(word));
        }
        whose
    }

    fn leave(&self, why: Error) {
        if self.lost.set(why.clone()).is_ok() {
            let eni = &self.nic.eni;
            if let Error::Driven { instance, .. } = why {
                tracing::info!(%eni, "{eni} is served here no more, as {instance} has a driver of its own");
            } else if self.is_distant {
                // Hosts come and go.
                tracing::info!(%eni, "{why}");
            } else {
                tracing::warn!(%eni, "{why}");
            }
        }
        self.left.cancel();
    }

    pub(super) fn refusal(&self, word: &Word) -> Error {
        if self.is_distant {
            return Error::Absent(format!("{} is served here no more, as {}", self.nic.eni, word.of(&self.instance)));
        }
        Error::Absent(format!(
            "{} is {word}, so nothing of it is granted, released or given back here: attach it to this instance, or create \
             the network for another interface",
            self.nic.eni
        ))
    }

    /// Before anything is done with its addresses. It goes on unless the ENI is known to be another's: what nobody tells is no
    /// reason to stop.
    pub(super) async fn is_ours(&self) -> Result<(), Error> {
        self.check()?;
        let mut sure_until = self.sure_until.lock().await;
        if Instant::now() < *sure_until {
            return Ok(());
        }
        let imds = self.ask_imds().await;
        let ec2 = if imds == Some(false) || self.is_distant { self.ask_ec2().await } else { None };
        let rest = match (imds, &ec2) {
            (Some(true), _) => FRESH,
            (None, Some(_)) => FRESH_OF_EC2,
            _ => REST,
        };
        *sure_until = Instant::now() + rest;
        self.judge(&Word { imds, ec2 });
        self.check()
    }

    /// Before an address is given up: both are asked, and it has to be sure.
    pub(super) async fn may_give_up(&self) -> Result<(), Error> {
        let (imds, ec2) = tokio::join!(self.ask_imds(), self.ask_ec2());
        let word = Word { imds, ec2 };
        self.judge(&word);
        self.check()?;
        if word.may_give_up() {
            return Ok(());
        }
        let eni = &self.nic.eni;
        Err(Error::Missing(if self.is_distant {
            format!(
                "EC2 does not say that {eni} is attached to {}, so nothing of it is given up: try again",
                self.instance
            )
        } else {
            format!(
                "IMDS and EC2 do not both say that {eni} is attached to this instance, so nothing of it is given up: try again"
            )
        }))
    }

    async fn ask_imds(&self) -> Option<bool> {
        if self.is_distant {
            return None;
        }
        timeout(IMDS, self.outside.imds.lists(&self.nic.mac, &self.nic.eni)).await.ok()?
    }

    async fn ask_ec2(&self) -> Option<Attachment> {
        let ec2 = self.outside.ec2.now().ok()?;
        match timeout(EC2, ec2.interface(&self.nic.eni)).await.ok()? {
            Ok(interface) => Some(Attachment::of(interface.instance.as_deref(), &self.instance)),
            Err(Ec2Error::NoSuchEni { .. }) => Some(Attachment::Deleted),
            Err(_) => None,
        }
    }
}

impl Shared {
    /// Its link and what the host has on that, now. A distant one's link is for nobody here to see.
    pub(super) async fn parent(&self) -> Result<Parent, LinkError> {
        if self.place.is_distant { Ok(Parent::unseen()) } else { self.outside.links.parent(&self.place.nic.mac).await }
    }

    /// A distant ENI is served for as long as its host has no driver of its own.
    pub(super) async fn is_driverless(&self) -> Result<(), Error> {
        self.heed(self.fleet.is_driverless(STORE_TIME).await)
    }

    /// Whether this process gives back for the ENI, and settles what others have left.
    pub(super) async fn sends(&self) -> Result<bool, Error> {
        self.heed(self.fleet.sends(STORE_TIME).await)
    }

    fn heed<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(why @ Error::Driven { .. }) = &outcome {
            self.place.leave(why.clone());
        }
        outcome
    }

    /// Before a grant or a release, which wait for nothing outside this host: if IMDS is slow, what it says counts from the
    /// next one on.
    pub(super) async fn may_serve(self: &Arc<Self>) -> Result<(), Error> {
        if self.place.sure_until.try_lock().is_ok_and(|sure_until| Instant::now() < *sure_until) {
            return self.place.check();
        }
        let shared = Arc::clone(self);
        let asking = async move { drop(shared.place.is_ours().await) };
        let asked = self.outside.tasks.spawn(supervised("asking whose the interface is", asking));
        let _ = timeout(BRIEF, asked).await;
        self.place.check()
    }
}

impl Eni {
    /// Why it is served no more: it is not this instance's. A new life of it may begin once [`Self::ended`].
    pub fn lost(&self) -> Option<String> {
        self.shared.place.check().err().map(|why| why.to_string())
    }

    /// Whether its host is another one than this.
    pub fn is_distant(&self) -> bool {
        self.shared.place.is_distant
    }

    /// Before anything is asked of a distant one: whether its host has no driver of its own.
    pub async fn is_driverless(&self) -> Result<(), Error> {
        self.shared.is_driverless().await
    }

    /// Whether what is given back of it is so here.
    pub async fn sends(&self) -> bool {
        self.shared.sends().await.unwrap_or(false)
    }

    /// Its link and what the host has on that, now; nothing where it is distant.
    pub async fn parent(&self) -> Result<Parent, LinkError> {
        self.shared.parent().await
    }

    /// The instance that it is served on.
    pub fn instance(&self) -> &str {
        &self.shared.place.instance
    }

    /// What a look has learnt of whose it is. If it is not ours, its service ends.
    pub fn judge(&self, word: &Word) -> Whose {
        self.shared.place.judge(word)
    }

    /// EC2 has it attached to another instance.
    pub fn leaves_for(&self, instance: &str) {
        self.judge(&Word { imds: None, ec2: Some(Attachment::of(Some(instance), self.instance())) });
    }

    /// Whether it is served no more, and nothing of that life is left.
    pub fn has_ended(&self) -> bool {
        self.wants.is_closed()
    }

    /// Its task is gone, and its lock free.
    pub async fn ended(&self) {
        self.wants.closed().await;
    }

    /// Why nobody answers any more.
    pub(super) fn closed(&self) -> Error {
        self.shared.place.check().err().unwrap_or(Error::Stopping)
    }
}
