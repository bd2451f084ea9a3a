//! What this life of the driver knows of an ENI's addresses beside their rows, and the one answer to whether an address may
//! be given now (I1, I2, I7). A database may lose a commit or be an old backup; what is known here is not lost with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};

use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::locked;
use crate::domain::address::{Row, State};
use crate::domain::id::{Boot, Claim, EniId};
use crate::domain::on_eni::OnEni;
use crate::domain::plan::settle_age;
use crate::eni::in_use::InUse;
use crate::outside::link::Parent;

/// Shared by grants and the ENI's task. Each verb is done under one lock, so that none sees half of another.
pub(super) struct Memory {
    /// Docker's last word.
    in_use: Arc<InUse>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    /// Leases that Docker holds, as granted by this process or found at its start: a grant that hits one shows that the
    /// database lost a commit.
    leases: HashMap<Ipv4Addr, Claim>,
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
}

/// Why an address is not given now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WhyNot {
    /// I1: a container has it by this life's own word, whatever the table says.
    Leased(Claim),
    /// I1: a container has it by Docker's last word.
    InUse,
    /// I2: EC2 has not told this life that it is on the ENI; the next look will.
    NotListed,
    /// I7: the host itself has it on the link.
    OnLink,
    /// I7: the kernel does not say what the host has on the link.
    NoLink,
}

impl Memory {
    pub(super) fn new(in_use: Arc<InUse>) -> Self {
        Self { in_use, facts: Mutex::default() }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        locked(&self.facts)
    }

    /// Whether an idle address may be given to a container now. Everybody who gives one asks this, and only this. `link`:
    /// what the kernel has just said; none: it did not answer.
    pub(super) fn may_give(&self, ip: Ipv4Addr, link: Option<&Parent>) -> Result<(), WhyNot> {
        let facts = self.facts();
        if let Some(claim) = facts.leases.get(&ip) {
            return Err(WhyNot::Leased(claim.clone()));
        }
        match link {
            None => Err(WhyNot::NoLink),
            Some(parent) if parent.addresses.contains(&ip) => Err(WhyNot::OnLink),
            Some(_) if self.in_use.contains(ip) => Err(WhyNot::InUse),
            Some(_) if !facts.listed.contains(&ip) => Err(WhyNot::NotListed),
            Some(_) => Ok(()),
        }
    }

    /// Whether a container has it, so that it is not given up, whatever the table says.
    pub(super) fn has_container(&self, ip: Ipv4Addr) -> bool {
        self.facts().leases.contains_key(&ip) || self.in_use.contains(ip)
    }

    /// What a search for an idle row may pass over, since it would not be given. Leases are not idle rows, unless the
    /// database lost one: that has to be hit, to be put right.
    pub(super) fn passed_over(&self) -> Vec<Ipv4Addr> {
        let facts = self.facts();
        let known = self.in_use.addresses().into_iter().chain(facts.on_link.iter().copied());
        known.filter(|ip| !facts.leases.contains_key(ip)).collect()
    }

    /// A container gets it.
    pub(super) fn granted(&self, ip: Ipv4Addr, claim: Claim) {
        self.facts().leases.insert(ip, claim);
    }

    /// Docker has it in use, and nobody knew of its lease. Known before its row is a lease again, so that a release in
    /// between ends it. Says whether it still is so.
    pub(super) fn found_in_use(&self, ip: Ipv4Addr, claim: &Claim) -> bool {
        let mut facts = self.facts();
        if facts.leases.contains_key(&ip) || !self.in_use.contains(ip) {
            return false;
        }
        facts.leases.insert(ip, claim.clone());
        true
    }

    /// This lease is over; if it is another one's by now, that stands.
    pub(super) fn let_go(&self, ip: Ipv4Addr, claim: &Claim) {
        let mut facts = self.facts();
        if facts.leases.get(&ip) == Some(claim) {
            facts.leases.remove(&ip);
        }
    }

    /// Whatever lease it had is over.
    pub(super) fn released(&self, ip: Ipv4Addr) -> Option<Claim> {
        self.facts().leases.remove(&ip)
    }

    pub(super) fn has_lease(&self, ip: Ipv4Addr, claim: &Claim) -> bool {
        self.facts().leases.get(&ip) == Some(claim)
    }

