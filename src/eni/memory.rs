//! What this life of the driver knows of an ENI's addresses beside their rows, and the one answer to whether an address may
//! be given now (I1, I2, I7). A database may lose a commit or be an old backup; what is known here is not lost with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};

use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::locked;
use crate::domain::address::{Row, State};
use crate::domain::block::Block;
use crate::domain::id::EniId;
use crate::domain::on_eni::OnEni;
use crate::domain::plan::settle_age;
use crate::eni::in_use::InUse;
use crate::journal::{Drain, Journal};
use crate::outside::link::Parent;

/// Shared by grants and the ENI's task. Each verb is done under one lock, so that none sees half of another.
pub(super) struct Memory {
    eni: EniId,
    /// Docker's last word.
    in_use: Arc<InUse>,
    /// What its containers have.
    journal: Arc<Journal>,
    /// Whether its host is drained; none: its host has no driver that could be.
    drain: Option<Arc<Drain>>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    /// Addresses that EC2 has on the ENI, as this life was told by it, or by IMDS at the start: only these are granted (I2),
    /// whatever rows a database brings back.
    listed: BTreeSet<Ipv4Addr>,
    /// Addresses that were on the ENI when this life of it began, and that the table did not know.
    found: HashSet<Ipv4Addr>,
    /// Addresses that the host itself had on the link when last asked.
    on_link: Vec<Ipv4Addr>,
    /// The sub-pool of the last request; none until a network has asked, since only Docker knows its networks.
    sub_pool: Option<Option<Ipv4Net>>,
    /// When addresses went on or off the ENI: EC2's lists lag.
    touched: HashMap<Ipv4Addr, Instant>,
    /// When this life took addresses off the ENI: a list that has them may be one from before.
    taken_off: HashMap<Ipv4Addr, Instant>,
    /// The ENI's blocks, by its rows as they were last read, and by EC2's answers since.
    blocks: BTreeSet<Block>,
    /// Those of them that another host has asked back lately.
    recalled: BTreeSet<Block>,
}

/// Why an address is not given now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WhyNot {
    /// I1: a container has it by Docker's last word.
    InUse,
    /// I2: EC2 has not told this life that it is on the ENI; the next look will.
    NotListed,
    /// I7: the host itself has it on the link.
    OnLink,
    /// I7: the kernel does not say what the host has on the link.
    NoLink,
    /// Nobody gets an address of this host.
    Drained,
}

impl Memory {
    pub(super) fn new(eni: EniId, in_use: Arc<InUse>, journal: Arc<Journal>, drain: Option<Arc<Drain>>) -> Self {
        Self { eni, in_use, journal, drain, facts: Mutex::default() }
    }

