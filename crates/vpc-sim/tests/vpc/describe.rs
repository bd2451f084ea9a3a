//! The Describe calls: what they show, select and page.

use aws_sdk_ec2::types::{Filter, NetworkInterface};
use vpc_sim::{EniSpec, GROUP_ID, VPC_ID, ZONE};

use super::{Bed, HOST, OTHER, OURS, SUBNET, assert_refused, ip, refusal};

fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

fn ids(found: &[NetworkInterface]) -> Vec<&str> {
    found.iter().map(|eni| eni.network_interface_id().unwrap()).collect()
}

#[tokio::test]
async fn shows_an_interface_whole() {
    let bed = Bed::new();
    bed.assign(&[50]).await.unwrap();
    bed.vpc.add_prefix(OURS, "10.77.0.128/28");
    bed.vpc.tag(OURS, "Name", "a < b & c");
    let found = bed.ec2.describe_network_interfaces().network_interface_ids(OURS).send().await.unwrap();
    let [eni] = found.network_interfaces() else { panic!("one interface") };
    assert_eq!(eni.network_interface_id(), Some(OURS));
    assert_eq!(eni.subnet_id(), Some(SUBNET));
    assert_eq!(eni.vpc_id(), Some(VPC_ID));
    assert_eq!(eni.availability_zone(), Some(ZONE));
    assert_eq!(eni.mac_address(), Some("02:77:0a:4d:00:0a"));
    assert_eq!(eni.private_ip_address(), Some("10.77.0.10"));
    assert_eq!(eni.status().unwrap().as_str(), "in-use");
    assert_eq!(eni.interface_type().unwrap().as_str(), "interface");
    assert_eq!(eni.requester_managed(), Some(false));
    assert_eq!(eni.source_dest_check(), Some(true));
    assert_eq!(eni.groups()[0].group_id(), Some(GROUP_ID));
    assert_eq!(eni.tag_set()[0].value(), Some("a < b & c"));
    assert_eq!(eni.ipv4_prefixes()[0].ipv4_prefix(), Some("10.77.0.128/28"));
    let listed: Vec<_> =
        eni.private_ip_addresses().iter().map(|a| (a.private_ip_address().unwrap(), a.primary().unwrap())).collect();
    assert_eq!(listed, [("10.77.0.10", true), ("10.77.0.50", false)]);
    let attachment = eni.attachment().unwrap();
    assert_eq!(attachment.instance_id(), Some(HOST));
    assert_eq!(attachment.device_index(), Some(1));
    assert_eq!(attachment.status().unwrap().as_str(), "attached");
}

#[tokio::test]
async fn shows_foreign_and_detached_interfaces() {
    let bed = Bed::new();
    bed.vpc.take("eni-0ddddddd", ip(70));
    bed.vpc.take("eni-0ddddddd", ip(71));
    bed.vpc.detach_eni(OTHER);
    bed.vpc.add_address(OTHER, ip(60));
    let call = || bed.ec2.describe_network_interfaces();
    let found = call().filters(filter("requester-managed", "true")).send().await.unwrap();
    let [rds] = found.network_interfaces() else { panic!("one interface") };
    assert_eq!((rds.description(), rds.private_ip_addresses().len()), (Some("RDSNetworkInterface"), 2));
    assert_eq!(rds.attachment().unwrap().instance_id(), None);
    let found = call().filters(filter("status", "available")).send().await.unwrap();
    let [eni] = found.network_interfaces() else { panic!("one interface") };
    assert!(eni.attachment().is_none() && eni.private_ip_addresses().len() == 2);
    bed.vpc.remove_eni(OTHER);
    bed.assign(&[60]).await.unwrap();
}

