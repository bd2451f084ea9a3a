//! What goes wrong on purpose: scripted faults, throttling, latency and lag, and the log of it.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use vpc_sim::{CallClass, Fault, FaultKind, Outcome, TokenBucket};

use super::{Bed, OTHER, OURS, ip, is_unanswered, refusal};

const ASSIGN: &str = "AssignPrivateIpAddresses";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[tokio::test]
async fn a_lost_reply_has_taken_effect() {
    let bed = Bed::new();
    bed.vpc.fail(Fault::on(ASSIGN, FaultKind::LoseReply).times(2));
    assert!(is_unanswered(&bed.assign(&[50]).await));
    assert!(is_unanswered(&bed.assign(&[20]).await));
    assert_eq!(bed.truth(), [50]);
    bed.assign(&[51]).await.unwrap();
    let outcomes: Vec<_> = bed.vpc.calls().into_iter().map(|call| call.outcome).collect();
    let lost = Outcome::Lost(Some("InvalidParameterValue".to_owned()));
    assert_eq!(outcomes, [Outcome::Lost(None), lost, Outcome::Ok]);
}

#[tokio::test]
async fn a_late_landing_takes_effect_after_the_client_gave_up() {
    let bed = Bed::new();
    bed.vpc.fail(Fault::on(ASSIGN, FaultKind::LandLate(ms(200))));
    assert!(is_unanswered(&bed.assign(&[50]).await));
    assert_eq!(bed.truth(), [0; 0]);
    assert_eq!(bed.vpc.calls()[0].outcome, Outcome::Late);
    sleep(ms(400)).await;
    assert_eq!(bed.truth(), [50]);
}

#[tokio::test]
async fn a_hang_has_no_effect_ever() {
    let bed = Bed::new();
    bed.vpc.fail(Fault::on(ASSIGN, FaultKind::Hang(ms(200))));
    let start = Instant::now();
    assert!(is_unanswered(&bed.assign(&[50]).await));
    assert!(start.elapsed() >= ms(200));
    assert_eq!((bed.truth(), bed.vpc.calls()[0].outcome.clone()), (vec![], Outcome::Hung));
}

#[tokio::test]
async fn refusals_come_with_their_codes() {
    let bed = Bed::new();
    let custom = FaultKind::Error { status: 400, code: "IncorrectState", message: "odd" };
    for (kind, status, code) in [
        (FaultKind::Throttle, 503, "RequestLimitExceeded"),
        (FaultKind::Deny, 403, "UnauthorizedOperation"),
        (FaultKind::InternalError, 500, "InternalError"),
        (FaultKind::Unavailable, 503, "Unavailable"),
        (FaultKind::BadCredentials, 401, "AuthFailure"),
        (FaultKind::Expired, 400, "RequestExpired"),
        (custom, 400, "IncorrectState"),
    ] {
        bed.vpc.fail(Fault::on(ASSIGN, kind));
        let (seen_status, seen_code, _) = refusal(bed.assign(&[50]).await);
        assert_eq!((seen_status, seen_code.as_str()), (status, code));
        assert_eq!(bed.vpc.calls().last().unwrap().outcome, Outcome::Error(code.to_owned()));
    }
    assert_eq!(bed.truth(), [0; 0]);
    bed.vpc.fail(Fault::on(ASSIGN, FaultKind::Throttle));
    assert_eq!(refusal(bed.assign(&[50]).await).2, "Request limit exceeded.");
}

#[tokio::test]
async fn faults_strike_the_calls_they_are_meant_for() {
    let bed = Bed::new();
    bed.vpc.fail(Fault::on(ASSIGN, FaultKind::Deny).eni(OTHER));
    bed.vpc.fail(Fault::on("UnassignPrivateIpAddresses", FaultKind::Deny).skip(1));
    bed.assign(&[50, 51]).await.unwrap();
    bed.unassign(&[50]).await.unwrap();
    assert_eq!(refusal(bed.unassign(&[51]).await).1, "UnauthorizedOperation");
    bed.unassign(&[51]).await.unwrap();
    assert_eq!(bed.vpc.forget_faults(), 1);
}

#[tokio::test]
async fn a_call_takes_effect_though_its_client_hung_up() {
    let bed = Bed::new();
    bed.vpc.latency(ms(2000));
    let arrived = async {
        while bed.vpc.calls().is_empty() {
            sleep(ms(5)).await;
        }
    };
    tokio::select! {
        outcome = bed.assign(&[50]) => panic!("answered: {outcome:?}"),
        () = arrived => {}
    }
    assert_eq!((bed.truth(), bed.vpc.calls()[0].outcome.clone()), (vec![], Outcome::Pending));
    while bed.truth().is_empty() {
        sleep(ms(50)).await;
    }
    assert_eq!(bed.truth(), [50]);
    bed.vpc.latency_of(ASSIGN, ms(1));
    let start = Instant::now();
    bed.assign(&[51]).await.unwrap();
    assert!(start.elapsed() < ms(250));
}

