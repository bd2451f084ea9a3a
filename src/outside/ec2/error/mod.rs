//! Why EC2 did not do it: error codes and messages read into what the caller has to tell apart.
//!
//! The caller, one task per ENI, acts on the variant. Codes are matched first and messages second and tolerantly, for
//! `InvalidParameterValue` covers half of what can happen. Codes and messages are those of the EC2 API reference ("Error
//! codes for the Amazon EC2 API") and of public clients that parse them (cilium, vpc-cni, ansible). Every variant but
//! [`Ec2Error::Unclear`] means that the call was not executed.

use std::error::Error;
use std::net::Ipv4Addr;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};

use super::Action;
use super::words::{addresses_in, denial, is_about_owner, list, quote, said};
use crate::domain::id::{EniId, SubnetId};

/// Why a call did not succeed. Each sentence is fit for a user and says what to do; none holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ec2Error {
    /// Some of these are on another ENI. Empty where EC2 names none, as for another ENI's primary address.
    #[error(
        "EC2 refuses {} because another ENI has it: choose another address, or release it there",
        list(addresses, "an address")
    )]
    InUse {
        /// Those that EC2 names.
        addresses: Vec<Ipv4Addr>,
    },
    /// The ENI has as many addresses as its instance type allows.
    #[error(
        "{eni} has as many addresses as its instance type allows: remove containers, add a host, or take a larger instance type"
    )]
    EniFull {
        /// The ENI.
        eni: EniId,
    },
    /// The subnet has no free address.
    #[error("{} has no free address left: free some, or use another subnet", subnet.as_ref().map_or("the subnet", SubnetId::as_str))]
    SubnetFull {
        /// The subnet, where the call named it.
        subnet: Option<SubnetId>,
    },
    /// The subnet has no /28 that could be a prefix.
    #[error("{} has no whole /28 left: use single addresses, or free the rest of a block", subnet.as_ref().map_or("the subnet", SubnetId::as_str))]
    NoBlock {
        /// The subnet, where the call named it.
        subnet: Option<SubnetId>,
    },
    /// The ENI was deleted, or belongs to another region or account.
    #[error(
        "EC2 does not know {eni}: it was deleted, or AWS_REGION or the credentials are those of another account or region"
    )]
    NoSuchEni {
        /// The ENI.
        eni: EniId,
    },
    /// The subnet was deleted, or belongs to another region or account.
    #[error(
        "EC2 does not know {subnet}: it was deleted, or AWS_REGION or the credentials are those of another account or region"
    )]
    NoSuchSubnet {
        /// The subnet.
        subnet: SubnetId,
    },
    /// Unassign: at least one of the addresses is not on the ENI (any more). EC2 does not say which.
    #[error("some of the addresses are not on {eni}: look at what it has, and unassign only that")]
    NotAssigned {
        /// The ENI.
        eni: EniId,
    },
    /// Unassign: one of them is the ENI's primary address, which stays as long as the ENI.
    #[error("the primary address of {eni} cannot be unassigned: leave it out")]
    Primary {
        /// The ENI.
        eni: EniId,
    },
    /// Outside the ENI's subnet.
    #[error(
        "EC2 refuses {} because it lies outside the ENI's subnet: choose an address of the subnet",
        list(addresses, "an address")
    )]
    OutsideSubnet {
        /// Those that EC2 names.
        addresses: Vec<Ipv4Addr>,
    },
    /// One of the five that AWS keeps, or of a CIDR reservation.
    #[error(
        "EC2 refuses {} because AWS reserves it in this subnet: choose another address",
        list(addresses, "an address")
    )]
    AwsReserved {
        /// Those that EC2 names.
        addresses: Vec<Ipv4Addr>,
    },
    /// EC2 cannot read an id or an address.
    #[error("EC2 cannot read the request: {message}: correct that id or address")]
    Malformed {
        /// EC2's words.
        message: String,
    },
    /// The account's request rate is used up. EC2 did nothing.
    #[error(
        "EC2 throttles {action}: every host of the account shares one bucket per region, so start fewer containers at once or have AWS raise the limit"
    )]
    Throttled {
        /// What was asked for.
        action: Action,
    },
    /// IAM does not allow it.
    #[error(
        "the AWS credentials may not do {action}{}: allow it in the IAM policy of the instance's role or of the user, for the resource {resource}",
        said(why)
    )]
    Denied {
        /// What was asked for.
        action: Action,
        /// What the policy's `Resource` must cover.
        resource: String,
        /// EC2's words: who may not, and by which kind of policy; may be empty.
        why: String,
    },
    /// Another account's, as in a subnet that one shares with others.
    #[error(
        "EC2 refuses {action}, since another AWS account owns what it is for{}: use credentials of the account that the interface belongs to",
        said(message)
    )]
    NotOwner {
        /// What was asked for.
        action: Action,
        /// EC2's words.
        message: String,
    },
    /// Credentials that AWS does not accept.
    #[error(
        "the AWS credentials do not work, {why}: give the instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    BadCredentials {
        /// What is the matter with them.
        why: String,
    },
    /// There are no credentials that could be used now: a role's come seconds after the instance, and are renewed.
    #[error(
        "the AWS credentials do not work, {why}: give the instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    NoCredentials {
        /// What is the matter with them.
        why: String,
    },
    /// No region is configured and IMDS gave none.
    #[error("the AWS region is not known, since IMDS did not tell it: set AWS_REGION")]
    NoRegion,
    /// The request may have been executed, or may yet be: look before anything else.
    #[error("it is not clear whether EC2 did {action}, {why}: it is looked up before it is tried again")]
    Unclear {
        /// What was asked for.
        action: Action,
        /// What happened instead of an answer.
        why: String,
    },
    /// EC2 took an Assign, but its answer does not list these.
    #[error("EC2's answer does not list {}: it is looked up", list(addresses, "them all"))]
    Unlisted {
        /// The addresses that are missing.
        addresses: Vec<Ipv4Addr>,
    },
    /// No connection, so the request was not sent.
    #[error(
        "EC2 cannot be reached for {action}, {why}: check the route, DNS and security groups to the EC2 endpoint, or AWS_ENDPOINT_URL_EC2"
    )]
    Unreachable {
        /// What was asked for.
        action: Action,
        /// Why there is no connection.
        why: String,
    },
    /// Any other clear refusal.
    #[error("EC2 refuses {action} with {code}: {message}")]
    Refused {
        /// What was asked for.
        action: Action,
        /// EC2's code.
        code: String,
        /// EC2's words.
        message: String,
    },
}

