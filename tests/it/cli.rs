//! The command line with the real binary: beside a running driver, without one, and where something is wrong.

use std::collections::BTreeSet;

use clap::CommandFactory;
use ec2_ipam::cli::Cli;
use ec2_ipam::domain::address::State;
use serde_json::{Value, json};
use vpc_sim::{ImdsMode, Switches};

use crate::support::host::{ASSIGN, Fleet, Host, Kind, RDS, SUBNET, UNASSIGN, agree, eni, eventually, ip, on_both};
use crate::support::mariadb::PASSWORD;

on_both! {
    init_fills_a_subnet_once
    recycle_frees_what_is_idle
    reserve_and_unreserve
    status_and_list_show_the_table
    doctor_finds_nothing_wrong
}

async fn init_fills_a_subnet_once(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    fleet.vpc.take(RDS, ip(70));
    fleet.vpc.add_prefix(RDS, "10.77.0.112/28");
    let mut host = fleet.host(1);
    host.start().await;
    let text = host.tell(&["init", SUBNET]).await;
    assert_eq!(text, format!("{SUBNET}: 256 rows added, 0 changed; EC2 has 18 addresses in use\n"));
    let rows = host.rows().await;
    let of =
        |state| rows.iter().filter(|row| row.state == state).map(|row| row.ip.octets()[3]).collect::<BTreeSet<_>>();
    assert_eq!(of(State::Reserved), [0, 1, 2, 3, 255].into());
    assert_eq!(of(State::Foreign), (112..128).chain([4, 70]).collect());
    assert!(rows.iter().all(|row| row.primary == [ip(4), ip(70)].contains(&row.ip)));

    let text = host.tell(&["init", SUBNET]).await;
    assert!(text.contains("0 rows added, 0 changed"), "{text}");
    assert_eq!(host.rows().await, rows);
    // What was deleted comes back; what others took since is learnt; what is in use stays as it is.
    let pool = host.pool().await;
    let leased = host.request(&pool, "10.77.0.40").await.unwrap();
    let delete = "DELETE FROM allocation WHERE ip IN ('10.77.0.90','10.77.0.2')";
    host.sql(delete, delete).await;
    fleet.vpc.add_address(RDS, ip(91));
    let text = host.tell(&["init", SUBNET]).await;
    assert!(text.contains("2 rows added, 1 changed"), "{text}");
    assert_eq!(host.row(leased).await.state, State::Lease);
    assert_eq!((host.row(ip(91)).await.state, host.row(ip(2)).await.state), (State::Foreign, State::Reserved));

    for (subnet, says) in [
        ("subnet-0fffffffffffffff1", "EC2 does not know subnet-0fffffffffffffff1"),
        ("vpc-0123456789abcdef0", "is not an id of the form subnet-"),
        ("", "is not an id of the form subnet-"),
    ] {
        let (done, text) = host.ask(&["init", subnet]).await;
        assert!(!done && text.contains(says), "{subnet}: {text}");
    }
}

#[tokio::test]
async fn init_of_the_largest_subnet_survives_a_kill() {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/16", Switches::default()).await;
    let host = fleet.host(1);
    // The table has to be there to be counted.
    let (done, text) = host.run(&["list"]).await;
    assert!(done, "{text}");
    let mut init = host.spawn(&["init", SUBNET], &[]);
    eventually("it has begun", async || {
        assert!(init.try_wait().unwrap().is_none_or(|status| status.success()));
        host.count_rows().await > 0
    })
    .await;
    init.kill().unwrap();
    init.wait().unwrap();
    let begun = host.count_rows().await;
    let (done, text) = host.run(&["init", SUBNET]).await;
    // The server may still have committed the chunk that was under way.
    let added: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(done && added > 0 && added <= 65_536 - begun, "{begun}: {text}");
    assert_eq!(host.count_rows().await, 65_536);
}