    /// Whether its host is drained.
    pub(super) fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.is_on())
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        locked(&self.facts)
    }

    /// Whether an idle address may be given to a container now. Everybody who gives one asks this, and only this. `link`:
    /// what the kernel has just said; none: it did not answer.
    pub(super) fn may_give(&self, ip: Ipv4Addr, link: Option<&Parent>) -> Result<(), WhyNot> {
        match link {
            _ if self.is_drained() => Err(WhyNot::Drained),
            None => Err(WhyNot::NoLink),
            Some(parent) if parent.addresses.contains(&ip) => Err(WhyNot::OnLink),
            Some(_) if self.in_use.contains(ip) => Err(WhyNot::InUse),
            Some(_) if !self.is_listed(ip) => Err(WhyNot::NotListed),
            Some(_) => Ok(()),
        }
    }

    /// Whether a container has it, so that it is not given up, whatever the table says.
    pub(super) fn has_container(&self, ip: Ipv4Addr) -> bool {
        self.journal.lease(&self.eni, ip).is_some() || self.in_use.contains(ip)
    }

    /// EC2 has just said that it has them on the ENI (I2).
    pub(super) fn put_on(&self, ips: &[Ipv4Addr]) {
        let mut facts = self.facts();
        facts.touch(ips);
        facts.listed.extend(ips);
    }

    /// They go off the ENI now, and are given to nobody, not even if the database loses what is committed and has them idle
    /// again. A look under way may have seen them on the ENI: it is not to be believed.
    pub(super) fn taken_off(&self, ips: &[Ipv4Addr]) {
        let mut facts = self.facts();
        facts.touch(ips);
        let now = Instant::now();
        facts.taken_off.retain(|_, at| now.duration_since(*at) < settle_age());
        facts.taken_off.extend(ips.iter().map(|ip| (*ip, now)));
        facts.listed.retain(|ip| !ips.contains(ip));
    }

    /// They may go on the ENI now: no list is believed about them for a while.
    pub(super) fn doubt(&self, ips: &[Ipv4Addr]) {
        self.facts().touch(ips);
    }

    /// Addresses that were taken off the ENI so lately that a list which has them there may be from before.
    pub(super) fn taken_off_lately(&self) -> HashSet<Ipv4Addr> {
        let facts = self.facts();
        facts.taken_off.keys().copied().filter(|ip| facts.was_taken_off_lately(*ip)).collect()
    }

    /// Addresses that went on or off the ENI so recently that no list can be believed about them.
    pub(super) fn doubted(&self) -> HashSet<Ipv4Addr> {
        self.facts().doubted()
    }

    pub(super) fn is_listed(&self, ip: Ipv4Addr) -> bool {
        self.facts().listed.contains(&ip)
    }

    /// All of the ENI's rows, as they were just read.
    pub(super) fn read_blocks_of(&self, rows: &[Row]) {
        self.facts().blocks = blocks_of(rows);
    }

    /// These are on the ENI from now on.
    pub(super) fn has_blocks_of(&self, rows: &[Row]) {
        self.facts().blocks.extend(blocks_of(rows));
    }

    /// The ENI's own blocks.
    pub(super) fn blocks(&self) -> BTreeSet<Block> {
        self.facts().blocks.clone()
    }

    /// These of them another host has asked back lately.
    pub(super) fn are_recalled(&self, blocks: BTreeSet<Block>) {
        self.facts().recalled = blocks;
    }

    pub(super) fn recalled(&self) -> BTreeSet<Block> {
        self.facts().recalled.clone()
    }

    /// What the first looks of this life list. `missing`: what is idle by its row, and not listed.
    pub(super) fn surveyed(&self, listed: &OnEni, missing: &[Row]) {
        let mut facts = self.facts();
        let believed = listed.all().filter(|ip| !facts.was_taken_off_lately(*ip));
        let believed: Vec<Ipv4Addr> = believed.collect();
        facts.listed.extend(believed);
        facts.listed.retain(|ip| missing.iter().all(|row| row.ip != *ip));
    }

    /// The journal is witness enough that these are on the ENI.
    pub(super) fn vouched(&self, ips: impl Iterator<Item = Ipv4Addr>) {
        self.facts().listed.extend(ips);
    }

    /// Addresses that are on the ENI as this life of it begins, and that the table does not know.
    pub(super) fn began(&self, found: HashSet<Ipv4Addr>) {
        self.facts().found = found;
    }

    /// What is listed on the ENI: what is not is given to nobody until it is again, and neither is what the table has given up
    /// since, whatever rows a database brings back (I2). `asked`: when the rows were read.
    pub(super) fn believe(&self, listed: &OnEni, rows: &[Row], asked: Instant) {
        let mut facts = self.facts();
        let listed: HashSet<Ipv4Addr> = listed.all().collect();
        let doubted = facts.doubted();
        let ours = |states: &'static [State]| {
            let ours = rows.iter().filter(|row| row.iface.as_ref() == Some(&self.eni));
            ours.filter(|row| states.contains(&row.state())).map(|row| row.ip)
        };
        let held: HashSet<Ipv4Addr> = ours(&[State::Ready, State::Lease, State::On]).collect();
        let Facts { listed: believed, touched, .. } = &mut *facts;
        believed.retain(|ip| {
            touched.get(ip).is_some_and(|at| *at >= asked)
                || held.contains(ip) && (listed.contains(ip) || doubted.contains(ip))
        });
        believed.extend(ours(&[State::Ready, State::Lease]).filter(|ip| listed.contains(ip) && !doubted.contains(ip)));
    }

    /// Whether it was on the ENI when this life of it began, and the table did not know it.
    pub(super) fn was_found(&self, ip: Ipv4Addr) -> bool {
        self.facts().found.contains(&ip)
    }

    pub(super) fn found_any(&self) -> bool {
        !self.facts().found.is_empty()
    }

    /// What the host itself has on the link.
    pub(super) fn host_has(&self, addresses: &[Ipv4Addr]) {
        self.facts().on_link = addresses.to_vec();
    }

    /// Whether Docker, or the link as last asked, says whose it is.
    pub(super) fn says_whose(&self, ip: Ipv4Addr) -> bool {
        self.facts().on_link.contains(&ip) || self.in_use.contains(ip)
    }

    /// A request asks for any address of this range.
    pub(super) fn asked_in(&self, sub_pool: Option<Ipv4Net>) {
        self.facts().sub_pool = Some(sub_pool);
    }

    /// A request asks for an address that it names: it has no range.
    pub(super) fn asked(&self) {
        self.facts().sub_pool.get_or_insert(None);
    }

    pub(super) fn sub_pool(&self) -> Option<Option<Ipv4Net>> {
        self.facts().sub_pool
    }
}

