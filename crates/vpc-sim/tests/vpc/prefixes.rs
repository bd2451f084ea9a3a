//! Prefixes: what Assign and Unassign do with them, where they show, and each switch about them.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::assign_private_ip_addresses::{
    AssignPrivateIpAddressesError, AssignPrivateIpAddressesOutput,
};
use aws_sdk_ec2::types::Filter;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;
use vpc_sim::{EniSpec, *};

use super::{Bed, OTHER, OURS, SUBNET, assert_refused, ip, refusal};

const VALUE: &str = "InvalidParameterValue";
const NO_BLOCKS: &str = "The specified subnet does not have enough free cidr blocks to satisfy the request.";
const FULL: &str = "Number of private addresses will exceed limit.";

fn net(first: u8) -> String {
    format!("10.77.0.{first}/28")
}

impl Bed {
    fn of(prefixes: PrefixSwitches) -> Self {
        Self::with(Switches { prefixes, ..Switches::default() })
    }

    async fn put(
        &self,
        nets: &[&str],
    ) -> Result<AssignPrivateIpAddressesOutput, SdkError<AssignPrivateIpAddressesError>> {
        let list = Some(nets.iter().map(|net| (*net).to_owned()).collect());
        self.ec2.assign_private_ip_addresses().network_interface_id(OURS).set_ipv4_prefixes(list).send().await
    }

    async fn count(
        &self,
        eni: &str,
        count: i32,
    ) -> Result<AssignPrivateIpAddressesOutput, SdkError<AssignPrivateIpAddressesError>> {
        self.ec2.assign_private_ip_addresses().network_interface_id(eni).ipv4_prefix_count(count).send().await
    }

    async fn take_off(&self, nets: &[&str]) -> Result<(), (u16, String, String)> {
        let list = Some(nets.iter().map(|net| (*net).to_owned()).collect());
        let call = self.ec2.unassign_private_ip_addresses().network_interface_id(OURS).set_ipv4_prefixes(list);
        said(call.send().await)
    }

    /// Our ENI's prefixes, by their first address' last number.
    fn blocks(&self) -> Vec<u8> {
        self.vpc.prefixes(OURS).iter().map(|net| net.network().octets()[3]).collect()
    }

    async fn available(&self) -> i32 {
        let found = self.ec2.describe_subnets().subnet_ids(SUBNET).send().await.unwrap();
        found.subnets()[0].available_ip_address_count().unwrap()
    }
}

fn said<T: Debug, E: ProvideErrorMetadata + Debug>(
    result: Result<T, SdkError<E>>,
) -> Result<(), (u16, String, String)> {
    if result.is_ok() { Ok(()) } else { Err(refusal(result)) }
}

fn value(message: &str) -> Result<(), (u16, String, String)> {
    Err((400, VALUE.to_owned(), message.to_owned()))
}

fn unheard() -> Result<(), (u16, String, String)> {
    Err((400, "InvalidIpv4Prefix".to_owned(), "The request cannot be completed.".to_owned()))
}

fn listed(answer: &AssignPrivateIpAddressesOutput) -> Vec<&str> {
    answer.assigned_ipv4_prefixes().iter().map(|entry| entry.ipv4_prefix().unwrap()).collect()
}

#[tokio::test]
async fn a_list_is_assigned_and_taken_off_and_takes_a_slot_each() {
    let bed = Bed::new();
    let before = bed.available().await;
    let answer = bed.put(&[&net(64), &net(32)]).await.unwrap();
    assert_eq!(listed(&answer), [net(64), net(32)]);
    assert_eq!((bed.blocks(), bed.truth()), (vec![32, 64], vec![]));
    assert_eq!(before - bed.available().await, 32);
    // What is there already is success, and takes no slot.
    assert_eq!(listed(&bed.put(&[&net(32)]).await.unwrap()), [net(32)]);
    let more: Vec<String> = (6..13).map(|n| net(n * 16)).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    // 1 primary, 2 prefixes: 7 more fit.
    bed.put(&more).await.unwrap();
    assert_eq!(bed.blocks().len(), 9);
    assert_refused(bed.put(&[&net(208)]).await, 400, "PrivateIpAddressLimitExceeded", FULL);
    assert_refused(bed.assign(&[50]).await, 400, "PrivateIpAddressLimitExceeded", FULL);
    assert_refused(bed.count(OURS, 1).await, 400, "PrivateIpAddressLimitExceeded", FULL);
    bed.put(&[&net(32)]).await.unwrap();
    bed.take_off(&more).await.unwrap();
    assert_eq!(bed.blocks(), [32, 64]);
    bed.take_off(&[&net(64), &net(64)]).await.unwrap();
    assert_eq!(bed.blocks(), [32]);
    let call = bed.vpc.calls().pop().unwrap();
    assert_eq!(call.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(), [net(64), net(64)]);
}

