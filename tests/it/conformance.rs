//! `doctor --conformance` with the real binary: each answer of the simulator is told as what it is, nothing stays behind
//! however a run ends, and an ENI that is in use is left alone.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use vpc_sim::{ACCOUNT, Fault, FaultKind, Reservation, Switches};

use crate::support::host::{ASSIGN, Fleet, Host, Kind, RDS, SUBNET, UNASSIGN, eni, eventually, ip};

mod prefixes;

/// The second spare ENI.
const OTHER: &str = "eni-0ccccccccccccccc1";
/// All facts, in order, but for those about prefixes.
const FACTS: [&str; 34] = [
    "describe-dry-run",
    "describe-unknown-eni",
    "unassign-unknown",
    "unassign-127.0.0.1",
    "assign",
    "assign-to-describe",
    "assign-to-imds",
    "imds-primary-first",
    "assign-own",
    "assign-own-without-reassignment",
    "assign-own-and-new",
    "assign-own-primary",
    "assign-other-primary",
    "assign-base",
    "assign-base+1",
    "assign-base+2",
    "assign-base+3",
    "assign-broadcast",
    "assign-new-and-base-rest",
    "assign-outside-subnet",
    "assign-127.0.0.1",
    "assign-neither-list-nor-count",
    "assign-list-and-count",
    "assign-dry-run",
    "assign-duplicates",
    "assign-in-use",
    "assign-in-use-and-new",
    "assign-in-use-and-new-rest",
    "unassign-primary",
    "unassign-list",
    "unassign-list-rest",
    "unassign",
    "unassign-to-describe",
    "unassign-to-imds",
];
/// What follows them.
const LAST: [&str; 8] = [
    "limit-fill",
    "limit-one-more",
    "limit-unassign",
    "limit-at-once",
    "limit-at-once-rest",
    "imds-forwarded-for",
    "throttling",
    "request-rate",
];

fn names() -> Vec<&'static str> {
    FACTS.into_iter().chain(prefixes::FACTS).chain(LAST).collect()
}

/// A host with two spare ENIs.
async fn plain_bed(switches: Switches) -> (Fleet, Host) {
    let fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/24", switches).await;
    let host = fleet.host(1);
    host.attach(OTHER, 2, 200, "eth2");
    (fleet, host)
}

/// The same, in a subnet with a reservation of each type.
async fn bed(switches: Switches) -> (Fleet, Host) {
    let (fleet, host) = plain_bed(switches).await;
    fleet.vpc.reserve(SUBNET, "10.77.0.128/27", Reservation::Explicit);
    fleet.vpc.reserve(SUBNET, "10.77.0.160/27", Reservation::Prefix);
    (fleet, host)
}

const RESERVED: [&str; 4] = ["--explicit-reservation", "10.77.0.128/27", "--prefix-reservation", "10.77.0.160/27"];
/// What cannot be asked of a host on Nitro whose calls are throttled.
const NEVER: [&str; 2] = ["prefix-on-xen", "request-rate"];

const BOTH: [&str; 6] = ["doctor", "--conformance", "--eni", "eni-0aaaaaaaaaaaaaa01", "--other", OTHER];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

/// Runs it; whether the exit status is 0, the report, and all that was printed.
async fn run(host: &Host, more: &[&str]) -> (bool, Value, String) {
    let (done, text) = host.run(&with(&with(&BOTH, &["--json"]), more)).await;
    let report = serde_json::Deserializer::from_str(&text).into_iter().next().unwrap_or_else(|| panic!("{text}"));
    (done, report.unwrap_or_else(|why| panic!("{why}: {text}")), text)
}

fn of<'r>(report: &'r Value, name: &str) -> &'r Value {
    let facts = report["facts"].as_array().unwrap();
    facts.iter().find(|fact| fact["name"] == name).unwrap_or_else(|| panic!("no fact {name}"))
}

