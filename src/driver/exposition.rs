//! The driver's figures for Prometheus: what was counted, and how things are now, as far as memory tells.
//!
//! Nobody is asked for a scrape. What only the table knows is read beside it, for the next one (`subnets`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout};

use crate::domain::plan::blocks::Policy;
use crate::driver::docker_watch::DockerWatch;
use crate::driver::format::Format;
use crate::driver::page::{Page, count};
use crate::driver::reconcile::Reconciler;
use crate::driver::served::Served;
use crate::driver::status::Picture;
use crate::driver::subnets::Subnets;
use crate::eni::{Eni, Outside, Tally};

/// Shows them.
pub struct Exposition {
    outside: Arc<Outside>,
    served: Arc<Served>,
    docker: Arc<DockerWatch>,
    reconciler: Arc<Reconciler>,
    picture: Arc<Picture>,
    subnets: Subnets,
    begun: Instant,
}

/// Problems that cannot be counted in this time are left out: no scrape waits.
const BRIEF: Duration = Duration::from_secs(1);

impl Exposition {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        served: &Arc<Served>,
        docker: &Arc<DockerWatch>,
        reconciler: &Arc<Reconciler>,
        picture: &Arc<Picture>,
    ) -> Self {
        Self {
            outside: Arc::clone(outside),
            served: Arc::clone(served),
            docker: Arc::clone(docker),
            reconciler: Arc::clone(reconciler),
            picture: Arc::clone(picture),
            subnets: Subnets::new(outside),
            begun: Instant::now(),
        }
    }

    /// All of them, as text.
    ///
    /// # Errors
    /// None that a text makes, which takes whatever is written to it.
    pub async fn show(&self, format: Format) -> Result<String, fmt::Error> {
        let mut page = Page(Registry::with_prefix("ec2_ipam"));
        page.0.register("build", "This driver", Info::new([("version", env!("EC2_IPAM_VERSION"))]));
        page.time("start_timestamp", "When this life of the driver began", self.begun);
        self.outside.counts.register(&mut page.0);
        self.show_outside(&mut page);
        let enis = self.served.all().await;
        self.show_journal(&mut page, &enis);
        self.show_rounds(&mut page).await;
        self.show_enis(&mut page, &enis);
        self.subnets.show(&mut page, enis.iter().map(|eni| &eni.subnet));
        let mut shown = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut shown, &page.0)?,
            Format::Text => prometheus_text::encode(&mut shown, &page.0)?,
        }
        Ok(shown)
    }

    fn show_outside(&self, page: &mut Page) {
        let store = self.outside.store.now().ok().map(|store| store.health());
        page.truth(
            "store_up",
            "Whether the table's last answer was a good one",
            store.as_ref().is_some_and(|store| store.trouble.is_none()),
        );
        if let Some(store) = store {
            page.time("store_last_success_timestamp", "When the table last did what it was asked", store.last_success);
        }
        let ec2 = self.outside.ec2.now().ok();
        // Nobody knows otherwise before the first call.
        let is_up = ec2.as_ref().is_some_and(|ec2| ec2.is_up() != Some(false));
        page.truth("ec2_up", "Whether EC2 answered the last attempt of a call, whatever it said", is_up);
        if let Some(ec2) = ec2 {
            ec2.register(&mut page.0);
            if let Some(at) = ec2.last_success() {
                page.time("ec2_last_success_timestamp", "When EC2 last did what it was asked", at);
            }
        }
        if self.docker.is_asked() {
            let is_up = self.outside.in_use.silence().is_none();
            page.truth("docker_up", "Whether Docker's list of containers could last be read", is_up);
        }
    }

    fn show_journal(&self, page: &mut Page, enis: &[Arc<Eni>]) {
        let journal = &self.outside.journal;
        if !journal.is_somewhere() {
            return;
        }
        let own = || enis.iter().filter(|eni| !eni.is_distant()).map(|eni| &eni.nic.eni);
        page.truth("journal_up", "Whether the journal takes writes", journal.state().why().is_none());
        let unposted: usize = own().map(|eni| journal.unposted(eni).len()).sum();
        let help = "Addresses of which the table does not say yet what the journal says";
        page.one("journal_unposted_addresses", help, count(unposted));
        let since = own().filter_map(|eni| journal.unposted_since(eni)).min();
        let waits = since.map_or(Duration::ZERO, |since| since.elapsed());
        page.seconds("journal_unposted", "For how long the first of them has waited", waits.as_secs_f64());
    }

    async fn show_rounds(&self, page: &mut Page) {
        if let Ok(problems) = timeout(BRIEF, self.picture.problems()).await {
            page.one(
                "problems",
                "What only a person can put right, as `ec2-ipam status` has it",
                count(problems.len()),
            );
        }
        if let Some(at) = self.reconciler.outcome().whole {
            page.time(
                "reconciled_timestamp",
                "When table, EC2 and Docker were last compared, all of them readable",
                at,
            );
        }
        page.truth("drained", "Whether this host is drained", self.outside.drain.is_on());
        let target = self.outside.warmth.target;
        page.one("warm_target_addresses", "Idle, cooled addresses to hold on each ENI", count(target));
        let are_wanted = self.outside.blocks != Policy::Never;
        page.truth("blocks_wanted", "Whether ENIs take blocks where they are to be had: EC2_IPAM_BLOCKS", are_wanted);
    }

    fn show_enis(&self, page: &mut Page, enis: &[Arc<Eni>]) {
        let (mut addresses, mut waiting, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        let (mut slots, mut limits, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for eni in enis {
            let of = || {
                [
                    ("eni", eni.nic.eni.to_string()),
                    ("subnet", eni.subnet.id.to_string()),
                    ("host", eni.instance().to_owned()),
                ]
            };
            let tally = eni.tally();
            addresses.extend(states(&tally).map(|(state, addresses)| {
                let [eni, subnet, host] = of();
                ([eni, subnet, host, ("state", state.to_owned())], count(addresses))
            }));
            slots.extend(tally.slots.map(|slots| (of(), count(slots))));
            blocks.push((of(), count(eni.blocks())));
            limits.extend(eni.limit().map(|limit| (of(), count(limit))));
            waiting.push((of(), count(eni.waiting())));
            ready.push((of(), f64::from(eni.not_ready().is_none())));
        }
        page.many("eni_addresses", "Addresses of an ENI, by what they are to it", addresses);
        page.many(
            "eni_slots_used",
            "What counts towards the limit of the instance type: each single address, the primary one too, and each block",
            slots,
        );
        page.many("eni_blocks", "Blocks of sixteen addresses that it has, of a slot each", blocks);
        page.many(
            "eni_slots",
            "How many of these the instance type allows the ENI, the primary address included",
            limits,
        );
        page.many("eni_waiting_requests", "Requests that wait for EC2", waiting);
        page.many("eni_ready", "Whether its rows and EC2 were compared, so that it gives addresses", ready);
    }
}

fn states(tally: &Tally) -> impl Iterator<Item = (&'static str, usize)> {
    let Tally { warm, cooling, lease, leaving, claimed, foreign, doubted, slots: _ } = *tally;
    [
        ("warm", warm),
        ("cooling", cooling),
        ("lease", lease),
        ("leaving", leaving),
        ("claimed", claimed),
        ("foreign", foreign),
        ("doubted", doubted),
    ]
    .into_iter()
}
