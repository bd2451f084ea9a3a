//! Settings that are wrong: a service refuses to start, a plugin starts and tells everybody.

use serde_json::json;

use crate::support::host::{ACCESS_KEY, Fleet, Kind, eni};
use crate::support::mariadb::PASSWORD;

/// So that a driver that should not start ends all the same.
const NOWHERE: (&str, &str) = ("EC2_IPAM_LISTEN", "unix:///proc/never/ipam.sock");

#[tokio::test]
async fn a_wrong_one_keeps_no_plugin_from_saying_so() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let url = format!("postgres://u:{PASSWORD}@h/db");
    let endpoint = format!("ftp://u:{PASSWORD}@h");
    let wrong = [
        ("EC2_IPAM_DATABASE_URL", url.as_str(), "mysql://user:password@host"),
        ("EC2_IPAM_DATABASE_PASSWORD_FILE", "password", "is \"password\", but must be a file's whole path"),
        ("EC2_IPAM_DATABASE_AUTH", "rds-iam", "is \"rds-iam\", but the table is an SQLite file"),
        ("EC2_IPAM_LISTEN_PLAIN", "yes", "is \"yes\", but must be true or false"),
        ("EC2_IPAM_TLS_CERT", "/cert.pem", "is \"/cert.pem\", but no address of EC2_IPAM_LISTEN is of https"),
        ("EC2_IPAM_WARM_TARGET", "50", "is \"50\", but must be a number from 0 to 49"),
        ("EC2_IPAM_WARM_MAX", "many", "is \"many\", but must be"),
        ("EC2_IPAM_COOLDOWN", "60", "is \"60\", but must be a time"),
        ("EC2_IPAM_REQUEST_TIMEOUT", "31s", "is \"31s\", but must be"),
        ("EC2_IPAM_RECONCILE_INTERVAL", "0s", "is \"0s\", but must be"),
        ("EC2_IPAM_HISTORY", "30", "is \"30\", but must be a time from 1d to 366d"),
        ("EC2_IPAM_SCAN_INTERVAL", "soon\u{1b}[2J", "is \"soon\\u{1b}[2J\", but must be"),
        ("EC2_IPAM_LOG", "verbose", "is \"verbose\", but must be error, warn, info, debug or trace"),
        ("EC2_IPAM_LOG_FORMAT", "xml", "is \"xml\", but must be text or json"),
        ("AWS_REGION", "Ireland", "is \"Ireland\", but must be a region"),
        (
            "AWS_ENDPOINT_URL_EC2",
            "ec2.eu-west-1.amazonaws.com",
            "is \"ec2.eu-west-1.amazonaws.com\", but must be a URL",
        ),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str(), "is (not shown), but must be a URL"),
        ("HTTPS_PROXY", "http://proxy.example:99999", "is \"http://proxy.example:99999\", but must be a URL"),
        ("https_proxy", "proxy.example:3128", "is \"proxy.example:3128\", but must be a URL"),
        ("AWS_SECRET_ACCESS_KEY", "", "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set"),
    ];
    for (n, (name, value, shown)) in (1..).zip(wrong) {
        let mut host = fleet.host(n);
        let (done, text) = host.run_with(&["serve"], &[(name, value), NOWHERE]).await;
        assert!(!done && text.contains(name) && text.contains(shown), "a service does not start: {text}");

        host.set(&[(name, value)]);
        host.args = vec!["--plugin".into()];
        host.start().await;
        let tells = |text: &str| assert!(text.contains(name) && text.contains(shown), "{name}={value}: {text}");
        // Without these the Engine does not take the driver, and asks it nothing.
        for call in ["/Plugin.Activate", "/IpamDriver.GetCapabilities", "/IpamDriver.GetDefaultAddressSpaces"] {
            assert_eq!(host.call(call, "").await.status, 200, "{call}");
        }
        let pool = format!("{}/10.77.0.0-24", eni(n));
        tells(&host.pool_with("", json!({})).await.unwrap_err());
        tells(&host.request(&pool, "").await.unwrap_err());
        let release = json!({ "PoolID": pool, "Address": "10.77.0.9" });
        tells(&host.post("ReleaseAddress", &release).await.outcome().unwrap_err());
        tells(&host.post("ReleasePool", &json!({ "PoolID": pool })).await.outcome().unwrap_err());
        for command in [&["status"][..], &["doctor"], &["list"], &["reserve", "10.77.0.9"]] {
            tells(&host.ask(command).await.1);
        }
        let (done, text) = host.ask(&["doctor"]).await;
        assert!(!done && text.contains("FAIL  settings: ") && text.contains("docker plugin set"), "{text}");
        assert!(!host.dir.path().join("state").exists(), "nothing is done with defaults in its place");
        assert!(!host.log().contains(ACCESS_KEY) && host.log().contains("ERROR nothing is served: "), "{}", host.log());
        assert!(host.stop().await.success());
    }
}

#[tokio::test]
async fn a_level_of_the_log_is_a_word_that_is_known() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    for wrong in ["verbose", "info debug", "off", "hyper=debug", "ec2_ipam::enis=debug"] {
        let (done, text) = host.run_with(&["serve"], &[("EC2_IPAM_LOG", wrong), NOWHERE]).await;
        assert!(
            !done && text.contains(&format!("EC2_IPAM_LOG is {wrong:?}, but must be error, warn")),
            "{wrong}: {text}"
        );
    }
    host.set(&[("EC2_IPAM_LOG", "Warning")]);
    host.start().await;
    host.pool_with("", json!({ "nonsense": "1" })).await.unwrap_err();
    let log = host.log();
    assert!(log.starts_with(" WARN refused: ") && !log.contains(" INFO "), "{log}");
}

/// A plugin's settings can be emptied, and not removed.
#[tokio::test]
async fn an_emptied_endpoint_is_the_default() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("AWS_ENDPOINT_URL_EC2", ""), ("AWS_ENDPOINT_URL", ""), ("EC2_IPAM_REQUEST_TIMEOUT", "5s")]);
    host.start().await;
    let why = host.pool_with("", json!({})).await.unwrap_err();
    // This network leads nowhere, and no driver ends of that.
    assert!(!why.contains("the driver failed"), "{why}");
    assert!(host.stop().await.success(), "{}", host.log());
}

#[tokio::test]
async fn a_wrong_one_is_told_as_the_others_say() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host(1);
    host.docker();
    host.set(&[("EC2_IPAM_LOG_FORMAT", "json"), ("EC2_IPAM_WARM_TARGET", "x"), ("EC2_IPAM_COOLDOWN", "y")]);
    host.args = vec!["--plugin".into()];
    host.start().await;
    let (is_well, status): (bool, serde_json::Value) = host.ask_json(&["status"]).await;
    assert!(!is_well && status["store"]["kind"] == "mysql" && status["docker"]["error"].is_null(), "{status}");
    for line in host.log().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
}