async fn recycle_frees_what_is_idle(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let often = [("EC2_IPAM_RECONCILE_INTERVAL", "1s")];
    let (host, pool) = fleet.started(1, &often).await;
    let (other, theirs) = fleet.started(2, &often).await;
    for (host, pool) in [(&host, &pool), (&other, &theirs)] {
        let (a, b) = (host.lease(pool).await, host.lease(pool).await);
        host.lease(pool).await;
        host.release(pool, a).await;
        host.release(pool, b).await;
    }
    let text = host.tell(&["recycle", SUBNET]).await;
    assert_eq!(text, format!("{SUBNET}: 2 addresses are free again\n"));
    assert_eq!((host.assigned().len(), other.assigned().len()), (1, 3));
    let (done, text) = host.ask(&["recycle", SUBNET, "--all"]).await;
    if kind == Kind::Sqlite {
        assert!(!done && text.contains("--all needs the MySQL table"), "{text}");
    } else {
        assert!(done && text.contains("2 addresses are free again"), "{text}");
        assert_eq!(other.assigned().len(), 1);
        other.lease(&theirs).await;
        // Without a driver: the hosts are asked all the same.
        let mut third = fleet.host(3);
        third.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "5s")]);
        host.release(&pool, *host.assigned().first().unwrap()).await;
        let (done, text) = third.run(&["recycle", SUBNET, "--all"]).await;
        assert!(done && text.contains("1 addresses are free again"), "{text}");
    }
    assert!(host.tell(&["recycle", SUBNET]).await.contains("0 addresses"));
    agree(&[&host, &other]).await;
}

async fn reserve_and_unreserve(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    fleet.vpc.take(RDS, ip(70));
    let (host, pool) = fleet.started(1, &[]).await;
    assert_eq!(host.tell(&["reserve", "10.77.0.60", "printer"]).await, "10.77.0.60 is reserved\n");
    let leased = host.lease(&pool).await;
    let row = host.row(ip(60)).await;
    assert_eq!((row.state, row.holder.as_deref()), (State::Reserved, Some("printer")));
    let leased = leased.to_string();
    for (command, address, says) in [
        ("reserve", "10.77.0.60", "only a free address can be reserved"),
        ("reserve", leased.as_str(), "is lease of eni-"),
        ("reserve", "10.77.0.70", "is foreign of eni-"),
        ("reserve", "10.99.0.1", "has no row for 10.99.0.1"),
        ("reserve", "x", "invalid value 'x'"),
        ("unreserve", leased.as_str(), "it is not reserved"),
        ("unreserve", "10.77.0.61", "it is not reserved"),
        ("unreserve", "10.77.0.1", "reserved by AWS itself"),
        ("unreserve", "10.77.0.255", "reserved by AWS itself"),
    ] {
        let (done, text) = host.ask(&[command, address]).await;
        assert!(!done && text.contains(says), "{command} {address}: {text}");
    }
    assert_eq!(host.tell(&["unreserve", "10.77.0.60"]).await, "10.77.0.60 may be given out again\n");
    assert_eq!(host.row(ip(60)).await.state, State::Free);
    agree(&[&host]).await;
}

async fn status_and_list_show_the_table(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "2")]).await;
    host.request(&pool, "10.77.0.50").await.unwrap();
    let any = host.lease(&pool).await;
    eventually("two are idle", async || host.mine(State::Ready).await.len() == 2).await;
    let status: Value = host.tell_json(&["status"]).await;
    let of_eni = &status["enis"][0];
    assert_eq!(of_eni["eni"], eni(1));
    assert_eq!(of_eni["link"], "eth1");
    assert_eq!((&of_eni["up"], &of_eni["limit"], &of_eni["warm"]), (&json!(true), &json!(10), &json!(2)));
    assert_eq!(of_eni["addresses"], json!({ "foreign": 1, "lease": 2, "ready": 2 }));
    assert_eq!(status["subnets"][SUBNET]["free"], 246);
    let table = if kind == Kind::Mariadb { "mysql" } else { "sqlite" };
    assert_eq!(status["store"]["kind"], table);
    let text = host.tell(&["status"]).await;
    assert!(text.contains(&format!("interface {} on eth1 (up)", eni(1))) && text.contains("2 lease"), "{text}");

    let listed: Value = host.tell_json(&["list"]).await;
    // AWS's five, the primary, and four of ours.
    assert_eq!(listed.as_array().unwrap().len(), 10);
    let text = host.tell(&["list", SUBNET, "--free"]).await;
    assert_eq!(text.lines().count(), 257, "{text}");
    let line = text.lines().find(|line| line.starts_with(&format!("{any} "))).unwrap();
    assert!(line.contains("lease") && line.contains(&eni(1)), "{line}");
    host.ip("link set eth1 down");
    assert!(host.tell(&["status"]).await.contains("on eth1 (DOWN)"));
    host.ip("link set eth1 up");
    fleet.vpc.deny(ASSIGN, true);
    let named = (90..).map(ip).find(|ip| !host.assigned().contains(ip)).unwrap().to_string();
    host.request(&pool, &named).await.unwrap_err();
    let (is_well, text) = host.ask(&["status"]).await;
    assert!(text.contains("last error: the AWS credentials may not do ec2:AssignPrivateIpAddresses"), "{text}");
    let problem = format!("PROBLEM   {}: the AWS credentials may not do", eni(1));
    assert!(!is_well && text.contains(&problem), "{text}");
    fleet.vpc.deny(ASSIGN, false);
    host.request(&pool, &named).await.unwrap();
    assert!(host.ask(&["status"]).await.0);
}