#[tokio::test]
async fn selects_by_every_filter_and_by_no_other() {
    let bed = Bed::new();
    bed.assign(&[50]).await.unwrap();
    bed.vpc.tag(OURS, "ec2-ipam", "yes");
    let both = [OURS, OTHER];
    let all = ["eni-0aaaaaa0", OURS, OTHER];
    let cases: [(&str, &str, &[&str]); 22] = [
        ("subnet-id", SUBNET, &all),
        ("subnet-id", "subnet-0other", &[]),
        ("vpc-id", VPC_ID, &all),
        ("availability-zone", ZONE, &all),
        ("status", "in-use", &all),
        ("attachment.status", "attached", &all),
        ("attachment.status", "detached", &[]),
        ("attachment.device-index", "1", &both),
        ("attachment.instance-id", "i-0bbbbbbb", &[OTHER]),
        ("addresses.private-ip-address", "10.77.0.50", &[OURS]),
        ("addresses.private-ip-address", "10.77.0.20", &[OTHER]),
        ("addresses.private-ip-address", "10.77.0.99", &[]),
        ("addresses.primary", "false", &[OURS]),
        ("private-ip-address", "10.77.0.50", &[]),
        ("mac-address", "02:77:0a:4d:00:0a", &[OURS]),
        ("description", "", &all),
        ("tag-key", "ec2-ipam", &[OURS]),
        ("tag:ec2-ipam", "no", &[]),
        ("requester-managed", "false", &all),
        ("source-dest-check", "true", &all),
        ("network-interface-id", OTHER, &[OTHER]),
        ("network-interface-id", "eni-0nowhere", &[]),
    ];
    for (name, value, expected) in cases {
        let found = bed.ec2.describe_network_interfaces().filters(filter(name, value)).send().await.unwrap();
        assert_eq!(ids(found.network_interfaces()), expected, "{name}={value}");
    }
    let narrowed = bed.ec2.describe_network_interfaces();
    let narrowed = narrowed.filters(filter("attachment.device-index", "1")).filters(filter("subnet-id", SUBNET));
    assert_eq!(ids(narrowed.send().await.unwrap().network_interfaces()), both);

    let unknown = bed.ec2.describe_network_interfaces().filters(filter("colour", "red")).send().await;
    assert_refused(unknown, 400, "InvalidParameterValue", "The filter 'colour' is invalid");
    let many = (0..201).map(|n| format!("10.77.0.{n}")).collect();
    let many = Filter::builder().name("addresses.private-ip-address").set_values(Some(many)).build();
    let many = bed.ec2.describe_network_interfaces().filters(many).send().await;
    assert_eq!(refusal(many).1, "FilterLimitExceeded");
}

#[tokio::test]
async fn names_the_first_missing_interface_only() {
    let bed = Bed::new();
    let call = bed.ec2.describe_network_interfaces().network_interface_ids(OURS);
    let missing = call.network_interface_ids("eni-0nowhere").network_interface_ids("eni-0neither").send().await;
    let message = "The networkInterface ID 'eni-0nowhere' does not exist";
    assert_refused(missing, 400, "InvalidNetworkInterfaceID.NotFound", message);
}

#[tokio::test]
async fn pages_only_for_those_who_ask() {
    let bed = Bed::new();
    for number in 0..9 {
        let id = format!("eni-0c{number}");
        bed.vpc.add_eni(EniSpec::new(&id, SUBNET, ip(100 + number)));
    }
    bed.vpc.page_size(2);
    let call = || bed.ec2.describe_network_interfaces().filters(filter("subnet-id", SUBNET));
    let whole = call().send().await.unwrap();
    assert_eq!((whole.network_interfaces().len(), whole.next_token()), (12, None));

    let (mut token, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = call().max_results(5).set_next_token(token).send().await.unwrap();
        seen.extend(page.network_interfaces().iter().map(|eni| eni.network_interface_id().unwrap().to_owned()));
        pages += 1;
        token = page.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, 6);
    assert_eq!(seen, ids(whole.network_interfaces()));
    let items = call().into_paginator().page_size(5).items().send().collect::<Result<Vec<_>, _>>().await.unwrap();
    assert_eq!(items.len(), 12);

    let first = call().max_results(5).send().await.unwrap();
    let elsewhere = bed.ec2.describe_network_interfaces().max_results(5).next_token(first.next_token().unwrap());
    assert_eq!(refusal(elsewhere.send().await).1, "InvalidNextToken");
    assert_eq!(refusal(call().max_results(5).next_token("x").send().await).1, "InvalidNextToken");
    for size in [4, 1001] {
        assert_eq!(refusal(call().max_results(size).send().await).1, "InvalidParameterValue");
    }
    let both = bed.ec2.describe_network_interfaces().network_interface_ids(OURS).max_results(5).send().await;
    assert_eq!(refusal(both).1, "InvalidParameterCombination");
}