#[tokio::test]
async fn each_bad_prefix_is_refused_and_none_of_its_list_assigned() {
    let bed = Bed::new();
    bed.vpc.add_address(OTHER, ip(50));
    bed.vpc.add_prefix(OTHER, &net(64));
    bed.assign(&[100]).await.unwrap();
    for (list, message) in [
        // Partly in use: a secondary address, a prefix, a primary address, one's own address.
        (&["10.77.0.48/28"][..], "[10.77.0.48/28] assigned, but move is not allowed."),
        (&["10.77.0.128/28", "10.77.0.64/28"], "[10.77.0.64/28] assigned, but move is not allowed."),
        (&["10.77.0.16/28"], "[10.77.0.16/28] assigned, but move is not allowed."),
        (&["10.77.0.96/28"], "[10.77.0.96/28] assigned, but move is not allowed."),
        (&["10.77.0.0/28"], "Address 10.77.0.0/28 is in subnet's reserved address range"),
        (&["10.77.0.128/28", "10.77.0.240/28"], "Address 10.77.0.240/28 is in subnet's reserved address range"),
        (&["10.77.1.16/28"], "Address [10.77.1.16/28] does not fall within the subnet's address range"),
        (&["10.77.0.129/28"], "invalid value for parameter address: 10.77.0.129/28"),
        (&["10.77.0.128"], "invalid value for parameter address: 10.77.0.128"),
        (&["10.77.0.128/27"], "invalid value for parameter address: 10.77.0.128/27"),
        (&["10.77.0.128/28", "10.77.0.128/28"], "Duplicate address 10.77.0.128/28 in secondary-addresses"),
    ] {
        assert_eq!(said(bed.put(list).await), value(message), "{list:?}");
        assert!(bed.blocks().is_empty());
    }
    // A prefix never moves.
    let call = bed.ec2.assign_private_ip_addresses().network_interface_id(OURS).allow_reassignment(true);
    assert_eq!(refusal(call.clone().ipv4_prefixes(net(64)).send().await).1, VALUE);
    assert_eq!(refusal(call.private_ip_addresses("10.77.0.70").send().await).1, VALUE);
    assert_eq!(bed.vpc.holder(ip(70)), Some(OTHER.to_owned()));
    let absent = format!("Some of the specified addresses are not assigned to interface {OURS}");
    bed.put(&[&net(128)]).await.unwrap();
    assert_eq!(bed.take_off(&[&net(64)]).await, value(&absent));
    assert_eq!(bed.take_off(&[&net(128), &net(64)]).await, value(&absent));
    // The members are no addresses of their own.
    assert_eq!(said(bed.unassign(&[130]).await), value(&absent));
    assert_eq!(said(bed.assign(&[130]).await), value("[10.77.0.130] assigned, but move is not allowed."));
    assert_eq!(bed.blocks(), [128]);
    let free = bed.vpc.prefixes(OTHER);
    bed.vpc.remove_prefix(OTHER, &free.first().unwrap().to_string());
    bed.put(&[&net(64)]).await.unwrap();
}

#[tokio::test]
async fn ends_and_small_subnets_have_none() {
    let bed = Bed::new();
    for (number, (length, expected)) in [(28, 0), (27, 0), (26, 2), (25, 6)].into_iter().enumerate() {
        let (subnet, eni) = (format!("subnet-0{number}"), format!("eni-0{number}"));
        bed.vpc.add_subnet(&subnet, &format!("10.78.{number}.0/{length}"));
        let number = u8::try_from(number).unwrap();
        bed.vpc.add_eni(EniSpec::new(&eni, &subnet, [10, 78, number, 4].into()));
        if expected > 0 {
            bed.count(&eni, expected).await.unwrap();
        }
        assert_refused(bed.count(&eni, 1).await, 400, "InsufficientCidrBlocks", NO_BLOCKS);
    }
}

