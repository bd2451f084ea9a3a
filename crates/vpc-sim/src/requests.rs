//! The five calls, read strictly from their parameters.

use crate::errors::ApiError;
use crate::query::{Filter, Params};
use crate::switches::{MutatingDryRun, Switches};

/// AssignPrivateIpAddresses.
#[derive(Clone, Debug)]
pub(crate) struct Assign {
    pub(crate) eni: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) count: Option<usize>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) prefix_count: Option<usize>,
    pub(crate) allow_reassignment: bool,
}

/// UnassignPrivateIpAddresses.
#[derive(Clone, Debug)]
pub(crate) struct Unassign {
    pub(crate) eni: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) prefixes: Vec<String>,
}

/// A Describe: by id, or by filters and pages.
#[derive(Clone, Debug)]
pub(crate) struct Describe {
    pub(crate) ids: Vec<String>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) max_results: Option<usize>,
    pub(crate) next_token: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Assign(Assign),
    Unassign(Unassign),
    Interfaces(Describe),
    Subnets(Describe),
    InstanceTypes(Describe),
    Instances(Describe),
}

impl Request {
    /// The call, and whether it is a dry run.
    pub(crate) fn read(mut params: Params, switches: &Switches) -> Result<(Self, bool), ApiError> {
        let mutating = is_mutating(&params.action);
        let dry_run = if !mutating || switches.mutating_dry_run == MutatingDryRun::Checked {
            params.take_bool("DryRun")?
        } else {
            false
        };
        let request = match params.action.as_str() {
            "AssignPrivateIpAddresses" => Self::Assign(Assign {
                eni: interface(params.require("NetworkInterfaceId")?)?,
                addresses: params.take_list("PrivateIpAddress"),
                count: params.take_count("SecondaryPrivateIpAddressCount")?,
                prefixes: params.take_list("Ipv4Prefix"),
                prefix_count: params.take_count("Ipv4PrefixCount")?,
                allow_reassignment: params.take_bool("AllowReassignment")?,
            }),
            "UnassignPrivateIpAddresses" => Self::Unassign(Unassign {
                eni: interface(params.require("NetworkInterfaceId")?)?,
                addresses: params.take_list("PrivateIpAddress"),
                prefixes: params.take_list("Ipv4Prefix"),
            }),
            "DescribeNetworkInterfaces" => {
                let describe = Describe::read(&mut params, "NetworkInterfaceId")?;
                params.take_bool("IncludeManagedResources")?;
                for id in &describe.ids {
                    interface(id.clone())?;
                }
                Self::Interfaces(describe)
            }
            "DescribeSubnets" => Self::Subnets(Describe::read(&mut params, "SubnetId")?),
            "DescribeInstanceTypes" => Self::InstanceTypes(Describe::read(&mut params, "InstanceType")?),
            "DescribeInstances" => Self::Instances(Describe::read(&mut params, "InstanceId")?),
            other => return Err(ApiError::invalid_action(other)),
        };
        params.finish()?;
        Ok((request, dry_run))
    }
}

impl Describe {
    fn read(params: &mut Params, id_name: &str) -> Result<Self, ApiError> {
        let describe = Self {
            ids: params.take_list(id_name),
            filters: params.take_filters()?,
            max_results: params.take_count("MaxResults")?,
            next_token: params.take("NextToken"),
        };
        let Some(max) = describe.max_results else {
            return Ok(describe);
        };
        if !describe.ids.is_empty() {
            return Err(ApiError::combination(&format!(
                "The parameter {id_name}s cannot be used with the parameter MaxResults"
            )));
        }
        if !(5..=1000).contains(&max) {
            return Err(ApiError::new(
                400,
                "InvalidParameterValue",
                format!("Value ( {max} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000."),
            ));
        }
        Ok(describe)
    }

    /// Neither narrowed down nor paginated: AWS grants fewest of these.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.ids.is_empty() && self.filters.is_empty() && self.max_results.is_none()
    }
}

/// Whether a call changes anything; this decides which token bucket it draws from.
pub(crate) fn is_mutating(action: &str) -> bool {
    !action.starts_with("Describe")
}

fn interface(id: String) -> Result<String, ApiError> {
    if id.starts_with("eni-") { Ok(id) } else { Err(ApiError::malformed_interface(&id)) }
}
