//! Blocks in the table: sixteen rows that move all or none, and what single addresses leave of them.

use std::collections::BTreeSet;
use std::time::Duration;

use ec2_ipam::domain::address::{Change, Event, NewRow, Row, State, Status};
use ec2_ipam::domain::block::{Block, SIZE};
use ec2_ipam::domain::id::{Claim, Kind};
use ec2_ipam::domain::subnet::Subnet;
use ec2_ipam::store::{BlockClaim, Blocks, Store};

use super::bed::{Bed, Raw, eni, ip, new_row, on_all, soon, subnet, told};

on_all! {
    whole_blocks_are_found_wherever_they_lie
    a_quarter_of_whole_ones_is_plenty
    a_block_is_claimed_whole_or_not_at_all
    what_is_not_whole_any_more_is_passed_by
    a_group_of_changes_happens_all_or_not_at_all
    the_same_rows_are_singles_and_then_a_block_and_then_singles
    a_block_that_a_failover_lost_is_confirmed_by_nobody_and_claimed_again
    single_addresses_leave_whole_blocks_alone
    of_a_whole_block_no_more_is_broken_than_is_needed
}

/// 10.0.0.16 n/28.
pub fn block(n: u8) -> Block {
    Block::of(ip(n * 16))
}

fn change(row: &Row, event: Event) -> Change {
    row.on(event).unwrap_or_else(|why| panic!("{why}"))
}

pub async fn claim_blocks(store: &Store, candidates: &[Block], count: usize, claim: &Claim) -> Vec<Row> {
    let (subnet, eni) = (subnet(), eni(1));
    let wanted = BlockClaim { subnet: &subnet, eni: &eni, candidates, cooldown: Duration::ZERO, count, claim };
    store.claim_blocks(&wanted, soon()).await.unwrap()
}

/// The blocks that these rows make up, which they do without a rest.
pub fn of(rows: &[Row]) -> Vec<Block> {
    let blocks: BTreeSet<_> = rows.iter().map(|row| Block::of(row.ip)).collect();
    let ips: BTreeSet<_> = rows.iter().map(|row| row.ip).collect();
    assert_eq!((ips.len(), rows.len()), (blocks.len() * SIZE, blocks.len() * SIZE), "I1: sixteen of each: {rows:?}");
    blocks.into_iter().collect()
}

async fn rows_of(bed: &Bed, block: Block) -> Vec<Row> {
    bed.store.rows_at(&block.addresses().collect::<Vec<_>>(), soon()).await.unwrap()
}

async fn find(bed: &Bed, within: Option<&str>, most: usize) -> Vec<Block> {
    let within = within.map(|net| net.parse().unwrap());
    let found = bed.store.whole_blocks(&subnet(), within, most, soon()).await.unwrap();
    let all: BTreeSet<_> = found.iter().copied().collect();
    assert_eq!(all.len(), found.len(), "each once");
    found
}

/// What an event makes of all sixteen, carried out together.
async fn together(bed: &Bed, block: Block, event: impl Fn() -> Event) -> bool {
    let changes = rows_of(bed, block).await.iter().map(|row| change(row, event())).collect();
    bed.store.apply_together(&[changes], soon()).await.unwrap() == [true]
}

async fn whole_blocks_are_found_wherever_they_lie(bed: Bed) {
    assert!(find(&bed, None, 64).await.is_empty(), "nor in an empty table");
    bed.free(16..=127).await;
    // One in use, one that is missing, one primary.
    bed.event(20, Event::Reserve { holder: None }).await;
    bed.free(129..=143).await;
    assert_eq!(bed.claim_free(&bed.claim(1, Kind::On), 1, |w| w.sub_pool = Some(block(3).net())).await.len(), 1);
    let all = [2, 4, 5, 6, 7].map(block);
    let mut firsts = BTreeSet::new();
    for _ in 0..60 {
        let found = find(&bed, None, 64).await;
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), all.into());
        firsts.insert(found[0]);
    }
    assert_eq!(firsts, all.into(), "from a random place on");
    assert_eq!(find(&bed, None, 2).await.len(), 2);
    assert_eq!(
        find(&bed, Some("10.0.0.64/27"), 64).await.iter().copied().collect::<BTreeSet<_>>(),
        all[1..3].iter().copied().collect()
    );
    assert_eq!(find(&bed, Some("10.0.0.64/28"), 64).await, [block(4)]);
    for nothing in ["10.0.0.48/28", "10.0.0.64/29", "10.1.0.0/16"] {
        assert!(find(&bed, Some(nothing), 64).await.is_empty(), "{nothing}");
    }
    let other = "subnet-ffffffffffffffff0".parse().unwrap();
    assert!(bed.store.whole_blocks(&other, None, 64, soon()).await.unwrap().is_empty());
}

