//! What must hold between the table, EC2 and Docker whenever nothing is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::list::Listed;
use ipnet::Ipv4Net;

/// An ENI as EC2 truly has it.
#[derive(Clone, Debug)]
pub struct Interface {
    pub id: String,
    pub cidr: Ipv4Net,
    pub secondaries: BTreeSet<Ipv4Addr>,
}

/// A running container on a network of ours, as `docker inspect` shows it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub container: String,
    /// The network's parent interface.
    pub parent: String,
    pub ip: Option<Ipv4Addr>,
    pub mask: u8,
    pub gateway: Option<Ipv4Addr>,
}

/// What Docker says.
#[derive(Clone, Debug, Default)]
pub struct Docker {
    pub running: Vec<Endpoint>,
    /// The endpoints in `docker network inspect`.
    pub listed: BTreeSet<Ipv4Addr>,
    /// Addresses that networks keep from containers: leases, as Docker asks for them like for a container's.
    pub auxiliary: BTreeSet<Ipv4Addr>,
}

/// Every disagreement, as a line to read; none is agreement. ENIs are by parent interface.
pub fn agree(rows: &[Listed], enis: &BTreeMap<String, Interface>, docker: &Docker) -> Vec<String> {
    let mut wrong = Vec::new();
    let row_of = |ip: Ipv4Addr| rows.iter().find(|row| row.ip == ip);
    let shown = |ip| row_of(ip).map_or("no row".to_owned(), |row| format!("a row {:?} of {}", row.state, iface(row)));

    let mut users: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
    for endpoint in &docker.running {
        let name = &endpoint.container;
        let Some(ip) = endpoint.ip else {
            wrong.push(format!("{name} runs without an address"));
            continue;
        };
        if let Some(other) = users.insert(ip, name) {
            wrong.push(format!("{other} and {name} both have {ip}"));
        }
        let Some(eni) = enis.get(&endpoint.parent) else {
            wrong.push(format!("{name} is on {}, which is no ENI", endpoint.parent));
            continue;
        };
        let leased = row_of(ip).is_some_and(|row| row.state == State::Lease && row.iface.as_ref() == Some(&eni.id));
        if !leased {
            wrong.push(format!("{name} has {ip}, with {} instead of a lease of {}", shown(ip), eni.id));
        }
        if !eni.secondaries.contains(&ip) {
            wrong.push(format!("{name} has {ip}, which is not on {}", eni.id));
        }
        if !docker.listed.contains(&ip) {
            wrong.push(format!("{name} has {ip}, which no network of Docker's lists"));
        }
        let router = Ipv4Addr::from(u32::from(eni.cidr.network()) + 1);
        if (endpoint.mask, endpoint.gateway) != (eni.cidr.prefix_len(), Some(router)) {
            wrong.push(format!(
                "{name} has {ip}/{} and the gateway {:?}, in {} with {router}",
                endpoint.mask, endpoint.gateway, eni.cidr
            ));
        }
    }
    for ip in docker.listed.iter().filter(|ip| !users.contains_key(ip)) {
        wrong.push(format!("a network of Docker's lists {ip}, which no running container has"));
    }

    for ip in &docker.auxiliary {
        if let Some(name) = users.get(ip) {
            wrong.push(format!("{name} has {ip}, which is an auxiliary address"));
        }
        if row_of(*ip).is_none_or(|row| row.state != State::Lease) {
            wrong.push(format!("the auxiliary address {ip} has {}", shown(*ip)));
        }
    }

    for row in rows {
        let ip = row.ip;
        let on = enis.values().find(|eni| row.iface.as_ref() == Some(&eni.id));
        match row.state {
            State::Lease if !users.contains_key(&ip) && !docker.auxiliary.contains(&ip) => {
                wrong.push(format!("{ip} is a lease of {}, without a running container", iface(row)));
            }
            State::On | State::Off => wrong.push(format!("{ip} is still {:?}", row.state)),
            State::Free | State::Ready | State::Lease | State::Foreign | State::Reserved => {}
        }
        if matches!(row.state, State::Ready | State::Lease) && on.is_none_or(|eni| !eni.secondaries.contains(&ip)) {
            wrong.push(format!("{ip} has {}, and is not on it", shown(ip)));
        }
    }
    for eni in enis.values() {
        for ip in &eni.secondaries {
            let ours =
                |row: &Listed| matches!(row.state, State::Ready | State::Lease) && row.iface.as_ref() == Some(&eni.id);
            if !row_of(*ip).is_some_and(ours) {
                wrong.push(format!("{ip} is on {}, with {}", eni.id, shown(*ip)));
            }
        }
    }
    wrong
}

fn iface(row: &Listed) -> &str {
    row.iface.as_deref().unwrap_or("no interface")
}

const ENI: &str = "eni-0aaaaaa1";

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn row(last: u8, state: State, iface: Option<&str>) -> Listed {
    Listed {
        ip: ip(last),
        subnet: "subnet-0aaaaaaa".into(),
        state,
        host: None,
        iface: iface.map(Into::into),
        primary: last == 10,
        block: None,
        holder: None,
        named: false,
        reserved: false,
        elastic_ip: None,
        idle_seconds: Some(0),
    }
}

