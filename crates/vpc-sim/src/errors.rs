//! The error table of the EC2 API: code, HTTP status and text of every refusal, in one place.
//!
//! Texts are those seen from live AWS by public clients; where two wordings are about, a switch chooses.

use std::fmt::Display;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::switches::{DryRunStatus, ListOrCount, PrefixRefusal, ReservedText, Switches, ThrottleText};
use crate::world::ACCOUNT;

/// A refusal as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The machine-readable code.
    pub code: String,
    /// The text for people.
    pub message: String,
}

impl ApiError {
    /// Any error.
    pub(crate) fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    fn value(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameterValue", message)
    }

    // The request itself.

    pub(crate) fn invalid_action(action: &str) -> Self {
        Self::new(400, "InvalidAction", format!("The action {action} is not valid for this web service."))
    }

    pub(crate) fn no_such_version(version: &str) -> Self {
        Self::new(
            400,
            "NoSuchVersion",
            format!("The requested version ({version}) of service AmazonEC2 does not exist"),
        )
    }

    pub(crate) fn unknown_parameter(name: &str) -> Self {
        Self::new(400, "UnknownParameter", format!("The parameter {name} is not recognized"))
    }

    pub(crate) fn missing_parameter(name: &str) -> Self {
        Self::new(400, "MissingParameter", format!("The request must contain the parameter {name}"))
    }

    pub(crate) fn bad_value(name: &str, value: &str) -> Self {
        Self::value(format!("Value ({value}) for parameter {name} is invalid."))
    }

    pub(crate) fn bad_filter(name: &str) -> Self {
        Self::value(format!("The filter '{name}' is invalid"))
    }