async fn a_quarter_of_whole_ones_is_plenty(bed: Bed) {
    let plenty = async |cidr: &str| {
        let subnet = Subnet::new(subnet(), cidr.parse().unwrap()).unwrap();
        bed.store.plenty(&subnet, soon()).await.unwrap()
    };
    // Of a /24 fourteen can be had.
    bed.free(16..=63).await;
    assert!(!plenty("10.0.0.0/24").await, "three");
    bed.free(64..=79).await;
    assert!(plenty("10.0.0.0/24").await, "four");
    assert!(!plenty("10.0.0.0/22").await, "four of 62");
    assert!(plenty("10.0.0.0/26").await && !plenty("10.0.0.0/27").await && !plenty("10.0.0.0/28").await);
    bed.event(70, Event::Reserve { holder: None }).await;
    assert!(!plenty("10.0.0.0/24").await);
}

async fn a_block_is_claimed_whole_or_not_at_all(bed: Bed) {
    bed.free(16..=127).await;
    bed.age(ip(35), 500).await;
    let claim = bed.claim(1, Kind::On);
    for (candidates, count) in [(&[][..], 1), (&[block(2)], 0)] {
        assert!(claim_blocks(&bed.store, candidates, count, &claim).await.is_empty());
    }
    let taken = claim_blocks(&bed.store, &[1, 2, 3, 4].map(block), 2, &claim).await;
    assert_eq!(of(&taken), [1, 2].map(block), "the first of the candidates");
    let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert_eq!(of(&rows), [1, 2].map(block));
    for row in taken.iter().chain(&rows) {
        assert_eq!(
            (row.state(), row.in_block, &row.claim, &row.holder),
            (State::On, true, &Some(claim.clone()), &None)
        );
        assert!(row.claimed.is_some_and(|age| age < Duration::from_secs(60)));
        assert_eq!(row.idle < Duration::from_secs(900), row.ip == ip(35), "as cold as it was: {row:?}");
    }
    let single = bed.claim_free(&bed.claim(2, Kind::On), 1, |_| ()).await;
    assert!(!bed.row(single[0].octets()[3]).await.in_block);
}

async fn what_is_not_whole_any_more_is_passed_by(bed: Bed) {
    bed.free(16..=95).await;
    // In use; primary; another subnet's; not there.
    assert!(bed.event(31, Event::Reserve { holder: None }).await);
    let set = "UPDATE allocation SET `primary`=1 WHERE ip='10.0.0.40'";
    bed.exec(set, set).await;
    let set = "UPDATE allocation SET subnet='subnet-ffffffffffffffff0' WHERE ip='10.0.0.63'";
    bed.exec(set, set).await;
    let before = bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    let claim = bed.claim(1, Kind::On);
    assert!(claim_blocks(&bed.store, &[1, 2, 3, 9].map(block), 4, &claim).await.is_empty());
    let after = bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    assert_eq!(before.iter().map(Row::guard).collect::<Vec<_>>(), after.iter().map(Row::guard).collect::<Vec<_>>());
    assert_eq!(of(&claim_blocks(&bed.store, &[1, 4, 2, 5, 3].map(block), 3, &claim).await), [4, 5].map(block));
}

