//! The log of the EC2 calls that arrived.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::query::Params;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
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
pub(crate) struct Call {
    /// The action, as sent.
    pub(crate) action: String,
    /// The ENI it names, or the first of several.
    pub(crate) eni: Option<String>,
    /// The well-formed addresses of its list.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// It carried `DryRun=true`.
    pub(crate) dry_run: bool,
    /// When it arrived.
    pub(crate) when: Instant,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// All parameters but action and version, as sent.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Who signed it.
    pub(crate) access_key: String,
}

impl Call {
    pub(super) fn new(params: &Params, access_key: String) -> Self {
        let mut rest = params.clone();
        let eni = rest.take("NetworkInterfaceId").or_else(|| rest.take_list("NetworkInterfaceId").into_iter().next());
        Self {
            action: params.action.clone(),
            eni,
            addresses: rest.take_list("PrivateIpAddress").iter().filter_map(|text| text.parse().ok()).collect(),
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
pub(super) struct CallLog {
    next: u64,
    pub(super) calls: BTreeMap<u64, Call>,
}

impl CallLog {
    pub(super) fn note(&mut self, call: Call) -> u64 {
        self.next += 1;
        self.calls.insert(self.next, call);
        self.next
    }

    pub(super) fn settle(&mut self, number: u64, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(&number) {
            call.outcome = outcome;
        }
    }
}