fn with_verdict<'r>(report: &'r Value, verdict: &str) -> BTreeSet<&'r str> {
    let facts = report["facts"].as_array().unwrap().iter();
    facts.filter(|fact| fact["verdict"] == verdict).map(|fact| fact["name"].as_str().unwrap()).collect()
}

#[track_caller]
fn is_clean(fleet: &Fleet) {
    for eni in [eni(1).as_str(), OTHER] {
        assert_eq!(fleet.vpc.addresses(eni), [].into(), "left on {eni}");
        assert_eq!(fleet.vpc.prefixes(eni), [].into(), "left on {eni}");
    }
}

#[track_caller]
fn names_nobody(host: &Host, text: &str) {
    // An ENI's digits are those of its instance here.
    let rest = text.replace(&eni(1), "");
    for id in [ACCOUNT, SUBNET, host.instance.as_str()] {
        assert!(!rest.contains(id), "{id}: {text}");
    }
}

#[tokio::test]
async fn by_default_all_is_as_assumed() {
    let (fleet, mut host) = bed(Switches::default()).await;
    // By the instance's role, as on a real host.
    host.unset("AWS_ACCESS_KEY_ID");
    host.unset("AWS_SECRET_ACCESS_KEY");
    let (done, report, text) = run(&host, &RESERVED).await;
    assert!(done, "{text}");
    let facts = report["facts"].as_array().unwrap();
    assert_eq!(facts.iter().map(|fact| fact["name"].as_str().unwrap()).collect::<Vec<_>>(), names());
    assert_eq!(with_verdict(&report, "not checked"), [NEVER[0], NEVER[1], "throttling"].into(), "{text}");
    assert_eq!(with_verdict(&report, "as assumed").len(), names().len() - 3, "{text}");
    for fact in facts.iter().filter(|fact| fact.get("answer").is_some()) {
        assert_eq!(fact["answer"]["request_id"].as_str().map(str::len), Some(36), "{fact}");
    }
    let full = &of(&report, "limit-one-more")["answer"];
    assert_eq!((&full["status"], &full["code"]), (&400.into(), &"PrivateIpAddressLimitExceeded".into()));
    assert_eq!(of(&report, "limit-fill")["answer"]["listed"].as_array().unwrap().len(), 9);
    assert_eq!(of(&report, "prefix-own")["answer"]["listed_prefixes"].as_array().unwrap().len(), 1);
    assert_eq!((&report["region"], &report["instance_type"]), (&"eu-central-1".into(), &"c5.large".into()));
    assert_eq!((report["left_behind"].as_array().unwrap().len(), &report["ended_early"]), (0, &Value::Null));
    is_clean(&fleet);
    names_nobody(&host, &text);
    let moved = |call: &vpc_sim::Call| call.parameters.get("AllowReassignment").is_some_and(|v| v == "true");
    assert!(!fleet.vpc.calls().iter().any(moved), "an address of somebody else may never move");
}

