//! EC2's answers read for what rows depend on.

use crate::domain::plan::assign::{Fault, Said};
use crate::outside::ec2::Ec2Error;

/// What EC2 said to an Assign.
pub(crate) fn to_assign(answer: &Result<(), Ec2Error>) -> Said {
    let Err(why) = answer else { return Said::Done };
    match why {
        Ec2Error::InUse { addresses } => Said::InUse(addresses.clone()),
        Ec2Error::AwsReserved { addresses } | Ec2Error::OutsideSubnet { addresses } => {
            Said::Never(addresses.clone(), why.to_string())
        }
        Ec2Error::Unlisted { addresses } => Said::Unlisted(addresses.clone()),
        Ec2Error::Unclear { .. } => Said::Unclear,
        Ec2Error::Refused { .. } | Ec2Error::Malformed { .. } => Said::Refused(Fault::Address),
        Ec2Error::EniFull { .. }
        | Ec2Error::SubnetFull { .. }
        | Ec2Error::NoBlock { .. }
        | Ec2Error::NoSuchEni { .. }
        | Ec2Error::NoSuchSubnet { .. }
        | Ec2Error::NotAssigned { .. }
        | Ec2Error::Primary { .. }
        | Ec2Error::Throttled { .. }
        | Ec2Error::Denied { .. }
        | Ec2Error::NotOwner { .. }
        | Ec2Error::BadCredentials { .. }
        | Ec2Error::NoCredentials { .. }
        | Ec2Error::NoRegion
        | Ec2Error::Unreachable { .. } => Said::Refused(Fault::Elsewhere),
    }
}

/// The same to one of blocks. A subnet without room for one may have it for the next.
pub(crate) fn to_assign_of_blocks(answer: &Result<(), Ec2Error>) -> Said {
    match answer {
        Err(Ec2Error::SubnetFull { .. } | Ec2Error::NoBlock { .. }) => Said::Refused(Fault::Address),
        answer => to_assign(answer),
    }
}

/// What EC2's answer to an Unassign says of the addresses that it was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Off {
    /// They are off the ENI, or it is no more.
    Gone,
    /// Some of them are not on it, so it did nothing.
    NotAll,
    /// It did nothing, or nobody knows.
    Perhaps,
}

/// What EC2 said to an Unassign of so many addresses.
pub(crate) fn to_unassign(answer: &Result<(), Ec2Error>, count: usize) -> Off {
    let Err(why) = answer else { return Off::Gone };
    match why {
        Ec2Error::NoSuchEni { .. } => Off::Gone,
        Ec2Error::NotAssigned { .. } if count == 1 => Off::Gone,
        Ec2Error::NotAssigned { .. } => Off::NotAll,
        Ec2Error::InUse { .. }
        | Ec2Error::AwsReserved { .. }
        | Ec2Error::OutsideSubnet { .. }
        | Ec2Error::Unlisted { .. }
        | Ec2Error::Unclear { .. }
        | Ec2Error::Refused { .. }
        | Ec2Error::Malformed { .. }
        | Ec2Error::EniFull { .. }
        | Ec2Error::SubnetFull { .. }
        | Ec2Error::NoBlock { .. }
        | Ec2Error::NoSuchSubnet { .. }
        | Ec2Error::Primary { .. }
        | Ec2Error::Throttled { .. }
        | Ec2Error::Denied { .. }
        | Ec2Error::NotOwner { .. }
        | Ec2Error::BadCredentials { .. }
        | Ec2Error::NoCredentials { .. }
        | Ec2Error::NoRegion
        | Ec2Error::Unreachable { .. } => Off::Perhaps,
    }
}