    pub(crate) fn too_many_filter_values() -> Self {
        Self::new(400, "FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
    }

    pub(crate) fn combination(message: &str) -> Self {
        Self::new(400, "InvalidParameterCombination", message)
    }

    pub(crate) fn bad_token() -> Self {
        Self::new(400, "InvalidNextToken", "The specified NextToken is not valid.")
    }

    /// `several` of address list, count and prefixes, or none of them.
    pub(crate) fn list_or_count(several: bool, switches: &Switches) -> Self {
        let code = match (switches.list_or_count, several) {
            (ListOrCount::ByCase, false) | (ListOrCount::Parameter, _) => "InvalidParameter",
            (ListOrCount::ByCase, true) | (ListOrCount::Combination, _) => "InvalidParameterCombination",
        };
        Self::new(
            400,
            code,
            "One of secondary-addresses, secondary-private-ip-address-count, ipv4-prefix or ipv4-prefix-count must be \
             specified",
        )
    }

    // Who asks, and how often.

    pub(crate) fn auth_failure() -> Self {
        Self::new(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
    }

    pub(crate) fn expired() -> Self {
        Self::new(400, "RequestExpired", "Request has expired.")
    }

    pub(crate) fn unauthorized(action: &str) -> Self {
        let encoded = "hQnk6XxqPmJ0Lr9VbW2tYc4dZfEs7aGi1oUuKp3jNvMwTzRyBx8lHqSgDe5FkCn".repeat(6);
        Self::new(
            403,
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: arn:aws:sts::{ACCOUNT}:assumed-role/ec2-ipam/i-0 \
                 is not authorized to perform: ec2:{action} because no identity-based policy allows the ec2:{action} \
                 action. Encoded authorization failure message: {encoded}"
            ),
        )
    }

    pub(crate) fn throttled(action: &str, switches: &Switches) -> Self {
        let message = match switches.throttle_text {
            ThrottleText::Old => "Request limit exceeded.".to_owned(),
            ThrottleText::New => format!(
                "Account {ACCOUNT} has been throttled on ec2:{action} because it exceeded its request rate limit."
            ),
        };
        Self::new(503, "RequestLimitExceeded", message)
    }

    pub(crate) fn dry_run(switches: &Switches) -> Self {
        let status = match switches.dry_run_status {
            DryRunStatus::PreconditionFailed412 => 412,
            DryRunStatus::BadRequest400 => 400,
        };
        Self::new(status, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    }

    pub(crate) fn internal() -> Self {
        Self::new(500, "InternalError", "An internal error has occurred")
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(503, "Unavailable", "The service is unavailable. Please try again shortly.")
    }

    // What is asked about.

    pub(crate) fn no_interface(id: &str) -> Self {
        Self::new(400, "InvalidNetworkInterfaceID.NotFound", format!("The networkInterface ID '{id}' does not exist"))
    }

    pub(crate) fn malformed_interface(id: &str) -> Self {
        Self::new(400, "InvalidNetworkInterfaceId.Malformed", format!("Invalid id: \"{id}\" (expecting \"eni-...\")"))
    }

    pub(crate) fn no_subnet(id: &str) -> Self {
        Self::new(400, "InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
    }

    pub(crate) fn no_instance(id: &str) -> Self {
        Self::new(400, "InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    }

    pub(crate) fn no_instance_types(names: &[String]) -> Self {
        Self::new(
            400,
            "InvalidInstanceType",
            format!("The following supplied instance types do not exist: [{}]", names.join(", ")),
        )
    }

    // Addresses.

    pub(crate) fn malformed_address(text: &str) -> Self {
        Self::value(format!("invalid value for parameter address: {text}"))
    }

    pub(crate) fn not_in_subnet(address: impl Display) -> Self {
        Self::value(format!("Address [{address}] does not fall within the subnet's address range"))
    }

    pub(crate) fn reserved(address: impl Display, switches: &Switches) -> Self {
        let range = match switches.reserved_text {
            ReservedText::AddressRange => "reserved address range",
            ReservedText::Range => "reserved range",
        };
        Self::value(format!("Address {address} is in subnet's {range}"))
    }

    pub(crate) fn duplicate(address: impl Display) -> Self {
        Self::value(format!("Duplicate address {address} in secondary-addresses"))
    }

    pub(crate) fn other_primary() -> Self {
        Self::value("secondary-addresses")
    }

    pub(crate) fn in_use<T: Display>(addresses: &[T]) -> Self {
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Self::value(format!("[{list}] assigned, but move is not allowed."))
    }

    pub(crate) fn interface_full() -> Self {
        Self::new(400, "PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
    }

    pub(crate) fn subnet_full() -> Self {
        Self::new(
            400,
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        )
    }

    pub(crate) fn no_cidr_blocks() -> Self {
        Self::new(
            400,
            "InsufficientCidrBlocks",
            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
        )
    }

    pub(crate) fn not_assigned(eni: &str) -> Self {
        Self::value(format!("Some of the specified addresses are not assigned to interface {eni}"))
    }

    pub(crate) fn unassign_primary(address: impl Display) -> Self {
        Self::value(format!(
            "Address {address} cannot be unassigned. The primary IP address of an interface cannot be unassigned."
        ))
    }

    // Prefixes. Nobody has seen what AWS says to one that is named; but for `Unheard` it is what it says to addresses.

    pub(crate) fn prefix_in_use(prefix: Ipv4Net, addresses: &[Ipv4Addr], switches: &Switches) -> Self {
        Self::of_prefix(switches, || Self::in_use(&[prefix]), || Self::in_use(addresses))
    }

    /// `one`: an address of it that is reserved.
    pub(crate) fn prefix_reserved(prefix: Ipv4Net, one: Ipv4Addr, switches: &Switches) -> Self {
        Self::of_prefix(switches, || Self::reserved(prefix, switches), || Self::reserved(one, switches))
    }

    pub(crate) fn prefix_not_in_subnet(prefix: Ipv4Net, switches: &Switches) -> Self {
        Self::of_prefix(switches, || Self::not_in_subnet(prefix), || Self::not_in_subnet(prefix.network()))
    }

    pub(crate) fn prefix_not_assigned(eni: &str, switches: &Switches) -> Self {
        match switches.prefixes.refusal {
            PrefixRefusal::Unheard => Self::unheard(),
            PrefixRefusal::NamesPrefix | PrefixRefusal::NamesAddresses | PrefixRefusal::CidrBlocks => {
                Self::not_assigned(eni)
            }
        }
    }

    pub(crate) fn no_prefixes_on(instance_type: &str, switches: &Switches) -> Self {
        let unsupported = || {
            let text = format!("The instance type '{instance_type}' does not support prefixes.");
            Self::new(400, "UnsupportedOperation", text)
        };
        Self::of_prefix(switches, unsupported, unsupported)
    }

    /// A code and a text that no client knows.
    pub(crate) fn unheard() -> Self {
        Self::new(400, "InvalidIpv4Prefix", "The request cannot be completed.")
    }

    fn of_prefix(switches: &Switches, whole: impl Fn() -> Self, singly: impl Fn() -> Self) -> Self {
        match switches.prefixes.refusal {
            PrefixRefusal::NamesPrefix => whole(),
            PrefixRefusal::NamesAddresses => singly(),
            PrefixRefusal::CidrBlocks => Self::no_cidr_blocks(),
            PrefixRefusal::Unheard => Self::unheard(),
        }
    }
}