#[tokio::test]
async fn for_people_and_with_one_spare_interface_only() {
    let (fleet, host) = plain_bed(Switches::default()).await;
    let (done, text) = host.run(&with(&BOTH[..4], &["--skip-limits"])).await;
    assert!(done, "{text}");
    let line = |name: &str| {
        text.lines().find(|line| line.contains(&format!("  {name}: "))).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    assert!(
        line("assign-own").starts_with("as assumed       assign-own: accepted, lists it; AWS: ok, lists 10.77.0."),
        "{text}"
    );
    assert!(
        line("assign-base+1").contains("HTTP 400 InvalidParameterValue: Address 10.77.0.1 is in subnet's"),
        "{text}"
    );
    assert!(line("assign-in-use").starts_with("not checked      assign-in-use: needs a second spare ENI"), "{text}");
    assert!(
        line("prefix-own").starts_with("as assumed       prefix-own: accepted, lists it; AWS: ok, lists 10.77.0."),
        "{text}"
    );
    for (name, needs) in [
        ("prefix-in-use", "a second spare ENI, named by --other"),
        ("prefix-in-explicit-reservation", "a CIDR reservation of that type, named by --explicit-reservation"),
        ("prefix-in-prefix-reservation", "a CIDR reservation of that type, named by --prefix-reservation"),
    ] {
        assert!(line(name).starts_with(&format!("not checked      {name}: needs {needs}")), "{text}");
    }
    assert!(line("limit-fill").starts_with("not checked      limit-fill: --skip-limits"), "{text}");
    assert!(
        text.contains("0 in another known way, 0 NEW, 0 new in what") && text.contains("cleaned up: nothing"),
        "{text}"
    );
    is_clean(&fleet);
    names_nobody(&host, &text);
}

#[tokio::test]
async fn each_switch_is_another_known_way() {
    let own = &["assign-own", "assign-own-without-reassignment", "assign-own-and-new"][..];
    let ends = ["prefix-first", "prefix-last"];
    let reserved =
        &["assign-base", "assign-base+1", "assign-base+2", "assign-base+3", "assign-broadcast", ends[0], ends[1]];
    let known = [
        ("default", &[][..]),
        ("own_address=Refused", own),
        ("assign_reply=NewOnly", own),
        ("assign_refused=AssignsRest", &["assign-in-use-and-new-rest"]),
        ("unassign_unknown=RemovesKnown", &["unassign-list-rest"]),
        ("unassign_primary=AsUnknown", &["unassign-primary"]),
        ("in_use_names=WholeList", &["assign-in-use-and-new"]),
        ("reserved_text=Range", reserved),
        ("throttle_text=New", &["throttling"]),
        ("list_or_count=Parameter", &["assign-list-and-count", "prefix-and-address", "unassign-prefix-and-address"]),
        ("list_or_count=Combination", &["assign-neither-list-nor-count"]),
        ("duplicates=Collapsed", &["assign-duplicates"]),
        ("dry_run_status=400", &["describe-dry-run"]),
        ("mutating_dry_run=Checked", &["assign-dry-run"]),
        ("assign_reply=Whole", &["assign", own[0], own[1], own[2], "limit-fill"]),
    ];
    let all: Vec<_> = Switches::all().into_iter().chain(Switches::of_emulators()).collect();
    assert_eq!(all.iter().map(|(name, _)| *name).collect::<Vec<_>>(), known.map(|(name, _)| name));
    let runs = all.into_iter().zip(known).map(|((name, switches), (_, others))| async move {
        let (fleet, host) = bed(switches).await;
        fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::Throttle).times(2));
        fleet.vpc.fail(Fault::on("DescribeNetworkInterfaces", FaultKind::Throttle));
        let (done, report, text) = run(&host, &RESERVED).await;
        assert!(done, "{name}: {text}");
        assert_eq!(with_verdict(&report, "other known way"), others.iter().copied().collect(), "{name}: {text}");
        assert_eq!(with_verdict(&report, "not checked"), NEVER.into(), "{name}: {text}");
        assert_eq!(
            with_verdict(&report, "as assumed").len(),
            names().len() - NEVER.len() - others.len(),
            "{name}: {text}"
        );
        is_clean(&fleet);
        names_nobody(&host, &text);
        let primaries = [ip(4), ip(200)];
        let asked = fleet.vpc.calls().into_iter().filter(|call| call.action == UNASSIGN);
        let risky: Vec<_> = asked.filter(|call| call.addresses.iter().any(|ip| primaries.contains(ip))).collect();
        assert_eq!(risky.iter().map(|call| call.addresses.as_slice()).collect::<Vec<_>>(), [[ip(4)]], "{name}");
    });
    // All at once would outlast the command's patience with IMDS.
    stream::iter(runs).buffer_unordered(5).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn what_nobody_knows_yet_fails_and_is_told_to_the_letter() {
    let (fleet, mut host) = bed(Switches::default()).await;
    host.set(&[("EC2_IPAM_SETTLE_AGE", "3s")]);
    let message = "No, 123456789012: i-0123456789abcdef0 may not, says arn:aws:iam::123456789012:role/x.";
    // Unassign of what is not there; Assign of what is there; Assign of both, two calls later.
    fleet.vpc.fail(Fault::on(UNASSIGN, FaultKind::Error { status: 409, code: "Odd", message }));
    fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::Error { status: 409, code: "Odd", message }).skip(1));
    fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::LoseReply).skip(1));
    let (done, report, text) = run(&host, &[]).await;
    assert!(!done, "{text}");
    let new = ["unassign-unknown", "assign-own", "assign-own-and-new"];
    assert_eq!(with_verdict(&report, "NEW"), new.into(), "{text}");
    let said = of(&report, "assign-own")["said"].as_str().unwrap();
    let masked = "HTTP 409 Odd: No, (account): i-(masked) may not, says arn:(masked).";
    assert!(said.starts_with(masked), "{said}");
    let lost = of(&report, "assign-own-and-new")["said"].as_str().unwrap();
    assert!(lost.contains("it is not clear whether EC2 did ec2:AssignPrivateIpAddresses"), "{lost}");
    assert_eq!(of(&report, "unassign-list-rest")["verdict"], "not checked", "a refusal tells nothing: {text}");
    is_clean(&fleet);
    names_nobody(&host, &text);
}

