//! What the EC2 adapter takes from the environment and from IMDS.

use clap::Parser;
use ec2_ipam::cli::Cli;
use ec2_ipam::driver::ipam;
use ec2_ipam::outside::ec2::Ec2Error;
use ec2_ipam::outside::imds::Imds;

use serde_json::json;
use vpc_sim::{ROLE_SECRET, ROLE_TOKEN};

use crate::ec2::{assigned, eni, ip};
use crate::stub::{Answer, Stub};
use crate::support::host::SECRET_KEY;
use crate::support::secrets;

const IMDS_TOKEN: &str = "AQAEAtokenOfTheMetadata7";

/// Not a test by itself: what `what_is_not_given_comes_from_the_environment` runs in processes of their own, since an
/// environment belongs to a process.
#[tokio::test]
#[ignore = "run by another test"]
async fn in_a_process() {
    let given = Cli::parse_from(["ec2-ipam", "serve"]).given.settings().unwrap();
    let outcome = match ipam::connect(&given, &Imds::new()).await {
        Ok(ec2) => ec2.assign(&eni(), &[ip(5)]).await,
        Err(error) => Err(error),
    };
    match std::env::var("EXPECTED").unwrap().as_str() {
        "assigned" => assert_eq!(outcome, Ok(())),
        "no region" => assert_eq!(outcome, Err(Ec2Error::NoRegion)),
        _ => assert!(matches!(outcome, Err(Ec2Error::NoCredentials { .. })), "{outcome:?}"),
    }
}

#[tokio::test]
async fn what_is_not_given_comes_from_the_environment() {
    let ec2 = Stub::start(|_, _| assigned(&[ip(5)])).await;
    let role = json!({
        "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAX", "SecretAccessKey": ROLE_SECRET, "Token": ROLE_TOKEN,
        "Expiration": "2199-01-01T00:00:00Z",
    });
    let token = || Answer::Http(200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n".into(), IMDS_TOKEN.into());
    let full = Stub::start(move |request, _| match request.split(' ').nth(1).unwrap() {
        "/latest/api/token" => token(),
        "/latest/meta-data/placement/region" => Answer::Http(200, String::new(), "eu-west-1".into()),
        path if path.ends_with("/driver") => Answer::Http(200, String::new(), role.to_string()),
        path if path.contains("security-credentials") => Answer::Http(200, String::new(), "driver".into()),
        _ => Answer::Http(404, String::new(), String::new()),
    })
    .await;
    let bare = Stub::start(move |request, _| {
        if request.starts_with("PUT ") { token() } else { Answer::Http(404, String::new(), String::new()) }
    })
    .await;
    let keys = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "AKIAX"), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    for (expected, imds, given) in [
        ("assigned", &bare, &keys[..]),
        ("assigned", &full, &[]),
        ("no region", &bare, &[]),
        ("bad credentials", &bare, &keys[..1]),
    ] {
        let output = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "environment::in_a_process"])
            .env_clear()
            .envs(given.iter().copied())
            .envs([("AWS_ENDPOINT_URL_EC2", &ec2.url), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url)])
            .env("EXPECTED", expected)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{expected}: {text}");
        let told = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        secrets::assert_untold(&told, &[SECRET_KEY, ROLE_SECRET, ROLE_TOKEN, IMDS_TOKEN].map(str::to_owned));
    }
    assert_eq!(ec2.requests().len(), 2);
    assert!(ec2.requests()[1].contains(&format!("x-amz-security-token: {ROLE_TOKEN}")));
}
