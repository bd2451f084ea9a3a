//! The EC2 endpoint: who may call, what goes wrong on purpose, and the way from a form to an answer.

use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::Vpc;
use crate::calls::{Call, Outcome};
use crate::describe;
use crate::effect;
use crate::errors::ApiError;
use crate::faults::{CallClass, FaultKind, next_fault};
use crate::http::{Asked, Reply};
use crate::query::{self, Params, Xml};
use crate::requests::{Request, is_mutating};
use crate::rules;
use crate::state::State;
use crate::world::REGION;

/// How a call is going to go, decided when it arrives.
enum Course {
    Normal,
    Refused(ApiError),
    LoseReply,
    LandLate(Duration),
    Hang(Duration),
}

/// Answers one HTTP request.
pub(crate) async fn answer(vpc: Vpc, asked: Asked) -> Reply {
    if asked.method == Method::GET && asked.path == "/_sim/state" {
        return Reply::Answer(200, vec![("content-type", "application/json".to_owned())], snapshot(&vpc.lock()));
    }
    if vpc.lock().ec2_down {
        return Reply::HangUp;
    }
    if asked.method != Method::POST || asked.path != "/" {
        return Reply::Answer(404, Vec::new(), "EC2 is spoken to by POST to /\n".to_owned());
    }
    let params = match Params::parse(&asked.body) {
        Ok(params) => params,
        Err(error) => return reply("", Err(error)),
    };
    let action = params.action.clone();
    let (number, course, latency) = arrive(&mut vpc.lock(), &params, &asked);

    // The effect falls in the middle: half of the time is spent on the way there, half on the way back.
    tokio::time::sleep(latency / 2).await;
    match course {
        Course::Refused(error) => {
            vpc.lock().log.settle(number, Outcome::Error(error.code.clone()));
            tokio::time::sleep(latency / 2).await;
            reply(&action, Err(error))
        }
        Course::Normal => {
            let result = decide(&mut vpc.lock(), params, number, |code| code.map_or(Outcome::Ok, Outcome::Error));
            tokio::time::sleep(latency / 2).await;
            reply(&action, result)
        }
        Course::LoseReply => {
            drop(decide(&mut vpc.lock(), params, number, Outcome::Lost));
            Reply::HangUp
        }
        Course::LandLate(delay) => {
            vpc.lock().log.settle(number, Outcome::Late);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let state = &mut *vpc.lock();
                state.is_landing_late = true;
                drop(decide(state, params, number, |_| Outcome::Late));
                state.is_landing_late = false;
            });
            Reply::HangUp
        }
        Course::Hang(silence) => {
            vpc.lock().log.settle(number, Outcome::Hung);
            tokio::time::sleep(silence).await;
            Reply::HangUp
        }
    }
}

/// Logs the call and settles its course: credentials, then throttling, then scripted faults.
fn arrive(state: &mut State, params: &Params, asked: &Asked) -> (u64, Course, Duration) {
    let access_key = access_key(asked);
    let call = Call::new(params, access_key.clone().unwrap_or_default());
    let eni = call.eni.clone();
    let action = params.action.as_str();
    let latency = state.latency_of.get(action).copied().unwrap_or(state.latency);
    let number = state.log.note(call);
    if access_key.is_none() {
        return (number, Course::Refused(ApiError::auth_failure()), latency);
    }
    let mut class = if is_mutating(action) { CallClass::Mutating } else { CallClass::Describing };
    let sweeping = || {
        matches!(
            Request::read(params.clone(), &state.switches),
            Ok((
                Request::Interfaces(call)
                | Request::Subnets(call)
                | Request::InstanceTypes(call)
                | Request::Instances(call),
                _,
            )) if call.is_sweeping()
        )
    };
    if class == CallClass::Describing && state.buckets.contains_key(&CallClass::Sweeping) && sweeping() {
        class = CallClass::Sweeping;
    }
    if state.buckets.get_mut(&class).is_some_and(|bucket| !bucket.take()) {
        return (number, Course::Refused(ApiError::throttled(action, &state.switches)), latency);
    }
    let course = match next_fault(&mut state.faults, action, eni.as_deref()) {
        None => Course::Normal,
        Some(FaultKind::LoseReply) => Course::LoseReply,
        Some(FaultKind::LandLate(delay)) => Course::LandLate(delay),
        Some(FaultKind::Hang(silence)) => Course::Hang(silence),
        Some(kind) => kind.refusal(action, &state.switches).map_or(Course::Normal, Course::Refused),
    };
    (number, course, latency)
}