fn endpoint(container: &str, last: u8) -> Endpoint {
    Endpoint { container: container.into(), parent: "eth1".into(), ip: Some(ip(last)), mask: 24, gateway: Some(ip(1)) }
}

struct Picture {
    rows: Vec<Listed>,
    enis: BTreeMap<String, Interface>,
    docker: Docker,
}

/// Two containers on .20 and .21, .22 warm, .30 free, the router reserved, the primary address .10 the host's.
fn picture() -> Picture {
    Picture {
        rows: vec![
            row(1, State::Reserved, None),
            row(10, State::Foreign, Some(ENI)),
            row(20, State::Lease, Some(ENI)),
            row(21, State::Lease, Some(ENI)),
            row(22, State::Ready, Some(ENI)),
            row(30, State::Free, None),
            row(31, State::Foreign, Some("eni-0bbbbbb1")),
        ],
        enis: BTreeMap::from([(
            "eth1".to_owned(),
            Interface {
                id: ENI.into(),
                cidr: "10.77.0.0/24".parse().unwrap(),
                secondaries: [ip(20), ip(21), ip(22)].into(),
            },
        )]),
        docker: Docker {
            running: vec![endpoint("a", 20), endpoint("b", 21)],
            listed: [ip(20), ip(21)].into(),
            auxiliary: BTreeSet::new(),
        },
    }
}

#[test]
fn each_kind_of_disagreement_is_told() {
    type Spoil = fn(&mut Picture);
    let whole = picture();
    assert_eq!(agree(&whole.rows, &whole.enis, &whole.docker), [""; 0]);
    fn secondaries(picture: &mut Picture) -> &mut BTreeSet<Ipv4Addr> {
        &mut picture.enis.get_mut("eth1").unwrap().secondaries
    }

    let cases: &[(&str, Spoil)] = &[
        ("10.77.0.21 is a lease of eni-0aaaaaa1, without a running container", |p| {
            p.docker.running.pop();
            p.docker.listed.remove(&ip(21));
        }),
        ("a network of Docker's lists 10.77.0.21, which no running container has", |p| drop(p.docker.running.pop())),
        ("b has 10.77.0.21, which no network of Docker's lists", |p| {
            p.docker.listed.remove(&ip(21));
        }),
        ("b has 10.77.0.21, with a row Ready of eni-0aaaaaa1 instead of a lease", |p| p.rows[3].state = State::Ready),
        ("b has 10.77.0.21, with a row Free of no interface instead of a lease", |p| {
            p.rows[3] = row(21, State::Free, None)
        }),
        ("b has 10.77.0.21, with no row instead of a lease", |p| drop(p.rows.remove(3))),
        ("b has 10.77.0.21, with a row Lease of eni-0bbbbbb1 instead", |p| {
            p.rows[3].iface = Some("eni-0bbbbbb1".into());
        }),
        ("b has 10.77.0.21, which is not on eni-0aaaaaa1", |p| {
            secondaries(p).remove(&ip(21));
        }),
        ("10.77.0.21 has a row Lease of eni-0aaaaaa1, and is not on it", |p| {
            secondaries(p).remove(&ip(21));
        }),
        ("10.77.0.22 has a row Ready of eni-0aaaaaa1, and is not on it", |p| {
            secondaries(p).remove(&ip(22));
        }),
        ("10.77.0.22 is on eni-0aaaaaa1, with no row", |p| drop(p.rows.remove(4))),
        ("10.77.0.30 is on eni-0aaaaaa1, with a row Free", |p| {
            secondaries(p).insert(ip(30));
        }),
        ("10.77.0.31 is on eni-0aaaaaa1, with a row Foreign of eni-0bbbbbb1", |p| {
            secondaries(p).insert(ip(31));
        }),
        ("10.77.0.22 is still Off", |p| p.rows[4].state = State::Off),
        ("the auxiliary address 10.77.0.22 has a row Ready", |p| {
            p.docker.auxiliary.insert(ip(22));
        }),
        ("b has 10.77.0.21, which is an auxiliary address", |p| {
            p.docker.auxiliary.insert(ip(21));
        }),
        ("a and b both have 10.77.0.20", |p| p.docker.running[1].ip = Some(ip(20))),
        ("b runs without an address", |p| p.docker.running[1].ip = None),
        ("b has 10.77.0.21/16 and the gateway Some(10.77.0.1), in 10.77.0.0/24", |p| p.docker.running[1].mask = 16),
        ("b has 10.77.0.21/24 and the gateway Some(10.77.0.254), in 10.77.0.0/24", |p| {
            p.docker.running[1].gateway = Some(ip(254));
        }),
    ];
    for (told, spoil) in cases {
        let mut spoilt = picture();
        spoil(&mut spoilt);
        let wrong = agree(&spoilt.rows, &spoilt.enis, &spoilt.docker);
        assert!(wrong.iter().any(|line| line.starts_with(told)), "{told}: {wrong:#?}");
    }
}
