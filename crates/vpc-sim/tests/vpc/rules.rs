//! Assign and Unassign: what they do, and each refusal with its code, status and text.

use super::{Bed, OTHER, OURS, assert_refused, ip, refusal};
use vpc_sim::EniSpec;

const VALUE: &str = "InvalidParameterValue";

#[tokio::test]
async fn assigns_a_list_and_answers_with_it() {
    let bed = Bed::new();
    let answer = bed.assign(&[50, 51]).await.unwrap();
    assert_eq!(answer.network_interface_id(), Some(OURS));
    let listed: Vec<_> =
        answer.assigned_private_ip_addresses().iter().map(|a| a.private_ip_address().unwrap()).collect();
    assert_eq!(listed, ["10.77.0.50", "10.77.0.51"]);
    assert_eq!(bed.truth(), [50, 51]);
    assert_eq!(bed.shown().await, [50, 51]);

    // What is there already is success, and takes no slot.
    bed.assign(&[51, 52]).await.unwrap();
    assert_eq!(bed.truth(), [50, 51, 52]);

    bed.unassign(&[50, 52]).await.unwrap();
    assert_eq!(bed.truth(), [51]);
}

#[tokio::test]
async fn refuses_each_bad_address_and_assigns_none_of_the_list() {
    let bed = Bed::new();
    bed.vpc.add_address(OTHER, ip(60));
    bed.vpc.add_address(OTHER, ip(61));
    bed.vpc.add_prefix(OTHER, "10.77.0.128/28");
    bed.vpc.take("eni-0ddddddd", ip(70));
    let cases: [(&[u8], &str); 9] = [
        (&[60], "[10.77.0.60] assigned, but move is not allowed."),
        (&[50, 60, 51, 61], "[10.77.0.60, 10.77.0.61] assigned, but move is not allowed."),
        (&[130, 50], "[10.77.0.130] assigned, but move is not allowed."),
        (&[20], "secondary-addresses"),
        (&[50, 70], "secondary-addresses"),
        (&[10], "secondary-addresses"),
        (&[50, 3], "Address 10.77.0.3 is in subnet's reserved address range"),
        (&[255], "Address 10.77.0.255 is in subnet's reserved address range"),
        (&[50, 51, 50], "Duplicate address 10.77.0.50 in secondary-addresses"),
    ];
    for (list, message) in cases {
        assert_refused(bed.assign(list).await, 400, VALUE, message);
        assert_eq!(bed.truth(), [0; 0]);
    }
    for reserved in [0, 1, 2, 3, 255] {
        assert_eq!(refusal(bed.assign(&[reserved]).await).1, VALUE);
    }
    for (text, message) in [
        ("10.77.1.50", "Address [10.77.1.50] does not fall within the subnet's address range"),
        ("10.77.0.300", "invalid value for parameter address: 10.77.0.300"),
        ("", "invalid value for parameter address: "),
    ] {
        let call = bed.ec2.assign_private_ip_addresses().network_interface_id(OURS);
        assert_refused(call.private_ip_addresses(text).send().await, 400, VALUE, message);
    }
}

#[tokio::test]
async fn counts_the_primary_and_each_prefix_towards_the_limit() {
    let bed = Bed::new();
    bed.assign(&[50, 51, 52, 53, 54, 55, 56]).await.unwrap();
    bed.vpc.add_prefix(OURS, "10.77.0.128/28");
    // 1 primary, 7 secondary, 1 prefix: one slot of ten is left.
    let full = "Number of private addresses will exceed limit.";
    assert_refused(bed.assign(&[57, 58]).await, 400, "PrivateIpAddressLimitExceeded", full);
    bed.assign(&[56, 57]).await.unwrap();
    assert_refused(bed.assign(&[58]).await, 400, "PrivateIpAddressLimitExceeded", full);
    bed.assign(&[57]).await.unwrap();
    assert_eq!(bed.truth().len(), 8);
}

