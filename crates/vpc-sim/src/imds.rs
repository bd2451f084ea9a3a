//! The instance metadata service of one instance, version 2 only.
//!
//! Every item is computed for each request from the (lagging) world; listings follow from the items.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::Vpc;
use crate::http::{Asked, Reply};
use crate::state::State;
use crate::world::{ACCOUNT, Eni, GROUP_ID, REGION, VPC_ID, World, ZONE};

/// The role whose credentials are offered.
pub const ROLE: &str = "ec2-ipam";
/// Its secret key.
pub const ROLE_SECRET: &str = "hD4sRoleSecretXq8Jw2/never+to+be+shown";
/// Its session token.
pub const ROLE_TOKEN: &str = "IQoJb3RoleTokenXZ3kYp9tLm5/never+to+be+shown==";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// How the metadata service is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImdsMode {
    /// Well.
    #[default]
    Up,
    /// Connections are closed without an answer.
    Down,
    /// No answer comes within anyone's patience.
    Hang,
    /// Disabled on this instance: 403 to everything.
    Disabled,
    /// 503 to everything.
    Throttled,
}

/// Answers one HTTP request of `instance`.
pub(crate) async fn answer(vpc: Vpc, instance: String, asked: Asked) -> Reply {
    let (mode, latency) = {
        let state = vpc.lock();
        (state.imds_modes.get(&instance).copied().unwrap_or(state.imds_mode), state.imds_latency)
    };
    tokio::time::sleep(latency).await;
    let reply = match mode {
        ImdsMode::Up => respond(&mut vpc.lock(), &instance, &asked),
        ImdsMode::Disabled => refuse(403),
        ImdsMode::Throttled => refuse(503),
        ImdsMode::Down => Reply::HangUp,
        ImdsMode::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Reply::HangUp
        }
    };
    let status = if let Reply::Answer(status, ..) = &reply { *status } else { 0 };
    vpc.lock().imds_log.push(ImdsRead { instance, method: asked.method.to_string(), path: asked.path, status });
    reply
}

/// One request in the log of the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImdsRead {
    /// Whose service was asked.
    pub instance: String,
    /// GET or PUT.
    pub method: String,
    /// What was asked for.
    pub path: String,
    /// 0 if it was not answered.
    pub status: u16,
}

fn refuse(status: u16) -> Reply {
    Reply::Answer(status, Vec::new(), String::new())
}

fn respond(state: &mut State, instance: &str, asked: &Asked) -> Reply {
    if asked.headers.contains_key("x-forwarded-for") {
        return refuse(403);
    }
    if asked.method == Method::PUT {
        return grant_token(state, instance, asked);
    }
    if asked.method != Method::GET {
        return refuse(405);
    }
    let token = (instance.to_owned(), asked.header("x-aws-ec2-metadata-token").to_owned());
    let now = Instant::now();
    let Some(ttl) = state.imds_tokens.get(&token).and_then(|expiry| expiry.checked_duration_since(now)) else {
        return refuse(401);
    };
    let headers = vec![("content-type", "text/plain".to_owned()), (TTL, ttl.as_secs().to_string())];
    let Some(path) = asked.path.strip_prefix("/latest/") else {
        return refuse(404);
    };
    if state.imds_absent.iter().any(|item| path.trim_end_matches('/').ends_with(item)) {
        return refuse(404);
    }
    if state.imds_blank.iter().any(|item| path.trim_end_matches('/').ends_with(item)) {
        return Reply::Answer(200, headers, String::new());
    }
    let world = state.world.lagging(state.imds_assign_lag, state.imds_unassign_lag);
    let mut items = items(&world, instance, state.imds_has_role);
    if let Some(wanted) = state.lifecycle.get(instance) {
        items.insert("meta-data/autoscaling/target-lifecycle-state".into(), wanted.clone());
    }
    for eni in state.imds_omits.iter().filter_map(|id| world.enis.get(id)) {
        let left_out = format!("meta-data/network/interfaces/macs/{}/", eni.mac);
        items.retain(|path, _| !path.starts_with(&left_out));
    }
    find(&items, path).map_or_else(|| refuse(404), |text| Reply::Answer(200, headers, text))
}

/// A PUT anywhere but to the token's path, such as to a dated version of it, is not allowed.
fn grant_token(state: &mut State, instance: &str, asked: &Asked) -> Reply {
    if asked.path != "/latest/api/token" {
        return refuse(403);
    }
    let Some(ttl) = asked.header(TTL).parse().ok().filter(|ttl| (1..=21_600).contains(ttl)) else {
        return refuse(400);
    };
    let token = format!("AQAEA{:032x}==", fastrand::u128(..));
    state.imds_tokens.insert((instance.to_owned(), token.clone()), Instant::now() + Duration::from_secs(ttl));
    state.imds_secrets.insert(token.clone());
    Reply::Answer(200, vec![("content-type", "text/plain".to_owned()), (TTL, ttl.to_string())], token)
}