impl Ec2Error {
    /// Whether somebody has to give the driver other rights or credentials: nothing is fetched or given back until then.
    pub fn is_for_a_person(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NotOwner { .. } | Self::BadCredentials { .. })
    }

    /// Whether the call may have been executed, or may yet be. Otherwise EC2 surely did nothing.
    pub fn is_unclear(&self) -> bool {
        matches!(self, Self::Unclear { .. } | Self::Unlisted { .. })
    }

    /// Whether it is a refusal for what was asked, which EC2 gives only to those who may ask.
    pub fn is_past_permission(&self) -> bool {
        match self {
            Self::OutsideSubnet { .. } | Self::EniFull { .. } | Self::NotAssigned { .. } => true,
            Self::Malformed { .. } | Self::AwsReserved { .. } | Self::InUse { .. } => true,
            Self::Refused { code, .. } => code.starts_with("InvalidParameter"),
            Self::Unclear { .. } | Self::Unlisted { .. } | Self::Throttled { .. } | Self::Unreachable { .. } => false,
            Self::Denied { .. } | Self::NotOwner { .. } => false,
            Self::BadCredentials { .. } | Self::NoCredentials { .. } | Self::NoRegion => false,
            Self::SubnetFull { .. } | Self::NoBlock { .. } | Self::Primary { .. } => false,
            Self::NoSuchEni { .. } | Self::NoSuchSubnet { .. } => false,
        }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unclear { .. } | Self::Unlisted { .. } | Self::Unreachable { .. } | Self::Throttled { .. } => true,
            // IMDS tells both, and is late at boot.
            Self::NoCredentials { .. } | Self::NoRegion => true,
            Self::Denied { .. } | Self::BadCredentials { .. } | Self::Refused { .. } | Self::Malformed { .. } => false,
            Self::InUse { .. } | Self::OutsideSubnet { .. } | Self::AwsReserved { .. } | Self::Primary { .. } => false,
            Self::EniFull { .. } | Self::SubnetFull { .. } | Self::NoBlock { .. } | Self::NotAssigned { .. } => false,
            Self::NoSuchEni { .. } | Self::NoSuchSubnet { .. } | Self::NotOwner { .. } => false,
        }
    }
}

