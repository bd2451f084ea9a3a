//! Every case of comparing, and the ones that are left alone.

use std::time::Duration;

use super::*;
use crate::domain::address::AWS;
use crate::domain::block::Block;
use crate::domain::id::{Boot, SubnetId};
use crate::domain::on_eni::OnEni;

const ENI: &str = "eni-0123456789abcdef0";
const OTHER: &str = "eni-0fedcba9876543210";

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn eni(id: &str) -> EniId {
    EniId::stored(id.into())
}

fn lease() -> Claim {
    Boot::random().unwrap().claim(1, Kind::Lease)
}

fn row(last: u8, status: Status, iface: Option<&str>, claim: Option<Claim>) -> Row {
    Row {
        ip: ip(last),
        subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
        status,
        iface: iface.map(eni),
        primary: false,
        in_block: false,
        claim,
        holder: None,
        idle: Duration::from_secs(1000),
        claimed: Some(Duration::from_secs(1000)),
    }
}

/// What the outside says; by default EC2 lists nothing and Docker has nothing in use.
struct World {
    listed: Option<OnEni>,
    docker: Option<HashSet<Ipv4Addr>>,
    here: HashSet<Ipv4Addr>,
    leases: HashMap<Ipv4Addr, Claim>,
    on_link: Vec<Ipv4Addr>,
    adopts: bool,
    recent: HashSet<Ipv4Addr>,
}

fn world() -> World {
    let (listed, docker) = (Some(OnEni::default()), Some(HashSet::new()));
    let (leases, recent) = (HashMap::new(), HashSet::new());
    World { listed, docker, here: HashSet::new(), leases, on_link: Vec::new(), adopts: false, recent }
}

impl World {
    fn listed(mut self, ips: &[u8]) -> Self {
        self.listed =
            Some(OnEni { primary: None, secondary: ips.iter().map(|last| ip(*last)).collect(), prefixes: Vec::new() });
        self
    }

    /// With a prefix that begins at this address.
    fn prefix(mut self, first: u8) -> Self {
        let listed = self.listed.get_or_insert_default();
        listed.prefixes.push(Block::of(ip(first)).net());
        self
    }

    fn docker(mut self, ips: &[u8]) -> Self {
        self.docker = Some(ips.iter().map(|last| ip(*last)).collect());
        self
    }

    fn finds(&self, rows: &[Row]) -> Vec<What> {
        let subnet = row(9, Status::Free, None, None).subnet;
        let look = Look {
            eni: &eni(ENI),
            subnet: &Subnet::new(subnet, "10.0.0.0/24".parse().unwrap()).unwrap(),
            own_enis: &[eni(ENI)],
            rows,
            listed: self.listed.as_ref(),
            docker: self.docker.as_ref(),
            here: &self.here,
            leases: &self.leases,
            on_link: &self.on_link,
            adopts: self.adopts,
            recent: &self.recent,
        };
        compare(&look).into_iter().map(|finding| finding.what).collect()
    }
}

#[test]
fn what_agrees_is_no_finding() {
    let rows = [
        row(10, Status::Ready, Some(ENI), None),
        row(11, Status::Occupied, Some(ENI), Some(lease())),
        row(12, Status::Free, None, None),
        row(13, Status::Occupied, Some(OTHER), None),
    ];
    assert_eq!(world().listed(&[10, 11]).docker(&[11]).finds(&rows), []);
}

#[test]
fn an_idle_row_that_is_not_listed_is_missing_unless_it_came_just_now_or_nobody_was_asked() {
    let rows = [row(10, Status::Ready, Some(ENI), None)];
    assert_eq!(world().finds(&rows), [What::Missing]);
    assert_eq!(World { recent: HashSet::from([ip(10)]), ..world() }.finds(&rows), []);
    assert_eq!(World { listed: None, ..world() }.finds(&rows), []);
}

#[test]
fn a_lease_ends_only_by_a_whole_answer_of_docker_and_once_it_is_old_enough() {
    let rows = [row(10, Status::Occupied, Some(ENI), Some(lease()))];
    assert_eq!(world().listed(&[10]).finds(&rows), [What::Ended]);
    assert_eq!(World { docker: None, ..world().listed(&[10]) }.finds(&rows), [], "unknown is not unused");
    assert_eq!(world().listed(&[10]).docker(&[10]).finds(&rows), []);
    let young = [Row { claimed: Some(Duration::from_secs(59)), ..rows[0].clone() }];
    assert_eq!(world().listed(&[10]).finds(&young), []);
}

