//! Each attempt of a call to EC2, as it was sent: what came of it, and how long it took. Those that the SDK repeats by itself count
//! each, since each takes from the account's rate.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_ec2::config::interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef};
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::{BoxError, ProvideErrorMetadata};
use aws_sdk_ec2::operation::assign_private_ip_addresses::AssignPrivateIpAddressesError;
use aws_sdk_ec2::operation::describe_instance_types::DescribeInstanceTypesError;
use aws_sdk_ec2::operation::describe_instances::DescribeInstancesError;
use aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesError;
use aws_sdk_ec2::operation::describe_subnets::DescribeSubnetsError;
use aws_sdk_ec2::operation::unassign_private_ip_addresses::UnassignPrivateIpAddressesError;
use aws_smithy_runtime_api::client::interceptors::context::Error;
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::Action;
use super::error::is_throttled;
use crate::metrics::{Counters, Histograms, one, two};

/// What EC2's success is called, where a refusal has its code.
const OK: &str = "OK";
/// It never came to an answer.
const NONE: &str = "none";
/// So many codes are told apart: whoever answers in EC2's place makes no more labels than that.
const MOST_CODES: usize = 50;

/// What was sent to EC2.
#[derive(Debug, Clone)]
pub(super) struct Calls(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    calls: Counters<2>,
    seconds: Histograms<1>,
    throttled: Counters<1>,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    codes: BTreeSet<String>,
    last: Option<Pulse>,
    success: Option<Instant>,
}

/// Whether EC2 answered last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulse {
    Answered,
    Silent,
}

/// An attempt under way. Dropped with its call, it had no answer.
#[derive(Debug)]
struct Begun {
    action: String,
    at: Instant,
    counted: Arc<Counted>,
    is_over: AtomicBool,
}

impl Storable for Begun {
    type Storer = StoreReplace<Self>;
}

impl Default for Calls {
    fn default() -> Self {
        let counted = Counted {
            calls: Family::default(),
            // EC2 takes some tenths of a second, and a call ends within 25.
            seconds: Family::new_with_constructor(|| {
                Histogram::new([0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0, 12.0, 25.0])
            }),
            throttled: Family::default(),
            heard: Mutex::default(),
        };
        for action in Action::ALL.into_iter().chain([Action::DescribeInstances]) {
            drop(counted.calls.get_or_create(&two("action", action.name(), "code", OK)));
            drop(counted.seconds.get_or_create(&one("action", action.name())));
            drop(counted.throttled.get_or_create(&one("action", action.name())));
        }
        Self(Arc::new(counted))
    }
}

impl Calls {
    /// Whether EC2 answered the last attempt, whatever it said; none: nothing was sent yet.
    pub(super) fn is_up(&self) -> Option<bool> {
        self.0.heard().last.map(|last| last == Pulse::Answered)
    }

    /// When it last did what it was asked.
    pub(super) fn last_success(&self) -> Option<Instant> {
        self.0.heard().success
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let counted = &self.0;
        registry.register("ec2_calls", "Attempts of calls to EC2, by its answer", counted.calls.clone());
        let help = "From sending a call to EC2 to its answer";
        registry.register_with_unit("ec2_call", help, Unit::Seconds, counted.seconds.clone());
        registry.register("ec2_throttled", "Attempts of calls that EC2 throttled", counted.throttled.clone());
    }
}

impl Counted {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// `code`: EC2's; none: there was no answer.
    fn ends(&self, code: Option<&str>) {
        if self.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let Counted { calls, seconds, throttled, .. } = &*self.counted;
        let code = {
            let mut heard = self.counted.heard();
            heard.last = Some(if code.is_some() { Pulse::Answered } else { Pulse::Silent });
            if code == Some(OK) {
                heard.success = Some(Instant::now());
            }
            heard.known(code.unwrap_or(NONE))
        };
        calls.get_or_create(&two("action", &self.action, "code", &code)).inc();
        seconds.get_or_create(&one("action", &self.action)).observe(self.at.elapsed().as_secs_f64());
        if is_throttled(&code) {
            throttled.get_or_create(&one("action", &self.action)).inc();
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.ends(None);
    }
}

impl Heard {
    /// The code as a label.
    fn known(&mut self, code: &str) -> String {
        let is_code = code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if is_code && (self.codes.contains(code) || self.codes.len() < MOST_CODES) {
            self.codes.insert(code.to_owned());
            return code.to_owned();
        }
        "other".to_owned()
    }
}

impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "Calls"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        call: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let action = call.load::<Metadata>().map(|operation| operation.name().to_owned()).unwrap_or_default();
        let begun = Begun { action, at: Instant::now(), counted: Arc::clone(&self.0), is_over: AtomicBool::new(false) };
        call.interceptor_state().store_put(begun);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        attempt: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        call: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(begun) = call.load::<Begun>() {
            begun.ends(match attempt.output_or_error() {
                Some(Ok(_)) => Some(OK),
                Some(Err(why)) => code(why),
                None => None,
            });
        }
        Ok(())
    }
}

/// EC2's code of a refusal; none where nothing that can be read came back.
fn code(why: &OrchestratorError<Error>) -> Option<&str> {
    let why = why.as_operation_error()?;
    macro_rules! of {
        ($($operation:ty),*) => { [$(why.downcast_ref::<$operation>().and_then(ProvideErrorMetadata::code)),*] };
    }
    let codes = of![
        AssignPrivateIpAddressesError,
        UnassignPrivateIpAddressesError,
        DescribeNetworkInterfacesError,
        DescribeSubnetsError,
        DescribeInstanceTypesError,
        DescribeInstancesError
    ];
    Some(codes.into_iter().flatten().next().unwrap_or("other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_makes_no_labels_without_bound() {
        let mut heard = Heard::default();
        assert_eq!(heard.known("RequestLimitExceeded"), "RequestLimitExceeded");
        assert_eq!(heard.known("a b\n"), "other");
        assert_eq!(heard.known(&"x".repeat(65)), "other");
        let kept = (0..1000).filter(|n| heard.known(&format!("Code.{n}")) != "other").count();
        assert_eq!(kept, MOST_CODES - 1);
        assert_eq!(heard.known("RequestLimitExceeded"), "RequestLimitExceeded");
    }
}
