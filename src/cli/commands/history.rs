//! Who had an address when, for people: the answer first, then all that is known.

use std::io::Write;

use crate::driver::history::{Past, Source, Told};

/// So many uses are printed; the JSON has all.
const MOST: usize = 50;

/// `is_of_one_time`: somebody asked about one moment, and wants to know no more.
pub(super) fn print(out: &mut impl Write, past: &Past, is_of_one_time: bool) -> anyhow::Result<()> {
    for sentence in &past.answer {
        writeln!(out, "{sentence}")?;
    }
    if !is_of_one_time && !past.uses.is_empty() {
        list(out, &past.uses)?;
    }
    for Source { of, since, error } in &past.sources {
        let name = if of == "journal" { "this host's journal" } else { "the table" };
        match (since, error) {
            (_, Some(why)) => writeln!(out, "{name} did not answer: {why}")?,
            (Some(since), None) => writeln!(out, "{name} has history since {since}")?,
            (None, None) => {}
        }
    }
    Ok(())
}

fn list(out: &mut impl Write, uses: &[Told]) -> anyhow::Result<()> {
    let shown = || uses.iter().take(MOST);
    let widest = |title: &str, of: fn(&Told) -> String| {
        shown().map(|it| of(it).chars().count()).chain([title.len()]).max().unwrap_or_default()
    };
    let (wide, network_wide) = (widest("CONTAINER", who), widest("NETWORK", network));
    let mut line = |from: &str, to: &str, ip: &str, who: &str, network: &str, how: &str| {
        writeln!(out, "{from:<24}  {to:<24}  {ip:<15}  {who:<wide$}  {network:<network_wide$}  {how}")
    };
    line("FROM", "TO", "ADDRESS", "CONTAINER", "NETWORK", "HOW")?;
    for it in shown() {
        line(&it.from, it.to.as_deref().unwrap_or("-"), &it.ip.to_string(), &who(it), &network(it), &how(it))?;
    }
    if uses.len() > MOST {
        writeln!(out, "({} more, earlier: --json has them)", uses.len() - MOST)?;
    }
    Ok(())
}

fn who(it: &Told) -> String {
    let name = it.renamed.as_ref().or(it.name.as_ref());
    let id = it.container.as_ref().map(|id| id.chars().take(12).collect::<String>());
    [name.cloned(), id].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn network(it: &Told) -> String {
    it.network.clone().unwrap_or_default()
}

fn how(it: &Told) -> String {
    let ended = it.ended.as_deref().unwrap_or("in use");
    let host = it.instance.as_ref().map(|instance| format!(" of {instance}")).unwrap_or_default();
    let found = if it.found { ", found in use" } else { "" };
    let named = if it.named { ", named by --ip" } else { "" };
    let clock = if it.clock_was_set { ", A CLOCK WAS SET" } else { "" };
    format!("{ended}{found}{named}{clock}; {}{host}", it.eni)
}
