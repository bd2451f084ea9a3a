//! The driver of one host, put together.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::counts::Counts;
use crate::domain::id::Boot;
use crate::driver::addresses::Addresses;
use crate::driver::distant::Distant;
use crate::driver::docker_watch::DockerWatch;
use crate::driver::doctor::Doctor;
use crate::driver::drain::Drainer;
use crate::driver::exposition::Exposition;
use crate::driver::history::{History, Teller};
use crate::driver::interfaces::Interfaces;
use crate::driver::leases::Leases;
use crate::driver::list::Lister;
use crate::driver::map::Mapper;
use crate::driver::operate::Operator;
use crate::driver::pool::Pools;
use crate::driver::reconcile::Reconciler;
use crate::driver::recycle::Recycler;
use crate::driver::roll::Roll;
use crate::driver::scan::Scanner;
use crate::driver::served::Served;
use crate::driver::status::Picture;
use crate::driver::take_up::TakeUp;
use crate::driver::tokens::tokens;
use crate::eni::{Claims, Outside, Untold};
use crate::journal::{Drain, Journal};
use crate::late::Late;
use crate::outside::ec2::{Ec2, Ec2Error};
use crate::outside::engine::Engine;
use crate::outside::imds::Imds;
use crate::outside::link::Links;
use crate::store::Store;
use crate::supervise::supervised;

/// Its parts: each holds what it needs of the others, and does its own work.
pub struct Ipam {
    /// What it was told.
    pub settings: Settings,
    /// What it reaches.
    pub outside: Arc<Outside>,
    /// Docker's calls about pools.
    pub pools: Pools,
    /// Docker's calls about addresses.
    pub addresses: Arc<Addresses>,
    /// Rows, EC2 and Docker compared.
    pub reconciler: Arc<Reconciler>,
    /// Subnets compared with all of their interfaces.
    pub scanner: Arc<Scanner>,
    /// What it shows of itself.
    pub picture: Arc<Picture>,
    /// Its prerequisites.
    pub doctor: Doctor,
    /// What operators ask for.
    pub operator: Operator,
    /// Idle addresses back to their subnet.
    pub recycler: Recycler,
    /// Its figures for Prometheus.
    pub exposition: Exposition,
    /// Leases by their age.
    pub leases: Arc<Leases>,
    /// No container gets an address here.
    pub drainer: Drainer,
    /// The hosts of the fleet, this one among them.
    pub roll: Arc<Roll>,
    /// Rows of subnets.
    pub lister: Arc<Lister>,
    /// Subnets as a picture.
    pub mapper: Mapper,
    /// Who had an address when.
    pub history: History,
    teller: Arc<Teller>,
    take_up: Arc<TakeUp>,
}

impl Ipam {
    /// Starts reaching the store and EC2; with wrong settings, nothing.
    pub fn start(settings: Settings, tasks: TaskTracker, stop: CancellationToken) -> anyhow::Result<Arc<Self>> {
        if let Some(why) = &settings.wrong {
            let (store, ec2) = (Late::never(why.clone()), Late::never(why.clone()));
            let settings = Settings { journal: None, ..settings };
            return Self::with(settings, store, ec2, Imds::new(), tasks, stop);
        }
        let (imds, ec2) = reach_ec2(&settings, &tasks, &stop);
        let settings = Settings { database: settings.database.with_tokens(tokens(&ec2)), ..settings };
        let database = settings.database.clone();
        let (patience, is_server) = (settings.request_timeout, settings.distant);
        let store = Late::reach("the database", &tasks, stop.clone(), move || {
            let database = database.clone();
            async move {
                let store = Store::open(&database, Instant::now() + patience).await;
                store.map(|store| {
                    if is_server {
                        store.serves_many();
                    }
                    Arc::new(store)
                })
            }
        });
        Self::with(settings, store, ec2, imds, tasks, stop)
    }

    /// The same with a store that is reached, or not, by somebody else.
    pub fn with_store(
        settings: Settings,
        store: Late<Arc<Store>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let (imds, ec2) = reach_ec2(&settings, &tasks, &stop);
        let settings = Settings { database: settings.database.with_tokens(tokens(&ec2)), ..settings };
        Self::with(settings, store, ec2, imds, tasks, stop)
    }