/// Those that containers may have addresses of.
fn blocks_of(rows: &[Row]) -> BTreeSet<Block> {
    let is_ours = |row: &&Row| row.in_block && matches!(row.state(), State::Ready | State::Lease | State::On);
    rows.iter().filter(is_ours).map(|row| Block::of(row.ip)).collect()
}

impl Facts {
    fn touch(&mut self, ips: &[Ipv4Addr]) {
        let now = Instant::now();
        self.touched.retain(|_, at| now.duration_since(*at) < settle_age());
        self.touched.extend(ips.iter().map(|ip| (*ip, now)));
    }

    fn was_taken_off_lately(&self, ip: Ipv4Addr) -> bool {
        self.taken_off.get(&ip).is_some_and(|at| at.elapsed() < settle_age())
    }

    fn doubted(&self) -> HashSet<Ipv4Addr> {
        self.touched.iter().filter(|(_, at)| at.elapsed() < settle_age()).map(|(ip, _)| *ip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::holding::{Held, Holding};
    use crate::domain::id::{Boot, Kind, SubnetId};
    use crate::outside::link::Link;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn eni() -> EniId {
        EniId::stored("eni-0123456789abcdef0".into())
    }

    fn memory() -> (Memory, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("journal.db");
        let drain = Some(Arc::new(Drain::open(Some(&journal))));
        (Memory::new(eni(), Arc::default(), Arc::new(Journal::open(&journal)), drain), dir)
    }

    fn link(addresses: &[Ipv4Addr]) -> Parent {
        let link = Link { index: 2, name: "eth0".into(), mac: "02:00:00:00:00:01".into(), up: true, has_carrier: true };
        Parent { link, addresses: addresses.to_vec() }
    }

    fn in_docker(memory: &Memory) {
        memory.in_use.listed(HashSet::from([IP]), HashMap::new(), Instant::now());
    }

    #[tokio::test]
    async fn an_address_is_given_only_if_nobody_has_it_and_everybody_who_would_know_has_said_so() {
        let (bare, own) = (link(&[]), link(&[IP]));
        for (listed, docker, link, answer) in [
            (true, false, Some(&bare), Ok(())),
            (false, false, Some(&bare), Err(WhyNot::NotListed)),
            (true, true, Some(&bare), Err(WhyNot::InUse)),
            (true, false, Some(&own), Err(WhyNot::OnLink)),
            (true, false, None, Err(WhyNot::NoLink)),
            (false, true, None, Err(WhyNot::NoLink)),
        ] {
            let (memory, _dir) = memory();
            if listed {
                memory.put_on(&[IP]);
            }
            if docker {
                in_docker(&memory);
            }
            assert_eq!(memory.may_give(IP, link), answer, "listed {listed}, docker {docker}, {link:?}");
            assert_eq!(memory.has_container(IP), docker);
        }
    }

    #[tokio::test]
    async fn a_drained_host_gives_none_and_one_without_a_driver_is_never_drained() {
        let ((memory, _dir), link) = (memory(), link(&[]));
        memory.put_on(&[IP]);
        let drain = memory.drain.clone().unwrap();
        drain.begin(None).await.unwrap();
        assert_eq!(memory.may_give(IP, Some(&link)), Err(WhyNot::Drained));
        assert_eq!(Memory { drain: None, ..memory }.may_give(IP, Some(&link)), Ok(()));
    }

    #[tokio::test]
    async fn a_lease_of_the_journal_is_a_container() {
        let (memory, _dir) = memory();
        let held = Held::Lease(Boot::random().unwrap().claim(1, Kind::Lease));
        let (eni, subnet) = (eni(), SubnetId::stored("subnet-0123456789abcdef0".into()));
        let let_go = memory.journal.now();
        let holding = Holding { ip: IP, eni, subnet, held, holder: None, let_go, posted: true, doubted: false };
        let _ = memory.journal.enter(vec![holding], &[]).await;
        assert!(memory.has_container(IP));
    }

    #[tokio::test]
    async fn what_is_taken_off_is_given_again_only_once_ec2_has_put_it_on() {
        let ((memory, _dir), link) = (memory(), link(&[]));
        memory.put_on(&[IP]);
        memory.taken_off(&[IP]);
        memory.surveyed(&OnEni { primary: None, secondary: vec![IP], ..OnEni::default() }, &[]);
        assert_eq!(memory.may_give(IP, Some(&link)), Err(WhyNot::NotListed), "the list may be from before");
        memory.put_on(&[IP]);
        assert_eq!(memory.may_give(IP, Some(&link)), Ok(()));
        assert!(memory.taken_off_lately().contains(&IP), "a list from before may still arrive");
    }
}