#[tokio::test]
async fn only_nitro_and_bare_metal_take_them() {
    let bed = Bed::new();
    for (number, (kind, limit, hypervisor, is_metal)) in
        [("m4.large", 10, Some("xen"), false), ("c5.metal", 50, None, true), ("t3.medium", 6, Some("nitro"), false)]
            .into_iter()
            .enumerate()
    {
        let (instance, eni) = (format!("i-0c{number}"), format!("eni-0c{number}"));
        bed.vpc.add_instance(&instance, kind);
        bed.vpc.add_eni(EniSpec::new(&eni, SUBNET, ip(u8::try_from(240 + number).unwrap())).on(&instance, 0));
        let found = bed.ec2.describe_instance_types().instance_types(kind.into()).send().await.unwrap();
        let found = &found.instance_types()[0];
        assert_eq!(found.hypervisor().map(|hypervisor| hypervisor.as_str()), hypervisor, "{kind}");
        assert_eq!(found.bare_metal(), Some(is_metal), "{kind}");
        assert_eq!(found.network_info().unwrap().ipv4_addresses_per_interface(), Some(limit), "{kind}");
        let list = bed.ec2.assign_private_ip_addresses().network_interface_id(&eni).ipv4_prefixes(net(32));
        let (named, counted) = (list.send().await, bed.count(&eni, 1).await);
        if kind == "m4.large" {
            let text = "The instance type 'm4.large' does not support prefixes.";
            assert_refused(named, 400, "UnsupportedOperation", text);
            assert_refused(counted, 400, "UnsupportedOperation", text);
        } else {
            assert!(named.is_ok() && counted.is_ok(), "{kind}");
            bed.vpc.remove_eni(&eni);
        }
    }
}

#[tokio::test]
async fn a_reservation_says_where_numbers_come_from() {
    let bed = Bed::new();
    let before = bed.available().await;
    bed.vpc.reserve(SUBNET, "10.77.0.32/27", Reservation::Explicit);
    assert_eq!(bed.available().await, before);
    assert_eq!(listed(&bed.count(OURS, 1).await.unwrap()), [net(64)]);
    bed.vpc.reserve(SUBNET, "10.77.0.128/27", Reservation::Prefix);
    assert_eq!(before - bed.available().await, 16 + 32);
    assert_eq!(listed(&bed.count(OURS, 2).await.unwrap()), [net(128), net(144)]);
    assert_eq!(before - bed.available().await, 16 + 32);
    assert_refused(bed.count(OURS, 1).await, 400, "InsufficientCidrBlocks", NO_BLOCKS);
    bed.take_off(&[&net(128)]).await.unwrap();
    // A number of addresses is of neither.
    let call = bed.ec2.assign_private_ip_addresses().network_interface_id(OTHER);
    call.secondary_private_ip_address_count(9).send().await.unwrap();
    let taken: Vec<u8> = bed.vpc.addresses(OTHER).iter().map(|ip| ip.octets()[3]).collect();
    assert_eq!(taken, [4, 5, 6, 7, 8, 11, 12, 13, 14]);
    // Whoever names it gets it from both.
    bed.put(&[&net(32), &net(128)]).await.unwrap();
}

#[tokio::test]
async fn nobody_finds_a_prefix_by_a_member_and_all_else_shows_it() {
    let bed = Bed::new();
    let effects = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&effects);
    bed.vpc.watch(move |effect| seen.lock().unwrap().push((effect.on.clone(), effect.off.clone())));
    bed.put(&[&net(32)]).await.unwrap();
    for name in ["addresses.private-ip-address", "private-ip-address"] {
        for ip in ["10.77.0.32", "10.77.0.40"] {
            let by = Filter::builder().name(name).values(ip).build();
            let found = bed.ec2.describe_network_interfaces().filters(by).send().await.unwrap();
            assert!(found.network_interfaces().is_empty(), "{name}={ip}");
        }
    }
    let found = bed.ec2.describe_network_interfaces().network_interface_ids(OURS).send().await.unwrap();
    let eni = &found.network_interfaces()[0];
    assert_eq!(eni.ipv4_prefixes()[0].ipv4_prefix(), Some(net(32).as_str()));
    assert_eq!(eni.private_ip_addresses().len(), 1);
    bed.take_off(&[&net(32)]).await.unwrap();
    let members: BTreeSet<_> = (32..48).map(ip).collect();
    assert_eq!(*effects.lock().unwrap(), [(members.clone(), [].into()), ([].into(), members)]);
}

