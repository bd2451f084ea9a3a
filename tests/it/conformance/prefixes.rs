//! What it asks about prefixes.

use super::*;

/// All facts, in order.
pub(super) const FACTS: [&str; 28] = [
    "prefix-on-xen",
    "unassign-prefix-unknown",
    "prefix",
    "prefix-to-describe",
    "prefix-to-imds",
    "prefix-available-count",
    "prefix-own",
    "prefix-own-and-new",
    "prefix-member-of-own",
    "prefix-misaligned",
    "prefix-first",
    "prefix-last",
    "prefix-outside-subnet",
    "prefix-over-primary",
    "unassign-prefix-and-address",
    "unassign-prefix-list",
    "unassign-prefix-list-rest",
    "unassign-prefix",
    "unassign-prefix-to-describe",
    "unassign-prefix-to-imds",
    "prefix-over-secondary",
    "prefix-list",
    "prefix-list-rest",
    "prefix-and-address",
    "prefix-in-use",
    "prefix-member-of-other",
    "prefix-in-explicit-reservation",
    "prefix-in-prefix-reservation",
];

#[tokio::test]
async fn each_switch_about_prefixes_is_another_known_way() {
    let refusals = [
        "prefix-first",
        "prefix-last",
        "prefix-outside-subnet",
        "prefix-over-primary",
        "prefix-over-secondary",
        "prefix-list",
        "prefix-in-use",
    ];
    let unknown = ["unassign-prefix-unknown", "unassign-prefix-list"];
    let unheard = [&refusals[..], &unknown].concat();
    let known = [
        ("prefix own=Refused", &["prefix-own", "prefix-own-and-new"][..]),
        ("prefix assign_reply=NewOnly", &["prefix-own", "prefix-own-and-new"]),
        ("prefix assign_refused=AssignsRest", &["prefix-list-rest"]),
        ("prefix unassign_unknown=RemovesKnown", &["unassign-prefix-list-rest"]),
        ("prefix refusal=NamesAddresses", &refusals),
        ("prefix refusal=CidrBlocks", &refusals),
        ("prefix refusal=Unheard", &unheard),
        ("prefix misaligned=Truncated", &["prefix-misaligned"]),
        ("prefix both_lists=Accepted", &["prefix-and-address", "unassign-prefix-and-address"]),
        ("prefix member_of_own=Accepted", &["prefix-member-of-own"]),
        ("prefix member_of_other=NamesPrefix", &["prefix-member-of-other"]),
        ("prefix member_of_other=Unheard", &["prefix-member-of-other"]),
        ("prefix in_reservation=ExplicitRefused", &["prefix-in-explicit-reservation"]),
        ("prefix in_reservation=PrefixRefused", &["prefix-in-prefix-reservation"]),
    ];
    let all = Switches::of_prefixes();
    assert_eq!(all.iter().map(|(name, _)| *name).collect::<Vec<_>>(), known.map(|(name, _)| name));
    let runs = all.into_iter().zip(known).map(|((name, switches), (_, others))| async move {
        let (fleet, host) = bed(switches).await;
        let (done, report, text) = run(&host, &with(&RESERVED, &["--skip-limits"])).await;
        assert!(done, "{name}: {text}");
        assert_eq!(with_verdict(&report, "other known way"), others.iter().copied().collect(), "{name}: {text}");
        let not_checked = [NEVER[0], NEVER[1], "limit-fill", "throttling"].into();
        assert_eq!(with_verdict(&report, "not checked"), not_checked, "{name}: {text}");
        is_clean(&fleet);
        names_nobody(&host, &text);
    });
    stream::iter(runs).buffer_unordered(5).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn where_there_can_be_no_prefix_it_says_so_and_goes_on() {
    let try_on = async |kind: &str, cidr: &str, says: &str| {
        let fleet = Fleet::with(Kind::Sqlite, cidr, Switches::default()).await;
        let host = fleet.host_of(1, kind);
        fleet.vpc.take(RDS, ip(20));
        fleet.vpc.settle();
        let (done, text) = host.run(&BOTH[..4]).await;
        assert!(done && text.contains(&format!("not checked      prefix: {says}")), "{kind} {cidr}: {text}");
        assert!(text.contains("as assumed       imds-forwarded-for"), "{text}");
        assert_eq!((fleet.vpc.addresses(&eni(1)), fleet.vpc.prefixes(&eni(1))), ([].into(), [].into()));
        text
    };
    let text = try_on("m4.large", "10.77.0.0/24", "m4.large is not of Nitro, which alone has prefixes").await;
    assert!(
        text.contains("as assumed       prefix-on-xen: refused, in whatever words; AWS: HTTP 400 Unsupp"),
        "{text}"
    );
    try_on("c5.large", "10.77.0.0/27", "the subnet has 0 whole free /28 blocks, and 2 are needed").await;
    // One of the two is broken.
    let text = try_on("t3.small", "10.77.0.0/26", "the subnet has 1 whole free /28 blocks, and 2 are needed").await;
    assert!(text.contains("as assumed       limit-fill"), "{text}");
}

#[tokio::test]
async fn a_run_that_is_broken_off_takes_its_prefixes_off() {
    let hour = std::time::Duration::from_secs(3600);
    // What is available is asked for right before the prefix is.
    let pause = |fleet: &Fleet| fleet.vpc.latency_of("DescribeSubnets", std::time::Duration::from_secs(3));
    // It waits until IMDS shows the prefix.
    let waiting = async |fleet: &Fleet, host: &Host, settings: &[(&str, &str)]| {
        pause(fleet);
        let mut child = host.spawn(&BOTH, settings);
        eventually("its addresses are off again", async || host.log().contains("unassign-prefix-unknown: ")).await;
        fleet.vpc.imds_lag(hour, std::time::Duration::ZERO);
        eventually("it waits", async || {
            assert!(child.try_wait().unwrap().is_none(), "it ended: {}", host.log());
            host.log().contains("prefix: as assumed")
        })
        .await;
        assert_eq!(fleet.vpc.prefixes(&eni(1)).len(), 1);
        child
    };
    let (fleet, host) = bed(Switches::default()).await;
    let child = waiting(&fleet, &host, &[]).await;
    send(&child, Signal::SIGTERM);
    failed(child, &host).await;
    assert!(host.log().contains("cleaned up: nothing"), "{}", host.log());
    is_clean(&fleet);

    // What it cannot take off it names, and so does the next run.
    let (fleet, host) = bed(Switches::default()).await;
    let child = waiting(&fleet, &host, &[("EC2_IPAM_SETTLE_AGE", "1s")]).await;
    fleet.vpc.deny(UNASSIGN, true);
    send(&child, Signal::SIGTERM);
    failed(child, &host).await;
    let left = fleet.vpc.prefixes(&eni(1)).first().unwrap().to_string();
    let command = format!("--network-interface-id {} --ipv4-prefixes {left}", eni(1));
    assert!(host.log().contains(&command), "{command}: {}", host.log());
    let (done, text) = host.run(&BOTH).await;
    assert!(!done && text.contains(&format!("has the prefix {left}")) && text.contains(&command), "{text}");

    // One whose answer is lost lands later.
    let (fleet, host) = bed(Switches::default()).await;
    pause(&fleet);
    let child = host.spawn(&BOTH, &[("EC2_IPAM_SETTLE_AGE", "4s")]);
    eventually("its addresses are off again", async || host.log().contains("unassign-prefix-unknown: ")).await;
    fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::LandLate(std::time::Duration::from_secs(2))));
    eventually("its answer is lost", async || host.log().contains("prefix: NEW")).await;
    send(&child, Signal::SIGTERM);
    failed(child, &host).await;
    assert!(host.log().contains("cleaned up: nothing"), "{}", host.log());
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let landed = fleet.vpc.calls().into_iter().filter(|call| call.action == UNASSIGN && !call.prefixes.is_empty());
    assert!(landed.count() > 1, "{}", host.log());
    is_clean(&fleet);
}

#[test]
fn its_page_says_what_each_answer_about_prefixes_means() {
    let page = include_str!("../../../docs/conformance.md");
    for name in FACTS {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}