#[test]
fn a_lease_that_left_the_eni_is_cut_off() {
    let rows = [row(10, Status::Occupied, Some(ENI), Some(lease()))];
    assert_eq!(world().docker(&[10]).finds(&rows), [What::CutOff]);
    assert_eq!(World { docker: None, ..world() }.finds(&rows), [What::CutOff]);
    assert_eq!(world().finds(&rows), [What::Ended], "nobody uses it, so it is not assigned again");
}

#[test]
fn what_is_in_use_and_idle_by_its_row_was_forgotten() {
    let rows = [row(10, Status::Ready, Some(ENI), None)];
    assert_eq!(world().listed(&[10]).docker(&[10]).finds(&rows), [What::Forgotten { claim: None }]);
    let claim = lease();
    let leases = HashMap::from([(ip(10), claim.clone())]);
    let denied = World { leases: leases.clone(), ..world().listed(&[10]) };
    assert_eq!(denied.finds(&rows), [], "its container is gone by Docker's own word");
    let knows = World { leases, docker: None, ..world().listed(&[10]) };
    assert_eq!(knows.finds(&rows), [What::Forgotten { claim: Some(claim.clone()) }]);
    let foreign = [row(10, Status::Occupied, Some(ENI), None)];
    assert_eq!(knows.finds(&foreign), [What::Forgotten { claim: Some(claim.clone()) }]);
    let lost = World { leases: knows.leases, docker: None, ..world() };
    let free = [row(10, Status::Free, None, None)];
    assert_eq!(lost.finds(&free), [What::Lost { claim: Some(claim.clone()) }]);
    let kept = [Row { holder: Some("web".into()), ..row(10, Status::Reserved, None, None) }];
    for listed in [&[][..], &[10]] {
        let lost = World { leases: lost.leases.clone(), docker: None, ..world().listed(listed) };
        assert_eq!(lost.finds(&kept), [What::Lost { claim: Some(claim.clone()) }], "{listed:?}");
    }
}

#[test]
fn what_only_docker_knows_of_is_lost_where_its_network_is_on_this_interface() {
    let here = || World { here: HashSet::from([ip(10)]), ..world().docker(&[10]) };
    let kept = Row { holder: Some("web".into()), ..row(10, Status::Reserved, None, None) };
    for rows in [[row(10, Status::Free, None, None)], [kept]] {
        assert_eq!(here().finds(&rows), [What::Lost { claim: None }]);
        assert_eq!(world().docker(&[10]).finds(&rows), [], "another interface's container");
        assert_eq!(World { recent: HashSet::from([ip(10)]), ..here() }.finds(&rows), [], "it left a moment ago");
        assert_eq!(World { listed: None, ..here() }.finds(&rows), []);
        assert_eq!(World { docker: None, ..here() }.finds(&rows), []);
    }
    let aws = Row { holder: Some(AWS.into()), ..row(10, Status::Reserved, None, None) };
    assert_eq!(here().finds(&[aws]), [], "I7");
}

#[test]
fn what_is_on_the_eni_and_nobodys_is_kept_from_others() {
    for rows in [
        vec![],
        vec![row(10, Status::Free, None, None)],
        vec![row(10, Status::Occupied, Some(OTHER), None)],
        vec![row(10, Status::Occupied, None, None)],
    ] {
        assert_eq!(world().listed(&[10]).finds(&rows), [What::Unknown { primary: false, in_block: false }], "{rows:?}");
    }
    let just_left = World { recent: HashSet::from([ip(10)]), ..world().listed(&[10]) };
    assert_eq!(just_left.finds(&[row(10, Status::Free, None, None)]), [], "our own Unassign may not show yet");
    let elsewhere = OnEni { primary: None, secondary: vec![Ipv4Addr::new(10, 9, 9, 9)], prefixes: Vec::new() };
    let outside = World { listed: Some(elsewhere), ..world() };
    assert_eq!(outside.finds(&[]), [], "an address of another subnet is none of this table's business");
}

