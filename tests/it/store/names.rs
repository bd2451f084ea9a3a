//! Names of hosts: several addresses behind one, and name servers that are slow or silent.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ec2_ipam::store::{Store, StoreError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::time::Instant;

use super::bed::{Bed, open, soon};
use crate::support::mariadb::{Db, PASSWORD, server};
use crate::support::proxy::Proxy;

/// In a thread that has these files in place of those in /etc, and so have all that it starts.
async fn with_files<F: Future<Output = ()>>(
    files: &[(&'static str, String)],
    test: impl FnOnce() -> F + Send + 'static,
) {
    let files = files.to_vec();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root is needed");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            mount(Some(&file), &std::path::Path::new("/etc").join(name), none, MsFlags::MS_BIND, none).unwrap();
        }
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test());
    });
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
}

/// A port that is free on both addresses, with a listener on each.
fn listeners(addresses: [IpAddr; 2]) -> [TcpListener; 2] {
    loop {
        let first = TcpListener::bind((addresses[0], 0)).unwrap();
        if let Ok(second) = TcpListener::bind((addresses[1], first.local_addr().unwrap().port())) {
            return [first, second];
        }
    }
}

#[tokio::test]
async fn a_black_hole_behind_a_name_leaves_time_for_its_other_address() {
    let db = Db::new().await;
    let hosts = "127.0.0.1 localhost db.test\n127.0.0.77 db.test\n".to_owned();
    with_files(&[("hosts", hosts)], async move || {
        let found: Vec<SocketAddr> = ("db.test", 0).to_socket_addrs().unwrap().collect();
        let addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
        let [first, second] = listeners(addresses.try_into().unwrap());
        let port = first.local_addr().unwrap().port();
        let way = Proxy::on(second, server().port);
        // The first one listens and says nothing.
        let url = db.url_at(port).replace("127.0.0.1", "db.test");
        // Alone, and after another host of a list.
        for url in [url.clone(), url.replace("@db.test", "@db.test:1,db.test")] {
            let store = open(&url).await;
            let bed = Bed::on(store, Db { name: db.name.clone(), server: db.server });
            bed.free(10..=12).await;
            // The address that worked comes first from then on.
            let before = way.connections();
            way.cut();
            bed.row(10).await;
            assert!(way.connections() > before);
        }
        drop(first);
    })
    .await;
}

/// Answers each question for an IPv4 address with 127.0.0.1, so much later. It counts them.
fn name_server(delay: Duration) -> (IpAddr, Arc<AtomicUsize>) {
    let questions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&questions);
    let at = IpAddr::from([127, 77, fastrand::u8(..), fastrand::u8(1..255)]);
    let socket = UdpSocket::bind((at, 53)).expect("root is needed");
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((n, asker)) = socket.recv_from(&mut question) {
            count.fetch_add(1, Ordering::Relaxed);
            let socket = socket.try_clone().unwrap();
            let mut answer = question[..n].to_vec();
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                // The question ends after its name: a type and a class. What follows it (EDNS) is left out.
                let end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_ipv4 = answer[end - 3] == 1;
                answer.truncate(end);
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
                if is_ipv4 {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
                }
                let _ = socket.send_to(&answer, asker);
            });
        }
    });
    (at, questions)
}

fn resolver(name_server: IpAddr) -> [(&'static str, String); 2] {
    [
        ("resolv.conf", format!("nameserver {name_server}\noptions timeout:20 attempts:1\n")),
        ("nsswitch.conf", "hosts: files dns\n".to_owned()),
    ]
}

#[tokio::test]
async fn a_slow_name_server_is_waited_for_once() {
    let db = Db::new().await;
    let (name_server, questions) = name_server(Duration::from_secs(7));
    with_files(&resolver(name_server), async move || {
        let ways = [Proxy::to(server().port).await, Proxy::to(server().port).await];
        let url = format!(
            "mysql://ipam:{}@db1.test:{},db2.test:{}/{}",
            crate::support::secrets::percent(PASSWORD),
            ways[0].port,
            ways[1].port,
            db.name
        );
        let bed = Bed::on(open(&url).await, db);
        bed.free(10..=12).await;
        // What was found is kept.
        let (asked, before) = (questions.load(Ordering::Relaxed), ways[0].connections());
        ways[0].cut();
        bed.row(10).await;
        assert!(ways[0].connections() > before && ways[1].connections() == 0);
        assert_eq!(questions.load(Ordering::Relaxed), asked, "it was asked again");
    })
    .await;
}

#[tokio::test]
async fn the_sentence_says_that_it_was_the_name() {
    let db = Db::new().await;
    with_files(&resolver(name_server(Duration::from_secs(3600)).0), async move || {
        let url = db.url().replace("127.0.0.1", "db.test");
        for seconds in [1, 15] {
            let until = Instant::now() + Duration::from_secs(seconds);
            let error = Store::open(&url.parse().unwrap(), until).await.unwrap_err();
            let StoreError::Unreachable { why, .. } = &error else { panic!("{error}") };
            assert_eq!(why, "the name db.test cannot be looked up: no answer in time");
        }
        let unknown = db.url().replace("127.0.0.1", "nowhere.test:1,localhost");
        open(&unknown).await.describe(soon()).await.unwrap();
    })
    .await;
}
