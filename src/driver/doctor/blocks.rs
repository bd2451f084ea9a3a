//! Whole /28s: whether interfaces of this host may have any, and how many their subnet has.

use super::check::{Check, ok, warning};
use crate::domain::block::{Block, SIZE};
use crate::domain::plan::blocks::Policy;
use crate::domain::subnet::Subnet;
use crate::outside::ec2::Limits;
use crate::store::Blocks;

/// What keeps whole ones whole.
pub const RESERVE: &str = "a subnet CIDR reservation of type explicit keeps addresses that AWS gives to others out of them \
                           (docs/blocks.md)";

const NAME: &str = "blocks";

/// None: there is nothing to say. `blocks`: as the table has them.
pub(super) fn check_blocks(
    policy: Policy,
    instance_type: &str,
    limits: Limits,
    subnet: &Subnet,
    blocks: Option<Blocks>,
) -> Option<Check> {
    let possible = Block::numbers_in(subnet.cidr).len();
    let slots = limits.addresses.saturating_sub(1);
    let name = match policy {
        Policy::Never if limits.blocks && possible > 0 => {
            let most = slots + slots.min(possible) * (SIZE - 1);
            return Some(ok(
                NAME,
                format!("EC2_IPAM_BLOCKS is never: an interface takes {slots} containers, with auto up to {most}"),
            ));
        }
        Policy::Never => return None,
        Policy::Auto => "auto",
        Policy::Always => "always",
    };
    if !limits.blocks {
        return Some(warning(
            NAME,
            format!("EC2_IPAM_BLOCKS is {name}, but {instance_type} takes single addresses only"),
            "for blocks use an instance type of the Nitro system, else set EC2_IPAM_BLOCKS=never",
        ));
    }
    if possible == 0 {
        return Some(warning(
            NAME,
            format!("EC2_IPAM_BLOCKS is {name}, but a /{} has no /28 that may be one", subnet.cidr.prefix_len()),
            "use a larger subnet: a /26 has two, a /24 fourteen",
        ));
    }
    let blocks = blocks?;
    let found = format!("/28s of {} that may be one: {blocks}", subnet.id);
    Some(if blocks.whole == 0 && blocks.broken > 0 {
        let remedy = format!("single addresses have to do; {RESERVE}, once a range of the subnet is empty");
        warning(NAME, found, remedy)
    } else {
        ok(NAME, format!("{found}; {RESERVE}"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;
    use crate::domain::id::SubnetId;

    fn check(policy: Policy, nitro: bool, cidr: &str, blocks: Blocks) -> Option<(Verdict, String)> {
        let subnet = Subnet::new(SubnetId::stored("subnet-0123456789abcdef0".into()), cidr.parse().unwrap()).unwrap();
        let limits = Limits { addresses: 10, blocks: nitro };
        let check = check_blocks(policy, "c5.large", limits, &subnet, Some(blocks))?;
        Some((check.verdict, check.found + &check.remedy.map(|remedy| format!(" -> {remedy}")).unwrap_or_default()))
    }

    #[test]
    fn what_is_in_the_way_of_blocks_is_said_and_nobody_is_nagged() {
        let some = Blocks { whole: 11, broken: 2, full: 1 };
        let (auto, never) = (Policy::Auto, Policy::Never);
        let of = |policy, nitro, cidr, blocks| check(policy, nitro, cidr, blocks).unwrap();
        let (verdict, text) = of(never, true, "10.0.1.0/24", some);
        assert_eq!(verdict, Verdict::Ok);
        assert_eq!(text, "EC2_IPAM_BLOCKS is never: an interface takes 9 containers, with auto up to 144");
        assert!(of(never, true, "10.0.1.0/26", some).1.ends_with("up to 39"), "two blocks and seven addresses");
        assert_eq!(check(never, false, "10.0.1.0/24", some), None);
        assert_eq!(check(never, true, "10.0.1.0/27", some), None);

        let (verdict, text) = of(auto, true, "10.0.1.0/24", some);
        assert_eq!(verdict, Verdict::Ok);
        assert!(text.contains("11 whole, 2 broken, 1 full; a subnet CIDR reservation of type explicit"), "{text}");
        for (nitro, cidr, blocks, says) in [
            (false, "10.0.1.0/24", some, "EC2_IPAM_BLOCKS is auto, but c5.large takes single addresses only -> "),
            (true, "10.0.1.0/27", some, "a /27 has no /28 that may be one -> use a larger subnet: a /26 has two"),
            (true, "10.0.1.0/28", some, "a /28 has no"),
            (true, "10.0.1.0/24", Blocks { whole: 0, broken: 13, full: 1 }, "0 whole, 13 broken, 1 full -> single"),
        ] {
            let (verdict, text) = of(auto, nitro, cidr, blocks);
            assert!(verdict == Verdict::Warning && text.contains(says), "{cidr}: {text}");
        }
        let full = Blocks { whole: 0, broken: 0, full: 14 };
        assert_eq!(of(Policy::Always, true, "10.0.1.0/24", full).0, Verdict::Ok, "nothing is broken");
    }
}