/// The access key of a SigV4 header for EC2 in this region. The signature itself is not checked: there is no secret.
fn access_key(asked: &Asked) -> Option<String> {
    let fields = asked.header("authorization").strip_prefix("AWS4-HMAC-SHA256 ")?;
    let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
    let mut scope = field("Credential")?.split('/');
    let key = scope.next().filter(|key| !key.is_empty())?;
    let date = scope.next()?;
    let is_signed =
        field("SignedHeaders").is_some() && field("Signature").is_some_and(|signature| signature.len() == 64);
    let is_scoped = scope.eq([REGION, "ec2", "aws4_request"]) && asked.header("x-amz-date").starts_with(date);
    (is_signed && is_scoped).then(|| key.to_owned())
}

/// Lets the call take effect, logs the outcome, and returns the inner XML of the answer.
fn decide(
    state: &mut State,
    params: Params,
    number: u64,
    outcome: impl FnOnce(Option<String>) -> Outcome,
) -> Result<Xml, ApiError> {
    let result = execute(state, params);
    state.log.settle(number, outcome(result.as_ref().err().map(|error| error.code.clone())));
    result
}

fn execute(state: &mut State, params: Params) -> Result<Xml, ApiError> {
    let action = params.action.clone();
    let (request, dry_run) = Request::read(params, &state.switches)?;
    if state.denied.contains(&action) {
        return Err(ApiError::unauthorized(&action));
    }
    if dry_run {
        return Err(ApiError::dry_run(&state.switches));
    }
    let mut xml = Xml::default();
    let lag = state.describe_lag;
    let page_size = state.page_size;
    match request {
        Request::Assign(call) => {
            let assigned = effect::watched(state, &call.eni, |world, switches| rules::assign(world, switches, &call))?;
            xml.text("networkInterfaceId", &assigned.eni);
            xml.list("assignedPrivateIpAddressesSet", &assigned.addresses, |xml, ip| xml.text("privateIpAddress", ip));
            xml.list("assignedIpv4PrefixSet", &assigned.prefixes, |xml, prefix| xml.text("ipv4Prefix", prefix));
            xml.text("return", true);
        }
        Request::Unassign(call) => {
            effect::watched(state, &call.eni, |world, switches| rules::unassign(world, switches, &call))?;
            xml.text("return", true);
        }
        Request::Interfaces(call) => {
            describe::interfaces(&state.world.lagging(lag, lag), &call, page_size, &mut xml)?;
        }
        Request::Subnets(call) => describe::subnets(&state.world.lagging(lag, lag), &call, page_size, &mut xml)?,
        Request::Instances(call) => describe::instances(&state.world.lagging(lag, lag), &call, page_size, &mut xml)?,
        Request::InstanceTypes(call) => describe::instance_types(&call, page_size, &mut xml)?,
    }
    Ok(xml)
}

fn reply(action: &str, result: Result<Xml, ApiError>) -> Reply {
    let id = format!("{:08x}-0000-4000-8000-{:012x}", fastrand::u32(..), fastrand::u64(..) >> 16);
    let (status, body) = match result {
        Ok(xml) => (200, query::success(action, &id, xml)),
        Err(error) => (error.status, query::failure(&error, &id)),
    };
    let headers = vec![("content-type", "text/xml;charset=UTF-8".to_owned()), ("x-amzn-requestid", id)];
    Reply::Answer(status, headers, body)
}

/// What `GET /_sim/state` shows: each ENI's addresses without lag, and the number of calls of each action.
fn snapshot(state: &State) -> String {
    let enis: serde_json::Map<_, _> = state
        .world
        .enis
        .values()
        .map(|eni| {
            let shown = json!({
                "subnet": eni.subnet,
                "instance": eni.instance,
                "mac": eni.mac,
                "primary": eni.primary,
                "secondaries": eni.secondaries,
                "prefixes": eni.prefixes,
            });
            (eni.id.clone(), shown)
        })
        .collect();
    let mut calls = std::collections::BTreeMap::<&str, usize>::new();
    for call in state.log.calls.values() {
        *calls.entry(&call.action).or_default() += 1;
    }
    let text = serde_json::to_string_pretty(&json!({ "enis": enis, "calls": calls }));
    text.expect("a value of strings and numbers") + "\n"
}