/// An item, or the listing of a directory with or without its last slash; sub-directories end with one.
fn find(items: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    if let Some(text) = items.get(path) {
        return Some(text.clone());
    }
    let inside = format!("{path}/");
    let entries: BTreeSet<_> = items
        .keys()
        .filter_map(|item| item.strip_prefix(&inside))
        .map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(directory, _)| format!("{directory}/")))
        .collect();
    if entries.is_empty() { None } else { Some(Vec::from_iter(entries).join("\n")) }
}

/// Path below `/latest/` to text.
fn items(world: &World, instance: &str, has_role: bool) -> BTreeMap<String, String> {
    let kind = world.instances.get(instance).cloned().unwrap_or_default();
    let mut enis: Vec<&Eni> = world.enis.values().filter(|eni| eni.instance.as_deref() == Some(instance)).collect();
    enis.sort_by_key(|eni| eni.device_number);
    let mut items = BTreeMap::new();
    let mut put = |path: String, text: String| drop(items.insert(path, text));
    put("meta-data/instance-id".into(), instance.into());
    put("meta-data/instance-type".into(), kind.clone());
    put("meta-data/placement/region".into(), REGION.into());
    put("meta-data/placement/availability-zone".into(), ZONE.into());
    if let Some(first) = enis.first() {
        put("meta-data/mac".into(), first.mac.clone());
        put("meta-data/local-ipv4".into(), first.primary.to_string());
    }
    for eni in &enis {
        for (name, text) in interface_items(world, eni) {
            put(format!("meta-data/network/interfaces/macs/{}/{name}", eni.mac), text);
        }
    }
    if has_role {
        let arn = format!("arn:aws:iam::{ACCOUNT}:instance-profile/{ROLE}");
        let info = json!({ "Code": "Success", "InstanceProfileArn": arn, "InstanceProfileId": "AIPASIMULATED" });
        put("meta-data/iam/info".into(), info.to_string());
        put(format!("meta-data/iam/security-credentials/{ROLE}"), credentials(instance));
    }
    let document = json!({
        "accountId": ACCOUNT, "architecture": "x86_64", "availabilityZone": ZONE, "region": REGION,
        "instanceId": instance, "instanceType": kind, "version": "2017-09-30",
        "privateIp": enis.first().map(|eni| eni.primary),
    });
    put("dynamic/instance-identity/document".into(), document.to_string());
    items
}

fn interface_items(world: &World, eni: &Eni) -> Vec<(&'static str, String)> {
    let lines = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join("\n");
    let blocks = world.vpc_cidrs();
    let subnet = world.subnets[&eni.subnet];
    let first_block = blocks.iter().find(|block| block.contains(&subnet)).map(ToString::to_string);
    let mut items = vec![
        ("interface-id", eni.id.clone()),
        ("mac", eni.mac.clone()),
        ("device-number", eni.device_number.to_string()),
        ("network-card", "0".to_owned()),
        ("owner-id", ACCOUNT.to_owned()),
        ("security-group-ids", GROUP_ID.to_owned()),
        ("security-groups", "default".to_owned()),
        ("subnet-id", eni.subnet.clone()),
        ("subnet-ipv4-cidr-block", subnet.to_string()),
        ("vpc-id", VPC_ID.to_owned()),
        ("vpc-ipv4-cidr-block", first_block.unwrap_or_default()),
        ("vpc-ipv4-cidr-blocks", lines(&mut blocks.iter().map(ToString::to_string))),
        ("local-ipv4s", lines(&mut eni.addresses().map(|ip| ip.to_string()))),
    ];
    if !eni.prefixes.is_empty() {
        items.push(("ipv4-prefix", lines(&mut eni.prefixes.iter().map(ToString::to_string))));
    }
    items
}

/// Temporary credentials by which the log can tell one instance's calls from another's; they never expire.
fn credentials(instance: &str) -> String {
    json!({
        "Code": "Success",
        "LastUpdated": "2024-01-01T00:00:00Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key_of(instance),
        "SecretAccessKey": ROLE_SECRET,
        "Token": ROLE_TOKEN,
        "Expiration": "2199-01-01T00:00:00Z",
    })
    .to_string()
}

/// The access key that the instance's role credentials carry.
pub fn access_key_of(instance: &str) -> String {
    format!("ASIA{}", instance.to_ascii_uppercase().replace('-', ""))
}