#[test]
fn an_occupied_address_joins_the_idle_ones_only_if_nothing_uses_it() {
    let rows = [row(10, Status::Occupied, Some(ENI), None)];
    assert_eq!(world().listed(&[10]).finds(&rows), [What::Unused { in_block: false }]);
    assert_eq!(world().listed(&[10]).docker(&[10]).finds(&rows), [What::Forgotten { claim: None }]);
    assert_eq!(World { docker: None, ..world().listed(&[10]) }.finds(&rows), []);
    assert_eq!(World { on_link: vec![ip(10)], ..world().listed(&[10]) }.finds(&rows), [], "I7: the host has it");
    assert_eq!(World { recent: HashSet::from([ip(10)]), ..world().listed(&[10]) }.finds(&rows), []);
    assert_eq!(world().finds(&rows), [What::Gone]);
    let primary = [Row { primary: true, ..rows[0].clone() }];
    assert_eq!(world().listed(&[10]).finds(&primary), [], "I7: a primary address");
    assert_eq!(world().finds(&primary), []);
}

#[test]
fn a_prefix_that_nobody_uses_is_adopted_whole_or_not_at_all() {
    let of_block = |last, claim| Row { in_block: true, ..row(last, Status::Occupied, Some(ENI), claim) };
    let foreign: Vec<Row> = (16..32).map(|last| of_block(last, None)).collect();
    let adopting = || World { adopts: true, ..world().prefix(16) };
    assert_eq!(adopting().finds(&foreign), vec![What::Unused { in_block: true }; 16]);
    assert_eq!(world().prefix(16).finds(&foreign), [], "none is wanted");
    assert_eq!(
        adopting().finds(&foreign[1..]),
        [What::Unknown { primary: false, in_block: true }],
        "all have to be there"
    );
    let used = adopting().docker(&[20]).finds(&foreign);
    assert_eq!(used, [What::Forgotten { claim: None }], "a container has one of them");
    let claim = lease();
    let leases = HashMap::from([(ip(16), claim.clone())]);
    let forgotten = World { leases, ..world().prefix(16).docker(&[16]) }.finds(&foreign);
    let (first, others) = forgotten.split_first().unwrap();
    assert_eq!(*first, What::Forgotten { claim: Some(claim) });
    assert_eq!(
        others,
        vec![What::Unused { in_block: true }; 15],
        "the table lost a block of which this life has a lease"
    );
    assert_eq!(World { on_link: vec![ip(20)], ..adopting() }.finds(&foreign), [], "I7: the host has one");
    assert_eq!(World { recent: HashSet::from([ip(20)]), ..adopting() }.finds(&foreign), []);
    // Once some of it is ours, the rest is what the database lost.
    let mut ours = foreign.clone();
    ours[3] = of_block(19, Some(lease()));
    let found = world().prefix(16).docker(&[19]).finds(&ours);
    assert_eq!(found, vec![What::Unused { in_block: true }; 15]);
}

#[test]
fn the_addresses_of_a_prefix_that_no_row_knows_are_kept_back_as_such() {
    let found = world().prefix(16).finds(&[]);
    assert_eq!(found, vec![What::Unknown { primary: false, in_block: true }; 16]);
    let finding = Finding { ip: ip(20), row: None, what: found[0].clone() };
    let Some(Mend::Insert(row)) = finding.mend(&eni(ENI), |_| lease()) else { panic!("{finding}") };
    assert!(row.in_block);
}

#[test]
fn a_primary_address_that_lost_its_mark_gets_it_back() {
    let primary = World { listed: Some(OnEni { primary: Some(ip(10)), ..OnEni::default() }), ..world() };
    assert_eq!(primary.finds(&[row(10, Status::Ready, Some(ENI), None)]), [What::Unmarked]);
    assert_eq!(primary.finds(&[row(10, Status::Occupied, Some(ENI), None)]), [What::Unmarked]);
}

#[test]
fn what_another_eni_has_by_its_row_is_told_and_left_alone() {
    let theirs = [row(10, Status::Occupied, Some(OTHER), Some(lease()))];
    assert_eq!(world().docker(&[10]).finds(&theirs), [What::Conflict]);
    assert_eq!(world().listed(&[10]).finds(&theirs), [What::Contradiction]);
    let claimed = [row(10, Status::Allocated, Some(OTHER), Some(Boot::random().unwrap().claim(1, Kind::On)))];
    assert_eq!(world().listed(&[10]).finds(&claimed), [], "EC2 will tell its own driver");
}

