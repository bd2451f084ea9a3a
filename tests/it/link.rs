//! The link adapter in a network namespace of its own. Needs root and iproute2.

use std::process::Command;

use ec2_ipam::outside::link::{LinkError, Links};

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// False, said aloud, if the kernel does not have that kind of link.
#[allow(clippy::print_stderr, reason = "a skipped part must be seen")]
fn ip_if_known(args: &str) -> bool {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let unknown = error.contains("Unknown device type") || error.contains("not supported");
    assert!(output.status.success() || unknown, "ip {args}: {error}");
    if unknown {
        eprintln!("skipped, this kernel cannot: ip {args}");
    }
    !unknown
}

/// Runs in a thread of its own network namespace: a namespace belongs to a thread, and children inherit it.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_link_is_found_by_name_with_its_state() {
    in_namespace(|| async {
        ip("link add eth1 type veth peer name far");
        ip("link set eth1 address 0a:1b:2c:00:00:01");
        let links = Links::new().unwrap();
        let eth1 = links.by_name("eth1").await.unwrap().unwrap();
        assert_eq!(
            (eth1.name.as_str(), eth1.mac.as_str(), eth1.up, eth1.has_carrier),
            ("eth1", "0a:1b:2c:00:00:01", false, false)
        );
        let error = links.usable("eth1").await.unwrap_err();
        assert!(error.to_string().contains("`ip link set eth1 up`"), "{error}");

        ip("link set eth1 up");
        let eth1 = links.usable("eth1").await.unwrap();
        assert!(eth1.up && !eth1.has_carrier, "the far end is down");
        ip("link set far up");
        assert!(links.usable("eth1").await.unwrap().has_carrier);

        for missing in ["eth9", "", "a-name-that-is-far-too-long"] {
            assert_eq!(links.by_name(missing).await, Ok(None), "{missing}");
        }
        let error = links.usable("eth9").await.unwrap_err();
        assert!(matches!(error, LinkError::Missing { .. }));
        let text = error.to_string();
        assert!(
            text.starts_with("there is no interface \"eth9\"; the interfaces are: lo, ") && text.contains("eth1"),
            "{text}"
        );
    });
}

#[test]
fn of_links_with_one_mac_the_lowest_is_meant() {
    in_namespace(|| async {
        // The bridge has the lower index.
        ip("link add br0 type bridge");
        ip("link add eth1 type veth peer name far");
        ip("link set eth1 address 0a:1b:2c:00:00:01");
        ip("link set br0 address 0a:1b:2c:00:00:01");
        ip("link set eth1 master br0");
        let links = Links::new().unwrap();
        assert_eq!(links.by_mac("0A:1B:2C:00:00:01").await.unwrap().unwrap().name, "eth1");
        assert_eq!(links.by_mac("02:00:00:00:00:99").await, Ok(None));
        // Not every kernel has these; the order of kinds is tested by itself too.
        let far = links.by_name("far").await.unwrap().unwrap();
        for kind in ["vlan id 7", "ipvlan mode l2", "macvlan mode passthru"] {
            if ip_if_known(&format!("link add link far name on0 type {kind}")) {
                // All three take the MAC of the link that they stand on.
                assert_eq!(links.by_name("on0").await.unwrap().unwrap().mac, far.mac, "{kind}");
                assert_eq!(links.by_mac(&far.mac).await.unwrap().unwrap().name, "far", "{kind}");
                ip("link del on0");
            }
        }
    });
}

#[test]
fn addresses_are_those_of_the_link() {
    in_namespace(|| async {
        ip("link add eth1 type veth peer name far");
        ip("addr add 10.0.0.4/24 dev eth1");
        ip("addr add 10.0.0.5/24 dev eth1");
        ip("addr add 192.168.0.1 peer 192.168.0.2 dev eth1");
        ip("addr add fd00::1/64 dev eth1");
        ip("addr add 10.0.1.4/24 dev far");
        let links = Links::new().unwrap();
        let eth1 = links.by_name("eth1").await.unwrap().unwrap();
        let mut found = links.addresses(eth1.index).await.unwrap();
        found.sort();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.4", "10.0.0.5", "192.168.0.1"]);
        assert_eq!(links.addresses(9999).await, Ok(vec![]));
        assert_eq!(links.parent(&eth1.mac).await.unwrap().addresses.len(), 3);
        assert!(matches!(links.parent("0a:00:00:00:00:01").await, Err(LinkError::Gone { .. })));
        // Made again under another name, it is the same ENI's with what it has now.
        ip("link del eth1");
        assert!(matches!(links.parent(&eth1.mac).await, Err(LinkError::Gone { .. })));
        ip("link add eth1 type veth peer name far");
        ip("link add ens6 type veth peer name farther");
        ip(&format!("link set ens6 address {}", eth1.mac));
        ip("addr add 10.0.0.9/24 dev ens6");
        let again = links.parent(&eth1.mac.to_uppercase()).await.unwrap();
        assert_eq!((again.link.name.as_str(), again.addresses.len()), ("ens6", 1));
        // Its MAC goes to another link.
        links.parent(&eth1.mac).await.unwrap();
        ip("link set ens6 address 0a:00:00:00:00:01");
        ip(&format!("link set eth1 address {}", eth1.mac));
        assert_eq!(links.parent(&eth1.mac).await.unwrap().link.name, "eth1");
        ip("link del ens6");
        ip("addr add 10.0.0.4/24 dev eth1");
        ip("addr add 10.0.0.5/24 dev eth1");
        ip("addr add 192.168.0.1 peer 192.168.0.2 dev eth1");
        ip("addr add 10.0.1.4/24 dev far");
        let all = links.all_addresses().await.unwrap();
        assert_eq!(all.len(), 4);
        assert!(all.contains(&("far".into(), "10.0.1.4".parse().unwrap())));
    });
}

/// What one look at a link's addresses costs; it is printed, not asserted.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "a measurement prints")]
fn cost_of_addresses() {
    in_namespace(|| async {
        for n in 0..60 {
            ip(&format!("link add d{n} type veth peer name e{n}"));
            ip(&format!("addr add 10.1.{n}.1/24 dev d{n}"));
        }
        ip("link add eth1 type veth peer name far");
        for n in 4..34 {
            ip(&format!("addr add 10.0.0.{n}/24 dev eth1"));
        }
        let links = Links::new().unwrap();
        let eth1 = links.by_name("eth1").await.unwrap().unwrap();
        for round in 0..3 {
            let start = std::time::Instant::now();
            for _ in 0..2000 {
                assert_eq!(links.parent(&eth1.mac).await.unwrap().addresses.len(), 30);
            }
            eprintln!("round {round}: {} us a call", start.elapsed().as_micros() / 2000);
        }
    });
}