/// What a call was about: what its error may name.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) action: Action,
    pub(super) eni: Option<EniId>,
    pub(super) subnet: Option<SubnetId>,
    /// Of the region, as ARNs name it.
    pub(super) partition: &'static str,
}

impl Subject {
    /// What the SDK's error means.
    pub(super) fn explain<E>(&self, error: &SdkError<E, HttpResponse>) -> Ec2Error
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let SdkError::ServiceError(service) = error {
            return self.read(service.raw().status().as_u16(), service.err().code(), service.err().message());
        }
        if let SdkError::ResponseError(response) = error {
            return self.unclear(format!("its answer (HTTP {}) cannot be read", response.raw().status().as_u16()));
        }
        // Credentials are fetched and connections made inside the call, before anything is sent.
        if let Some(why) = find::<CredentialsError>(error) {
            return credentials(why);
        }
        let never_connected = find::<hyper_util::client::legacy::Error>(error).is_some_and(|e| e.is_connect());
        if never_connected || matches!(error, SdkError::ConstructionFailure(_)) {
            return Ec2Error::Unreachable { action: self.action, why: innermost(error) };
        }
        self.unclear(innermost(error))
    }

    /// What an error answer means: HTTP status, `Code` and `Message`.
    pub(super) fn read(&self, status: u16, code: Option<&str>, message: Option<&str>) -> Ec2Error {
        let message = message.unwrap_or_default().trim();
        let Some(code) = code.map(str::trim).filter(|code| !code.is_empty()) else {
            return self.unclear(format!("its answer (HTTP {status}) names no error code"));
        };
        // The console and old endpoints write Client.X and Server.X.
        let code = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server.")).unwrap_or(code);
        if let Some(known) = self.by_code(code, message) {
            return known;
        }
        if code.eq_ignore_ascii_case("InvalidParameterValue")
            && let Some(known) = self.by_message(message)
        {
            return known;
        }
        if (400..500).contains(&status) {
            let message = if message.is_empty() { "no further word" } else { message };
            Ec2Error::Refused { action: self.action, code: code.to_owned(), message: quote(message) }
        } else {
            self.unclear(format!("it answered {code} (HTTP {status})"))
        }
    }

    fn by_code(&self, code: &str, message: &str) -> Option<Ec2Error> {
        let bad = |why: &str| Some(Ec2Error::BadCredentials { why: format!("{why} ({code})") });
        // A role's are renewed, and a clock is set soon after a boot.
        let old = |why: &str| Some(Ec2Error::NoCredentials { why: format!("{why} ({code})") });
        match code {
            _ if is_throttled(code) => Some(Ec2Error::Throttled { action: self.action }),
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
                Some(Ec2Error::Denied { action: self.action, resource: self.resource(), why: denial(message) })
            }
            "AuthFailure" if is_about_owner(message) => {
                Some(Ec2Error::NotOwner { action: self.action, message: quote(message) })
            }
            "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" | "MissingAuthenticationToken" => {
                bad("AWS does not know them")
            }
            "ExpiredToken" | "ExpiredTokenException" => old("their session has expired"),
            "RequestExpired" => old("the request came too late, so this host's clock may be wrong"),
            "SignatureDoesNotMatch" | "IncompleteSignature" => bad("the secret key is wrong or this host's clock is"),
            "PrivateIpAddressLimitExceeded" => self.eni.clone().map(|eni| Ec2Error::EniFull { eni }),
            "InsufficientFreeAddressesInSubnet" => Some(Ec2Error::SubnetFull { subnet: self.subnet.clone() }),
            // Two texts of it are about: the code alone tells.
            "InsufficientCidrBlocks" => Some(Ec2Error::NoBlock { subnet: self.subnet.clone() }),
            "InvalidIPAddress.InUse" => Some(Ec2Error::InUse { addresses: addresses_in(message) }),
            _ if is(code, "InvalidNetworkInterfaceID.NotFound") => {
                self.eni.clone().map(|eni| Ec2Error::NoSuchEni { eni })
            }
            _ if is(code, "InvalidSubnetID.NotFound") => {
                self.subnet.clone().map(|subnet| Ec2Error::NoSuchSubnet { subnet })
            }
            _ if code.ends_with(".Malformed") => Some(Ec2Error::Malformed { message: quote(message) }),
            _ => None,
        }
    }

    fn by_message(&self, message: &str) -> Option<Ec2Error> {
        let text = message.to_ascii_lowercase();
        let has = |part: &str| text.contains(part);
        let addresses = addresses_in(message);
        if has("move is not allowed") || has("secondary-addresses") {
            Some(Ec2Error::InUse { addresses })
        } else if has("primary") && has("unassign") {
            self.eni.clone().map(|eni| Ec2Error::Primary { eni })
        } else if has("not assigned to") {
            self.eni.clone().map(|eni| Ec2Error::NotAssigned { eni })
        } else if has("does not fall within") {
            Some(Ec2Error::OutsideSubnet { addresses })
        } else if has("reserved") && has("range") {
            Some(Ec2Error::AwsReserved { addresses })
        } else if has("sufficient free") {
            Some(Ec2Error::SubnetFull { subnet: self.subnet.clone() })
        } else if has("invalid value for parameter") {
            Some(Ec2Error::Malformed { message: quote(message) })
        } else {
            None
        }
    }

    pub(super) fn unclear(&self, why: String) -> Ec2Error {
        Ec2Error::Unclear { action: self.action, why }
    }

    /// Describe calls have no resource-level permissions (AWS, "Actions, resources, and condition keys for EC2").
    fn resource(&self) -> String {
        match (self.action, &self.eni) {
            (Action::Assign | Action::Unassign, Some(eni)) => {
                format!("arn:{}:ec2:*:*:network-interface/{eni}", self.partition)
            }
            (Action::Assign | Action::Unassign, None) => format!("arn:{}:ec2:*:*:network-interface/*", self.partition),
            (
                Action::DescribeInterfaces
                | Action::DescribeSubnets
                | Action::DescribeInstanceTypes
                | Action::DescribeInstances,
                _,
            ) => "\"*\"".into(),
        }
    }
}