async fn doctor(host: &Host, running: bool) -> (bool, String) {
    if running { host.ask(&["doctor"]).await } else { host.run(&["doctor"]).await }
}

async fn doctor_finds_nothing_wrong(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[]).await;
    host.lease(&pool).await;
    fleet.vpc.forget_calls();
    let (done, text) = doctor(&host, true).await;
    assert!(done && !text.contains("FAIL"), "{text}");
    for name in
        ["IMDS", "region", "interface", "database", "table", "EC2", "host agent", "subnet", "ec2:DescribeSubnets"]
    {
        assert!(text.contains(&format!("ok    {name}: ")), "{name}: {text}");
    }
    assert_eq!(host.assigned().len(), 1, "it changes nothing");
    let json: Value = host.tell_json(&["doctor"]).await;
    assert!(json.as_array().unwrap().iter().all(|check| check["verdict"] != "failure"));
    agree(&[&host]).await;
}

#[tokio::test]
async fn init_and_doctor_tell_of_blocks_where_they_are_wanted() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    fleet.vpc.take(RDS, ip(70));
    let mut host = fleet.host(1);
    host.start().await;
    let text = host.tell(&["init", SUBNET]).await;
    assert!(!text.contains("/28"), "{text}");
    host.pool().await;
    let text = host.tell(&["doctor"]).await;
    let says = "ok    blocks: EC2_IPAM_BLOCKS is never: an interface takes 9 containers, with auto up to 144\n";
    assert!(text.contains(says), "{text}");

    host.set(&[("EC2_IPAM_BLOCKS", "auto")]);
    host.restart().await;
    let counts = "13 whole, 1 broken, 0 full; a subnet CIDR reservation of type explicit keeps";
    let text = host.tell(&["init", SUBNET]).await;
    assert!(text.contains(&format!("\n/28s that may be blocks: {counts}")), "{text}");
    host.pool().await;
    for running in [true, false] {
        let (done, text) = doctor(&host, running).await;
        assert!(done && text.contains(&format!("ok    blocks: /28s of {SUBNET} that may be one: {counts}")), "{text}");
    }

    // One broken by each of its neighbours: what is free is no block.
    for n in 1..15 {
        let _ = host.run(&["reserve", &ip(n * 16 + 1).to_string()]).await;
    }
    let text = host.tell(&["doctor"]).await;
    assert!(text.contains("warn  blocks: ") && text.contains("0 whole, 14 broken, 0 full\n      -> single"), "{text}");

    // Types without Nitro, and subnets that are too small.
    for (cidr, instance_type, says) in [
        ("10.77.0.0/24", "m4.large", "warn  blocks: EC2_IPAM_BLOCKS is auto, but m4.large takes single addresses only"),
        ("10.77.0.0/27", "c5.large", "warn  blocks: EC2_IPAM_BLOCKS is auto, but a /27 has no /28 that may be one"),
    ] {
        let fleet = Fleet::with(Kind::Sqlite, cidr, Switches::default()).await;
        let mut host = fleet.host_of(1, instance_type);
        host.set(&[("EC2_IPAM_BLOCKS", "auto")]);
        host.start().await;
        host.pool().await;
        let (done, text) = doctor(&host, true).await;
        assert!(done && text.contains(says), "{text}");
        host.set(&[("EC2_IPAM_BLOCKS", "never")]);
        host.restart().await;
        let (done, text) = doctor(&host, true).await;
        assert!(done && !text.contains("blocks: "), "nobody is nagged: {text}");
    }
}