#[tokio::test]
async fn lists_that_lag_are_measured() {
    use std::time::Duration;
    let (fleet, mut host) = bed(Switches::default()).await;
    host.set(&[("EC2_IPAM_SETTLE_AGE", "3s")]);
    fleet.vpc.describe_lag(Duration::from_secs(4));
    fleet.vpc.imds_lag(Duration::from_millis(700), Duration::from_secs(60));
    // A block that is reserved for prefixes counts as taken before it is.
    let (done, report, text) = run(&host, &with(&RESERVED, &["--wait", "6s"])).await;
    assert!(!done, "{text}");
    let late = ["assign-to-describe", "unassign-to-describe", "prefix-to-describe", "unassign-prefix-to-describe"];
    assert_eq!(with_verdict(&report, "NEW"), late.into(), "{text}");
    let known = ["unassign-to-imds", "unassign-prefix-to-imds"];
    assert_eq!(with_verdict(&report, "other known way"), known.into(), "{text}");
    assert_eq!(of(&report, "unassign-to-imds")["said"], "not within 6 s");
    let imds = ["assign-to-imds", "prefix-to-imds"].map(|name| (name, 700));
    for (name, least) in late.map(|name| (name, 4000)).into_iter().chain(imds) {
        let said = of(&report, name)["said"].as_str().unwrap();
        let ms: u64 = said.strip_prefix("after ").unwrap().strip_suffix(" ms").unwrap().parse().unwrap();
        assert!(ms + 500 > least, "{name}: {said}");
    }
    is_clean(&fleet);
}

/// Starts a run that stays where it waits for IMDS.
async fn waiting(fleet: &Fleet, host: &Host, settings: &[(&str, &str)]) -> std::process::Child {
    let hour = std::time::Duration::from_secs(3600);
    fleet.vpc.imds_lag(hour, hour);
    let mut child = host.spawn(&BOTH, settings);
    eventually("it waits", async || {
        assert!(child.try_wait().unwrap().is_none(), "it ended: {}", host.log());
        host.log().contains("assign: as assumed")
    })
    .await;
    assert_eq!(fleet.vpc.addresses(&eni(1)).len(), 2);
    child
}

