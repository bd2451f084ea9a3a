//! Calls that are sent once, and EC2's answers to them to the letter, for whoever wants to see EC2 itself.

use std::net::Ipv4Addr;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::time::Instant;

use super::error::Subject;
use super::{Action, Ec2, Ec2Error};
use crate::domain::id::EniId;

/// What EC2 said to one call.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// HTTP status of a refusal. The SDK does not tell that of a success; where nothing answered there is none.
    pub status: Option<u16>,
    /// EC2's code of a refusal.
    pub code: Option<String>,
    /// EC2's words.
    pub message: Option<String>,
    /// By which AWS's support finds the call.
    pub request_id: Option<String>,
    /// From sending to answer, in milliseconds.
    pub ms: u64,
    /// The addresses that the answer to an Assign lists.
    pub listed: Vec<Ipv4Addr>,
    /// The prefixes that it lists.
    pub listed_prefixes: Vec<Ipv4Net>,
    /// What the driver reads in it.
    #[serde(skip)]
    pub read: Result<(), Ec2Error>,
}

/// An Assign, with what the driver itself never sends.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "EC2's own names")]
pub struct AssignCall<'a> {
    pub private_ip_addresses: &'a [Ipv4Addr],
    pub secondary_private_ip_address_count: Option<i32>,
    /// As given, be it with host bits.
    pub ipv4_prefixes: &'a [Ipv4Net],
    pub allow_reassignment: Option<bool>,
    /// Not in the API's model of this action.
    pub dry_run: bool,
}

/// An Unassign. The driver sends one kind at once.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "EC2's own names")]
pub struct UnassignCall<'a> {
    pub private_ip_addresses: &'a [Ipv4Addr],
    pub ipv4_prefixes: &'a [Ipv4Net],
}

impl Ec2 {
    /// The same, where each call is one attempt of the SDK: what throttling or an HTTP 5xx says is then seen.
    pub fn once(&self) -> Self {
        let config = self.client.config().to_builder().retry_config(RetryConfig::disabled());
        Self { client: Client::from_conf(config.build()), ..self.clone() }
    }

    /// AssignPrivateIpAddresses.
    pub async fn answer_to_assign(&self, eni: &EniId, asked: AssignCall<'_>) -> Answer {
        let call = self
            .client
            .assign_private_ip_addresses()
            .network_interface_id(eni.as_str())
            .set_private_ip_addresses(list(asked.private_ip_addresses))
            .set_secondary_private_ip_address_count(asked.secondary_private_ip_address_count)
            .set_ipv4_prefixes(list(asked.ipv4_prefixes))
            .set_allow_reassignment(asked.allow_reassignment)
            .customize();
        let call = if asked.dry_run { call.mutate_request(add_dry_run) } else { call };
        answer(&self.about(Action::Assign, Some(eni), None), call.send(), |output| {
            let addresses = output.assigned_private_ip_addresses().iter();
            let prefixes = output.assigned_ipv4_prefixes().iter();
            (
                addresses.filter_map(|entry| entry.private_ip_address()?.parse().ok()).collect(),
                prefixes.filter_map(|entry| entry.ipv4_prefix()?.parse().ok()).collect(),
            )
        })
        .await
    }

    /// UnassignPrivateIpAddresses.
    pub async fn answer_to_unassign(&self, eni: &EniId, asked: UnassignCall<'_>) -> Answer {
        let call = self.client.unassign_private_ip_addresses().network_interface_id(eni.as_str());
        let call = call.set_private_ip_addresses(list(asked.private_ip_addresses));
        let call = call.set_ipv4_prefixes(list(asked.ipv4_prefixes));
        answer(&self.about(Action::Unassign, Some(eni), None), call.send(), |_| Default::default()).await
    }

    /// DescribeNetworkInterfaces of one ENI, by parameter.
    pub async fn answer_to_describe(&self, eni: &EniId, dry_run: bool) -> Answer {
        let call = self.client.describe_network_interfaces().network_interface_ids(eni.as_str());
        let call = call.set_dry_run(dry_run.then_some(true));
        answer(&self.about(Action::DescribeInterfaces, Some(eni), None), call.send(), |_| Default::default()).await
    }
}

fn list<T: ToString>(given: &[T]) -> Option<Vec<String>> {
    (!given.is_empty()).then(|| given.iter().map(T::to_string).collect())
}

/// Runs before the request is signed.
fn add_dry_run(request: &mut HttpRequest) {
    let form = request.body().bytes().map(String::from_utf8_lossy).unwrap_or_default().into_owned() + "&DryRun=true";
    request.headers_mut().insert("content-length", form.len().to_string());
    *request.body_mut() = form.into();
}

async fn answer<T, E>(
    subject: &Subject,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    listed: impl FnOnce(&T) -> (Vec<Ipv4Addr>, Vec<Ipv4Net>),
) -> Answer
where
    T: RequestId,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let sent = Instant::now();
    let outcome = Box::pin(call).await;
    let ms = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
    let owned = |text: Option<&str>| text.map(str::to_owned);
    match outcome {
        Ok(output) => {
            let (listed, listed_prefixes) = listed(&output);
            Answer {
                status: None,
                code: None,
                message: None,
                request_id: owned(output.request_id()),
                ms,
                listed,
                listed_prefixes,
                read: Ok(()),
            }
        }
        Err(error) => Answer {
            status: error.raw_response().map(|raw| raw.status().as_u16()),
            code: owned(error.code()),
            message: owned(error.message()),
            request_id: owned(error.request_id()),
            ms,
            listed: Vec::new(),
            listed_prefixes: Vec::new(),
            read: Err(subject.explain(&error)),
        },
    }
}