/// Each fault of the surroundings, with its remedy, as the running driver and as a doctor alone see it.
#[tokio::test]
async fn doctor_names_each_failure_and_its_remedy() {
    for running in [true, false] {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let mut host = fleet.host(1);
        host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "3s"), ("AWS_REGION", "eu-central-1")]);
        let pool = if running {
            host.start().await;
            host.pool().await
        } else {
            assert!(host.run(&["init", SUBNET]).await.0);
            String::new()
        };
        let fails = async |says: &[&str]| {
            let (done, text) = doctor(&host, running).await;
            assert!(!done, "{says:?}: {text}");
            for part in says {
                assert!(text.contains(part), "{part}: {text}");
            }
        };
        for mode in [ImdsMode::Down, ImdsMode::Hang, ImdsMode::Disabled, ImdsMode::Throttled] {
            fleet.vpc.imds_mode(mode);
            fails(&["FAIL  IMDS: the instance metadata service", "-> enable the instance metadata service"]).await;
        }
        fleet.vpc.imds_mode(ImdsMode::Up);
        host.ip("link set eth1 down");
        fails(&["FAIL  interface: the interface eth1 is down: run `ip link set eth1 up`", "-> attach an ENI"]).await;
        host.ip("link set eth1 up");
        for (action, name) in [
            (ASSIGN, "ec2:AssignPrivateIpAddresses"),
            (UNASSIGN, "ec2:UnassignPrivateIpAddresses"),
            ("DescribeSubnets", "ec2:DescribeSubnets"),
            ("DescribeNetworkInterfaces", "ec2:DescribeNetworkInterfaces"),
            ("DescribeInstanceTypes", "ec2:DescribeInstanceTypes"),
        ] {
            fleet.vpc.deny(action, true);
            fails(&[&format!("FAIL  {name}: denied"), &format!("-> add {name} to the IAM policy")]).await;
            fleet.vpc.deny(action, false);
        }
        fleet.vpc.ec2_down(true);
        fails(&["FAIL  EC2: ", "network to EC2's endpoint"]).await;
        fleet.vpc.ec2_down(false);
        // A host agent has put a container's address on the link.
        let shared = ip(150);
        fleet.vpc.add_address(&eni(1), shared);
        host.ip(&format!("addr add {shared}/32 dev eth1"));
        fails(&["FAIL  host agent: eth1 itself has 10.77.0.150", "policy-routes@eth1", "ip addr del"]).await;
        host.ip("addr flush dev eth1");
        fleet.vpc.remove_address(&eni(1), shared);
        let proxy = host.proxy.as_ref().unwrap();
        proxy.stall(true);
        proxy.cut();
        fails(&["FAIL  database: the database", "-> see EC2_IPAM_DATABASE_URL"]).await;
        proxy.stall(false);
        proxy.cut();
        // Without a driver it is the one thing that is wrong.
        let failures = usize::from(!running);
        eventually("all is well again", async || {
            let (done, text) = doctor(&host, running).await;
            assert_eq!(text.contains("FAIL  driver: no driver answers on "), !running, "{text}");
            done == running && text.matches("FAIL").count() == failures
        })
        .await;
        if running {
            host.lease(&pool).await;
        }
    }
}

