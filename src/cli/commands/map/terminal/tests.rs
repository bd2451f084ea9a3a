use std::collections::BTreeMap;

use super::*;
use crate::domain::id::{EniId, SubnetId};
use crate::domain::map::{Blocks, Eni, Held, Taken};

const PLAIN: Look = Look { colors: Colors::None, columns: usize::MAX, is_utf8: false };

/// A subnet with these squares from its beginning on, the rest free. All that is leased is on this host's ENI, the others'
/// on another.
fn map(cidr: &str, letters: &str) -> Map {
    let cidr: ipnet::Ipv4Net = cidr.parse().unwrap();
    let free = 1_usize << (32 - cidr.prefix_len());
    let squares = format!("{letters}{}", ".".repeat(free - letters.len()));
    let mut counts = BTreeMap::new();
    let mut taken = Vec::new();
    for (ip, letter) in all_of(cidr).zip(squares.chars()) {
        let square = Square::read(letter).unwrap();
        *counts.entry(square).or_insert(0) += 1;
        let eni = match letter {
            'L' | 'I' => Some(0),
            'l' | 'i' => Some(1),
            _ => None,
        };
        taken.extend(square.is_taken().then_some(Taken { ip, eni, holder: None, seconds: None }));
    }
    let eni = |n: u8, here| Eni {
        eni: EniId::stored(format!("eni-0aaaaaaaaaaaaaa{n:02x}")),
        instance: (n < 2).then(|| "i-\u{1b}[2J".to_owned()),
        here,
    };
    let subnet = SubnetId::stored("subnet-0aaaaaaaaaaaaaaa1".into());
    let drawn = Drawn { subnet, cidr, squares, counts, outside: 0, taken, blocks: Blocks::default() };
    Map { time: 0, instance: None, hosts: Vec::new(), enis: vec![eni(1, true), eni(2, false)], subnets: vec![drawn] }
}

#[test]
fn a_line_is_a_28_and_each_interface_is_told_of() {
    let letters = format!("AAAApLLI~xR?{}lli", ".".repeat(20));
    let text = drawn(&map("10.77.0.0/26", &letters), &PLAIN, false);
    assert_eq!(
        text,
        "subnet-0aaaaaaaaaaaaaaa1 10.77.0.0/26: 49 of 64 addresses are free\n\n\
         10.77.0.0  A A A A p L L I ~ x R ? . . . .\n\
         10.77.0.16 . . . . . . . . . . . . . . . .\n\
         10.77.0.32 l l i . . . . . . . . . . . . .\n\
         10.77.0.48 . . . . . . . . . . . . . . . .\n\n \
         L  2 lease, this host   l  2 lease, another host   I  1 idle, this host   i  1 idle, another host\n \
         ~  1 on its way to or off an interface   p  1 primary address of an interface\n \
         x  1 used by something else   R  1 reserved   A  4 kept back by AWS   .  49 free\n \
         ?  1 not in the table\n\n\
         INTERFACE              HOST                     LEASE   IDLE  OTHER  ADDRESSES\n\
         eni-0aaaaaaaaaaaaaa01  i-\\u{1b}[2J (this host)      2      1      0  10.77.0.5-.7\n\
         eni-0aaaaaaaaaaaaaa02  -                            2      1      0  10.77.0.32-.34\n"
    );
}

/// The same, and this host's ENI has the /28s that begin so as blocks.
fn with_blocks(mut map: Map, firsts: &[&str]) -> Map {
    let held = |first: &&str| Held { net: format!("{first}/28").parse().unwrap(), eni: Some(0) };
    map.subnets[0].blocks = Blocks { held: firsts.iter().map(held).collect(), whole: 7, broken: 1, full: 0 };
    map
}

#[test]
fn a_block_of_an_interface_is_framed_and_counted() {
    let letters = format!("AAAAp...........LLI{}", "I".repeat(13));
    let map = with_blocks(map("10.77.0.0/26", &letters), &["10.77.0.16"]);
    let text = drawn(&map, &PLAIN, false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2], "10.77.0.0  A A A A p . . . . . . . . . . .");
    assert_eq!(lines[3], "10.77.0.16[L L I I I I I I I I I I I I I I]");
    assert_eq!(lines[4], "10.77.0.32 . . . . . . . . . . . . . . . .");
    assert!(lines.contains(&"  /28 blocks: 1 on an interface as one ([ ]), 7 whole, 1 broken, 0 full"), "{text}");
    assert!(text.contains("LEASE   IDLE  OTHER  BLOCKS  ADDRESSES\n"), "{text}");
    assert!(text.contains("  2     14      0       1  10.77.0.16-.31\n"), "{text}");
    for columns in 22..200 {
        let text = drawn(&map, &Look { columns, ..PLAIN }, false);
        let squares = text.lines().skip(2).take(4);
        assert!(squares.clone().all(|line| line.len() <= columns), "{columns}: {text}");
        assert_eq!(squares.clone().filter(|line| line.contains('[') && line.ends_with(']')).count(), 1, "{text}");
    }
    let large = with_blocks(self::map("10.77.0.0/20", &letters), &["10.77.0.16"]);
    let text = drawn(&large, &Look { columns: 80, ..PLAIN }, false);
    assert_eq!(text.lines().nth(2), Some(format!("10.77.0.0  5B{}", ".".repeat(62)).as_str()));
    assert!(text.contains("\n  /28 blocks: 1 on an interface as one (B), 7 whole, 1 broken, 0 full\n"), "{text}");
}

