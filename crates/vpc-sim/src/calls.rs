//! The log of the EC2 calls that arrived.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::query::Params;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not decided yet.
    Pending,
    /// Took effect and was answered.
    Ok,
    /// Was refused with this code.
    Error(String),
    /// Was decided, with this code if it was refused, but never answered.
    Lost(Option<String>),
    /// Was hung up on before it takes effect.
    Late,
    /// Was hung up on, or never answered, and has no effect.
    Hung,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The action, as sent.
    pub action: String,
    /// The ENI it names, or the first of several.
    pub eni: Option<String>,
    /// The well-formed addresses of its list.
    pub addresses: Vec<Ipv4Addr>,
    /// The well-formed prefixes of its list.
    pub prefixes: Vec<Ipv4Net>,
    /// It carried `DryRun=true`.
    pub dry_run: bool,
    /// When it arrived.
    pub when: Instant,
    /// What became of it.
    pub outcome: Outcome,
    /// All parameters but action and version, as sent.
    pub parameters: BTreeMap<String, String>,
    /// Who signed it.
    pub access_key: String,
}

impl Call {
    pub(crate) fn new(params: &Params, access_key: String) -> Self {
        let mut rest = params.clone();
        let eni = rest.take("NetworkInterfaceId").or_else(|| rest.take_list("NetworkInterfaceId").into_iter().next());
        Self {
            action: params.action.clone(),
            eni,
            addresses: rest.take_list("PrivateIpAddress").iter().filter_map(|text| text.parse().ok()).collect(),
            prefixes: rest.take_list("Ipv4Prefix").iter().filter_map(|text| text.parse().ok()).collect(),
            dry_run: rest.take("DryRun").is_some_and(|text| text.eq_ignore_ascii_case("true")),
            when: Instant::now(),
            outcome: Outcome::Pending,
            parameters: params.as_sent(),
            access_key,
        }
    }
}

/// The calls by number, so that an outcome still finds its call after others were forgotten.
#[derive(Debug, Default)]
pub(crate) struct CallLog {
    next: u64,
    pub(crate) calls: BTreeMap<u64, Call>,
}

impl CallLog {
    pub(crate) fn note(&mut self, call: Call) -> u64 {
        self.next += 1;
        self.calls.insert(self.next, call);
        self.next
    }

    pub(crate) fn settle(&mut self, number: u64, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(&number) {
            call.outcome = outcome;
        }
    }
}