#[tokio::test]
async fn faults_and_lag_are_those_of_every_call() {
    let bed = Bed::new();
    bed.vpc.describe_lag(Duration::from_millis(300));
    bed.vpc.fail(Fault::on("AssignPrivateIpAddresses", FaultKind::LoseReply));
    assert!(super::is_unanswered(&bed.put(&[&net(32)]).await));
    bed.vpc.fail(Fault::on("AssignPrivateIpAddresses", FaultKind::LandLate(Duration::from_millis(100))));
    assert!(super::is_unanswered(&bed.put(&[&net(64)]).await));
    assert_eq!(bed.blocks(), [32]);
    let shown = async || {
        let found = bed.ec2.describe_network_interfaces().network_interface_ids(OURS).send().await.unwrap();
        found.network_interfaces()[0].ipv4_prefixes().len()
    };
    assert_eq!(shown().await, 0);
    sleep(Duration::from_millis(600)).await;
    assert_eq!((bed.blocks(), shown().await), (vec![32, 64], 2));
}

#[test]
fn every_variant_is_listed_once_and_apart_from_the_others() {
    let mut seen: Vec<_> = Switches::all();
    for (name, switches) in Switches::of_prefixes() {
        assert!(seen.iter().all(|(n, s)| *n != name && *s != switches), "{name} is listed twice");
        seen.push((name, switches));
    }
}

#[tokio::test]
async fn own() {
    let bed = Bed::of(PrefixSwitches { own: OwnAddress::Refused, ..PrefixSwitches::default() });
    bed.put(&[&net(32)]).await.unwrap();
    let refused = value("[10.77.0.32/28] assigned, but move is not allowed.");
    assert_eq!(said(bed.put(&[&net(32)]).await), refused);
    assert_eq!(said(bed.put(&[&net(64), &net(32)]).await), refused);
    assert_eq!(bed.blocks(), [32]);
}

#[tokio::test]
async fn lists_in_part() {
    let bed = Bed::of(PrefixSwitches {
        assign_reply: AssignReply::NewOnly,
        assign_refused: AssignRefused::AssignsRest,
        unassign_unknown: UnassignUnknown::RemovesKnown,
        ..PrefixSwitches::default()
    });
    bed.put(&[&net(32)]).await.unwrap();
    assert_eq!(listed(&bed.put(&[&net(32), &net(64)]).await.unwrap()), [net(64)]);
    assert_eq!(refusal(bed.put(&[&net(96), &net(240)]).await).1, VALUE);
    assert_eq!(bed.blocks(), [32, 64, 96]);
    assert_eq!(bed.take_off(&[&net(64), &net(112)]).await.unwrap_err().1, VALUE);
    assert_eq!(bed.blocks(), [32, 96]);
}

#[tokio::test]
async fn refusals() {
    let blocks = Err((400, "InsufficientCidrBlocks".to_owned(), NO_BLOCKS.to_owned()));
    let absent = value(&format!("Some of the specified addresses are not assigned to interface {OURS}"));
    let singly = [
        value("[10.77.0.49, 10.77.0.50] assigned, but move is not allowed."),
        value("Address 10.77.0.0 is in subnet's reserved address range"),
        value("Address 10.77.0.255 is in subnet's reserved address range"),
        value("Address [10.77.1.16] does not fall within the subnet's address range"),
    ];
    for (refusal, expected, off) in [
        (PrefixRefusal::NamesAddresses, singly, absent.clone()),
        (PrefixRefusal::CidrBlocks, [(); 4].map(|()| blocks.clone()), absent),
        (PrefixRefusal::Unheard, [(); 4].map(|()| unheard()), unheard()),
    ] {
        let bed = Bed::of(PrefixSwitches { refusal, ..PrefixSwitches::default() });
        bed.vpc.add_address(OTHER, ip(49));
        bed.vpc.add_address(OTHER, ip(50));
        for (prefix, expected) in [net(48), net(0), net(240), "10.77.1.16/28".into()].iter().zip(expected) {
            assert_eq!(said(bed.put(&[prefix]).await), expected, "{refusal:?} {prefix}");
        }
        assert_eq!(bed.take_off(&[&net(96)]).await, off, "{refusal:?}");
    }
}