#[tokio::test]
async fn doctor_and_driver_name_what_is_wrong_with_the_database() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host(1);
    let db = host.db.clone().unwrap();
    let port = host.proxy.as_ref().unwrap().port;
    db.exec(
        "CREATE TABLE `allocation` (`ip` varchar(32) NOT NULL, `subnet` varchar(32) NOT NULL, \
         `status` enum('free','ready','allocated','occupied','reserved') NOT NULL DEFAULT 'free', \
         `iface` varchar(32) DEFAULT NULL, `primary` tinyint(1) NOT NULL, \
         `ts` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, \
         PRIMARY KEY (`ip`), KEY `free` (`subnet`,`status`) USING BTREE) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    )
    .await;
    let poor = format!("poor_{}", db.name);
    db.exec(&format!("CREATE USER {poor}@'%' IDENTIFIED BY 'never-show-this'")).await;
    db.exec(&format!("GRANT SELECT, INSERT, UPDATE ON {}.* TO {poor}@'%'", db.name)).await;
    let dead = host.listener().local_addr().unwrap().port();
    let name = &db.name;
    host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "3s")]);
    for (url, says) in [
        (
            format!("mysql://{poor}:never-show-this@127.0.0.1:{port}/{name}"),
            "lacks column claim, column claimed, column holder, key cold, key mine, the table `task`, \
             the table `host`, the table `recycle`",
        ),
        (format!("mysql://ipam:never-show-this@127.0.0.1:{port}/{name}"), "refuses the driver"),
        (format!("mysql://ipam:never-show-this@127.0.0.1:{dead}/{name}"), "cannot be reached"),
        (format!("mysql://ipam:never-show-this@no-such-host.invalid/{name}"), "cannot be reached"),
    ] {
        host.set(&[("EC2_IPAM_DATABASE_URL", &url)]);
        let (done, text) = host.run(&["doctor"]).await;
        assert!(!done && text.contains("FAIL  database: ") && text.contains(says), "{says}: {text}");
        assert!(!text.contains("never-show-this"), "{text}");
        let (done, text) = host.run(&["recycle", SUBNET]).await;
        assert!(!done && text.contains(says) && !text.contains("never-show-this"), "{says}: {text}");
        host.start().await;
        eventually(says, async || host.log().contains(says)).await;
        let why = host.request(&format!("{}/10.77.0.0-24", eni(1)), "").await.unwrap_err();
        assert!(why.contains(says), "{says}: {why}");
        host.kill();
    }
    assert!(!host.log().contains("never-show-this"));
}

#[tokio::test]
async fn without_a_driver_an_sqlite_file_is_left_alone() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    for args in [&["status"][..], &["init", SUBNET], &["list"], &["recycle", SUBNET], &["reserve", "10.77.0.9"]] {
        let (done, text) = host.run(args).await;
        assert!(!done && text.contains("no driver answers on") && text.contains("--database-url"), "{args:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "one sentence: {text}");
    }
    let (done, text) = host.run(&["doctor"]).await;
    assert!(!done && text.contains("FAIL  driver: no driver answers on"), "{text}");
    assert!(!text.contains("database"), "nothing is wrong with that: {text}");
    assert!(!host.dir.path().join("state").exists(), "only a running driver opens its file");
    let (done, text) = host.run(&["--socket", "/nowhere.sock", "status"]).await;
    assert!(!done && text.contains("no driver answers on /nowhere.sock"), "{text}");
    // The driver of the settings is found without being named.
    host.start().await;
    let (done, text) = host.run(&["init", SUBNET]).await;
    assert!(done && text.contains("256 rows added"), "{text}");
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    let secret = format!("postgres://u:{PASSWORD}@h/db");
    let long = format!("unix:///{}", "s".repeat(107));
    for (name, value) in [
        ("EC2_IPAM_DATABASE_URL", secret.as_str()),
        ("EC2_IPAM_DATABASE_URL", "mysql://h/db"),
        ("EC2_IPAM_DATABASE_URL", "sqlite://relative.db"),
        ("EC2_IPAM_LISTEN", "tcp://0.0.0.0:80"),
        ("EC2_IPAM_LISTEN", "unix://relative"),
        ("EC2_IPAM_LISTEN", "unix:///run/"),
        ("EC2_IPAM_LISTEN", long.as_str()),
        ("EC2_IPAM_WARM_TARGET", "50"),
        ("EC2_IPAM_WARM_TARGET", "-1"),
        ("EC2_IPAM_WARM_MAX", "many"),
        ("EC2_IPAM_COOLDOWN", "60"),
        ("EC2_IPAM_COOLDOWN", "2d"),
        ("EC2_IPAM_REQUEST_TIMEOUT", "30s"),
        ("EC2_IPAM_REQUEST_TIMEOUT", "0s"),
        ("EC2_IPAM_REQUEST_TIMEOUT", "1s"),
        ("EC2_IPAM_REQUEST_TIMEOUT", "2s"),
        ("EC2_IPAM_PARENT", "eth1 eth2"),
        ("EC2_IPAM_PARENT", "a-name-that-is-too-long"),
        ("EC2_IPAM_DOCKER_SOCKET", "tcp://127.0.0.1:2375"),
        ("EC2_IPAM_DOCKER_SOCKET", "docker.sock"),
        ("EC2_IPAM_DOCKER_SOCKET", "/nonexistent/never.sock"),
        ("EC2_IPAM_DATABASE_URL", "sqlite:///nonexistent/never.sock"),
        ("EC2_IPAM_RECONCILE_INTERVAL", "0s"),
        ("EC2_IPAM_SCAN_INTERVAL", "soon"),
        ("EC2_IPAM_LOG", "ec2_ipam=loud"),
        ("EC2_IPAM_LOG_FORMAT", "yaml"),
    ] {
        let mut wrong = vec![(name, value)];
        if name != "EC2_IPAM_LISTEN" {
            wrong.push(("EC2_IPAM_LISTEN", "unix:///nonexistent/never.sock"));
        }
        let (done, text) = host.run_with(&["serve"], &wrong).await;
        assert!(!done && text.contains(name), "{name}={value}: {text}");
        assert!(text.lines().count() == 1 && text.starts_with("ec2-ipam: "), "{text}");
    }
    for (file, says) in [
        ("/nonexistent.json", "cannot read /nonexistent.json"),
        ("{\"mysql\":{\"host\":\"h\",\"password\":\"p@ss:w/r?d%#\"}}", "is not a config.json of the original"),
        ("not json: p@ss:w/r?d%#", "is not a config.json of the original"),
    ] {
        let path = host.dir.path().join("bad.json");
        let path = if file.starts_with('/') {
            file.to_owned()
        } else {
            std::fs::write(&path, file).unwrap();
            path.display().to_string()
        };
        let (done, text) = host.run(&["--config", &path, "serve"]).await;
        assert!(!done && text.contains(says), "{text}");
    }
    // Empty means the default, as a plugin's settings can be emptied but not removed.
    for name in ["WARM_TARGET", "WARM_MAX", "COOLDOWN", "PARENT", "LOG", "LOG_FORMAT"] {
        host.set(&[(&format!("EC2_IPAM_{name}"), "")]);
    }
    host.start().await;
    host.pool().await;
    assert!(host.stop().await.success());
}