/// Whether it is a code by which EC2 says that the account's rate is used up.
pub(super) fn is_throttled(code: &str) -> bool {
    matches!(
        code,
        "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "EC2ThrottledException"
            | "TooManyRequestsException"
            | "SlowDown"
    )
}

/// AWS spells `ID` as `Id` in some places.
fn is(code: &str, name: &str) -> bool {
    code.eq_ignore_ascii_case(name)
}

/// Only a configuration is a person's to change: the rest may be late, or renewed. With the words of whoever was asked.
pub(super) fn credentials(error: &CredentialsError) -> Ec2Error {
    let why = match error {
        CredentialsError::InvalidConfiguration(_) => {
            let why = "their configuration is invalid".to_owned() + &said(&innermost(error));
            return Ec2Error::BadCredentials { why };
        }
        CredentialsError::CredentialsNotLoaded(_) => "there are none".to_owned(),
        CredentialsError::ProviderTimedOut(_) => "they could not be fetched in time".to_owned(),
        CredentialsError::ProviderError(_) | CredentialsError::Unhandled(_) | _ => {
            "they could not be fetched".to_owned() + &said(&innermost(error))
        }
    };
    Ec2Error::NoCredentials { why }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

/// The first error of this type among an error and its causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|e| e.downcast_ref())
}

/// What the last cause says: the SDK's outer errors say no more than "dispatch failure".
fn innermost(error: &(dyn Error + 'static)) -> String {
    quote(&causes(error).last().unwrap_or(error).to_string())
}

#[cfg(test)]
mod tests;
