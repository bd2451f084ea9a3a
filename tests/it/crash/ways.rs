//! The ways that lead to each point, and the calls and changes that take the driver there.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::block::Block;

use super::bed::{Bed, Engine};
use crate::support::host::{ASSIGN, Kind, RDS, Row, SUBNET, UNASSIGN, ip};

/// What the driver does when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A request that a warm address answers.
    Warm,
    /// A request that needs an Assign.
    Cold,
    /// A request for a free address by name.
    Named,
    /// A request by name for one that somebody else took meanwhile.
    NamedTaken,
    /// A request by name for one that is idle here.
    NamedIdle,
    /// A release.
    Release,
    /// A release of an address that had been named: it goes back to the subnet.
    GoingHome,
    /// More idle addresses than the maximum.
    Trim,
    /// An interface without containers for long.
    Drain,
    /// An operator's `recycle`.
    Recycle,
    /// An operator's `drain`.
    Drained,
    /// A full interface makes room for a named address.
    MakeRoom,
    /// A container is gone and its address was not released.
    LostRelease,
    /// An address in use left the interface.
    CutOff,
    /// An idle address left the interface.
    Missing,
    /// An address came to the interface behind the driver's back.
    Unknown,
    /// The same, and the table has no row for it.
    NoRow,
    /// Both happened while the driver was away.
    Survey,
    /// Somebody else took an address.
    Foreign,
    /// Rows of an interface that is no more.
    DeadEni,
    /// The same row by itself, then with its block, and so on.
    Turns,
    /// A block is given back, and while the driver is dead somebody frees one of its rows, as drivers that know no blocks do.
    Torn,
    /// A subnet that the table does not know, of more than one chunk of rows.
    Init,
    /// `init` again, with a newcomer.
    Refresh,
    /// An empty database.
    Migrate,
}

/// An interface that EC2 does not know.
const DEAD: &str = "eni-0eeeeeeeeeeeeee01";
/// The address that has no row.
const NO_ROW: u8 = 45;
/// One of the only whole block.
const TURNS: u8 = 40;

impl Way {
    pub const ALL: [Self; 23] = [
        Self::Warm,
        Self::Cold,
        Self::Named,
        Self::NamedTaken,
        Self::NamedIdle,
        Self::Release,
        Self::GoingHome,
        Self::Trim,
        Self::Drain,
        Self::Recycle,
        Self::Drained,
        Self::MakeRoom,
        Self::LostRelease,
        Self::CutOff,
        Self::Missing,
        Self::Unknown,
        Self::NoRow,
        Self::Survey,
        Self::Foreign,
        Self::DeadEni,
        Self::Init,
        Self::Refresh,
        Self::Migrate,
    ];