#[test]
fn it_is_as_narrow_as_the_terminal() {
    let map = map("10.77.0.0/28", "AAAAp");
    for (columns, line) in [
        (80, "10.77.0.0 A A A A p . . . . . . . . . . ."),
        (41, "10.77.0.0 AAAAp..........."),
        (26, "10.77.0.0 AAAAp..........."),
        (25, ".0   AAAAp..........."),
    ] {
        let text = drawn(&map, &Look { columns, ..PLAIN }, false);
        assert_eq!(text.lines().nth(2), Some(line), "{columns}");
    }
}

#[test]
fn colours_add_nothing_but_themselves() {
    let letters: String = Square::ALL.iter().map(|square| square.letter()).collect();
    let map = with_blocks(map("10.77.0.0/27", &letters), &["10.77.0.0"]);
    let bare = drawn(&map, &PLAIN, false);
    for colors in [Colors::Sixteen, Colors::Many] {
        let colored = drawn(&map, &Look { colors, ..PLAIN }, false);
        let without: String = colored
            .split('\u{1b}')
            .enumerate()
            .map(|(n, part)| if n == 0 { part } else { part.split_once('m').unwrap().1 })
            .collect();
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&without), trimmed(&bare));
        assert_ne!(colored, bare);
        let styles: std::collections::HashSet<String> =
            Square::ALL.map(|square| style(square, colors).render().to_string()).into();
        assert_eq!(styles.len(), Square::ALL.len() - 1, "free and absent are told apart by their signs");
    }
}

#[test]
fn a_large_subnet_is_drawn_by_28s_unless_all_is_wanted() {
    let letters = format!("{}{}{}", "?".repeat(16), "l".repeat(16), "l".repeat(10));
    let map = map("10.77.0.0/16", &letters);
    let lines = |columns, is_utf8, full| {
        let text = drawn(&map, &Look { columns, is_utf8, ..PLAIN }, full);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let ascii = lines(80, false, false);
    assert_eq!(ascii[2], format!("10.77.0.0   ?#a{}", ".".repeat(61)));
    assert_eq!(ascii[65], format!("10.77.252.0 {}", ".".repeat(64)));
    assert!(ascii[67].starts_with("each square is a /28, 64 a line; taken of it: . none, 1-9 a-f"), "{ascii:?}");
    assert_eq!(lines(80, true, false)[2], format!("10.77.0.0   ?█▒{}", "·".repeat(61)));
    assert_eq!(lines(50, false, false)[3], format!("10.77.2.0   {}", ".".repeat(32)));
    assert!(ascii.iter().all(|line| !line.contains("ADDRESSES") && line.len() <= 80), "{ascii:?}");
    let all = lines(80, false, true);
    assert_eq!(all[3], "10.77.0.16    l l l l l l l l l l l l l l l l");
    assert!(all.len() > 4096);
}

#[test]
fn the_table_of_interfaces_is_as_narrow_as_the_terminal() {
    let letters: String = "AAAAp".chars().chain("L.".chars().cycle().take(36)).chain("lli".chars()).collect();
    let map = map("10.77.0.0/26", &letters);
    let below = |columns| {
        let text = drawn(&map, &Look { columns, ..PLAIN }, false);
        text.rsplit_once("\n\n").unwrap().1.to_owned()
    };
    let ips = "10.77.0.5 .7 .9 .11 .13 .15 .17 .19 .21 .23 .25 .27 .29 .31 .33 .35 .37 .39";
    assert_eq!(below(200), below(usize::MAX));
    assert!(below(200).contains(&format!("     18      0      0  {ips}\n")), "{}", below(200));
    assert_eq!(
        below(80),
        "INTERFACE              HOST                     LEASE   IDLE  OTHER\n\
         eni-0aaaaaaaaaaaaaa01  i-\\u{1b}[2J (this host)     18      0      0\n  \
         10.77.0.5 .7 .9 .11 .13 .15 .17 .19 .21 .23 .25 .27 .29 .31 .33 .35 .37 .39\n\
         eni-0aaaaaaaaaaaaaa02  -                            2      1      0\n  10.77.0.41-.43\n"
    );
    assert_eq!(
        below(26),
        "eni-0aaaaaaaaaaaaaa01\n  i-\\u{1b}[2J (this host)\n  18 lease, 0 idle, 0\n  other\n  10.77.0.5 .7 .9 .11 .13\n  \
         .15 .17 .19 .21 .23 .25\n  .27 .29 .31 .33 .35 .37\n  .39\n\
         eni-0aaaaaaaaaaaaaa02\n  -\n  2 lease, 1 idle, 0 other\n  10.77.0.41-.43\n"
    );
    for columns in 21..200 {
        assert!(below(columns).lines().all(|line| line.chars().count() <= columns), "{columns}: {}", below(columns));
    }
}
