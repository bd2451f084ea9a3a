//! The table below a picture: which interface and host has what, as colours and letters do not tell.

use std::cmp::Reverse;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::domain::map::{Drawn, Eni, Map};
use crate::domain::square::Square;
use crate::plain::plain;

/// Interfaces that are listed of a large subnet.
const INTERFACES: usize = 15;
/// Before what goes on in a further line.
const INDENT: &str = "  ";

/// This host's come first, then those with most. As wide as the terminal at most: what does not fit stands below.
pub(super) fn interfaces(
    text: &mut String,
    map: &Map,
    subnet: &Drawn,
    squares: &[Square],
    is_whole: bool,
    columns: usize,
) -> std::fmt::Result {
    let mut all: Vec<Has<'_>> = map.enis.iter().map(Has::nothing).collect();
    let taken = squares.iter().filter(|square| square.is_taken());
    for (one, square) in subnet.taken.iter().zip(taken) {
        if let Some(has) = one.eni.and_then(|n| all.get_mut(n)) {
            has.takes(one.ip, *square);
        }
    }
    for held in &subnet.blocks.held {
        if let Some(has) = held.eni.and_then(|n| all.get_mut(n)) {
            has.blocks += 1;
        }
    }
    let has_blocks = !subnet.blocks.held.is_empty();
    all.retain(|has| !has.ips.is_empty());
    if all.is_empty() {
        return Ok(());
    }
    all.sort_by_key(|has| (!has.eni.here, Reverse(has.ips.len())));
    let shown = if is_whole { all.len() } else { INTERFACES.min(all.len()) };
    let listed: Vec<(&Has<'_>, String)> =
        all.iter().take(shown).map(|has| (has, if is_whole { spans(&has.ips) } else { String::new() })).collect();
    let wide = listed.iter().map(|(has, _)| has.host().chars().count()).max().unwrap_or(0).max(4);
    let of_blocks = if has_blocks { "  BLOCKS" } else { "" };
    let head = format!("{:<21}  {:<wide$}  LEASE   IDLE  OTHER{of_blocks}", "INTERFACE", "HOST");
    let longest = listed.iter().map(|(_, ips)| ips.len() + 2).max().filter(|_| is_whole).unwrap_or(0);
    let is_table = head.len() <= columns;
    let is_beside = head.len() + longest.max("  ADDRESSES".len()) <= columns;
    text.push('\n');
    if is_table {
        writeln!(text, "{head}{}", if is_whole && is_beside { "  ADDRESSES" } else { "" })?;
    }
    for (has, ips) in &listed {
        let Has { eni, lease, idle, other, blocks, ips: _ } = has;
        let (id, host) = (plain(eni.eni.as_str()), has.host());
        if !is_table {
            writeln!(text, "{id}")?;
            wrapped(text, &host, columns)?;
            let of_blocks = if has_blocks { format!(", {blocks} blocks") } else { String::new() };
            wrapped(text, &format!("{lease} lease, {idle} idle, {other} other{of_blocks}"), columns)?;
            wrapped(text, ips, columns)?;
            continue;
        }
        let of_blocks = if has_blocks { format!("  {blocks:>6}") } else { String::new() };
        let line = format!("{id:<21}  {host:<wide$}  {lease:>5}  {idle:>5}  {other:>5}{of_blocks}");
        if is_beside {
            writeln!(text, "{}", format!("{line}  {ips}").trim_end())?;
        } else {
            writeln!(text, "{line}")?;
            wrapped(text, ips, columns)?;
        }
    }
    if all.len() > shown {
        writeln!(text, "and {} more; --full lists them", all.len() - shown)?;
    }
    Ok(())
}

/// Indented lines of as many words as fit.
pub(super) fn wrapped(text: &mut String, words: &str, columns: usize) -> std::fmt::Result {
    let mut line = String::new();
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let width = INDENT.len() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && width > columns {
            writeln!(text, "{INDENT}{line}")?;
            line.clear();
        }
        let between = if line.is_empty() { "" } else { " " };
        write!(line, "{between}{word}")?;
    }
    if line.is_empty() { Ok(()) } else { writeln!(text, "{INDENT}{line}") }
}

/// What an interface has of a subnet.
struct Has<'m> {
    eni: &'m Eni,
    lease: usize,
    idle: usize,
    other: usize,
    blocks: usize,
    ips: Vec<Ipv4Addr>,
}

impl<'m> Has<'m> {
    fn nothing(eni: &'m Eni) -> Self {
        Self { eni, lease: 0, idle: 0, other: 0, blocks: 0, ips: Vec::new() }
    }

    fn takes(&mut self, ip: Ipv4Addr, square: Square) {
        *match square {
            Square::Lease | Square::LeaseElsewhere => &mut self.lease,
            Square::Idle | Square::IdleElsewhere => &mut self.idle,
            Square::Moving | Square::Primary | Square::Foreign | Square::Reserved | Square::Aws => &mut self.other,
            Square::Free | Square::Absent => &mut self.other,
        } += 1;
        self.ips.push(ip);
    }

    fn host(&self) -> String {
        let instance = plain(self.eni.instance.as_deref().unwrap_or("-")).into_owned();
        if self.eni.here { format!("{instance} (this host)") } else { instance }
    }
}

/// Addresses in order as a person writes them: `10.0.1.9 .23 .50-.52`.
fn spans(ips: &[Ipv4Addr]) -> String {
    let mut spans: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    for ip in ips {
        match spans.last_mut() {
            Some((_, last)) if u32::from(*last).checked_add(1) == Some(u32::from(*ip)) => *last = *ip,
            _ => spans.push((*ip, *ip)),
        }
    }
    let mut before: Option<Ipv4Addr> = None;
    let mut short = |ip: Ipv4Addr| {
        let is_beside = before.is_some_and(|before| before.octets()[..3] == ip.octets()[..3]);
        before = Some(ip);
        if is_beside { format!(".{}", ip.octets()[3]) } else { ip.to_string() }
    };
    let written = spans.iter().map(|(first, last)| {
        let first_written = short(*first);
        if first == last { first_written } else { format!("{first_written}-{}", short(*last)) }
    });
    written.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_spans() {
        for (ips, expected) in [
            (&["10.0.1.9"][..], "10.0.1.9"),
            (&["10.0.1.9", "10.0.1.23", "10.0.1.50", "10.0.1.51", "10.0.1.52"], "10.0.1.9 .23 .50-.52"),
            (&["10.0.1.255", "10.0.2.0", "10.0.2.7"], "10.0.1.255-10.0.2.0 .7"),
        ] {
            let ips: Vec<Ipv4Addr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(spans(&ips), expected);
        }
    }
}