#[tokio::test]
async fn assigns_by_count_and_by_prefix() {
    let bed = Bed::new();
    let call = || bed.ec2.assign_private_ip_addresses().network_interface_id(OURS);
    let answer = call().secondary_private_ip_address_count(3).send().await.unwrap();
    assert_eq!(answer.assigned_private_ip_addresses().len(), 3);
    assert_eq!(bed.truth(), [4, 5, 6]);
    let answer = call().ipv4_prefix_count(1).send().await.unwrap();
    assert_eq!(answer.assigned_ipv4_prefixes()[0].ipv4_prefix(), Some("10.77.0.32/28"));
    let answer = call().ipv4_prefixes("10.77.0.64/28").send().await.unwrap();
    assert_eq!(answer.assigned_ipv4_prefixes()[0].ipv4_prefix(), Some("10.77.0.64/28"));
}

#[tokio::test]
async fn a_full_subnet_has_no_addresses_and_no_blocks() {
    let bed = Bed::new();
    bed.vpc.add_subnet("subnet-0small", "10.77.1.0/28");
    bed.vpc.add_eni(EniSpec::new("eni-0small", "subnet-0small", [10, 77, 1, 4].into()));
    let call = || bed.ec2.assign_private_ip_addresses().network_interface_id("eni-0small");
    let full = "The specified subnet does not have enough free addresses to satisfy the request.";
    let answer = call().secondary_private_ip_address_count(11).send().await;
    assert_refused(answer, 400, "InsufficientFreeAddressesInSubnet", full);
    call().secondary_private_ip_address_count(10).send().await.unwrap();
    assert_eq!(refusal(call().ipv4_prefix_count(1).send().await).1, "InsufficientCidrBlocks");
}

#[tokio::test]
async fn wants_exactly_one_of_list_count_and_prefix() {
    let bed = Bed::new();
    let call = || bed.ec2.assign_private_ip_addresses().network_interface_id(OURS);
    assert_eq!(refusal(call().send().await).1, "InvalidParameter");
    let both = call().secondary_private_ip_address_count(1).private_ip_addresses("10.77.0.50").send().await;
    let (status, code, message) = refusal(both);
    assert_eq!((status, code.as_str()), (400, "InvalidParameterCombination"));
    assert!(message.starts_with("One of ") && message.ends_with("must be specified"), "{message}");
    assert_eq!(bed.truth(), [0; 0]);
}

#[tokio::test]
async fn moves_a_secondary_address_only_when_allowed_to() {
    let bed = Bed::new();
    bed.vpc.add_address(OTHER, ip(60));
    let call = bed.ec2.assign_private_ip_addresses().network_interface_id(OURS).allow_reassignment(true);
    call.clone().private_ip_addresses("10.77.0.60").send().await.unwrap();
    assert_eq!((bed.truth(), bed.vpc.addresses(OTHER).len()), (vec![60], 0));
    assert_refused(call.private_ip_addresses("10.77.0.20").send().await, 400, VALUE, "secondary-addresses");
}

#[tokio::test]
async fn knows_which_interfaces_there_are() {
    let bed = Bed::new();
    let missing = "The networkInterface ID 'eni-0nowhere' does not exist";
    let code = "InvalidNetworkInterfaceID.NotFound";
    let assign = bed.ec2.assign_private_ip_addresses().private_ip_addresses("10.77.0.50");
    assert_refused(assign.clone().network_interface_id("eni-0nowhere").send().await, 400, code, missing);
    let unassign = bed.ec2.unassign_private_ip_addresses().private_ip_addresses("10.77.0.50");
    assert_refused(unassign.network_interface_id("eni-0nowhere").send().await, 400, code, missing);
    let odd = assign.network_interface_id("nowhere").send().await;
    assert_eq!(refusal(odd).1, "InvalidNetworkInterfaceId.Malformed");
}

#[tokio::test]
async fn unassigns_all_of_a_list_or_nothing() {
    let bed = Bed::new();
    bed.assign(&[50, 51]).await.unwrap();
    let unknown = format!("Some of the specified addresses are not assigned to interface {OURS}");
    assert_refused(bed.unassign(&[50, 52]).await, 400, VALUE, &unknown);
    assert_refused(bed.unassign(&[20]).await, 400, VALUE, &unknown);
    let (_, code, message) = refusal(bed.unassign(&[50, 10]).await);
    assert_eq!(code, VALUE);
    assert!(message.ends_with("The primary IP address of an interface cannot be unassigned."), "{message}");
    assert_eq!(bed.truth(), [50, 51]);
    assert_eq!(refusal(bed.unassign(&[]).await).1, "InvalidParameter");
}
