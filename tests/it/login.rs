//! How the table's user logs in while the driver runs: passwords of a file that are exchanged, and tokens of IAM, which a real
//! server asks for as RDS does.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ec2_ipam::domain::address::State;

use crate::support::host::{ACCESS_KEY, Fleet, Host, Kind, SECRET_KEY, eventually};
use crate::support::mariadb::{Db, Mariadb, PASSWORD, by_tokens};
use crate::support::secrets;

/// Long enough to be told from other text. The other one is among what no host may tell.
const OTHER: &str = "anotherOf2Passwords";

/// What is let go can be given at once.
const NO_REST: (&str, &str) = ("EC2_IPAM_COOLDOWN", "0s");

/// Two idle addresses of a host that runs, and its pool.
async fn idle(host: &Host) -> (String, BTreeSet<Ipv4Addr>) {
    let pool = host.pool().await;
    let idle = BTreeSet::from([host.lease(&pool).await, host.lease(&pool).await]);
    for ip in &idle {
        host.release(&pool, *ip).await;
    }
    eventually("the table knows", async || host.mine(State::Ready).await == idle).await;
    (pool, idle)
}

/// Whether new connections are refused, with these words; it is told once in each place where it is met, however often it is
/// tried.
async fn is_refused(host: &Host, words: &str) -> bool {
    let (is_well, text) = host.ask(&["doctor"]).await;
    let log = host.log();
    let told = log.lines().filter(|line| line.starts_with(" WARN the database ") && line.contains(words));
    let told = told.filter(|line| !line.ends_with("in the last minute)")).count();
    assert!(told <= 8, "{log}");
    !is_well && text.contains("FAIL  database: ") && text.contains(words)
}

fn write(file: &Path, password: &str) {
    std::fs::write(file, format!("{password}\n")).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn a_password_is_exchanged_while_the_driver_runs() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, db) = (fleet.host(1), fleet.db.clone().unwrap());
    let (user, file) = (format!("{}_file", db.name), host.dir.path().join("password"));
    let quoted = PASSWORD.replace('\\', r"\\");
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY '{quoted}'; GRANT ALL ON {}.* TO {user}", db.name)).await;
    let url = format!("mysql://{user}@127.0.0.1:{}/{}", host.proxy.as_ref().unwrap().port, db.name);
    let path = file.to_str().unwrap().to_owned();
    host.set(&[("EC2_IPAM_DATABASE_URL", &url), ("EC2_IPAM_DATABASE_PASSWORD_FILE", &path), NO_REST]);
    write(&file, PASSWORD);
    host.start().await;
    let (pool, idle) = idle(&host).await;
    let text = host.tell(&["doctor"]).await;
    assert!(text.contains(&format!("login: {user}, by the password in {file:?}")), "{text}");
    for what in ["environ", "cmdline"] {
        let text = std::fs::read(format!("/proc/{}/{what}", host.pid())).unwrap();
        secrets::assert_untold(&String::from_utf8_lossy(&text), &[PASSWORD.to_owned()]);
    }

    // The database has the new one before the file, and the host's machine comes up in between.
    db.exec(&format!("ALTER USER {user} IDENTIFIED BY '{OTHER}'")).await;
    host.restart().await;
    let refused = "belongs into";
    eventually("it is refused", async || is_refused(&host, refused).await).await;
    let leased = BTreeSet::from([host.lease(&pool).await, host.lease(&pool).await]);
    assert_eq!(leased, idle, "what is idle is given all the same");
    assert!(is_refused(&host, refused).await);
    write(&file, OTHER);
    eventually("the table follows", async || host.mine(State::Lease).await == leased).await;

    // The file has the new one first: what is open lives on.
    write(&file, PASSWORD);
    host.release(&pool, *leased.first().unwrap()).await;
    eventually("the table follows", async || host.mine(State::Lease).await.len() == 1).await;
    host.proxy.as_ref().unwrap().cut();
    host.release(&pool, *leased.last().unwrap()).await;
    eventually("it is refused", async || is_refused(&host, refused).await).await;
    db.exec(&format!("ALTER USER {user} IDENTIFIED BY '{quoted}'")).await;
    eventually("the table follows", async || host.mine(State::Lease).await.is_empty()).await;

    // What is in it is no secret, and it is no password.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = host.tell(&["doctor"]).await;
    assert!(text.contains("everybody on the host may read or change it (mode 0644): chmod 600"), "{text}");
    for (text, why) in [("", "is empty"), ("a\nb\n", "has several lines"), ("\u{feff}a", "is not plain UTF-8 text")] {
        std::fs::write(&file, text).unwrap();
        let (is_well, text) = host.ask(&["doctor"]).await;
        let says = format!("FAIL  login: EC2_IPAM_DATABASE_PASSWORD_FILE is {file:?}, but that file {why}");
        assert!(!is_well && text.contains(&says), "{text}");
    }
    write(&file, PASSWORD);
    secrets::assert_untold(&host.log(), &[OTHER.to_owned()]);
}

/// A fleet on a server that takes tokens, and the server.
async fn fleet_by_tokens() -> (Fleet, &'static Mariadb) {
    let server = tokio::task::spawn_blocking(by_tokens).await.unwrap();
    let mut fleet = Fleet::new(Kind::Sqlite).await;
    fleet.db = Some(Arc::new(Db::on(&server.server).await));
    (fleet, server)
}

