//! The wire form, where the SDK would not go wrong: unsigned, misspelt and outdated requests.

use super::{Bed, OURS, client, raw, refusal};
use vpc_sim::REGION;

/// The headers of a request signed for `service` in `region`.
pub(super) fn signed(region: &str, service: &str) -> Vec<(&'static str, String)> {
    let scope = format!("AKIARAW/20240101/{region}/{service}/aws4_request");
    let signature = "0".repeat(64);
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={signature}");
    vec![
        ("authorization", authorization),
        ("x-amz-date", "20240101T000000Z".to_owned()),
        ("content-type", "application/x-www-form-urlencoded".to_owned()),
    ]
}

async fn post(bed: &Bed, headers: &[(&str, String)], form: &str) -> (u16, String) {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    raw(bed.server.address(), "POST", "/", &headers, form).await.unwrap()
}

#[tokio::test]
async fn refuses_who_did_not_sign_for_ec2_here() {
    let bed = Bed::new();
    let form = "Action=DescribeSubnets&Version=2016-11-15";
    for headers in [Vec::new(), signed("us-east-1", "ec2"), signed(REGION, "s3")] {
        let (status, body) = post(&bed, &headers, form).await;
        assert!(status == 401 && body.contains("<Code>AuthFailure</Code>"), "{status} {body}");
    }
    assert_eq!(post(&bed, &signed(REGION, "ec2"), form).await.0, 200);
    assert_eq!(bed.vpc.calls().last().unwrap().access_key, "AKIARAW");
    let (status, code, message) = refusal(client(&bed.server, "us-east-1").describe_subnets().send().await);
    assert_eq!((status, code.as_str()), (401, "AuthFailure"));
    assert_eq!(message, "AWS was not able to validate the provided access credentials");
}

#[tokio::test]
async fn refuses_what_it_does_not_know() {
    let bed = Bed::new();
    let base = format!("Version=2016-11-15&NetworkInterfaceId={OURS}&PrivateIpAddress.1=10.77.0.50");
    for (form, code) in [
        (format!("Action=AssignPrivateIpAddress&{base}"), "InvalidAction"),
        (base.clone(), "MissingAction"),
        ("Action=DescribeSubnets".to_owned(), "MissingParameter"),
        ("Action=DescribeSubnets&Version=2014-10-01".to_owned(), "NoSuchVersion"),
        (format!("Action=AssignPrivateIpAddresses&{base}&Private=x"), "UnknownParameter"),
        (format!("Action=AssignPrivateIpAddresses&{base}&ClientToken=x"), "UnknownParameter"),
        (format!("Action=AssignPrivateIpAddresses&{base}&DryRun=true"), "UnknownParameter"),
        (format!("Action=AssignPrivateIpAddresses&{base}&AllowReassignment=maybe"), "InvalidParameterValue"),
        ("Action=AssignPrivateIpAddresses&Version=2016-11-15&PrivateIpAddress.1=x".to_owned(), "MissingParameter"),
        ("Action=DescribeSubnets&Version=2016-11-15&Filter.1.Name=vpc-id".to_owned(), "MissingParameter"),
    ] {
        let (status, body) = post(&bed, &signed(REGION, "ec2"), &form).await;
        assert!(status == 400 && body.contains(&format!("<Code>{code}</Code>")), "{form}: {status} {body}");
    }
    assert_eq!(bed.truth(), [0; 0]);
}

#[tokio::test]
async fn shows_its_state_to_a_script() {
    let bed = Bed::new();
    bed.assign(&[50]).await.unwrap();
    let (status, body) = raw(bed.server.address(), "GET", "/_sim/state", &[], "").await.unwrap();
    assert_eq!(status, 200);
    let state: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(state["enis"][OURS]["primary"], "10.77.0.10");
    assert_eq!(state["enis"][OURS]["secondaries"][0], "10.77.0.50");
    assert_eq!(state["calls"]["AssignPrivateIpAddresses"], 1);
    assert_eq!(raw(bed.server.address(), "GET", "/", &[], "").await.unwrap().0, 404);
}