/// What EC2 said to an Unassign of blocks: a clear refusal may mean that some are not there, in whatever words.
pub(crate) fn to_unassign_of_blocks(answer: &Result<(), Ec2Error>) -> Off {
    match answer {
        Err(
            Ec2Error::NotAssigned { .. }
            | Ec2Error::Refused { .. }
            | Ec2Error::Malformed { .. }
            | Ec2Error::InUse { .. }
            | Ec2Error::AwsReserved { .. }
            | Ec2Error::OutsideSubnet { .. }
            | Ec2Error::Primary { .. },
        ) => Off::NotAll,
        answer => to_unassign(answer, 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::domain::address::{Row, State, Status};
    use crate::domain::id::{Boot, EniId, Kind, SubnetId};
    use crate::domain::plan::assign::{Batch, Standing, judge};
    use crate::outside::ec2::Action;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

    fn eni() -> EniId {
        EniId::stored("eni-0123456789abcdef0".into())
    }

    /// Each variant once, none left out.
    fn every_error() -> Vec<Ec2Error> {
        let action = Action::Assign;
        let (eni, subnet) = (eni(), SubnetId::stored("subnet-0123456789abcdef0".into()));
        let text = || "why".to_owned();
        let all = vec![
            Ec2Error::InUse { addresses: vec![IP] },
            Ec2Error::EniFull { eni: eni.clone() },
            Ec2Error::SubnetFull { subnet: None },
            Ec2Error::NoBlock { subnet: None },
            Ec2Error::NoSuchEni { eni: eni.clone() },
            Ec2Error::NoSuchSubnet { subnet },
            Ec2Error::NotAssigned { eni: eni.clone() },
            Ec2Error::Primary { eni },
            Ec2Error::OutsideSubnet { addresses: vec![IP] },
            Ec2Error::AwsReserved { addresses: vec![IP] },
            Ec2Error::Malformed { message: text() },
            Ec2Error::Throttled { action },
            Ec2Error::Denied { action, resource: text(), why: text() },
            Ec2Error::NotOwner { action, message: text() },
            Ec2Error::BadCredentials { why: text() },
            Ec2Error::NoCredentials { why: text() },
            Ec2Error::NoRegion,
            Ec2Error::Unclear { action, why: text() },
            Ec2Error::Unlisted { addresses: vec![IP] },
            Ec2Error::Unreachable { action, why: text() },
            Ec2Error::Refused { action, code: text(), message: text() },
        ];
        let kinds: HashSet<_> = all.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), all.len());
        all
    }

    /// What becomes of a claimed row, the reason, and whether those who wait are told. `None`: it stays claimed.
    fn fate(answer: &Result<(), Ec2Error>, standing: Standing, age: u64) -> (Option<State>, bool, bool) {
        let boot = Boot::random().unwrap();
        let kind = if standing == Standing::Leased { Kind::Lease } else { Kind::On };
        let row = Row {
            ip: IP,
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status: if standing == Standing::Leased { Status::Occupied } else { Status::Allocated },
            iface: Some(eni()),
            primary: false,
            in_block: false,
            claim: Some(boot.claim(1, kind)),
            holder: None,
            idle: Duration::ZERO,
            claimed: Some(Duration::from_secs(age)),
        };
        let batch =
            Batch { eni: &eni(), rows: vec![row], standing, doubted: &HashSet::new(), off: &boot.claim(2, Kind::Off) };
        let judged = judge(batch, &to_assign(answer), &HashMap::new());
        let change = judged.changes.first();
        assert!(judged.changes.len() + judged.on_eni.len() <= 1 && judged.again.is_empty(), "{answer:?}");
        let becomes = change.map(|change| State::of(change.to.status, change.to.claim.as_ref()));
        (becomes, change.is_some_and(|change| change.let_go.is_some()), judged.is_trouble)
    }

    /// Free again, and others come first next time; free again as before; left to an Unassign; reserved; as it was.
    const LAST: (Option<State>, bool) = (Some(State::Free), true);
    const FREE: (Option<State>, bool) = (Some(State::Free), false);
    const OFF: (Option<State>, bool) = (Some(State::Off), false);
    const KEPT: (Option<State>, bool) = (Some(State::Reserved), false);
    const STAYS: (Option<State>, bool) = (None, false);

    #[test]
    fn every_answer_to_an_assign_for_new_and_old_claims_and_for_leases() {
        for why in every_error() {
            // Of a claim of just now, one of before whose call may still land, one of long ago; and whether it is told.
            let (fresh, young, old, told) = match &why {
                Ec2Error::InUse { .. } => (LAST, STAYS, OFF, false),
                Ec2Error::AwsReserved { .. } | Ec2Error::OutsideSubnet { .. } => (KEPT, KEPT, KEPT, false),
                Ec2Error::Unlisted { .. } => (STAYS, STAYS, OFF, true),
                Ec2Error::Unclear { .. } => (STAYS, STAYS, STAYS, true),
                Ec2Error::Refused { .. } | Ec2Error::Malformed { .. } => (LAST, OFF, OFF, true),
                Ec2Error::EniFull { .. }
                | Ec2Error::SubnetFull { .. }
                | Ec2Error::NoBlock { .. }
                | Ec2Error::NoSuchEni { .. }
                | Ec2Error::NoSuchSubnet { .. }
                | Ec2Error::NotAssigned { .. }
                | Ec2Error::Primary { .. }
                | Ec2Error::Throttled { .. }
                | Ec2Error::Denied { .. }
                | Ec2Error::NotOwner { .. }
                | Ec2Error::BadCredentials { .. }
                | Ec2Error::NoCredentials { .. }
                | Ec2Error::NoRegion
                | Ec2Error::Unreachable { .. } => (FREE, OFF, OFF, true),
            };
            let told_when_old = told && !matches!(why, Ec2Error::Unlisted { .. });
            let with = |(state, lets_go), told| (state, lets_go, told);
            let answer = Err(why);
            assert_eq!(fate(&answer, Standing::Fresh, 0), with(fresh, told), "{answer:?}, fresh");
            assert_eq!(fate(&answer, Standing::Unsettled, 59), with(young, told), "{answer:?}, young");
            assert_eq!(fate(&answer, Standing::Unsettled, 60), with(old, told_when_old), "{answer:?}, old");
            let in_use = matches!(answer, Err(Ec2Error::InUse { .. }));
            assert_eq!(fate(&answer, Standing::Leased, 1000), with(STAYS, !in_use), "{answer:?}: a lease stays one");
        }
        assert_eq!(fate(&Ok(()), Standing::Fresh, 0), (None, false, false));
    }

    #[test]
    fn every_answer_to_an_unassign_of_one_and_of_several() {
        for why in every_error() {
            let (one, several) = if matches!(why, Ec2Error::NoSuchEni { .. }) {
                (Off::Gone, Off::Gone)
            } else if matches!(why, Ec2Error::NotAssigned { .. }) {
                (Off::Gone, Off::NotAll)
            } else {
                (Off::Perhaps, Off::Perhaps)
            };
            let answer = Err(why);
            assert_eq!((to_unassign(&answer, 1), to_unassign(&answer, 2)), (one, several), "{answer:?}");
        }
        assert_eq!(to_unassign(&Ok(()), 7), Off::Gone);
    }
}