async fn a_group_of_changes_happens_all_or_not_at_all(bed: Bed) {
    bed.free(16..=79).await;
    let all = [1, 2, 3, 4].map(block);
    claim_blocks(&bed.store, &all, 4, &bed.claim(1, Kind::On)).await;
    // As the journal has them: each its own holder and age, some leased.
    let mut groups = Vec::new();
    for block in all {
        let follow = |row: &Row| {
            let last = row.ip.octets()[3];
            let lease = last.is_multiple_of(5).then(|| bed.claim(last.into(), Kind::Lease));
            let holder = (!last.is_multiple_of(3)).then(|| format!("it's {last}"));
            change(row, Event::Follow { lease, holder, idle: Duration::from_secs(u64::from(last) * 100) })
        };
        groups.push(rows_of(&bed, block).await.iter().map(follow).collect::<Vec<_>>());
    }
    assert_eq!(bed.store.apply_together(&groups, soon()).await.unwrap(), [true; 4]);
    let mut rows = Vec::new();
    for block in all {
        rows.extend(rows_of(&bed, block).await);
    }
    for row in &rows {
        let last = row.ip.octets()[3];
        assert_eq!((row.state() == State::Lease, row.in_block), (last % 5 == 0, true));
        assert_eq!(row.holder, (last % 3 != 0).then(|| format!("it's {last}")));
        let age = u64::from(last) * 100;
        assert!((age..age + 60).contains(&row.idle.as_secs()), "{row:?}");
    }
    // Somebody changed one, whatever of it.
    let give_up = |rows: &[Row]| {
        rows.iter().map(|row| change(row, Event::GiveUp { claim: bed.claim(2, Kind::Off) })).collect::<Vec<_>>()
    };
    assert!(together(&bed, block(2), || told(None, Duration::ZERO)).await, "leases end");
    assert!(together(&bed, block(3), || told(None, Duration::ZERO)).await);
    let groups = [give_up(&rows_of(&bed, block(2)).await), give_up(&rows_of(&bed, block(3)).await)];
    assert!(bed.event(47, Event::Follow { lease: None, holder: Some("db".into()), idle: Duration::ZERO }).await);
    let before = rows_of(&bed, block(2)).await;
    assert_eq!(bed.store.apply_together(&groups, soon()).await.unwrap(), [false, true]);
    let ageless = |rows: Vec<Row>| rows.into_iter().map(|row| row.guard()).collect::<Vec<_>>();
    assert_eq!(ageless(rows_of(&bed, block(2)).await), ageless(before), "nothing of it changed");
    assert!(rows_of(&bed, block(3)).await.iter().all(|row| row.state() == State::Off && row.in_block));
    assert_eq!(bed.store.apply_together(&groups, soon()).await.unwrap(), [false, false]);
    assert!(together(&bed, block(2), || Event::GiveUp { claim: bed.claim(3, Kind::Off) }).await, "looked at again");
    assert!(bed.store.apply_together(&[], soon()).await.unwrap().is_empty());
}

async fn the_same_rows_are_singles_and_then_a_block_and_then_singles(bed: Bed) {
    bed.free(16..=31).await;
    let on = |n| bed.claim(n, Kind::On);
    let off = |n| Event::GiveUp { claim: bed.claim(n, Kind::Off) };
    for round in 0..3 {
        let taken = bed.claim_free(&on(10 + round), 9, |_| ()).await;
        assert_eq!(taken.len(), 9, "round {round}");
        assert!(find(&bed, None, 64).await.is_empty());
        assert!(claim_blocks(&bed.store, &[block(1)], 1, &on(20 + round)).await.is_empty());
        for ip in &taken {
            let last = ip.octets()[3];
            assert!(!bed.row(last).await.in_block);
            for event in [told(None, Duration::from_secs(100)), off(30 + round), Event::Gone] {
                assert!(bed.event(last, event).await);
            }
        }
        assert_eq!(find(&bed, None, 64).await, [block(1)]);
        assert_eq!(of(&claim_blocks(&bed.store, &[block(1)], 1, &on(40 + round)).await), [block(1)]);
        assert!(bed.claim_free(&on(50 + round), 1, |_| ()).await.is_empty());
        // One of its addresses alone may be leased, and not given up.
        for event in [told(None, Duration::ZERO), off(60 + round), off(70 + round), Event::Gone] {
            assert!(together(&bed, block(1), || event.clone()).await);
        }
        assert!(rows_of(&bed, block(1)).await.iter().all(|row| row.state() == State::Free && !row.in_block));
    }
}