/// The settings that are the AWS SDK's own.
const OF_AWS: [&str; 8] = [
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_EC2",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "HTTPS_PROXY",
    "NO_PROXY",
];

#[test]
fn manifest_command_line_and_document_have_the_same_settings() {
    let command = Cli::command();
    let flags: Vec<_> = command
        .get_arguments()
        .filter_map(|flag| Some((flag.get_env()?.to_str()?.to_owned(), flag.get_help()?.to_string())))
        .collect();
    let mut known: BTreeSet<String> = flags.iter().map(|(name, _)| name.clone()).collect();
    known.extend(OF_AWS.map(str::to_owned));

    let manifest: Value = serde_json::from_str(include_str!("../../config.json")).unwrap();
    // Else a wrong setting would keep it from starting, and from saying so.
    assert_eq!(manifest["entrypoint"], json!(["/usr/bin/ec2-ipam", "serve", "--plugin"]));
    let env = manifest["env"].as_array().unwrap();
    let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
    assert_eq!(env.iter().map(name).collect::<BTreeSet<_>>(), known);
    for entry in env {
        assert_eq!(entry["settable"], json!(["value"]), "{entry}");
        // The help ends with the default in brackets; the manifest's value is the same one.
        let help = flags.iter().find(|(flag, _)| *flag == name(entry)).map(|(_, help)| help.as_str());
        let default = help.and_then(|help| help.strip_suffix(']')?.rsplit_once('[')).map(|(_, default)| default);
        if let Some(default) = default {
            assert_eq!(entry["value"], default, "{entry}");
        }
    }

    let document = include_str!("../../docs/configuration.md");
    let table = document.split("\n## Settings").nth(1).expect("a chapter of settings").split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let told: BTreeSet<String> = rows
        .flat_map(|names| names.split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .filter(|name| name.starts_with("EC2_IPAM_") || name.starts_with("AWS_") || name.ends_with("_PROXY"))
        .collect();
    assert_eq!(told, known);
}

#[tokio::test]
async fn help_and_version_need_nothing() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let host = fleet.host(1);
    for (args, says) in
        [(&["--help"][..], "recycle"), (&["--version"], "ec2-ipam "), (&["serve", "--help"], "EC2_IPAM_COOLDOWN")]
    {
        let (done, text) = host.run(args).await;
        assert!(done && text.contains(says), "{text}");
    }
    let (done, text) = host.run(&["nonsense"]).await;
    assert!(!done && text.contains("nonsense"), "{text}");
    // The settings are the driver's: one help lists them, and every command takes them.
    for command in Cli::command().get_subcommands().map(clap::Command::get_name).filter(|name| *name != "serve") {
        let (done, text) = host.run(&[command, "--help"]).await;
        assert!(done && !text.contains("EC2_IPAM_") && text.contains("ec2-ipam serve --help"), "{command}: {text}");
        assert!(text.contains("--socket"), "{command}: {text}");
    }
    let (_, text) = host.run(&["--help"]).await;
    assert!(!text.contains("EC2_IPAM_"), "{text}");
    for args in [["--parent", "eth1 eth2", "list"], ["list", "--parent", "eth1 eth2"]] {
        let (done, text) = host.run(&args).await;
        assert!(!done && !text.contains("unexpected argument"), "{text}");
    }
    // A repository has a commit, a tarball none.
    let (_, text) = host.run(&["--version"]).await;
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/.git");
    let number = format!("ec2-ipam {}", env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with(&number), "{text}");
    let told = text.trim_end().strip_prefix(&number).unwrap();
    if !std::path::Path::new(repository).exists() {
        assert!(told.is_empty(), "{text}");
        return;
    }
    let told = told.strip_prefix(" (").and_then(|told| told.strip_suffix(')')).expect(&text);
    let (commit, day) = told.split_once(' ').expect(&text);
    let mut git = std::process::Command::new("git");
    git.args(["show", "--no-patch", "--date=format-local:%Y-%m-%d", "--format=%cd", commit]).env("TZ", "UTC");
    let of_git = git.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert_eq!(String::from_utf8(of_git.stdout).unwrap().trim(), day, "{text}");
}

