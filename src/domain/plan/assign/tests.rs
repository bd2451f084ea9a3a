//! The parts of an answer: who is named, who has it, and what is asked again. `fleet` has the table of EC2's errors.

use std::time::Duration;

use super::*;
use crate::domain::address::{State, Status};
use crate::domain::id::{Boot, Kind, SubnetId};

const ENI: &str = "eni-0123456789abcdef0";
const OTHER: &str = "eni-0fedcba9876543210";

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn eni(id: &str) -> EniId {
    EniId::stored(id.into())
}

fn claimed(last: u8, age: u64) -> Row {
    Row {
        ip: ip(last),
        subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
        status: Status::Allocated,
        iface: Some(eni(ENI)),
        primary: false,
        in_block: false,
        claim: Some(Boot::random().unwrap().claim(1, Kind::On)),
        holder: None,
        idle: Duration::ZERO,
        claimed: Some(Duration::from_secs(age)),
    }
}

fn rows(last: impl IntoIterator<Item = u8>) -> Vec<Row> {
    last.into_iter().map(|last| claimed(last, 0)).collect()
}

/// On the ENI, states of the others, parts to be asked again, refused: by their last numbers.
type Outcome = (Vec<u8>, Vec<(u8, State)>, Vec<Vec<u8>>, Vec<u8>);

fn of(rows: Vec<Row>, standing: Standing, said: &Said, held: &[(u8, &str)], doubted: &[u8]) -> Outcome {
    let boot = Boot::random().unwrap();
    let doubted: HashSet<Ipv4Addr> = doubted.iter().map(|last| ip(*last)).collect();
    let holders = held
        .iter()
        .map(|(last, id)| (ip(*last), Holder { eni: eni(id), primary: false, name: (*id).into() }))
        .collect();
    let batch = Batch { eni: &eni(ENI), rows, standing, doubted: &doubted, off: &boot.claim(2, Kind::Off) };
    let judged = judge(batch, said, &holders);
    let last = |ip: Ipv4Addr| ip.octets()[3];
    (
        judged.on_eni.iter().map(|row| last(row.ip)).collect(),
        judged
            .changes
            .iter()
            .map(|change| (last(change.ip), State::of(change.to.status, change.to.claim.as_ref())))
            .collect(),
        judged.again.iter().map(|part| part.iter().map(|row| last(row.ip)).collect()).collect(),
        judged.refused.iter().map(|refused| last(refused.ip)).collect(),
    )
}

fn fresh(rows: Vec<Row>, said: &Said, held: &[(u8, &str)], doubted: &[u8]) -> Outcome {
    of(rows, Standing::Fresh, said, held, doubted)
}

fn all(last: impl IntoIterator<Item = u8>) -> Vec<Ipv4Addr> {
    last.into_iter().map(ip).collect()
}

#[test]
fn ec2_is_asked_who_has_what_it_names_or_any_where_it_names_none() {
    let rows = rows(10..13);
    assert_eq!(in_doubt(&rows, &Said::InUse(all([11, 99]))), all([11]));
    assert_eq!(in_doubt(&rows, &Said::InUse(all([99]))), all(10..13));
    assert_eq!(in_doubt(&rows, &Said::InUse(Vec::new())), all(10..13));
    assert_eq!(in_doubt(&rows, &Said::Unlisted(all([12]))), all([12]));
    for said in [Said::Done, Said::Never(all([10]), String::new()), Said::Unclear, Said::Refused(Fault::Address)] {
        assert!(in_doubt(&rows, &said).is_empty(), "{said:?}");
    }
}

#[test]
fn what_another_has_becomes_its_and_the_rest_is_assigned_again() {
    let outcome = fresh(rows(10..14), &Said::InUse(all([11, 12])), &[(11, OTHER), (12, ENI)], &[]);
    assert_eq!(outcome, (vec![12], vec![(11, State::Foreign)], vec![vec![10, 13]], vec![11]));
}

#[test]
fn where_nobody_shows_who_has_them_halves_are_tried_and_then_each_alone() {
    let outcome = fresh(rows(10..15), &Said::InUse(Vec::new()), &[(14, OTHER)], &[]);
    assert_eq!(outcome, (vec![], vec![(14, State::Foreign)], vec![vec![10, 11], vec![12, 13]], vec![14]));
    let outcome = fresh(rows(10..12), &Said::InUse(Vec::new()), &[(10, OTHER)], &[]);
    assert_eq!(outcome.2, [[11]]);
    let outcome = fresh(rows([10]), &Said::InUse(Vec::new()), &[], &[]);
    assert_eq!(outcome, (vec![], vec![(10, State::Free)], vec![], vec![10]));
}

/// I2.
#[test]
fn a_list_is_not_believed_for_what_went_off_the_interface_a_moment_ago() {
    let doubted = fresh(rows([10]), &Said::InUse(all([10])), &[(10, ENI)], &[10]);
    assert_eq!(doubted, (vec![], vec![(10, State::Free)], vec![], vec![10]));
    let doubted = fresh(rows(10..12), &Said::Unlisted(all(10..12)), &[(10, ENI), (11, ENI)], &[10]);
    assert_eq!(doubted, (vec![11], vec![], vec![], vec![]));
    let old = of(vec![claimed(10, 60)], Standing::Unsettled, &Said::Unlisted(all([10])), &[(10, ENI)], &[10]);
    assert_eq!(old, (vec![], vec![(10, State::Off)], vec![], vec![]));
}

#[test]
fn what_an_answer_lists_is_on_the_interface_and_what_a_describe_has_too() {
    let outcome = fresh(rows(10..13), &Said::Unlisted(all([11, 12])), &[(12, ENI), (11, OTHER)], &[]);
    assert_eq!(outcome, (vec![10, 12], vec![], vec![], vec![]));
}

#[test]
fn what_ec2_gives_to_nobody_is_reserved_and_the_rest_is_assigned_again() {
    let outcome = fresh(rows(10..13), &Said::Never(all([12]), "why".into()), &[], &[]);
    assert_eq!(outcome, (vec![], vec![(12, State::Reserved)], vec![vec![10, 11]], vec![12]));
    let outcome = fresh(rows(10..12), &Said::Never(Vec::new(), "why".into()), &[], &[]);
    assert_eq!(outcome, (vec![], vec![(10, State::Free), (11, State::Free)], vec![], vec![]));
}

#[test]
fn a_lease_that_another_has_stays_a_lease() {
    let lease = Row {
        status: Status::Occupied,
        claim: Some(Boot::random().unwrap().claim(1, Kind::Lease)),
        ..claimed(10, 1000)
    };
    for said in [Said::InUse(all([10])), Said::InUse(Vec::new())] {
        let outcome = of(vec![lease.clone()], Standing::Leased, &said, &[(10, OTHER)], &[]);
        assert_eq!(outcome, (vec![], vec![], vec![], vec![10]));
    }
}
