//! The Describe calls: selection by id and filter, pages, and the XML of what was found.

use std::hash::{DefaultHasher, Hash, Hasher};

use ipnet::Ipv4Net;

use crate::errors::ApiError;
use crate::query::{Filter, Xml};
use crate::requests::Describe;
use crate::world::{ACCOUNT, Eni, GROUP_ID, INSTANCE_TYPES, Platform, REGION, Reservation, VPC_ID, World, ZONE};

/// DescribeNetworkInterfaces.
pub(crate) fn interfaces(
    world: &World,
    call: &Describe,
    page_size: Option<usize>,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    if let Some(missing) = call.ids.iter().find(|id| !world.enis.contains_key(*id)) {
        return Err(ApiError::no_interface(missing));
    }
    let mut found = Vec::new();
    for eni in world.enis.values().filter(|eni| call.ids.is_empty() || call.ids.contains(&eni.id)) {
        if matches_all(&call.filters, |name| interface_values(eni, name))? {
            found.push((eni.id.as_str(), eni));
        }
    }
    let (page, token) = paginate(found, call, page_size)?;
    xml.list("networkInterfaceSet", page, interface_xml);
    next_token(xml, token);
    Ok(())
}

/// What the filter `name` looks at in an ENI; nothing for an unknown filter.
fn interface_values(eni: &Eni, name: &str) -> Option<Vec<String>> {
    let attached = if eni.in_use() { "attached" } else { "detached" };
    let one = |value: &dyn ToString| vec![value.to_string()];
    Some(match name {
        "network-interface-id" => one(&eni.id),
        "subnet-id" => one(&eni.subnet),
        "vpc-id" => one(&VPC_ID),
        "availability-zone" => one(&ZONE),
        "status" => one(&status(eni)),
        "description" => one(&eni.description),
        "mac-address" => one(&eni.mac),
        "private-ip-address" => one(&eni.primary),
        "requester-managed" => one(&eni.requester_managed),
        "source-dest-check" => one(&true),
        // Addresses within a prefix are not listed one by one, hence not found by address.
        "addresses.private-ip-address" => eni.addresses().map(|ip| ip.to_string()).collect(),
        "addresses.primary" => eni.addresses().map(|ip| (ip == eni.primary).to_string()).collect(),
        "attachment.instance-id" => eni.instance.iter().cloned().collect(),
        "attachment.device-index" if eni.in_use() => one(&eni.device_number),
        "attachment.device-index" => Vec::new(),
        "attachment.status" => one(&attached),
        "tag-key" => eni.tags.keys().cloned().collect(),
        _ => eni.tags.get(name.strip_prefix("tag:")?).cloned().into_iter().collect(),
    })
}

fn status(eni: &Eni) -> &'static str {
    if eni.in_use() { "in-use" } else { "available" }
}