    /// The points that it passes; `#n`: at the n-th time.
    pub fn points(self, kind: Kind) -> &'static [&'static str] {
        const GIVE_UP: &[&str] = &["off:claimed", "off:unassigned", "off:freed"];
        match self {
            Self::Warm => &["request:granted", "post:done"],
            Self::Cold => {
                &["refill:claimed", "assign:answered", "assign:recorded", "serve:leased", "request:unanswered"]
            }
            Self::Named => {
                &["named:claimed", "assign:answered", "assign:recorded", "serve:leased", "request:unanswered"]
            }
            Self::NamedTaken => &["assign:answered", "assign:recorded"],
            Self::NamedIdle => &["request:granted-named", "request:unanswered#2"],
            Self::Release => &["release:begun", "release:done", "post:done"],
            Self::GoingHome | Self::Trim | Self::Drain | Self::Recycle => GIVE_UP,
            Self::Drained => &["drain:kept", "off:claimed"],
            Self::MakeRoom => &["off:claimed", "off:unassigned", "off:freed", "named:claimed#5"],
            Self::LostRelease => &["reconcile:read#4", "reconcile:changed"],
            Self::CutOff => &["reconcile:read#4", "reconcile:changed", "reconcile:assigned"],
            Self::Missing => &["reconcile:changed", "off:claimed", "off:unassigned", "off:freed"],
            Self::Unknown => &["reconcile:changed", "reconcile:changed#2", "assign:answered#2"],
            Self::NoRow => &["reconcile:inserted", "reconcile:changed"],
            Self::Survey => &["survey:changed", "off:claimed", "off:unassigned", "off:freed"],
            Self::Foreign => &["scan:read#2", "scan:changed"],
            Self::DeadEni => &["scan:changed"],
            Self::Turns => &[
                "named:claimed",
                "assign:answered",
                "assign:recorded",
                "off:claimed",
                "off:unassigned",
                "off:freed",
                "refill:claimed",
                "assign:answered#2",
                "assign:recorded#2",
                "off:claimed#2",
                "off:unassigned#2",
                "off:freed#2",
                "named:claimed#2",
            ],
            Self::Torn => &["release:done", "off:claimed", "off:unassigned", "off:freed"],
            Self::Init if kind == Kind::Sqlite => &["init:chunk", "init:inserted", "init:changed"],
            Self::Init => &["init:chunk", "init:chunk#2", "init:inserted", "init:changed"],
            Self::Refresh => &["init:inserted", "init:changed"],
            // SQLite's steps are one transaction.
            Self::Migrate if kind == Kind::Sqlite => &[],
            Self::Migrate => &["init:stepped", "init:stepped#4"],
        }
    }

    /// The call of EC2 that goes wrong on this way, and how many of its kind come before it.
    pub fn ec2_call(self) -> Option<(&'static str, u32)> {
        match self {
            Self::Cold | Self::Named => Some((ASSIGN, 0)),
            Self::CutOff | Self::Unknown | Self::Turns => Some((ASSIGN, 1)),
            Self::GoingHome
            | Self::Trim
            | Self::Recycle
            | Self::MakeRoom
            | Self::Missing
            | Self::Survey
            | Self::Torn => Some((UNASSIGN, 0)),
            _ => None,
        }
    }

    pub fn scans(self) -> bool {
        matches!(self, Self::Foreign | Self::DeadEni)
    }

    /// Those that have anything to do with blocks: what makes the table knows none yet.
    pub fn with_blocks() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|way| !way.makes_table()).chain([Self::Turns, Self::Torn])
    }

    /// It is the table itself that it makes.
    pub fn makes_table(self) -> bool {
        matches!(self, Self::Init | Self::Refresh | Self::Migrate)
    }

    pub fn instance_type(self) -> &'static str {
        if self == Self::MakeRoom { "t3.small" } else { "c5.large" }
    }

    /// An earlier life, in which nothing goes wrong.
    pub async fn prepare(self, bed: &mut Bed) {
        if self == Self::Trim {
            bed.host.set(&[("EC2_IPAM_WARM_MAX", "1")]);
        }
        if self == Self::Survey {
            // Nor does a block go back before it is missed.
            bed.host.set(&[("EC2_IPAM_WARM_MAX", "49")]);
        }
        if matches!(self, Self::Unknown | Self::NoRow | Self::Turns) {
            // A refill for warmth could claim the very address, and then it would be known.
            bed.host.set(&[("EC2_IPAM_WARM_TARGET", "0")]);
        }
        if self == Self::MakeRoom {
            // What was named does not go home by itself.
            bed.host.set(&[("EC2_IPAM_COOLDOWN", "1h")]);
        }
        if self.scans() {
            bed.host.set(&[("EC2_IPAM_SCAN_INTERVAL", "1s")]);
        }
        if matches!(self, Self::Init | Self::Migrate) {
            return;
        }
        bed.start().await;
        assert!(bed.engine.pool().await);
        if self == Self::Turns {
            // Of the two blocks that such a subnet has, only one is whole.
            bed.engine.vpc.take(RDS, ip(20));
            bed.engine.tell("init").await;
        }
        match self {
            // With a container the interface is taken up by itself.
            Self::Unknown | Self::NoRow | Self::Foreign | Self::DeadEni => a_container(&bed.engine).await,
            Self::Survey => {
                let engine = &bed.engine;
                assert_eq!(let_some_go(engine).await, Some(()));
                a_container(engine).await;
            }
            _ => {}
        }
        // The table is to know of it.
        bed.host.rows().await;
        bed.host.kill();
        if self == Self::Unknown {
            // Another host scans: this one's scan could be the first to mark the very address, and the point is then passed
            // once too seldom.
            let hold =
                |until| format!("REPLACE INTO task (name,holder,`until`) VALUES ('scan:{SUBNET}','{RDS}',{until})");
            bed.host.sql(&hold("NOW()+INTERVAL 1 DAY"), &hold("unixepoch()+86400")).await;
        }
    }

    /// What happens while the driver is away, before each life that ends at the point.
    pub async fn meanwhile(self, bed: &Bed) {
        if self == Self::Survey {
            let (engine, idle) = (&bed.engine, bed.host.mine(State::Ready).await);
            // That comes before the other is unused too.
            let missing = *idle.intersection(&bed.host.assigned()).next().unwrap();
            engine.comes(40);
            engine.leaves(missing);
        }
        if self == Self::DeadEni {
            let states =
                [("ready", "NULL"), ("occupied", "'0:1:lease'"), ("allocated", "'0:2:on'"), ("allocated", "'0:3:off'")];
            let mut blocks = bed.engine.unused_blocks(0);
            for (last, (status, claim)) in (40..).zip(states) {
                let block = if bed.engine.blocks { blocks.next() } else { None };
                let ips: Vec<Ipv4Addr> = block.map_or(vec![ip(last)], |block| block.addresses().collect());
                let ips: Vec<String> = ips.iter().map(|ip| format!("'{ip}'")).collect();
                let row = format!(
                    "UPDATE allocation SET status='{status}', iface='{DEAD}', claim={claim}, in_block={} WHERE ip IN ({})",
                    u8::from(block.is_some()),
                    ips.join(",")
                );
                bed.host.sql(&row, &row).await;
            }
        }
    }

    /// What happens once such a life has died.
    pub async fn thereupon(self, bed: &Bed) {
        if self != Self::Torn {
            return;
        }
        let rows = bed.host.rows().await;
        let ours = |row: &&Row| row.in_block && matches!(row.state, State::Ready | State::Off);
        if let Some(row) = rows.iter().find(ours) {
            let row =
                format!("UPDATE allocation SET status='free',iface=NULL,claim=NULL,in_block=0 WHERE ip='{}'", row.ip);
            bed.host.sql(&row, &row).await;
        }
    }

    /// What still holds in the life after those that died: of the operator's word, which ends then.
    pub async fn afterwards(self, bed: &Bed, after: &str) {
        // A life may have died as it settled what the one before had left, when it was drained no more.
        if self == Self::Drained && bed.host.dir.path().join("state/drained").exists() {
            let refused = bed.engine.request("").await.expect("an answer");
            assert!(refused.as_ref().is_err_and(|why| why.contains("is drained")), "{after}: {refused:?}");
            assert_eq!(bed.engine.drain("end").await, Some(200));
        }
    }

    /// Calls and changes until the driver dies. They lead to the point however far an earlier life came.
    pub async fn act(self, engine: &Engine) {
        // Each ends at the first call that finds the driver dead.
        let _ = match self {
            Self::Init | Self::Migrate => init(engine).await,
            Self::Refresh => {
                engine.vpc.take(RDS, engine.unused(40));
                engine.tell("init").await.map(drop)
            }
            Self::Warm => warm(engine).await,
            Self::Cold => cold(engine).await,
            Self::Named => named(engine).await,
            Self::NamedTaken => named_taken(engine).await,
            Self::NamedIdle => named_idle(engine).await,
            Self::Release | Self::Drain => let_one_go(engine).await,
            Self::GoingHome => going_home(engine).await,
            Self::Trim => let_some_go(engine).await,
            Self::Recycle | Self::Torn => recycle(engine).await,
            Self::Drained => drained(engine).await,
            Self::MakeRoom => give_way(engine).await,
            Self::LostRelease => lost_release(engine).await,
            Self::CutOff => cut_off(engine).await,
            Self::Missing => missing(engine).await,
            Self::Unknown => unknown(engine).await,
            Self::NoRow => no_row(engine).await,
            Self::Turns => turns(engine).await,
            Self::Foreign => {
                engine.vpc.take(RDS, engine.unused(40));
                None
            }
            Self::Survey | Self::DeadEni => None,
        };
    }
}

