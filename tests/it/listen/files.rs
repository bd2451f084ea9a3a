//! Files of TLS that are of no use, and files that are exchanged.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::{AT, Bed, ME, ask, text};
use crate::support::authority::Authority;
use crate::support::host::eventually;

/// Replaces a file's content at once, as those do who exchange certificates.
fn replace(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).unwrap();
    std::fs::rename(&beside, to).unwrap();
}

#[tokio::test]
async fn each_file_that_is_of_no_use_has_its_sentence() {
    let mut bed = Bed::new("https://127.0.0.1:8031").await;
    let folder = bed.files.path().to_owned();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    bed.ca.issue("other", "/CN=other", "IP:127.0.0.1");
    bed.ca.openssl("pkcs8 -topk8 -in own.key -passout pass:Kq7vZ2xTr9Wm -out encrypted.key");
    bed.ca.openssl("ec -in own.key -aes128 -passout pass:Kq7vZ2xTr9Wm -out earlier.key");
    bed.ca.openssl("ec -in own.key -pubout -out public.pem");
    bed.ca.openssl("genpkey -algorithm X25519 -out odd.key");
    bed.ca.openssl("ec -in own.key -out sec1.key");
    let whole = std::fs::read_to_string(&bed.own.cert).unwrap();
    let key = std::fs::read_to_string(&bed.own.key).unwrap();
    for (name, text) in [
        ("empty", ""),
        ("blank", " \n\n"),
        ("text", "Kq7vZ2xTr9Wm\n"),
        ("cut.pem", &whole[..whole.len() / 2]),
        ("cut.key", &key[..key.len() / 2]),
        ("odd.pem", "-----BEGIN CERTIFICATE-----\nS3E3dloyeFRyOVdt\n-----END CERTIFICATE-----\n"),
        ("label.pem", "-----BEGIN Kq7vZ2xTr9Wm-----\nS3E3dloyeFRyOVdt\n-----END Kq7vZ2xTr9Wm-----\n"),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::create_dir(folder.join("folder")).unwrap();
    nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let (cert, of_key, ca) = ("EC2_IPAM_TLS_CERT", "EC2_IPAM_TLS_KEY", "EC2_IPAM_TLS_CLIENT_CA");
    for (setting, name, says) in [
        (cert, "none.pem", "there is no such file"),
        (cert, "folder", "that is a directory"),
        (cert, "pipe", "that is no PEM file"),
        (cert, "empty", "that file is empty"),
        (cert, "blank", "that file is empty"),
        (cert, "text", "has no certificate: it is no PEM file"),
        (cert, "own.key", "has no certificate: it begins with a private key"),
        (cert, "own.csr", "has no certificate: it begins with a request for a certificate"),
        (cert, "label.pem", "has no certificate: it begins with something else"),
        (cert, "cut.pem", "is damaged"),
        (cert, "odd.pem", "its first certificate cannot be read"),
        (of_key, "none.key", "there is no such file"),
        (of_key, "folder", "that is a directory"),
        (of_key, "empty", "that file is empty"),
        (of_key, "own.pem", "has no private key: it begins with a certificate"),
        (of_key, "public.pem", "has no private key: it begins with a public key"),
        (of_key, "encrypted.key", "that key is encrypted"),
        (of_key, "earlier.key", "that key is encrypted"),
        (of_key, "cut.key", "is damaged"),
        (of_key, "odd.key", "is no key that can be used"),
        (of_key, "other.key", "that is not the key of the first certificate in EC2_IPAM_TLS_CERT"),
        (ca, "none.pem", "there is no such file"),
        (ca, "folder", "that is a directory"),
        (ca, "empty", "that file is empty"),
        (ca, "own.key", "has no certificate: it begins with a private key"),
        (ca, "odd.pem", "one of its certificates cannot be read"),
    ] {
        let (done, told) = bed.host.run_with(&["serve"], &[(setting, &file(name))]).await;
        let sentence = format!("ERROR {setting} is {:?}, but {says}", file(name));
        assert!(!done && told.contains(&sentence), "{setting} {name}: {told}");
        assert!(told.lines().count() == 1, "{told}");
        assert!(!told.contains("Kq7vZ2xTr9Wm") && !told.contains("S3E3dloyeFRyOVdt"), "{told}");
    }
    // Keys as they were written before, and a file that has both.
    std::fs::write(folder.join("both.pem"), key + &whole).unwrap();
    bed.host.set(&[(cert, &file("both.pem")), (of_key, &file("sec1.key"))]);
    bed.host.start().await;
    assert_eq!(bed.call_by_tls(&bed.ca, None).await.unwrap().status, 200);
    assert!(bed.host.stop().await.success());

    // A plugin starts, says so to whoever asks, and listens on its socket alone.
    bed.host.set(&[(of_key, &file("encrypted.key"))]);
    bed.host.args = vec!["--plugin".into()];
    bed.host.start().await;
    let why = bed.host.pool_with("", serde_json::json!({})).await.unwrap_err();
    assert!(why.contains(of_key) && why.contains("that key is encrypted"), "{why}");
    assert!(bed.host.log().contains("ERROR nothing is served: EC2_IPAM_TLS_KEY is "), "{}", bed.host.log());
    bed.tells_no_key();
}

#[tokio::test]
async fn certificates_are_exchanged_while_it_runs() {
    let mut bed = Bed::new("https://127.0.0.1:8031").await;
    let client = bed.ca.issue("client", "/CN=client", "DNS:client.example");
    bed.wants_certificates();
    bed.host.start().await;
    let stream = bed.host.connect_tcp(ME, AT).await;
    let mut keeping = bed.host.wire(bed.ca.connect(stream, Some(&client)).await.unwrap());
    assert_eq!(ask(&mut keeping, "/Plugin.Activate", "").await.status, 200);

    // All of another authority, one file after the other.
    let folder = tempfile::tempdir().unwrap();
    let next = Authority::new(folder.path(), "next");
    let own = next.issue("own", "/CN=ec2-ipam", "IP:127.0.0.1");
    let other = next.issue("client", "/CN=client", "DNS:client.example");
    replace(&own.cert, &bed.own.cert);
    replace(&own.key, &bed.own.key);
    eventually("the new certificate is used", async || bed.call_by_tls(&next, Some(&client)).await.is_ok()).await;
    bed.call_by_tls(&bed.ca, Some(&client)).await.unwrap_err();
    let earlier = bed.files.path().join("earlier.pem");
    std::fs::copy(bed.ca.cert(), &earlier).unwrap();
    replace(&next.cert(), &bed.ca.cert());
    eventually("the new authority is used", async || bed.call_by_tls(&next, Some(&other)).await.is_ok()).await;
    bed.call_by_tls(&next, Some(&client)).await.unwrap_err();
    assert_eq!(ask(&mut keeping, "/Plugin.Activate", "").await.status, 200, "it was let in before");

    // What is of no use is told once, and what was there before stays in use.
    let told = |why: &str| bed.host.log().matches(why).count();
    let fits_not = "ERROR EC2_IPAM_TLS_KEY is ";
    replace(&other.key, &bed.own.key);
    eventually("it is told", async || told(fits_not) == 1).await;
    assert!(bed.host.log().contains("what the TLS files had before stays in use"), "{}", bed.host.log());
    assert_eq!(bed.call_by_tls(&next, Some(&other)).await.unwrap().status, 200);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(told(fits_not), 1, "{}", bed.host.log());
    std::fs::remove_file(&bed.own.cert).unwrap();
    eventually("it is told", async || told("but there is no such file") == 1).await;
    assert_eq!(bed.call_by_tls(&next, Some(&other)).await.unwrap().status, 200);
    replace(&own.cert, &bed.own.cert);
    replace(&own.key, &bed.own.key);
    replace(&earlier, &bed.ca.cert());
    eventually("the earlier authority is used", async || bed.call_by_tls(&next, Some(&client)).await.is_ok()).await;
    assert_eq!(ask(&mut keeping, "/Plugin.Activate", "").await.status, 200);
    bed.tells_no_key();
    let _ = text(&bed.own.key);
}

/// The next start would fail, or no Engine takes the server's certificate: nobody is to learn of it only then.
#[tokio::test]
async fn what_is_of_no_use_or_at_its_end_is_a_problem() {
    let mut bed = Bed::new("https://127.0.0.1:8031").await;
    let key = text(&bed.own.key).to_owned();
    bed.host.start().await;
    let doctor = async |bed: &Bed| bed.host.ask(&["doctor"]).await.1;
    let told = doctor(&bed).await;
    let cert = text(&bed.own.cert).to_owned();
    assert!(told.contains(&format!("ok    TLS: EC2_IPAM_TLS_CERT is {cert:?}, which ends in 2")), "{told}");
    assert!(bed.host.ask(&["status"]).await.0);

    let whole = std::fs::read(&bed.own.cert).unwrap();
    std::fs::write(&bed.own.cert, "bad").unwrap();
    let problem =
        format!("EC2_IPAM_TLS_CERT is {cert:?}, but has no certificate: it is no PEM file; what the TLS files had");
    let shows = async |bed: &Bed, text: &str| bed.host.ask(&["status"]).await.1.contains(&format!("PROBLEM   {text}"));
    eventually("it is a problem", async || shows(&bed, &problem).await).await;
    assert!(!bed.host.ask(&["status"]).await.0);
    let told = doctor(&bed).await;
    assert!(told.contains(&format!("FAIL  TLS: {problem}")), "{told}");
    assert_eq!(bed.call_by_tls(&bed.ca, None).await.unwrap().status, 200, "what it had before stays in use");
    std::fs::write(&bed.own.cert, &whole).unwrap();
    eventually("it is none any more", async || bed.host.ask(&["status"]).await.0).await;

    // It ends within days.
    let again = |days: &str, name: &str| {
        let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions";
        bed.ca.openssl(&format!("x509 -req -in own.csr {by} {days} -out {name}"));
        replace(&bed.files.path().join(name), &bed.own.cert);
    };
    again("-days 3", "soon.pem");
    eventually("it is warned of", async || doctor(&bed).await.contains("warn  TLS: EC2_IPAM_TLS_CERT is ")).await;
    let told = doctor(&bed).await;
    assert!(told.contains("which ends in 2 days"), "{told}");
    assert!(bed.host.ask(&["status"]).await.0, "it is of use still");
    assert!(bed.host.log().contains("WARN EC2_IPAM_TLS_CERT is "), "{}", bed.host.log());

    // It has ended.
    again("-days -1", "ended.pem");
    eventually("it is a problem", async || shows(&bed, &format!("EC2_IPAM_TLS_CERT is {cert:?}, which ended ")).await)
        .await;
    let told = doctor(&bed).await;
    assert!(told.contains("FAIL  TLS: EC2_IPAM_TLS_CERT is "), "{told}");
    assert!(bed.host.log().contains("ERROR EC2_IPAM_TLS_CERT is "), "{}", bed.host.log());

    // A key that is no secret.
    assert!(!told.contains("everybody on the host"), "{told}");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let exposed =
        format!("warn  TLS: EC2_IPAM_TLS_KEY is {key:?}: everybody on the host may read or change it (mode 0644)");
    eventually("it is warned of", async || doctor(&bed).await.contains(&exposed)).await;
    bed.tells_no_key();
}

/// Nobody would begin it anew.
#[cfg(feature = "fail-points")]
#[tokio::test]
async fn a_fault_in_reading_them_ends_the_driver() {
    use std::os::unix::process::ExitStatusExt;
    let mut bed = Bed::new("https://127.0.0.1:8031").await;
    bed.host.set(&[("EC2_IPAM_PANIC_AT", "reading the TLS files")]);
    bed.host.launch();
    assert_eq!(bed.host.exit().await.signal(), Some(6));
    assert!(bed.host.log().contains("ERROR a fault in the driver (reading the TLS files)"), "{}", bed.host.log());
}