fn interface_xml(xml: &mut Xml, eni: &Eni) {
    xml.text("networkInterfaceId", &eni.id);
    xml.text("subnetId", &eni.subnet);
    xml.text("vpcId", VPC_ID);
    xml.text("availabilityZone", ZONE);
    xml.text("description", &eni.description);
    xml.text("ownerId", ACCOUNT);
    if eni.requester_managed {
        xml.text("requesterId", "amazon-rds");
    }
    xml.text("requesterManaged", eni.requester_managed);
    xml.text("status", status(eni));
    xml.text("macAddress", &eni.mac);
    xml.text("privateIpAddress", eni.primary);
    xml.text("sourceDestCheck", true);
    xml.list("groupSet", [()], |xml, ()| {
        xml.text("groupId", GROUP_ID);
        xml.text("groupName", "default");
    });
    if eni.in_use() {
        xml.within("attachment", |xml| {
            xml.text("attachmentId", eni.id.replacen("eni", "eni-attach", 1));
            if let Some(instance) = &eni.instance {
                xml.text("instanceId", instance);
            }
            xml.text("instanceOwnerId", if eni.instance.is_some() { ACCOUNT } else { "amazon-rds" });
            xml.text("deviceIndex", eni.device_number);
            xml.text("networkCardIndex", 0);
            xml.text("status", "attached");
            xml.text("attachTime", "2024-01-01T00:00:00.000Z");
            xml.text("deleteOnTermination", true);
        });
    }
    xml.list("tagSet", &eni.tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
    xml.list("privateIpAddressesSet", eni.addresses(), |xml, ip| {
        xml.text("privateIpAddress", ip);
        xml.text("primary", ip == eni.primary);
        if let Some(public) = eni.elastic.get(&ip) {
            xml.within("association", |xml| xml.text("publicIp", public));
        }
    });
    xml.list("ipv4PrefixSet", &eni.prefixes, |xml, prefix| xml.text("ipv4Prefix", prefix));
    xml.list("ipv6AddressesSet", [(); 0], |_, ()| {});
    xml.text("interfaceType", "interface");
}

/// DescribeSubnets.
pub(crate) fn subnets(world: &World, call: &Describe, page_size: Option<usize>, xml: &mut Xml) -> Result<(), ApiError> {
    if let Some(missing) = call.ids.iter().find(|id| !world.subnets.contains_key(*id)) {
        return Err(ApiError::no_subnet(missing));
    }
    let mut found = Vec::new();
    for (id, cidr) in world.subnets.iter().filter(|(id, _)| call.ids.is_empty() || call.ids.contains(id)) {
        if matches_all(&call.filters, |name| subnet_values(id, *cidr, name))? {
            found.push((id.as_str(), (id, *cidr)));
        }
    }
    let (page, token) = paginate(found, call, page_size)?;
    xml.list("subnetSet", page, |xml, (id, cidr)| {
        xml.text("subnetId", id);
        xml.text("subnetArn", format!("arn:aws:ec2:{REGION}:{ACCOUNT}:subnet/{id}"));
        xml.text("state", "available");
        xml.text("ownerId", ACCOUNT);
        xml.text("vpcId", VPC_ID);
        xml.text("cidrBlock", cidr);
        // What is kept for prefixes is not available at once, whether a prefix has it or not.
        let kept = world.reserved(id, Reservation::Prefix);
        let available = world.free(cidr).filter(|ip| !kept.clone().any(|net| net.contains(ip)));
        xml.text("availableIpAddressCount", available.count());
        xml.text("availabilityZone", ZONE);
        xml.text("defaultForAz", false);
        xml.text("mapPublicIpOnLaunch", false);
    });
    next_token(xml, token);
    Ok(())
}

fn subnet_values(id: &str, cidr: Ipv4Net, name: &str) -> Option<Vec<String>> {
    Some(vec![match name {
        "subnet-id" => id.to_owned(),
        "vpc-id" => VPC_ID.to_owned(),
        "cidr-block" | "cidr" | "cidrBlock" => cidr.to_string(),
        "availability-zone" | "availabilityZone" => ZONE.to_owned(),
        "state" => "available".to_owned(),
        "owner-id" => ACCOUNT.to_owned(),
        _ => return None,
    }])
}

/// DescribeInstances: each instance in a reservation of its own.
pub(crate) fn instances(
    world: &World,
    call: &Describe,
    page_size: Option<usize>,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    if let Some(missing) = call.ids.iter().find(|id| !world.instances.contains_key(*id)) {
        return Err(ApiError::no_instance(missing));
    }
    let mut found = Vec::new();
    for (id, kind) in world.instances.iter().filter(|(id, _)| call.ids.is_empty() || call.ids.contains(id)) {
        let value = |name: &str| match name {
            "instance-id" => Some(vec![id.clone()]),
            "instance-type" => Some(vec![kind.clone()]),
            _ => None,
        };
        if matches_all(&call.filters, value)? {
            found.push((id.as_str(), (id, kind)));
        }
    }
    let (page, token) = paginate(found, call, page_size)?;
    xml.list("reservationSet", page, |xml, (id, kind)| {
        xml.text("ownerId", ACCOUNT);
        xml.list("instancesSet", [(id, kind)], |xml, (id, kind)| {
            xml.text("instanceId", id);
            xml.text("instanceType", kind);
            xml.text("vpcId", VPC_ID);
        });
    });
    next_token(xml, token);
    Ok(())
}

/// DescribeInstanceTypes.
pub(crate) fn instance_types(call: &Describe, page_size: Option<usize>, xml: &mut Xml) -> Result<(), ApiError> {
    let is_known = |id: &String| INSTANCE_TYPES.iter().any(|(name, ..)| name == id);
    let unknown: Vec<_> = call.ids.iter().filter(|id| !is_known(id)).cloned().collect();
    if !unknown.is_empty() {
        return Err(ApiError::no_instance_types(&unknown));
    }
    let mut found = Vec::new();
    for (name, platform, interfaces, addresses) in INSTANCE_TYPES {
        let is_asked = call.ids.is_empty() || call.ids.iter().any(|id| id == name);
        if is_asked && matches_all(&call.filters, |filter| (filter == "instance-type").then(|| vec![name.to_owned()]))?
        {
            found.push((name, (name, platform, interfaces, addresses)));
        }
    }
    let (page, token) = paginate(found, call, page_size)?;
    xml.list("instanceTypeSet", page, |xml, (name, platform, interfaces, addresses)| {
        xml.text("instanceType", name);
        xml.text("currentGeneration", true);
        xml.text("bareMetal", platform == Platform::BareMetal);
        match platform {
            Platform::Nitro => xml.text("hypervisor", "nitro"),
            Platform::Xen => xml.text("hypervisor", "xen"),
            Platform::BareMetal => {}
        }
        xml.within("networkInfo", |xml| {
            xml.text("maximumNetworkInterfaces", interfaces);
            xml.text("maximumNetworkCards", 1);
            xml.text("defaultNetworkCardIndex", 0);
            xml.text("ipv4AddressesPerInterface", addresses);
            xml.text("ipv6AddressesPerInterface", addresses);
            xml.text("ipv6Supported", true);
            xml.list("networkCards", [()], |xml, ()| {
                xml.text("networkCardIndex", 0);
                xml.text("maximumNetworkInterfaces", interfaces);
            });
        });
    });
    next_token(xml, token);
    Ok(())
}

/// Whether each filter finds one of its values.
fn matches_all(filters: &[Filter], values: impl Fn(&str) -> Option<Vec<String>>) -> Result<bool, ApiError> {
    let mut all = true;
    for filter in filters {
        let values = values(&filter.name).ok_or_else(|| ApiError::bad_filter(&filter.name))?;
        all &= values.iter().any(|value| filter.values.contains(value));
    }
    Ok(all)
}

/// One page of `found`, which is sorted by key. A token names the query and the last key shown, so that a change
/// between two pages moves no other entry, and a token of another query is refused.
fn paginate<T>(
    found: Vec<(&str, T)>,
    call: &Describe,
    page_size: Option<usize>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", call.filters).hash(&mut hasher);
    let query = format!("sim{:016x}", hasher.finish());
    let after = match &call.next_token {
        None => None,
        Some(token) => {
            let (of, last) = token.split_once('.').ok_or_else(ApiError::bad_token)?;
            if of != query {
                return Err(ApiError::bad_token());
            }
            Some(last)
        }
    };
    let size = call.max_results.map_or(usize::MAX, |max| page_size.map_or(max, |cap| cap.min(max)));
    let mut rest = found.into_iter().filter(|(key, _)| after.is_none_or(|last| *key > last)).peekable();
    let mut page = Vec::new();
    let mut last = None;
    while page.len() < size {
        let Some((key, item)) = rest.next() else { break };
        page.push(item);
        last = Some(key);
    }
    let token = last.filter(|_| rest.peek().is_some()).map(|last| format!("{query}.{last}"));
    Ok((page, token))
}

fn next_token(xml: &mut Xml, token: Option<String>) {
    if let Some(token) = token {
        xml.text("nextToken", token);
    }
}
