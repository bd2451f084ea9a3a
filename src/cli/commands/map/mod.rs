//! What `map` prints and writes.

mod file;
mod look;
mod page;
mod terminal;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::ColorChoice;

use super::driver::note;
use crate::domain::map::Map;

/// Draws it on the terminal, or for whatever reads along.
pub(super) fn draw(out: &mut impl Write, map: &Map, color: ColorChoice, full: bool) -> anyhow::Result<()> {
    told_if_empty(map);
    // Not by a line of `PlainLines`, to which colours are odd characters; what is text from outside is plain by now.
    Ok(out.write_all(terminal::drawn(map, &look::look(color), full).as_bytes())?)
}

/// Writes the page to a file, or to standard output.
pub(super) fn write_page(out: &mut impl Write, file: &Path, map: &Map) -> anyhow::Result<()> {
    told_if_empty(map);
    let page = page::page(map)?;
    if file == Path::new("-") {
        return Ok(out.write_all(page.as_bytes())?);
    }
    file::replace(file, page.as_bytes())
        .with_context(|| format!("the page cannot be written to {}", file.display()))?;
    Ok(writeln!(out, "{} is written", file.display())?)
}

fn told_if_empty(map: &Map) {
    if map.subnets.is_empty() {
        note("the table has no subnet yet; the first network fills it, or `ec2-ipam init SUBNET`");
    }
}