#[tokio::test]
async fn misaligned() {
    let bed = Bed::of(PrefixSwitches { misaligned: Misaligned::Truncated, ..PrefixSwitches::default() });
    assert_eq!(listed(&bed.put(&["10.77.0.37/28"]).await.unwrap()), [net(32)]);
    bed.take_off(&["10.77.0.47/28"]).await.unwrap();
    assert_eq!(bed.blocks(), [0; 0]);
}

#[tokio::test]
async fn both_lists() {
    for both_lists in [BothLists::Refused, BothLists::Accepted] {
        let bed = Bed::of(PrefixSwitches { both_lists, ..PrefixSwitches::default() });
        let put = |ip: &str| {
            let call = bed.ec2.assign_private_ip_addresses().network_interface_id(OURS);
            call.private_ip_addresses(ip).ipv4_prefixes(net(32)).send()
        };
        let off = bed.ec2.unassign_private_ip_addresses().network_interface_id(OURS);
        let off = off.private_ip_addresses("10.77.0.50").ipv4_prefixes(net(32));
        if both_lists == BothLists::Refused {
            assert_eq!(refusal(put("10.77.0.50").await).1, "InvalidParameterCombination");
            assert_eq!(refusal(off.send().await).1, "InvalidParameterCombination");
        } else {
            // All or nothing.
            assert_eq!(refusal(put("10.77.0.20").await).1, VALUE);
            assert_eq!((bed.blocks(), bed.truth()), (vec![], vec![]));
            let answer = put("10.77.0.50").await.unwrap();
            assert_eq!((listed(&answer).len(), answer.assigned_private_ip_addresses().len()), (1, 1));
            assert_eq!((bed.blocks(), bed.truth()), (vec![32], vec![50]));
            off.send().await.unwrap();
        }
        assert_eq!((bed.blocks(), bed.truth()), (vec![], vec![]));
    }
}

#[tokio::test]
async fn members() {
    let bed = Bed::of(PrefixSwitches { member_of_own: MemberOfOwn::Accepted, ..PrefixSwitches::default() });
    bed.put(&[&net(32)]).await.unwrap();
    bed.assign(&[37]).await.unwrap();
    assert_eq!((bed.blocks(), bed.truth()), (vec![32], vec![]));
    let named = value("[10.77.0.32/28] assigned, but move is not allowed.");
    for (member_of_other, expected) in [(MemberOfOther::NamesPrefix, named), (MemberOfOther::Unheard, unheard())] {
        let bed = Bed::of(PrefixSwitches { member_of_other, ..PrefixSwitches::default() });
        bed.vpc.add_prefix(OTHER, &net(32));
        bed.vpc.add_address(OTHER, ip(60));
        assert_eq!(said(bed.assign(&[50, 37]).await), expected);
        assert_eq!(said(bed.assign(&[60]).await), value("[10.77.0.60] assigned, but move is not allowed."));
    }
}

#[tokio::test]
async fn in_reservation() {
    for (in_reservation, refused, taken) in
        [(InReservation::ExplicitRefused, 32, 128), (InReservation::PrefixRefused, 128, 32)]
    {
        let bed = Bed::of(PrefixSwitches { in_reservation, ..PrefixSwitches::default() });
        bed.vpc.reserve(SUBNET, "10.77.0.32/27", Reservation::Explicit);
        bed.vpc.reserve(SUBNET, "10.77.0.128/27", Reservation::Prefix);
        let text = format!("Address 10.77.0.{refused}/28 is in subnet's reserved address range");
        assert_eq!(said(bed.put(&[&net(refused)]).await), value(&text));
        bed.put(&[&net(taken)]).await.unwrap();
    }
}