async fn init(engine: &Engine) -> Option<()> {
    engine.pool().await.then_some(())?;
    // What is whole already is gone through again.
    engine.tell("init").await.map(drop)
}

/// One whose address is in nobody's way here, and in no block.
async fn a_container(engine: &Engine) {
    let ip = if engine.blocks { engine.unused(30) } else { ip(30) };
    assert_eq!(engine.lease_this(&ip.to_string()).await, Some(ip));
}

async fn warm(engine: &Engine) -> Option<()> {
    loop {
        let ip = engine.lease().await?;
        engine.release(ip).await.then_some(())?;
    }
}

async fn cold(engine: &Engine) -> Option<()> {
    loop {
        engine.lease().await?;
    }
}

async fn name_free(engine: &Engine) -> Option<Ipv4Addr> {
    engine.lease_this(&engine.unused(50).to_string()).await
}

async fn named(engine: &Engine) -> Option<()> {
    loop {
        name_free(engine).await?;
    }
}

async fn named_taken(engine: &Engine) -> Option<()> {
    loop {
        let ip = engine.unused(50);
        engine.vpc.take(RDS, ip);
        let refusal = engine.request(&ip.to_string()).await?;
        assert!(refusal.is_err(), "I2: {ip} was given, and somebody else has it");
    }
}