#[tokio::test]
async fn describes_subnets() {
    let bed = Bed::new();
    bed.assign(&[50]).await.unwrap();
    bed.vpc.add_subnet("subnet-0bbbbbbb", "10.77.1.0/24");
    let found = bed.ec2.describe_subnets().subnet_ids(SUBNET).send().await.unwrap();
    let [subnet] = found.subnets() else { panic!("one subnet") };
    assert_eq!((subnet.subnet_id(), subnet.cidr_block()), (Some(SUBNET), Some("10.77.0.0/24")));
    assert_eq!((subnet.vpc_id(), subnet.availability_zone()), (Some(VPC_ID), Some(ZONE)));
    // 256, less AWS's five, three primary addresses and a secondary one.
    assert_eq!(subnet.available_ip_address_count(), Some(247));
    let found = bed.ec2.describe_subnets().filters(filter("cidr-block", "10.77.1.0/24")).send().await.unwrap();
    assert_eq!(found.subnets()[0].subnet_id(), Some("subnet-0bbbbbbb"));
    let missing = bed.ec2.describe_subnets().subnet_ids("subnet-0no").send().await;
    assert_refused(missing, 400, "InvalidSubnetID.NotFound", "The subnet ID 'subnet-0no' does not exist");
}

#[tokio::test]
async fn describes_instance_types() {
    let bed = Bed::new();
    for (name, interfaces, addresses) in [("t3.small", 3, 4), ("c5.large", 3, 10), ("m5.24xlarge", 15, 50)] {
        let found = bed.ec2.describe_instance_types().instance_types(name.into()).send().await.unwrap();
        let [kind] = found.instance_types() else { panic!("one type") };
        assert_eq!(kind.instance_type().unwrap().as_str(), name);
        let network = kind.network_info().unwrap();
        assert_eq!(network.maximum_network_interfaces(), Some(interfaces));
        assert_eq!(network.ipv4_addresses_per_interface(), Some(addresses));
    }
    let missing = bed.ec2.describe_instance_types().instance_types("x9.huge".into()).send().await;
    let message = "The following supplied instance types do not exist: [x9.huge]";
    assert_refused(missing, 400, "InvalidInstanceType", message);
}

#[tokio::test]
async fn dry_runs_tell_permission_from_denial() {
    let bed = Bed::new();
    let would = "Request would have succeeded, but DryRun flag is set.";
    let interfaces = || bed.ec2.describe_network_interfaces().dry_run(true).send();
    assert_refused(interfaces().await, 412, "DryRunOperation", would);
    assert_refused(bed.ec2.describe_subnets().dry_run(true).send().await, 412, "DryRunOperation", would);
    assert_refused(bed.ec2.describe_instance_types().dry_run(true).send().await, 412, "DryRunOperation", would);
    bed.vpc.deny("DescribeNetworkInterfaces", true);
    let (status, code, message) = refusal(interfaces().await);
    assert_eq!((status, code.as_str()), (403, "UnauthorizedOperation"));
    assert!(message.starts_with("You are not authorized to perform this operation."), "{message}");
    assert!(message.contains("Encoded authorization failure message: "), "{message}");
    bed.vpc.deny("DescribeNetworkInterfaces", false);
    assert_eq!(refusal(interfaces().await).0, 412);
}