fn send(child: &std::process::Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

async fn failed(mut child: std::process::Child, host: &Host) {
    eventually("it ends", async || child.try_wait().unwrap().is_some()).await;
    assert_eq!(child.wait().unwrap().code(), Some(1), "{}", host.log());
}

#[tokio::test]
async fn a_run_that_is_ended_cleans_up() {
    for (signal, name) in [(Signal::SIGINT, "SIGINT"), (Signal::SIGTERM, "SIGTERM"), (Signal::SIGHUP, "SIGHUP")] {
        let (fleet, host) = bed(Switches::default()).await;
        let child = waiting(&fleet, &host, &[]).await;
        send(&child, signal);
        // A session that ends sends these two.
        if signal != Signal::SIGINT {
            eventually("it cleans up", async || host.log().contains("cleaning up")).await;
            send(&child, Signal::SIGHUP);
        }
        failed(child, &host).await;
        is_clean(&fleet);
        let log = host.log();
        assert!(log.contains(&format!("ENDED EARLY: {name}\ncleaned up")), "{log}");
        assert!(log.contains("as assumed       assign: "), "what was seen before is told: {log}");
    }
}

#[tokio::test]
async fn an_assign_that_lands_after_the_end_is_taken_off() {
    let (fleet, host) = bed(Switches::default()).await;
    fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::LandLate(std::time::Duration::from_secs(2))));
    let child = host.spawn(&BOTH, &[("EC2_IPAM_SETTLE_AGE", "4s")]);
    failed(child, &host).await;
    let log = host.log();
    assert!(log.contains("ENDED EARLY: EC2 does not take two free addresses: it is not clear"), "{log}");
    assert!(log.contains("cleaned up: nothing"), "{log}");
    // It did land.
    let (asked, taken) = (fleet.vpc.count(ASSIGN), fleet.vpc.count_ok(UNASSIGN));
    assert!(asked == 1 && taken >= 1, "{asked} {taken}: {log}");
    is_clean(&fleet);
}

#[tokio::test]
async fn a_lost_assign_that_lands_after_its_address_was_taken_off_is_taken_off_again() {
    let (fleet, host) = bed(Switches::default()).await;
    let late = std::time::Duration::from_secs(5);
    fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::LandLate(late)).skip(1));
    let child = host.spawn(&BOTH, &[("EC2_IPAM_SETTLE_AGE", "8s")]);
    eventually("its answer is lost", async || host.log().contains("assign-own: NEW")).await;
    send(&child, Signal::SIGTERM);
    failed(child, &host).await;
    assert!(host.log().contains("cleaned up: nothing"), "{}", host.log());
    // It lands by then, whether the run has ended before or not.
    tokio::time::sleep(late).await;
    is_clean(&fleet);
}

#[tokio::test]
async fn what_cannot_be_taken_off_is_named_with_the_command_that_does() {
    // What may not be taken off is not put there.
    let (fleet, host) = bed(Switches::default()).await;
    fleet.vpc.deny(UNASSIGN, true);
    let (done, report, text) = run(&host, &[]).await;
    let why = report["ended_early"].as_str().unwrap();
    assert!(!done && why.contains("may not do ec2:UnassignPrivateIpAddresses"), "{text}");
    assert_eq!((fleet.vpc.count(ASSIGN), report["left_behind"].as_array().unwrap().len()), (0, 0), "{text}");
    fleet.vpc.deny(UNASSIGN, false);

    let child = waiting(&fleet, &host, &[("EC2_IPAM_SETTLE_AGE", "1s")]).await;
    fleet.vpc.deny(UNASSIGN, true);
    send(&child, Signal::SIGTERM);
    failed(child, &host).await;
    let log = host.log();
    let (_, commands) = log.split_once("NOT CLEANED UP").unwrap_or_else(|| panic!("{log}"));
    let call =
        format!("do aws ec2 unassign-private-ip-addresses --region eu-central-1 --network-interface-id {}", eni(1));
    let command = commands.lines().find(|line| line.contains(&call)).unwrap_or_else(|| panic!("{log}"));
    let words: BTreeSet<&str> = command.split([' ', ';']).collect();
    let left = fleet.vpc.addresses(&eni(1));
    assert!(left.len() == 2 && left.iter().all(|ip| words.contains(ip.to_string().as_str())), "{left:?}: {command}");
    // The next one is told too.
    let (done, text) = host.run(&BOTH).await;
    assert!(!done && text.contains("has secondary addresses") && text.contains("aws ec2 unassign-private"), "{text}");

    // Who does not want to wait learns it at once.
    let (fleet, host) = bed(Switches::default()).await;
    let child = waiting(&fleet, &host, &[]).await;
    fleet.vpc.deny(UNASSIGN, true);
    send(&child, Signal::SIGINT);
    eventually("it cleans up", async || host.log().contains("cleaning up")).await;
    send(&child, Signal::SIGINT);
    failed(child, &host).await;
    let log = host.log();
    assert!(log.contains("NOT CLEANED UP") && log.contains("    for ip in "), "{log}");
    assert_eq!(fleet.vpc.addresses(&eni(1)).len(), 2);
}