async fn named_idle(engine: &Engine) -> Option<()> {
    loop {
        let ip = engine.lease().await?;
        engine.release(ip).await.then_some(())?;
        engine.lease_this(&ip.to_string()).await?;
    }
}

async fn let_one_go(engine: &Engine) -> Option<()> {
    let ip = engine.lease().await?;
    engine.release(ip).await.then_some(())
}

async fn let_three_go(engine: &Engine) -> Option<()> {
    let ips = [engine.lease().await?, engine.lease().await?, engine.lease().await?];
    for ip in ips {
        engine.release(ip).await.then_some(())?;
    }
    Some(())
}

/// Three, or as many as three blocks have.
async fn let_some_go(engine: &Engine) -> Option<()> {
    if !engine.blocks {
        return let_three_go(engine).await;
    }
    let mut ips = Vec::new();
    while ips.len() < 48 {
        ips.push(engine.lease().await?);
    }
    for ip in ips {
        engine.release(ip).await.then_some(())?;
    }
    Some(())
}

async fn going_home(engine: &Engine) -> Option<()> {
    let ip = name_free(engine).await?;
    engine.release(ip).await.then_some(())
}

async fn recycle(engine: &Engine) -> Option<()> {
    loop {
        let_three_go(engine).await?;
        engine.tell("recycle").await?;
    }
}

async fn drained(engine: &Engine) -> Option<()> {
    loop {
        engine.drain("end").await?;
        let_three_go(engine).await?;
        engine.drain("begin").await?;
        while engine.has_spare() {
            engine.drain("look").await?;
        }
    }
}

async fn give_way(engine: &Engine) -> Option<()> {
    loop {
        let ip = engine.unused(50);
        if engine.request(&ip.to_string()).await?.is_err_and(|why| why.contains("as many addresses as")) {
            // Full, and nothing idle.
            let one = *engine.held().first().expect("a container");
            engine.release(one).await.then_some(())?;
        }
    }
}

async fn lost_release(engine: &Engine) -> Option<()> {
    let ip = engine.lease().await?;
    engine.vanish(ip);
    engine.reconcile_for_life().await;
    None
}

async fn cut_off(engine: &Engine) -> Option<()> {
    let ip = engine.lease().await?;
    engine.leaves(ip);
    engine.reconcile_for_life().await;
    None
}

async fn missing(engine: &Engine) -> Option<()> {
    let ip = engine.lease().await?;
    engine.release(ip).await.then_some(())?;
    engine.leaves(ip);
    engine.reconcile_for_life().await;
    None
}

async fn unknown(engine: &Engine) -> Option<()> {
    // Once the first look is over, lest that finds it.
    engine.lease().await?;
    engine.comes(40);
    engine.reconcile_for_life().await;
    None
}

async fn no_row(engine: &Engine) -> Option<()> {
    // Once what a start fills is filled, and not the very address.
    engine.lease_this(&engine.unused(50).to_string()).await?;
    if engine.vpc.holder(ip(NO_ROW)).is_none() {
        let delete = format!("DELETE FROM allocation WHERE ip='{}'", ip(NO_ROW));
        engine.table.sql(&delete, &delete).await;
        if engine.blocks {
            engine.vpc.add_prefix(&engine.eni, &Block::of(ip(NO_ROW)).to_string());
        } else {
            engine.vpc.add_address(&engine.eni, ip(NO_ROW));
        }
    }
    engine.reconcile_for_life().await;
    None
}

async fn turns(engine: &Engine) -> Option<()> {
    loop {
        let single = loop {
            // What an earlier life gave up is to be had once that is settled.
            match engine.request(&ip(TURNS).to_string()).await? {
                Ok(ip) => break ip,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        engine.release(single).await.then_some(())?;
        while engine.vpc.holder(single).is_some() {
            engine.tell("recycle").await?;
        }
        let with_block = engine.lease().await?;
        engine.release(with_block).await.then_some(())?;
        while engine.vpc.holder(with_block).is_some() {
            engine.tell("recycle").await?;
        }
    }
}