    pub(super) fn leases(&self) -> HashMap<Ipv4Addr, Claim> {
        self.facts().leases.clone()
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

    /// What the first looks of this life list. `missing`: what is idle by its row, and not listed.
    pub(super) fn surveyed(&self, listed: &OnEni, missing: &[Row]) {
        let mut facts = self.facts();
        let believed = listed.all().filter(|ip| !facts.was_taken_off_lately(*ip));
        let believed: Vec<Ipv4Addr> = believed.collect();
        facts.listed.extend(believed);
        facts.listed.retain(|ip| missing.iter().all(|row| row.ip != *ip));
    }

    /// What this life of the ENI finds at its beginning: the leases in the table, and addresses that the table does not know.
    /// A lease of an earlier life that Docker has released in this one is over.
    pub(super) fn began(&self, leases: Vec<(Ipv4Addr, Claim)>, found: HashSet<Ipv4Addr>, boot: &Boot) {
        let mut facts = self.facts();
        let is_over = |ip, claim: &Claim| !claim.is_of(boot) && self.in_use.last_release(ip).is_some();
        facts.leases.extend(leases.into_iter().filter(|(ip, claim)| !is_over(*ip, claim)));
        facts.found = found;
    }

    /// What is listed on the ENI: what is not is given to nobody until it is again, and neither is what the table has given up
    /// since, whatever rows a database brings back (I2). `asked`: when the rows were read.
    pub(super) fn believe(&self, eni: &EniId, listed: &OnEni, rows: &[Row], asked: Instant) {
        let mut facts = self.facts();
        let listed: HashSet<Ipv4Addr> = listed.all().collect();
        let doubted = facts.doubted();
        let ours = |states: &'static [State]| {
            let ours = rows.iter().filter(|row| row.iface.as_ref() == Some(eni));
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
    use crate::domain::id::Kind;
    use crate::outside::link::Link;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn memory() -> Memory {
        Memory::new(Arc::default())
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
        let claim = Boot::random().unwrap().claim(1, Kind::Lease);
        let (bare, own) = (link(&[]), link(&[IP]));
        let leased = || Err(WhyNot::Leased(claim.clone()));
        for (listed, lease, docker, link, answer) in [
            (true, false, false, Some(&bare), Ok(())),
            (false, false, false, Some(&bare), Err(WhyNot::NotListed)),
            (true, false, true, Some(&bare), Err(WhyNot::InUse)),
            (true, false, false, Some(&own), Err(WhyNot::OnLink)),
            (true, false, false, None, Err(WhyNot::NoLink)),
            (false, false, true, None, Err(WhyNot::NoLink)),
            // A lease that the table lost is put right, whatever else is known.
            (true, true, false, Some(&bare), leased()),
            (false, true, true, Some(&own), leased()),
            (false, true, true, None, leased()),
        ] {
            let memory = memory();
            if listed {
                memory.put_on(&[IP]);
            }
            if lease {
                memory.granted(IP, claim.clone());
            }
            if docker {
                in_docker(&memory);
            }
            assert_eq!(memory.may_give(IP, link), answer, "listed {listed}, lease {lease}, docker {docker}, {link:?}");
            assert_eq!(memory.has_container(IP), lease || docker);
        }
    }

    #[tokio::test]
    async fn what_is_taken_off_is_given_again_only_once_ec2_has_put_it_on() {
        let (memory, link) = (memory(), link(&[]));
        memory.put_on(&[IP]);
        memory.taken_off(&[IP]);
        memory.surveyed(&OnEni { primary: None, secondary: vec![IP] }, &[]);
        assert_eq!(memory.may_give(IP, Some(&link)), Err(WhyNot::NotListed), "the list may be from before");
        memory.put_on(&[IP]);
        assert_eq!(memory.may_give(IP, Some(&link)), Ok(()));
        assert!(memory.taken_off_lately().contains(&IP), "a list from before may still arrive");
    }

    #[tokio::test]
    async fn a_lease_ends_by_its_own_token_only() {
        let (boot, memory) = (Boot::random().unwrap(), memory());
        let (first, second) = (boot.claim(1, Kind::Lease), boot.claim(2, Kind::Lease));
        memory.granted(IP, second.clone());
        memory.let_go(IP, &first);
        assert!(memory.has_lease(IP, &second));
        assert!(!memory.found_in_use(IP, &first), "it has a lease");
        assert_eq!(memory.released(IP), Some(second));
        assert!(!memory.found_in_use(IP, &first), "Docker does not have it");
        in_docker(&memory);
        assert!(memory.found_in_use(IP, &first) && memory.has_lease(IP, &first));
    }

    #[tokio::test]
    async fn a_search_passes_over_what_is_taken_but_for_leases_that_the_table_may_have_lost() {
        let memory = memory();
        in_docker(&memory);
        assert_eq!(memory.passed_over(), [IP]);
        memory.granted(IP, Boot::random().unwrap().claim(1, Kind::Lease));
        assert!(memory.passed_over().is_empty());
    }
}