#[tokio::test]
async fn an_interface_that_is_not_spare_is_left_alone() {
    let (fleet, mut host) = bed(Switches::default()).await;
    let (spare, theirs) = (eni(1), eni(2));
    let _neighbour = fleet.host(2);
    let refuses = async |host: &Host, args: &[&str], says: &str| {
        let (done, text) = host.run(&with(&["doctor", "--conformance"], args)).await;
        assert!(!done && text.contains(says), "{says}: {text}");
    };
    refuses(&host, &[], "--eni").await;
    refuses(&host, &["--eni", "eni-x"], "is not an id of the form eni-").await;
    refuses(&host, &["--eni", &theirs], "is not attached to this instance").await;
    refuses(&host, &["--eni", RDS], "is not attached to this instance").await;
    refuses(&host, &["--eni", "eni-0bbbbbbbbbbbbbb01"], "device 0").await;
    refuses(&host, &["--eni", &spare, "--other", &spare], "or it was named twice").await;
    let (done, text) = host.run(&["doctor", "--eni", &spare]).await;
    assert!(!done && text.contains("--conformance"), "{text}");

    fleet.vpc.add_address(OTHER, ip(150));
    refuses(
        &host,
        &["--eni", OTHER],
        "--network-interface-id eni-0ccccccccccccccc1 --private-ip-addresses 10.77.0.150",
    )
    .await;
    refuses(&host, &["--eni", &spare, "--other", OTHER], "has secondary addresses").await;
    fleet.vpc.imds_lag(std::time::Duration::ZERO, std::time::Duration::from_secs(3600));
    fleet.vpc.remove_address(OTHER, ip(150));
    refuses(&host, &["--eni", OTHER], "IMDS still shows secondary addresses").await;
    fleet.vpc.settle();
    fleet.vpc.add_prefix(OTHER, "10.77.0.112/28");
    refuses(&host, &["--eni", OTHER], "has the prefix 10.77.0.112/28").await;
    fleet.vpc.settle();
    fleet.vpc.remove_prefix(OTHER, "10.77.0.112/28");
    refuses(&host, &["--eni", OTHER], "IMDS still shows the prefix 10.77.0.112/28").await;

    // A driver that serves it keeps it, container or not.
    host.start().await;
    host.pool().await;
    refuses(&host, &["--eni", &spare], "a driver on this host serves").await;
    assert_eq!((fleet.vpc.count(ASSIGN), fleet.vpc.count(UNASSIGN)), (0, 0));
}

#[tokio::test]
async fn a_small_subnet_is_not_filled() {
    let fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/28", Switches::default()).await;
    let host = fleet.host(1);
    let (done, text) = host.run(&BOTH[..4]).await;
    assert!(done && text.contains("not checked      limit-fill: 10 addresses would leave too few"), "{text}");
    (5..11).map(ip).for_each(|ip| fleet.vpc.take(RDS, ip));
    fleet.vpc.settle();
    let (done, text) = host.run(&BOTH[..4]).await;
    assert!(!done && text.contains("the subnet has 4 free addresses, and 5 are needed"), "{text}");
}