/// A host whose user logs in by tokens.
async fn host_by_tokens(fleet: &Fleet, server: &Mariadb, n: u8) -> (Host, String) {
    let (mut host, db) = (fleet.host(n), fleet.db.as_ref().unwrap());
    let (user, port) = (format!("{}_iam{n}", db.name), host.proxy.as_ref().unwrap().port);
    db.exec(&format!("CREATE USER {user} IDENTIFIED VIA pam USING 'rds'; GRANT ALL ON {}.* TO {user}", db.name)).await;
    std::fs::write(server.dir.join(format!("places/localhost:{port}")), "").unwrap();
    let url = format!("mysql://{user}@localhost:{port}/{}?ssl-ca={}/ca.pem", db.name, server.dir.display());
    host.set(&[("EC2_IPAM_DATABASE_URL", &url), ("EC2_IPAM_DATABASE_AUTH", "rds-iam"), NO_REST]);
    (host, user)
}

/// Whom the server knows by this access key.
fn knows(server: &Mariadb, key: &str, secret: &str) {
    std::fs::write(server.dir.join("keys").join(key), secret).unwrap();
}

/// What the server said to tokens of this user so far.
fn verdicts(server: &Mariadb, user: &str) -> Vec<String> {
    let text = std::fs::read_to_string(server.dir.join("verdicts.log")).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix(&format!("{user}: ")).map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_user_logs_in_by_tokens_of_the_instances_role() {
    let (fleet, server) = fleet_by_tokens().await;
    let (mut host, user) = host_by_tokens(&fleet, server, 1).await;
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        host.unset(name);
    }
    let key = vpc_sim::access_key_of(&host.instance);
    knows(server, &key, vpc_sim::ROLE_SECRET);
    host.start().await;
    let (pool, idle) = idle(&host).await;
    let let_in = |count: usize| verdicts(server, &user).iter().filter(|said| said.contains("let in")).count() > count;
    assert!(verdicts(server, &user)[0].starts_with(&format!("let in by {key} with ")), "{:?}", verdicts(server, &user));
    let text = host.tell(&["doctor"]).await;
    assert!(
        text.contains(&format!("login: {user}, by tokens of IAM, of which one is signed for localhost:")),
        "{text}"
    );

    // A new connection is a new login.
    let before = verdicts(server, &user).len();
    host.proxy.as_ref().unwrap().cut();
    let first = host.lease(&pool).await;
    eventually("the table follows", async || host.mine(State::Lease).await == [first].into()).await;
    assert!(let_in(before), "{:?}", verdicts(server, &user));

    // As where the policy lacks rds-db:connect.
    std::fs::remove_file(server.dir.join("keys").join(&key)).unwrap();
    host.proxy.as_ref().unwrap().cut();
    let second = host.lease(&pool).await;
    assert_eq!(BTreeSet::from([first, second]), idle, "what is idle is given all the same");
    eventually("it is refused", async || is_refused(&host, "rds-db:connect").await).await;
    knows(server, &key, vpc_sim::ROLE_SECRET);
    eventually("the table follows", async || host.mine(State::Lease).await == idle).await;
    assert!(!host.log().contains("X-Amz-"), "nothing of a token is told: {}", host.log());
    let environment = std::fs::read(format!("/proc/{}/environ", host.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("X-Amz-"));
}

#[tokio::test]
async fn a_user_logs_in_by_tokens_of_keys_and_is_told_where_there_are_none() {
    let (fleet, server) = fleet_by_tokens().await;
    let (mut host, user) = host_by_tokens(&fleet, server, 2).await;
    knows(server, ACCESS_KEY, SECRET_KEY);
    // Without a driver, as an operator looks.
    let (_, text) = host.run(&["doctor"]).await;
    assert!(
        text.contains("ok    database: mysql ") && text.contains(&format!("login: {user}, by tokens of IAM")),
        "{text}"
    );
    let (_, text) = host.run_with(&["doctor"], &[("EC2_IPAM_DATABASE_AUTH", "")]).await;
    assert!(text.contains("FAIL  database: ") && text.contains("set EC2_IPAM_DATABASE_AUTH=rds-iam"), "{text}");
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        host.unset(name);
    }
    fleet.vpc.imds_role(false);
    let (is_well, text) = host.run_with(&["doctor"], &[("EC2_IPAM_REQUEST_TIMEOUT", "4s")]).await;
    let none = "the AWS credentials do not work, there are none: give the instance a role";
    assert!(!is_well && text.contains(&format!("of which there is none: {none}")), "{text}");
    assert!(text.contains(&format!("cannot be reached: no token to log in with: {none}")), "{text}");
    // They come later, as a role does that is given to an instance.
    host.start().await;
    eventually("it is told", async || host.log().contains(" WARN the database ")).await;
    assert!(host.log().contains(none), "{}", host.log());
    knows(server, &vpc_sim::access_key_of(&host.instance), vpc_sim::ROLE_SECRET);
    fleet.vpc.imds_role(true);
    idle(&host).await;
}