    /// The same with all of the outside given.
    pub fn with(
        settings: Settings,
        store: Late<Arc<Store>>,
        ec2: Late<Ec2>,
        imds: Imds,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let outside = Arc::new(Outside {
            store,
            journal: Arc::new(settings.journal.as_deref().map_or_else(Journal::nowhere, Journal::open)),
            drain: Arc::new(Drain::open(settings.journal.as_deref())),
            ec2,
            imds,
            links: Links::new()?,
            warmth: settings.warmth,
            blocks: settings.blocks,
            claims: Claims::new(Boot::random()?),
            in_use: Arc::default(),
            counts: Counts::default(),
            untold: Untold::new(settings.history),
            poke: Notify::new(),
            request_timeout: settings.request_timeout,
            tasks,
            stop,
        });
        let interfaces = Arc::new(Interfaces::new(&outside, settings.parent.clone()));
        let distant = Distant::new(&outside, &interfaces, settings.distant);
        let served = Arc::new(Served::new(&outside, &interfaces, distant));
        let docker = Arc::new(DockerWatch::new(&outside, settings.docker_socket.clone().map(Engine::new)));
        let rounds = settings.reconcile_interval;
        let reconciler = Arc::new(Reconciler::new(&outside, &interfaces, &served, &docker, rounds));
        let scanner = Arc::new(Scanner::new(&outside, &interfaces, &served, settings.scan_interval));
        let picture = Arc::new(Picture::new(&outside, &interfaces, &served, &docker, &reconciler, &scanner, &settings));
        let leases = Arc::new(Leases::new(&outside, &served));
        let lister = Arc::new(Lister::new(&outside, &served));
        let teller = Arc::new(Teller::new(&outside));
        Ok(Arc::new(Self {
            pools: Pools::new(&outside, &interfaces, &served),
            addresses: Arc::new(Addresses::new(&outside, &interfaces, &served)),
            doctor: Doctor::new(&outside, &interfaces, &served, &docker, &picture, &leases, &settings),
            operator: Operator::new(&outside, &served, settings.database.clone()),
            recycler: Recycler::new(&outside, &interfaces, &served),
            exposition: Exposition::new(&outside, &served, &docker, &reconciler, &picture),
            leases,
            drainer: Drainer::new(&outside, &interfaces, &served),
            roll: Arc::new(Roll::new(&outside, &served, &reconciler, &picture)),
            mapper: Mapper::new(&outside, &served, &lister),
            lister,
            history: History::new(&outside, &served),
            teller,
            take_up: Arc::new(TakeUp::new(&outside, &interfaces, &served, rounds)),
            settings,
            outside,
            reconciler,
            scanner,
            picture,
        }))
    }

    /// Starts what it does by itself, until it stops.
    pub fn work_by_itself(&self) {
        let (take_up, reconciler, scanner) = (self.take_up.clone(), self.reconciler.clone(), self.scanner.clone());
        let (roll, teller) = (self.roll.clone(), self.teller.clone());
        self.always("taking up", async move { take_up.run().await });
        self.always("reconciling", async move { reconciler.run().await });
        self.always("scanning", async move { scanner.run().await });
        self.always("answering the table", async move { roll.run().await });
        self.always("telling history", async move { teller.run().await });
    }

    fn always(&self, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.outside.stop.clone();
        self.outside.tasks.spawn(supervised(what, async move { stop.run_until_cancelled(work).await }));
    }
}

/// Begins to reach EC2.
fn reach_ec2(settings: &Settings, tasks: &TaskTracker, stop: &CancellationToken) -> (Imds, Late<Ec2>) {
    let imds = Imds::new();
    let (given, of_instance) = (settings.clone(), imds.clone());
    let ec2 = Late::reach("EC2", tasks, stop.clone(), move || {
        let (given, of_instance) = (given.clone(), of_instance.clone());
        async move { connect(&given, &of_instance).await }
    });
    (imds, ec2)
}

/// EC2 with what the settings and the environment say, else the instance itself.
///
/// # Errors
/// [`Ec2Error::NoRegion`].
pub async fn connect(settings: &Settings, imds: &Imds) -> Result<Ec2, Ec2Error> {
    let (region, keys) = (settings.region.clone(), settings.keys.clone());
    match Ec2::connect(region, keys.clone(), imds.role()).await {
        Err(Ec2Error::NoRegion) => {
            let region = imds.region().await.map_err(|_| Ec2Error::NoRegion)?;
            Ec2::connect(Some(region), keys, imds.role()).await
        }
        outcome => outcome,
    }
}
