//! The picture on a terminal: a square an address and a line a /28, or, of a large subnet, a square a /28.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::net::Ipv4Addr;

use anstyle::{Ansi256Color, AnsiColor, Color, Style};

use super::look::{Colors, Look};
use crate::domain::map::{Blocks, Drawn, Map};
use crate::domain::square::Square;
use crate::domain::subnet::all_of;
use crate::plain::plain;

mod interfaces;

use interfaces::{interfaces, wrapped};

/// Addresses of a /28.
const LINE: usize = 16;
/// A subnet of more lines than this does not fit on a terminal: a /22.
const LINES: usize = 64;
/// As many squares a line has at most where each is a /28: then a line is a /22, and a /16 has 64 of them.
const BLOCKS: usize = 64;
/// Around the squares of a block that an interface has,
const FRAME: &str = "[ ]";
/// or in place of it where a square is a /28. No digit of how many are taken is written so.
const HELD: char = 'B';
/// Between the label of a line and its squares.
const GAP: usize = 1;

/// All of it. No text of it leaves its line.
pub(super) fn drawn(map: &Map, look: &Look, full: bool) -> String {
    let mut text = String::new();
    for (n, subnet) in map.subnets.iter().enumerate() {
        if n > 0 {
            text.push('\n');
        }
        // Writing to a text does not fail.
        let _ = draw(&mut text, map, subnet, look, full);
    }
    text
}

fn draw(text: &mut String, map: &Map, subnet: &Drawn, look: &Look, full: bool) -> fmt::Result {
    let squares: Vec<Square> =
        subnet.squares.chars().map(|letter| Square::read(letter).unwrap_or(Square::Absent)).collect();
    let free = subnet.counts.get(&Square::Free).copied().unwrap_or(0);
    writeln!(
        text,
        "{} {}: {free} of {} addresses are free",
        plain(subnet.subnet.as_str()),
        subnet.cidr,
        squares.len()
    )?;
    if subnet.outside > 0 {
        writeln!(text, "{} of its rows are not in {}: they are not drawn", subnet.outside, subnet.cidr)?;
    }
    let is_whole = full || squares.len() <= LINE * LINES;
    text.push('\n');
    let held: HashSet<Ipv4Addr> = subnet.blocks.held.iter().map(|held| held.net.network()).collect();
    if is_whole {
        addresses(text, subnet, &squares, &held, look)?;
    } else {
        blocks(text, subnet, &squares, &held, look)?;
    }
    text.push('\n');
    legend(text, subnet, look)?;
    legend_of_blocks(text, &subnet.blocks, is_whole, look.columns)?;
    interfaces(text, map, subnet, &squares, is_whole, look.columns)
}

/// A square an address, a line a /28, in a frame where an interface has it as a block.
fn addresses(
    text: &mut String,
    subnet: &Drawn,
    squares: &[Square],
    held: &HashSet<Ipv4Addr>,
    look: &Look,
) -> fmt::Result {
    let firsts: Vec<Ipv4Addr> = all_of(subnet.cidr).step_by(LINE).collect();
    let long = widest(&firsts);
    let end = usize::from(!held.is_empty());
    let is_short = long + GAP + LINE + end > look.columns;
    let label = if is_short { 4 } else { long };
    // Two columns are about as wide as a line is high.
    let wide = if label + GAP + 2 * LINE <= look.columns { 2 } else { 1 };
    for (first, line) in firsts.iter().zip(squares.chunks(LINE)) {
        let [.., last] = first.octets();
        let name = if is_short { format!(".{last}") } else { first.to_string() };
        let is_held = held.contains(first);
        write!(text, "{name:<label$}{:GAP$}", if is_held { "[" } else { "" })?;
        let parts = line.iter().map(|square| (letter(*square, look), style(*square, look.colors)));
        painted(text, parts, wide, if is_held { "]" } else { "" })?;
    }
    Ok(())
}

/// A square a /28.
fn blocks(text: &mut String, subnet: &Drawn, squares: &[Square], held: &HashSet<Ipv4Addr>, look: &Look) -> fmt::Result {
    let firsts = all_of(subnet.cidr).step_by(LINE);
    let shade = |first: Ipv4Addr, block: &[Square]| if held.contains(&first) { HELD } else { shade(block, look) };
    let all: Vec<char> = firsts.zip(squares.chunks(LINE)).map(|(first, block)| shade(first, block)).collect();
    // A line begins with a /24 at least.
    let label = widest(&all_of(subnet.cidr).step_by(LINE * LINE).collect::<Vec<_>>());
    let fitting = look.columns.saturating_sub(label + GAP).clamp(LINE, BLOCKS);
    // A power of two, so that each line is a block too.
    let per_line = 1 << fitting.ilog2();
    let firsts = all_of(subnet.cidr).step_by(LINE * per_line);
    for (first, line) in firsts.zip(all.chunks(per_line)) {
        write!(text, "{:<label$}{:GAP$}", first.to_string(), "")?;
        painted(text, line.iter().map(|shade| (*shade, shaded(look.colors))), 1, "")?;
    }
    let (first, rest) =
        if look.is_utf8 { ('·', "░ ▒ ▓ some, █ all") } else { ('.', "1-9 a-f so many, # all") };
    writeln!(text, "\neach square is a /28, {per_line} a line; taken of it: {first} none, {rest}")?;
    writeln!(text, "--full draws every address")
}

