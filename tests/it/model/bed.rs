//! What the sequences of a worker share, since it is slow to make: namespaces, listeners, tables, threads.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::books::Books;
use super::clock::Stage;
use super::docker;
use super::host::Host;
use super::ledger::Shared;
use crate::support::host::Kind;

/// Hosts of a bed; a sequence uses some of them.
pub const SEATS: usize = 3;

pub struct Bed {
    pub kind: Kind,
    pub shared: Shared,
    pub stage: Stage,
    pub books: std::sync::Arc<Books>,
    pub hosts: Vec<Host>,
    /// EC2's and IMDS's listeners in each host's namespace.
    pub doors: Vec<(TcpListener, TcpListener)>,
    _dir: tempfile::TempDir,
}

impl Bed {
    pub fn new(kind: Kind) -> Self {
        let shared = Shared::default();
        // In memory: what a crash of the machine does is not asked here.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let stage = Stage::new();
        let books = std::sync::Arc::new(Books::new(kind, dir.path(), SEATS));
        let socket = |seat: usize| dir.path().join(format!("docker{seat}.sock"));
        let hosts: Vec<Host> = (0..SEATS).map(|seat| Host::new(seat, socket(seat), &shared)).collect();
        let doors = hosts.iter().map(|host| (host.namespace.listener(), host.namespace.listener())).collect();
        let _runtime = stage.handle.enter();
        for (seat, host) in hosts.iter().enumerate() {
            docker::serve(UnixListener::bind(&host.docker).unwrap(), shared.clone(), seat);
        }
        drop(_runtime);
        Self { kind, shared, stage, books, hosts, doors, _dir: dir }
    }
}
