//! The search for secrets finds what it is for: planted ones, in every form, and those that a driver really writes.

use std::panic::AssertUnwindSafe;

use serde_json::json;
use vpc_sim::{ROLE_SECRET, ROLE_TOKEN};

use crate::support::host::{Fleet, Kind, SECRET_KEY};
use crate::support::mariadb::PASSWORD;
use crate::support::secrets::{percent, search};

/// Every form of it differs from every other, and no word of it is long enough to be found by itself.
const CANARY: &str = r#"Can+ry/"q\uote"/4?~=é"#;

fn finds(text: &str, secret: &str) -> bool {
    !search(text, &[secret.to_owned()]).is_empty()
}

#[test]
fn a_planted_secret_is_found_in_every_form() {
    let encoded = |text: &str| {
        // As others do it: OpenSSL.
        let mut openssl = std::process::Command::new("openssl")
            .args(["base64", "-A"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut openssl.stdin.take().unwrap(), text.as_bytes()).unwrap();
        String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap()
    };
    let bytes = CANARY.bytes();
    let mut cases = vec![
        ("as it is", CANARY.to_owned()),
        ("in a URL", "mysql://u:Can%2Bry%2F%22q%5Cuote%22%2F4%3F%7E%3D%C3%A9%22@db/ipam".to_owned()),
        ("in a URL, small", "mysql://u:Can%2bry%2f%22q%5cuote%22%2f4%3f%7e%3d%c3%a9%22@db/ipam".to_owned()),
        ("in a form", form_urlencoded::Serializer::new(String::new()).append_pair("key", CANARY).finish()),
        ("in JSON", json!({ "key": CANARY }).to_string()),
        ("in JSON as some write it", json!({ "key": CANARY }).to_string().replace('/', "\\/")),
        ("in a value that is debugged", format!("{:?}", Some(CANARY))),
        ("in JSON in a line of dockerd's", format!("msg={:?}", json!({ "key": CANARY }).to_string())),
        ("in hexadecimal digits", bytes.clone().map(|byte| format!("{byte:02x}")).collect()),
        ("in capital hexadecimal digits", bytes.map(|byte| format!("{byte:02X}")).collect()),
    ];
    for before in ["", "u:", "user:", "longer:"] {
        for after in ["", "x", "xy"] {
            let base64 = encoded(&format!("{before}{CANARY}{after}"));
            cases.push(("in base64 for URLs", base64.replace('+', "-").replace('/', "_")));
            cases.push(("in base64, as a login is", base64));
        }
    }
    for (form, text) in cases {
        assert!(finds(&format!("before {text} after"), CANARY), "{form}: {text}");
    }
    for text in ["", "before and after", "Can+ry", &percent("Can+ry/"), &encoded("another text of that length")] {
        assert!(!finds(text, CANARY), "{text}");
    }
    // Those of the tests hold a word that any other escaping, or a cut, leaves as it is.
    for secret in [PASSWORD, SECRET_KEY, ROLE_SECRET, ROLE_TOKEN] {
        let word = secret.split(|c: char| !c.is_ascii_alphanumeric()).max_by_key(|word| word.len()).unwrap();
        assert!(finds(&format!("password={word}…"), secret), "{secret}");
    }
}

/// An option of a network that holds a secret: the driver quotes it where it says what is wrong with it.
#[tokio::test]
async fn a_secret_that_a_driver_really_logs_and_answers_is_found() {
    for secret in [CANARY, PASSWORD] {
        let fleet = Fleet::new(Kind::Sqlite).await;
        let mut host = fleet.host(1);
        host.start().await;
        let why = host.pool_with("", json!({ "parent": secret })).await.unwrap_err();
        assert!(finds(&why, secret), "in the answer: {why}");
        assert!(finds(&host.log(), secret), "in the log: {}", host.log());
        // The very end of every test with hosts.
        let end = std::panic::catch_unwind(AssertUnwindSafe(|| drop(host)));
        assert_eq!(end.is_err(), secret == PASSWORD, "only what is a secret of this host's ends its test");
    }
}

#[tokio::test]
async fn what_the_metadata_hands_out_is_among_the_secrets() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    // The role's credentials, then.
    host.unset("AWS_ACCESS_KEY_ID");
    host.unset("AWS_SECRET_ACCESS_KEY");
    host.start().await;
    let pool = host.pool().await;
    host.lease(&pool).await;
    let secrets = fleet.vpc.secrets();
    assert!(secrets.iter().any(|secret| secret.starts_with("AQAEA")), "tokens: {secrets:?}");
    let used = fleet.vpc.calls().iter().all(|call| call.access_key.starts_with("ASIA"));
    assert!(used && secrets.contains(&ROLE_SECRET.to_owned()) && secrets.contains(&ROLE_TOKEN.to_owned()));
}