#[test]
fn rows_with_a_call_in_flight_are_left_to_their_task() {
    for kind in [Kind::On, Kind::Off] {
        let rows = [row(10, Status::Allocated, Some(ENI), Some(Boot::random().unwrap().claim(1, kind)))];
        assert_eq!(world().finds(&rows), []);
        assert_eq!(world().listed(&[10]).finds(&rows), []);
    }
}

#[test]
fn a_look_is_blind_to_what_it_could_not_ask_about() {
    let sight = |what: &What| Sight { ip: ip(10), what: what.clone(), row: None };
    for (what, without_ec2, without_docker) in [
        (What::Ended, false, true),
        (What::Missing, true, false),
        (What::Unused { in_block: false }, true, true),
        (What::CutOff, true, false),
    ] {
        assert_eq!(is_blind(&sight(&what), false, true), without_ec2, "{what:?}");
        assert_eq!(is_blind(&sight(&what), true, false), without_docker, "{what:?}");
        assert!(!is_blind(&sight(&what), true, true), "{what:?}");
    }
}

#[test]
fn each_finding_has_its_mend() {
    let (boot, known) = (Boot::random().unwrap(), lease());
    let next = |kind| boot.claim(7, kind);
    let (free, idle) = (row(10, Status::Free, None, None), row(10, Status::Ready, Some(ENI), None));
    let leased = row(10, Status::Occupied, Some(ENI), Some(known.clone()));
    let foreign = row(10, Status::Occupied, Some(ENI), None);
    let change = |row: &Row, event| Some(Mend::Change(row.on(event).unwrap()));
    let leased_again = |claim: Claim| Some(Mend::Lease(idle.clone(), claim));
    let ours = || Event::Foreign { eni: Some(eni(ENI)), primary: true, in_block: false };
    for (what, row, mend) in [
        (What::Missing, &idle, Some(Mend::GiveUp(idle.clone()))),
        (What::CutOff, &leased, Some(Mend::Assign(leased.clone()))),
        (What::Unknown { primary: true, in_block: false }, &free, change(&free, ours())),
        (What::Unmarked, &idle, change(&idle, Event::MarkPrimary)),
        (What::Forgotten { claim: None }, &idle, leased_again(next(Kind::Lease))),
        (What::Forgotten { claim: Some(known.clone()) }, &idle, leased_again(known.clone())),
        (
            What::Lost { claim: Some(known.clone()) },
            &free,
            change(&free, Event::Claim { eni: eni(ENI), claim: next(Kind::On), in_block: false }),
        ),
        (What::Gone, &foreign, change(&foreign, Event::Gone)),
        (
            What::Unused { in_block: false },
            &foreign,
            change(&foreign, Event::Adopt { claim: next(Kind::On), in_block: false }),
        ),
        (What::Ended, &leased, Some(Mend::Release(known))),
        (What::Conflict, &idle, None),
        (What::Contradiction, &idle, None),
    ] {
        let finding = Finding { ip: ip(10), row: Some(row.clone()), what };
        assert_eq!(finding.mend(&eni(ENI), next), mend, "{finding}");
    }
    let (status, iface) = (Status::Occupied, Some(eni(ENI)));
    let missing = NewRow { ip: ip(10), status, iface, primary: false, holder: None, in_block: false };
    let finding = Finding { ip: ip(10), row: None, what: What::Unknown { primary: false, in_block: false } };
    assert_eq!(finding.mend(&eni(ENI), next), Some(Mend::Insert(missing)));
}

#[test]
fn every_finding_says_what_it_is_in_one_sentence() {
    let claim = lease();
    let row = row(10, Status::Ready, Some(ENI), None);
    let all = [
        What::Missing,
        What::CutOff,
        What::Unknown { primary: false, in_block: false },
        What::Unmarked,
        What::Forgotten { claim: None },
        What::Lost { claim: Some(claim) },
        What::Gone,
        What::Unused { in_block: false },
        What::Ended,
        What::Conflict,
        What::Contradiction,
    ];
    let told: HashSet<String> =
        all.into_iter().map(|what| Finding { ip: ip(10), row: Some(row.clone()), what }.to_string()).collect();
    assert_eq!(told.len(), 11);
    assert!(told.iter().all(|text| text.starts_with("10.0.0.10 ") && !text.contains('\n')));
}