/// How full a /28 is.
fn shade(block: &[Square], look: &Look) -> char {
    if block.iter().all(|square| *square == Square::Absent) {
        return Square::Absent.letter();
    }
    let taken = block.iter().filter(|square| square.is_taken()).count();
    match (look.is_utf8, taken) {
        (true, 0) => '·',
        (false, 0) => '.',
        (true, 1..=5) => '░',
        (true, 6..=10) => '▒',
        (true, 11..LINE) => '▓',
        (true, _) => '█',
        (false, LINE..) => '#',
        (false, some) => u32::try_from(some).ok().and_then(|some| char::from_digit(some, 16)).unwrap_or('#'),
    }
}

/// A line of squares, and what ends its frame. One colour is written once for all of its neighbours.
fn painted(text: &mut String, squares: impl Iterator<Item = (char, Style)>, wide: usize, end: &str) -> fmt::Result {
    let (mut line, mut now) = (String::new(), Style::new());
    let mut squares = squares.peekable();
    while let Some((letter, style)) = squares.next() {
        // A frame is as near to its last square as to its first.
        let wide = if squares.peek().is_none() && !end.is_empty() { 1 } else { wide };
        if style != now {
            write!(line, "{}{}", now.render_reset(), style.render())?;
            now = style;
        }
        write!(line, "{letter:<wide$}")?;
    }
    write!(line, "{}", now.render_reset())?;
    writeln!(text, "{}{end}", line.trim_end())
}

/// What is drawn, and how often.
fn legend(text: &mut String, subnet: &Drawn, look: &Look) -> fmt::Result {
    let entries = subnet.counts.iter().map(|(square, count)| {
        let style = style(*square, look.colors);
        let (sign, told) = (letter(*square, look), format!(" {count} {}", square.means()));
        // What colours are written with takes no room.
        (told.chars().count() + 3, format!("{style} {sign} {style:#}{told}"))
    });
    let mut used = 0;
    for (width, entry) in entries {
        if used > 0 && used + 2 + width > look.columns.min(100) {
            text.push('\n');
            used = 0;
        }
        let between = if used > 0 { "  " } else { "" };
        write!(text, "{between}{entry}")?;
        used += between.len() + width;
    }
    text.push('\n');
    Ok(())
}

/// What the /28s are that may be blocks, if any may.
fn legend_of_blocks(text: &mut String, blocks: &Blocks, is_whole: bool, columns: usize) -> fmt::Result {
    let Blocks { held, whole, broken, full } = blocks;
    let on_interfaces = match held.len() {
        0 => String::new(),
        count if is_whole => format!("{count} on an interface as one ({FRAME}), "),
        count => format!("{count} on an interface as one ({HELD}), "),
    };
    if held.len() + whole + broken + full == 0 {
        return Ok(());
    }
    let told = format!("/28 blocks: {on_interfaces}{whole} whole, {broken} broken, {full} full");
    wrapped(text, &told, columns)
}

fn widest(ips: &[Ipv4Addr]) -> usize {
    ips.iter().map(|ip| ip.to_string().len()).max().unwrap_or(0)
}

fn letter(square: Square, look: &Look) -> char {
    if square == Square::Free && look.is_utf8 { '·' } else { square.letter() }
}

/// Colours that those tell apart who see no red or no green (Okabe and Ito, "Color Universal Design"), as near as a terminal has
/// them. The letters say the same.
fn style(square: Square, colors: Colors) -> Style {
    let on = |many: (u8, u8), few: (AnsiColor, AnsiColor)| {
        let (ink, ground): (Color, Color) = match colors {
            Colors::None => return Style::new(),
            Colors::Sixteen => (few.0.into(), few.1.into()),
            Colors::Many => (Ansi256Color(many.0).into(), Ansi256Color(many.1).into()),
        };
        Style::new().fg_color(Some(ink)).bg_color(Some(ground))
    };
    use AnsiColor::{Black, Blue, BrightBlack, BrightGreen, BrightWhite, Cyan, Green, Magenta, Red, White, Yellow};
    match square {
        Square::Lease => on((231, 25), (BrightWhite, Blue)),
        Square::LeaseElsewhere => on((16, 117), (Black, Cyan)),
        Square::Idle => on((231, 29), (Black, Green)),
        Square::IdleElsewhere => on((16, 115), (Black, BrightGreen)),
        Square::Moving => on((16, 227), (Black, Yellow)),
        Square::Primary => on((16, 250), (Black, White)),
        Square::Foreign => on((16, 208), (BrightWhite, Red)),
        Square::Reserved => on((16, 175), (BrightWhite, Magenta)),
        Square::Aws => on((252, 240), (BrightWhite, BrightBlack)),
        Square::Free | Square::Absent if colors == Colors::None => Style::new(),
        Square::Free | Square::Absent => Style::new().dimmed(),
    }
}

/// Of the squares that are /28s.
fn shaded(colors: Colors) -> Style {
    match colors {
        Colors::None => Style::new(),
        Colors::Sixteen => Style::new().fg_color(Some(AnsiColor::Cyan.into())),
        Colors::Many => Style::new().fg_color(Some(Ansi256Color(74).into())),
    }
}

#[cfg(test)]
mod tests;
