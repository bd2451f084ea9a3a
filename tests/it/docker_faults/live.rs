//! Containers that must notice nothing of a fault: watched while it lasts, compared when it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use vpc_sim::Vpc;

use crate::support::engine::until;
use crate::support::plugin::{Bed, FRONT};

/// Their addresses as they were before, how often each had been granted, and what the watch saw.
pub(super) struct Live<'b> {
    bed: &'b Bed,
    before: BTreeMap<String, Ipv4Addr>,
    grants: BTreeMap<Ipv4Addr, usize>,
    over: Arc<AtomicBool>,
    watch: JoinHandle<Result<usize, String>>,
}

impl<'b> Live<'b> {
    /// Watches these containers' rows, in the table itself as no driver may run, and their addresses in EC2.
    pub(super) fn watch(bed: &'b Bed, names: &[&str]) -> Self {
        let address = |name: &&str| ((*name).to_owned(), bed.address(name).expect("it runs"));
        let before: BTreeMap<_, _> = names.iter().map(address).collect();
        let ips: BTreeSet<_> = before.values().copied().collect();
        assert_eq!(ips.len(), before.len(), "I1: two containers have one address: {before:?}");
        let told = |ip: &Ipv4Addr| {
            let told =
                until("the log tells of a grant", || Some(grants(bed, *ip)).filter(|n| *n > 0).ok_or(ip.to_string()));
            (*ip, told)
        };
        let grants = ips.iter().map(told).collect();
        let over = Arc::new(AtomicBool::new(false));
        let (table, vpc, end) = (table(bed), bed.vpc.clone(), Arc::clone(&over));
        let watch = spawn(move || {
            let mut looks = 0;
            while !end.load(Ordering::Relaxed) {
                looks += usize::from(look(&table, &vpc, &ips)?);
                sleep(Duration::from_millis(50));
            }
            Ok(looks)
        });
        Self { bed, before, grants, over, watch }
    }

    /// They have what they had, all the time, and nobody else got it.
    pub(super) fn end(self, what: &str) {
        self.over.store(true, Ordering::Relaxed);
        let looks = self.watch.join().unwrap().unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(looks > 0 || self.before.is_empty(), "{what}: nothing was seen of the table");
        for (name, ip) in &self.before {
            assert_eq!(self.bed.address(name), Some(*ip), "I1: {what}: {name} has lost its address");
        }
        for (ip, before) in &self.grants {
            assert_eq!(grants(self.bed, *ip), *before, "I1: {what}: {ip} was granted while a live container had it");
        }
    }
}

/// Whether the table could be read; an error is what must never be seen there.
fn look(table: &PathBuf, vpc: &Vpc, ips: &BTreeSet<Ipv4Addr>) -> Result<bool, String> {
    let read = || -> rusqlite::Result<BTreeSet<String>> {
        let file = rusqlite::Connection::open(table)?;
        file.busy_timeout(Duration::from_secs(5))?;
        let sql = "SELECT ip FROM allocation WHERE status='occupied' AND claim LIKE '%lease'";
        let mut query = file.prepare(sql)?;
        query.query_map([], |row| row.get(0))?.collect()
    };
    let Ok(leases) = read() else { return Ok(false) };
    let on = vpc.addresses(FRONT.eni);
    for ip in ips {
        if !leases.contains(&ip.to_string()) {
            return Err(format!("I1, I8: {ip} is no lease any more, though its container lives"));
        }
        if !on.contains(ip) {
            return Err(format!("I2: {ip} is not on {} any more, though its container lives", FRONT.eni));
        }
    }
    Ok(true)
}

fn grants(bed: &Bed, ip: Ipv4Addr) -> usize {
    let granted = format!("granted {ip} ");
    bed.engine.plugin_log().iter().filter(|line| line.contains(&granted)).count()
}

/// The plugin's SQLite file, in what survives its upgrades.
fn table(bed: &Bed) -> PathBuf {
    let plugins = std::fs::read_dir(bed.engine.dir.join("data/plugins")).unwrap().flatten();
    let mut files = plugins.map(|plugin| plugin.path().join("propagated-mount/ec2-ipam.db"));
    files.find(|file| file.is_file()).expect("the table of the plugin")
}