#[tokio::test]
async fn what_lies_where_the_driver_would_listen_is_left_there() {
    use std::os::unix::net::{UnixDatagram, UnixListener};
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    let at = host.socket();
    let elsewhere = host.dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    std::fs::write(&at, "precious").unwrap();
    let refused = async || {
        let (done, text) = host.run(&["serve"]).await;
        assert!(!done && text.contains("is there, and is no socket of a driver that ended"), "{text}");
        assert!(text.contains("EC2_IPAM_LISTEN"), "{text}");
    };
    refused().await;
    assert_eq!(std::fs::read_to_string(&at).unwrap(), "precious");
    std::fs::remove_file(&at).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &at).unwrap();
    refused().await;
    assert!(at.is_symlink() && elsewhere.exists());
    std::fs::remove_file(&at).unwrap();
    std::fs::create_dir(&at).unwrap();
    refused().await;
    std::fs::remove_dir(&at).unwrap();
    let other = UnixDatagram::bind(&at).unwrap();
    refused().await;
    assert!(at.exists(), "somebody's, and in use");
    drop(other);
    std::fs::remove_file(&at).unwrap();
    drop(UnixListener::bind(&at).unwrap());
    host.start().await;
}

/// The memory of the driver holds the database's password.
#[tokio::test]
async fn an_abort_leaves_no_core() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::ExitStatusExt;
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    // In a group of its own: what /proc shows of it is root's group's only if it may not be dumped.
    let core = format!(
        "cd {} && ulimit -c unlimited && exec setpriv --regid 65534 --clear-groups \"$@\"",
        host.dir.path().display()
    );
    host.within = ["sh", "-c", &core, "sh"].map(str::to_owned).into();
    host.start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().filter(|word| *word == "0").count(), 2, "{line}");
    let shown = std::fs::metadata(format!("/proc/{}/environ", host.pid())).unwrap();
    assert_eq!(shown.gid(), 0, "a core_pattern that is a program does not ask for the limit");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(host.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
    let ended = host.exit().await;
    assert!(ended.signal() == Some(6) && !ended.core_dumped(), "{ended}");
    let unit = include_str!("../../packaging/ec2-ipam.service");
    assert!(unit.lines().any(|line| line == "LimitCORE=0"));
}