/// As a primary that came back without its last commits shows it.
async fn a_block_that_a_failover_lost_is_confirmed_by_nobody_and_claimed_again(bed: Bed) {
    bed.free(16..=47).await;
    let mine = claim_blocks(&bed.store, &[block(1), block(2)], 2, &bed.claim(1, Kind::On)).await;
    let (first, second): (Vec<_>, Vec<_>) = mine.into_iter().partition(|row| Block::of(row.ip) == block(1));
    let lost = "UPDATE allocation SET status='free',iface=NULL,claim=NULL,claimed=NULL,in_block=0 WHERE ip IN \
                ('10.0.0.16','10.0.0.17','10.0.0.18','10.0.0.19','10.0.0.20','10.0.0.21','10.0.0.22','10.0.0.23','10.0.0.24',\
                '10.0.0.25','10.0.0.26','10.0.0.27','10.0.0.28','10.0.0.29','10.0.0.30','10.0.0.31')";
    bed.exec(lost, lost).await;
    let idle = |rows: &[Row]| rows.iter().map(|row| change(row, told(None, Duration::ZERO))).collect::<Vec<_>>();
    let confirmed = bed.store.apply_together(&[idle(&first), idle(&second)], soon()).await.unwrap();
    assert_eq!(confirmed, [false, true]);
    // Another host has it by now, or this one puts it back as one.
    let restore = Event::Claim { eni: eni(1), claim: bed.claim(2, Kind::On), in_block: true };
    assert!(together(&bed, block(1), || restore.clone()).await);
    let rows = rows_of(&bed, block(1)).await;
    assert!(rows.iter().all(|row| row.in_block && row.state() == State::On && row.holder.is_none()));
    assert!(claim_blocks(&bed.store, &[block(1)], 1, &bed.claim(3, Kind::On)).await.is_empty());
}

async fn single_addresses_leave_whole_blocks_alone(bed: Bed) {
    bed.free(1..=111).await;
    // Three are broken: of the first fifteen are there, of the third ten, of the sixth five.
    let not_free = |last: u8| bed.event(last, Event::Reserve { holder: None });
    for last in (32..38).chain(80..91) {
        not_free(last).await;
    }
    let broken = |ip: &std::net::Ipv4Addr| [0, 2, 5].map(block).contains(&Block::of(*ip));
    let mut left = 30;
    for n in 0..6 {
        let taken = bed.claim_free(&bed.claim(n, Kind::On), 4, |_| ()).await;
        assert!(taken.len() == 4 && taken.iter().all(broken), "round {n}: {taken:?}");
        left -= 4;
        if let (0, Raw::MySql(_)) = (n, &bed.raw) {
            assert!(taken.iter().all(|ip| Block::of(*ip) == block(5)), "the fullest: {taken:?}");
        }
    }
    assert_eq!(left, 6);
    // What still cools is not to be had, and does not count as free either.
    let cooldown = Duration::from_secs(600);
    let rows = bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    let cooling: Vec<_> = rows.iter().filter(|row| row.state() == State::Free && broken(&row.ip)).take(3).collect();
    for row in &cooling {
        bed.age(row.ip, 10).await;
    }
    let taken = bed.claim_free(&bed.claim(7, Kind::On), 3, |w| w.cooldown = cooldown).await;
    assert!(taken.iter().all(broken) && !taken.iter().any(|ip| cooling.iter().any(|row| row.ip == *ip)), "{taken:?}");
    assert_eq!(find(&bed, None, 64).await.len(), 4, "all that were whole");
    // None of the broken ones' is to be had.
    let taken = bed.claim_free(&bed.claim(8, Kind::On), 3, |w| w.cooldown = cooldown).await;
    assert!(taken.len() == 3 && !taken.iter().any(broken), "{taken:?}");
    assert_eq!(find(&bed, None, 64).await.len(), 3);
    let taken = bed.claim_free(&bed.claim(9, Kind::On), 3, |_| ()).await;
    assert!(taken.len() == 3, "{taken:?}");
    // A sub-pool is kept to, whatever it breaks.
    bed.free(128..=143).await;
    let net = Some("10.0.0.132/30".parse().unwrap());
    assert_eq!(bed.claim_free(&bed.claim(10, Kind::On), 9, |w| w.sub_pool = net).await, [132, 133, 134, 135].map(ip));
}

async fn of_a_whole_block_no_more_is_broken_than_is_needed(bed: Bed) {
    let rows: Vec<NewRow> = (0..4096_u32).map(|n| new_row((0x0a00_0000 + n).into(), Status::Free)).collect();
    bed.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    for (n, count) in [1_usize, 3, 12, 5, 20, 7].into_iter().enumerate() {
        assert_eq!(bed.claim_free(&bed.claim(n.try_into().unwrap(), Kind::On), count, |_| ()).await.len(), count);
    }
    let subnet = Subnet::new(subnet(), "10.0.0.0/20".parse().unwrap()).unwrap();
    let Blocks { whole, broken, full } = bed.store.blocks(&subnet, soon()).await.unwrap();
    // 48 addresses, some of them perhaps at the ends, which are no blocks.
    assert!(whole + broken + full == 254 && (2..=3).contains(&(broken + full)), "{broken} broken, {full} full");
}
