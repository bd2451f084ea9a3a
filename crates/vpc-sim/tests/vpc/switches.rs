//! Each switch makes the difference that it promises.

use super::{Bed, OTHER, OURS, ip, raw, refusal};
use vpc_sim::{FaultKind, Switches, *};

const VALUE: &str = "InvalidParameterValue";

#[test]
fn every_variant_is_listed_once() {
    let all = Switches::all();
    for (number, (name, switches)) in all.iter().enumerate() {
        assert!(all.iter().skip(number + 1).all(|(n, s)| n != name && s != switches), "{name} is listed twice");
    }
    assert_eq!(all[0].1, Switches::default());
}

#[tokio::test]
async fn own_address() {
    let bed = Bed::with(Switches { own_address: OwnAddress::Refused, ..Switches::default() });
    bed.assign(&[50]).await.unwrap();
    let message = "[10.77.0.50] assigned, but move is not allowed.".to_owned();
    assert_eq!(refusal(bed.assign(&[50, 51]).await), (400, VALUE.to_owned(), message));
    assert_eq!(bed.truth(), [50]);
}

#[tokio::test]
async fn assign_reply() {
    let bed = Bed::with(Switches { assign_reply: AssignReply::NewOnly, ..Switches::default() });
    bed.assign(&[50]).await.unwrap();
    assert_eq!(bed.assign(&[50, 51]).await.unwrap().assigned_private_ip_addresses().len(), 1);
    assert!(bed.assign(&[50, 51]).await.unwrap().assigned_private_ip_addresses().is_empty());
    let bed = Bed::with(Switches { assign_reply: AssignReply::Whole, ..Switches::default() });
    bed.assign(&[50]).await.unwrap();
    assert_eq!(bed.assign(&[51]).await.unwrap().assigned_private_ip_addresses().len(), 3);
}

#[tokio::test]
async fn assign_refused() {
    let bed = Bed::with(Switches { assign_refused: AssignRefused::AssignsRest, ..Switches::default() });
    bed.vpc.add_address(OTHER, ip(60));
    assert_eq!(refusal(bed.assign(&[50, 60, 51]).await).1, VALUE);
    assert_eq!(bed.truth(), [50, 51]);
}

#[tokio::test]
async fn unassign_unknown() {
    let bed = Bed::with(Switches { unassign_unknown: UnassignUnknown::RemovesKnown, ..Switches::default() });
    bed.assign(&[50, 51]).await.unwrap();
    assert_eq!(refusal(bed.unassign(&[50, 60]).await).1, VALUE);
    assert_eq!(bed.truth(), [51]);
}

#[tokio::test]
async fn unassign_primary() {
    let bed = Bed::with(Switches { unassign_primary: UnassignPrimary::AsUnknown, ..Switches::default() });
    let message = format!("Some of the specified addresses are not assigned to interface {OURS}");
    assert_eq!(refusal(bed.unassign(&[10]).await), (400, VALUE.to_owned(), message));
}

#[tokio::test]
async fn texts() {
    let bed = Bed::with(Switches {
        in_use_names: InUseNames::WholeList,
        reserved_text: ReservedText::Range,
        throttle_text: ThrottleText::New,
        ..Switches::default()
    });
    bed.vpc.add_address(OTHER, ip(60));
    assert_eq!(refusal(bed.assign(&[50, 60]).await).2, "[10.77.0.50, 10.77.0.60] assigned, but move is not allowed.");
    assert_eq!(refusal(bed.assign(&[2]).await).2, "Address 10.77.0.2 is in subnet's reserved range");
    bed.vpc.fail(Fault::on("AssignPrivateIpAddresses", FaultKind::Throttle));
    assert_eq!(
        refusal(bed.assign(&[50]).await).2,
        format!(
            "Account {ACCOUNT} has been throttled on ec2:AssignPrivateIpAddresses because it exceeded its request rate \
             limit."
        )
    );
}

#[tokio::test]
async fn list_or_count() {
    for (list_or_count, code) in
        [(ListOrCount::Parameter, "InvalidParameter"), (ListOrCount::Combination, "InvalidParameterCombination")]
    {
        let bed = Bed::with(Switches { list_or_count, ..Switches::default() });
        let call = bed.ec2.assign_private_ip_addresses().network_interface_id(OURS);
        assert_eq!(refusal(call.clone().send().await).1, code);
        let both = call.secondary_private_ip_address_count(1).ipv4_prefix_count(1).send().await;
        assert_eq!(refusal(both).1, code);
    }
}

#[tokio::test]
async fn duplicates() {
    let bed = Bed::with(Switches { duplicates: Duplicates::Collapsed, ..Switches::default() });
    bed.assign(&[50, 50]).await.unwrap();
    assert_eq!(bed.truth(), [50]);
}

#[tokio::test]
async fn dry_runs() {
    let bed = Bed::with(Switches {
        dry_run_status: DryRunStatus::BadRequest400,
        mutating_dry_run: MutatingDryRun::Checked,
        ..Switches::default()
    });
    let described = bed.ec2.describe_network_interfaces().dry_run(true).send().await;
    let (status, code, _) = refusal(described);
    assert_eq!((status, code.as_str()), (400, "DryRunOperation"));

    // The SDK has no such member for Assign.
    let form = format!(
        "Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId={OURS}&PrivateIpAddress.1=10.77.0.50&\
         DryRun=true"
    );
    let headers = super::wire::signed(REGION, "ec2");
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, body) = raw(bed.server.address(), "POST", "/", &headers, &form).await.unwrap();
    assert!(status == 400 && body.contains("<Code>DryRunOperation</Code>"), "{status} {body}");
    bed.vpc.deny("AssignPrivateIpAddresses", true);
    let (status, body) = raw(bed.server.address(), "POST", "/", &headers, &form).await.unwrap();
    assert!(status == 403 && body.contains("<Code>UnauthorizedOperation</Code>"), "{status} {body}");
    assert_eq!(bed.truth(), [0; 0]);
    assert!(bed.vpc.calls().iter().all(|call| call.dry_run));
}