#[tokio::test]
async fn buckets_throttle_each_class_by_itself() {
    let bed = Bed::new();
    bed.vpc.throttle(CallClass::Mutating, Some(TokenBucket::new(2, 10.0)));
    bed.vpc.throttle(CallClass::Sweeping, Some(TokenBucket::new(1, 0.0)));
    bed.assign(&[50]).await.unwrap();
    bed.unassign(&[50]).await.unwrap();
    assert_eq!(refusal(bed.assign(&[50]).await).1, "RequestLimitExceeded");
    assert_eq!(bed.truth(), [0; 0]);
    bed.shown().await;
    bed.ec2.describe_network_interfaces().send().await.unwrap();
    assert_eq!(refusal(bed.ec2.describe_network_interfaces().send().await).0, 503);
    bed.ec2.describe_network_interfaces().max_results(100).send().await.unwrap();
    sleep(ms(150)).await;
    bed.assign(&[50]).await.unwrap();
    bed.vpc.throttle(CallClass::Describing, Some(TokenBucket::new(0, 0.0)));
    assert_eq!(refusal(bed.ec2.describe_subnets().subnet_ids("x").send().await).0, 503);
    bed.vpc.throttle(CallClass::Describing, None);
    bed.shown().await;
}

#[tokio::test]
async fn describes_lag_in_both_directions() {
    let bed = Bed::new();
    bed.vpc.add_address(OURS, ip(50));
    bed.vpc.settle();
    bed.vpc.describe_lag(ms(400));
    bed.assign(&[51]).await.unwrap();
    bed.unassign(&[50]).await.unwrap();
    bed.vpc.remove_eni(OTHER);
    let all = bed.ec2.describe_network_interfaces().send().await.unwrap();
    assert_eq!((bed.shown().await, bed.truth()), (vec![50], vec![51]));
    assert_eq!(all.network_interfaces().len(), 3);
    // The rules know no lag.
    bed.assign(&[50]).await.unwrap();
    sleep(ms(500)).await;
    assert_eq!(bed.shown().await, [50, 51]);
    let gone = bed.ec2.describe_network_interfaces().network_interface_ids(OTHER).send().await;
    assert_eq!(refusal(gone).1, "InvalidNetworkInterfaceID.NotFound");
}

#[tokio::test]
async fn the_log_tells_what_was_asked() {
    let bed = Bed::new();
    bed.assign(&[50, 51]).await.unwrap();
    bed.ec2.describe_network_interfaces().network_interface_ids(OTHER).dry_run(true).send().await.unwrap_err();
    let [assign, describe] = &bed.vpc.calls()[..] else { panic!("two calls") };
    assert_eq!((assign.action.as_str(), assign.eni.as_deref()), (ASSIGN, Some(OURS)));
    assert_eq!((assign.addresses.as_slice(), assign.access_key.as_str()), (&[ip(50), ip(51)][..], "AKIATEST"));
    assert_eq!((describe.dry_run, describe.eni.as_deref()), (true, Some(OTHER)));
    assert!(assign.when <= describe.when && assign.parameters.contains_key("PrivateIpAddress.2"));
    assert_eq!((bed.vpc.count(ASSIGN), bed.vpc.count_ok("DescribeNetworkInterfaces")), (1, 0));
    bed.vpc.forget_calls();
    assert!(bed.vpc.calls().is_empty());
}

#[tokio::test]
async fn while_ec2_is_down_nothing_arrives() {
    let bed = Bed::new();
    bed.vpc.ec2_down(true);
    assert!(is_unanswered(&bed.assign(&[50]).await));
    bed.vpc.ec2_down(false);
    assert_eq!((bed.truth(), bed.vpc.calls().len()), (vec![], 0));
    bed.assign(&[50]).await.unwrap();
}

#[tokio::test]
async fn a_move_behind_the_back_shows_where_it_went() {
    let bed = Bed::new();
    bed.assign(&[50]).await.unwrap();
    bed.vpc.move_address(OURS, OTHER, ip(50));
    assert_eq!(bed.vpc.holder(ip(50)).as_deref(), Some(OTHER));
    bed.vpc.remove_address(OTHER, ip(50));
    assert_eq!((bed.vpc.holder(ip(50)), bed.vpc.primary(OTHER)), (None, ip(20)));
}
