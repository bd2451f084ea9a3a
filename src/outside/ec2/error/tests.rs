//! The error table of the EC2 contract: code, HTTP status and text to variant and sentence.

use super::super::words::partition;
use super::*;

const ENI: &str = "eni-0123456789abcdef0";
const SUBNET: &str = "subnet-0123456789abcdef0";

fn subject(action: Action) -> Subject {
    Subject { action, eni: Some(ENI.parse().unwrap()), subnet: Some(SUBNET.parse().unwrap()), partition: "aws" }
}

fn assign(status: u16, code: &str, message: &str) -> Ec2Error {
    subject(Action::Assign).read(status, Some(code), Some(message))
}

fn ips(texts: &[&str]) -> Vec<Ipv4Addr> {
    texts.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn each_row_of_the_table_is_told_apart() {
    let eni: EniId = ENI.parse().unwrap();
    let subnet = Some(SUBNET.parse().unwrap());
    let (full, no_block) = (Ec2Error::SubnetFull { subnet: subnet.clone() }, Ec2Error::NoBlock { subnet });
    let in_use = |list: &[&str]| Ec2Error::InUse { addresses: ips(list) };
    let value = "InvalidParameterValue";
    for (status, code, message, expected) in [
        (400, value, "[10.0.0.5, 10.0.0.6] assigned, but move is not allowed.", in_use(&["10.0.0.5", "10.0.0.6"])),
        (400, value, "[10.0.0.5] Assigned, but Move is not allowed", in_use(&["10.0.0.5"])),
        (400, value, "Invalid value for parameter secondary-addresses", in_use(&[])),
        (400, value, "secondary-addresses", in_use(&[])),
        (
            400,
            value,
            "Address [10.9.0.5] does not fall within the subnet's address range",
            Ec2Error::OutsideSubnet { addresses: ips(&["10.9.0.5"]) },
        ),
        (
            400,
            value,
            "Address 10.0.0.2 is in subnet's reserved address range.",
            Ec2Error::AwsReserved { addresses: ips(&["10.0.0.2"]) },
        ),
        (
            400,
            value,
            "Address 10.0.0.2 is in subnet's reserved range",
            Ec2Error::AwsReserved { addresses: ips(&["10.0.0.2"]) },
        ),
        (
            400,
            value,
            "invalid value for parameter address: 10.0.0",
            Ec2Error::Malformed { message: "invalid value for parameter address: 10.0.0".into() },
        ),
        (
            400,
            "PrivateIpAddressLimitExceeded",
            "Number of private addresses will exceed limit.",
            Ec2Error::EniFull { eni: eni.clone() },
        ),
        (
            400,
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
            full.clone(),
        ),
        (
            400,
            "InsufficientCidrBlocks",
            "There are not enough free cidr blocks in the specified subnet",
            no_block.clone(),
        ),
        (400, "InsufficientCidrBlocks", "", no_block),
        (400, value, "There aren't sufficient free Ipv4 addresses or prefixes", full),
        (503, "RequestLimitExceeded", "Request limit exceeded.", Ec2Error::Throttled { action: Action::Assign }),
        (
            503,
            "Client.RequestLimitExceeded",
            "Account 1 has been throttled on ec2:AssignPrivateIpAddresses because it exceeded its request rate limit.",
            Ec2Error::Throttled { action: Action::Assign },
        ),
        (
            400,
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID 'eni-0' does not exist",
            Ec2Error::NoSuchEni { eni: eni.clone() },
        ),
        (400, "InvalidNetworkInterfaceId.NotFound", "", Ec2Error::NoSuchEni { eni: eni.clone() }),
        (
            400,
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-0' does not exist",
            Ec2Error::NoSuchSubnet { subnet: SUBNET.parse().unwrap() },
        ),
        (
            400,
            "InvalidNetworkInterfaceId.Malformed",
            "Invalid id: \"eni-x\"",
            Ec2Error::Malformed { message: "Invalid id: \"eni-x\"".into() },
        ),
        (
            400,
            value,
            "Some of the specified addresses are not assigned to interface eni-0",
            Ec2Error::NotAssigned { eni: eni.clone() },
        ),
        (
            400,
            value,
            "10.0.0.4: The primary IP address of an interface cannot be unassigned.",
            Ec2Error::Primary { eni },
        ),
    ] {
        let error = assign(status, code, message);
        assert_eq!(error, expected, "{code} {message}");
        let expected_transient = matches!(error, Ec2Error::Throttled { .. });
        assert!(!error.is_unclear() && error.is_transient() == expected_transient, "{error}");
    }
}

#[test]
fn parameters_in_conflict_and_unknown_codes_are_clear_refusals() {
    for (code, message) in [
        ("InvalidParameterCombination", "One of secondaryPrivateIpAddressCount or privateIpAddress must be specified"),
        ("InvalidParameterValue", "Something new."),
        ("OperationNotPermitted", "You do not have permission to access the specified resource."),
    ] {
        let error = assign(400, code, message);
        assert!(matches!(&error, Ec2Error::Refused { code: c, .. } if c == code), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("EC2 refuses ec2:AssignPrivateIpAddresses with {code}: {}", message.trim_end_matches('.'))
        );
        assert!(!error.is_unclear());
    }
}

#[test]
fn what_may_have_been_executed_is_unclear() {
    for (status, code) in [
        (500, Some("InternalError")),
        (503, Some("Unavailable")),
        (503, Some("ServiceUnavailable")),
        (502, None),
        (403, None),
    ] {
        let error = subject(Action::Unassign).read(status, code, None);
        assert!(error.is_unclear() && error.is_transient(), "{error:?}");
        assert!(
            error.to_string().starts_with("it is not clear whether EC2 did ec2:UnassignPrivateIpAddresses, "),
            "{error}"
        );
    }
}

#[test]
fn a_denial_names_who_may_not_why_and_the_resource_and_keeps_the_blob_out() {
    let text = "You are not authorized to perform this operation. User: arn:aws:iam::1:user/x is not authorized to perform: \
                ec2:AssignPrivateIpAddresses with an explicit deny in a service control policy. Encoded authorization failure \
                message: 4GIOHlTkIaWHQD0Q0m6XSnuUMCm";
    let error = assign(403, "UnauthorizedOperation", text);
    assert_eq!(
        error.to_string(),
        "the AWS credentials may not do ec2:AssignPrivateIpAddresses (User: arn:aws:iam::1:user/x is not authorized to perform: \
         ec2:AssignPrivateIpAddresses with an explicit deny in a service control policy): allow it in the IAM policy of the instance's role or of the \
         user, for the resource arn:aws:ec2:*:*:network-interface/eni-0123456789abcdef0"
    );
    let error = subject(Action::DescribeSubnets).read(403, Some("UnauthorizedOperation"), Some(text)).to_string();
    assert!(error.contains("ec2:DescribeSubnets") && error.ends_with("resource \"*\""), "{error}");
}

#[test]
fn the_resource_is_in_the_partition_of_the_region() {
    for (region, arn) in [
        ("eu-west-1", "arn:aws:ec2:*:*:network-interface/*"),
        ("cn-northwest-1", "arn:aws-cn:ec2:*:*:network-interface/*"),
        ("us-gov-west-1", "arn:aws-us-gov:ec2:*:*:network-interface/*"),
        ("us-isob-east-1", "arn:aws-iso-b:ec2:*:*:network-interface/*"),
    ] {
        let subject = Subject { action: Action::Assign, eni: None, subnet: None, partition: partition(region) };
        let denied = subject.read(403, Some("UnauthorizedOperation"), None).to_string();
        assert!(denied.ends_with(arn), "{region}: {denied}");
    }
}

#[test]
fn what_belongs_to_another_account_is_told_from_bad_credentials() {
    for text in [
        "You are not the owner of eni-0123456789abcdef0",
        "You do not have permission to access the specified resource.",
    ] {
        let error = assign(403, "AuthFailure", text);
        assert!(matches!(error, Ec2Error::NotOwner { .. }) && !error.is_transient(), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("another AWS account owns") && error.contains(text.trim_end_matches('.')), "{error}");
    }
}

#[test]
fn what_imds_says_of_a_role_is_told() {
    let why = "Incorrect IMDS/IAM configuration: [AssumeRoleUnauthorizedAccess] EC2 cannot assume the role ipam";
    let told = credentials(&CredentialsError::invalid_configuration(why));
    assert_eq!(told, Ec2Error::BadCredentials { why: format!("their configuration is invalid ({why})") });
    let told = credentials(&CredentialsError::provider_error("[Failed] x"));
    assert_eq!(told, Ec2Error::NoCredentials { why: "they could not be fetched ([Failed] x)".into() });
}

#[test]
fn bad_credentials_say_what_is_wrong_with_them() {
    // A clock is set and a role's session renewed without anybody's doing.
    for (status, code, may_pass, part) in [
        (401, "AuthFailure", false, "AWS does not know them (AuthFailure)"),
        (400, "RequestExpired", true, "clock"),
        (400, "ExpiredToken", true, "expired"),
        (403, "SignatureDoesNotMatch", false, "secret key is wrong"),
    ] {
        let error = assign(status, code, "The secret is hunter2");
        assert!(matches!(error, Ec2Error::BadCredentials { .. } | Ec2Error::NoCredentials { .. }), "{error:?}");
        assert_eq!(error.is_transient(), may_pass, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(part) && text.contains("AWS_ACCESS_KEY_ID") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn sentences_name_what_they_are_about() {
    let in_use = assign(400, "InvalidParameterValue", "[10.0.0.5, 10.0.0.6] assigned, but move is not allowed.");
    assert!(in_use.to_string().starts_with("EC2 refuses 10.0.0.5, 10.0.0.6 because another ENI"), "{in_use}");
    let primary = assign(400, "InvalidParameterValue", "secondary-addresses").to_string();
    assert!(primary.starts_with("EC2 refuses an address because another ENI"), "{primary}");
    let gone = assign(400, "InvalidNetworkInterfaceID.NotFound", "").to_string();
    assert!(gone.contains(ENI) && gone.contains("AWS_REGION"), "{gone}");
    let throttled = assign(503, "RequestLimitExceeded", "").to_string();
    assert!(throttled.contains("every host of the account shares one bucket"), "{throttled}");
    assert!(Ec2Error::NoRegion.to_string().contains("set AWS_REGION"));
}
