//! What is known of uses, in sentences: an incident's first question is to be answered at a glance.

use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

use super::standing::{Elsewhere, Standing};
use crate::domain::address::State;
use crate::domain::history::{Ended, Then, Use, at};
use crate::plain::shortened;

/// So much of a name that somebody typed is told him.
const SHOWN: usize = 100;
const DOUBT: &str = "this host's journal is new, or older than what the table knows, and Docker has not shown all its containers \
                     since, which takes about a minute";
const UNHEARD: &str = "the table has the history of all hosts, and does not answer";

/// What is known, and when somebody wants to know who.
pub(super) struct Known<'a> {
    /// The last first.
    pub(super) uses: &'a [Use],
    /// When history begins; none: there is none.
    pub(super) since: Option<u64>,
    pub(super) at: u64,
    pub(super) now: u64,
    pub(super) scope: Scope,
    pub(super) standing: Option<Standing>,
}

/// Whose uses are known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// This host's.
    Host,
    /// All: the table had history by then.
    Fleet,
    /// This host's. The table has those of all, and does not answer.
    Unheard,
}

impl Known<'_> {
    pub(super) fn of_address(&self, ip: Ipv4Addr) -> (Vec<String>, Vec<&Use>) {
        let time = self.time();
        let then = at(self.uses, self.at, self.since.unwrap_or(u64::MAX));
        let who_is_not = |known: &str| format!("who {} {ip}{} is not known{known}", self.verb(), self.then());
        match (then, &self.standing) {
            (Then::Had(had), _) => {
                let mut told = Vec::new();
                if had.len() > 1 {
                    told.push(format!("{ip}: {} are said to have had it {time}", had.len()));
                }
                for it in &had {
                    let begins = if self.is_now() { "is in use by" } else { "was in use by" };
                    told.push(format!("{ip} {begins} {}{}: {}", who(it), self.then(), self.span(it)));
                    told.push(format!("  {}", place(it)));
                }
                (told, had)
            }
            (Then::Nobody(_), Some(Standing::Doubted(shown))) if self.is_last_known() => {
                let mut told = vec![who_is_not(&format!(" yet: {DOUBT}"))];
                told.extend(shown.as_deref().map(|name| format!("  Docker shows {name} with it now")));
                (told, Vec::new())
            }
            (_, Some(Standing::Elsewhere(other))) if self.is_untold(other) => {
                (vec![who_is_not(" here"), other.hint(ip)], Vec::new())
            }
            (Then::Nobody(last), _) if self.scope == Scope::Unheard => {
                let last = last.map(|last| format!("; of this host {} had it last: {}", who(last), self.span(last)));
                let last = last.unwrap_or_else(|| format!("; no container of this host, whose {}", self.beginning()));
                (vec![who_is_not(&format!(": {UNHEARD}{last}"))], Vec::new())
            }
            (Then::Nobody(last), Some(Standing::NoContainers(what))) => {
                let told = if self.is_now() {
                    let last = last.map(|last| format!("; {} had it last: {}", who(last), self.span(last)));
                    vec![format!("{ip} {what}{}", last.unwrap_or_default())]
                } else {
                    vec![self.nobody(ip, last), format!("  by the table {ip} {what}, by now")]
                };
                (told, Vec::new())
            }
            (Then::Nobody(last), _) => (vec![self.nobody(ip, last)], Vec::new()),
            (Then::Perhaps(next), _) => {
                let (who, from) = (who(next), rfc3339(next.begun));
                let told = format!(
                    "who had {ip} {time} is not known: {who} was found with it at {from}, and may have had it by then"
                );
                (vec![told], Vec::new())
            }
            (Then::Before, _) if self.scope == Scope::Unheard => {
                (vec![who_is_not(&format!(": {UNHEARD}; this host's {}", self.beginning()))], Vec::new())
            }
            (Then::Before, Some(Standing::NoContainers(what))) if self.is_now() => {
                (vec![format!("{ip} {what}")], Vec::new())
            }
            (Then::Before, _) => (vec![format!("nothing is known of {ip} {time}: {}", self.beginning())], Vec::new()),
        }
    }

    pub(super) fn of_container(&self, name: &str) -> (Vec<String>, Vec<&Use>) {
        let name = shortened(name, SHOWN);
        let had: Vec<&Use> = self.uses.iter().filter(|it| it.covers(self.at)).collect();
        let mut told = Vec::new();
        for it in &had {
            told.push(format!("{} {} {}{}: {}", who(it), self.verb(), it.ip, self.then(), self.span(it)));
            told.push(format!("  {}", place(it)));
        }
        if !had.is_empty() {
            return (told, had);
        }
        let (verb, then, beginning) = (self.verb(), self.then(), self.beginning());
        let mut before = self.uses.iter().filter(|it| it.begun <= self.at);
        let last = before.clone().find(|it| !it.was_taken_back());
        let doubt = match &self.standing {
            Some(Standing::Doubted(_)) if self.is_last_known() => Some(format!(" yet: {DOUBT}")),
            _ if self.scope == Scope::Unheard => Some(format!(": {UNHEARD}")),
            _ => None,
        };
        told.push(match (last, before.next(), doubt) {
            (Some(last), _, Some(why)) => {
                format!("what {name} {verb}{then} is not known{why}; it had {} last: {}", last.ip, self.span(last))
            }
            (None, _, Some(why)) => format!("what {name} {verb}{then} is not known{why}; this host's {beginning}"),
            (Some(last), ..) => format!("{name} {verb} no address{then}; it had {} last: {}", last.ip, self.span(last)),
            (None, Some(back), _) => format!(
                "{name} {verb} no address{then}, and none before: {} was meant for it at {}, and {}",
                back.ip,
                rfc3339(back.begun),
                how_it_ended(Ended::TakenBack)
            ),
            (None, None, _) => format!(
                "nothing is known of a container {name}{then}: {beginning}; a name counts to the letter, and of an id its first 4 \
                 digits or more"
            ),
        });
        (told, had)
    }

    /// Nobody is known to have had it later.
    fn is_last_known(&self) -> bool {
        self.uses.iter().all(|it| it.begun <= self.at || it.was_taken_back())
    }

    /// Somebody there has it, or may have had it, of whom nothing is known here.
    fn is_untold(&self, other: &Elsewhere) -> bool {
        let is_open = |it: &Use| it.end.is_none() && other.row.claim.as_ref() == Some(&it.token);
        let is_leased_now = self.is_now() && other.row.state() == State::Lease;
        !self.uses.iter().any(is_open) && (self.uses.is_empty() || is_leased_now)
    }

    fn nobody(&self, ip: Ipv4Addr, last: Option<&Use>) -> String {
        let is = if self.is_now() { "is" } else { "was" };
        let nobody = if self.scope == Scope::Fleet { "nobody" } else { "no container of this host" };
        let then = self.then();
        let Some(last) = last else {
            return format!("{ip} {is} in use by {nobody}{then}, and was not before: {}", self.beginning());
        };
        let idle = match last.end {
            Some((end, _)) if self.is_now() && end <= self.now => {
                format!(" and idle since {} ({})", rfc3339(end), long(self.now - end))
            }
            _ => String::new(),
        };
        format!("{ip} {is} in use by {nobody}{then}{idle}; {} had it last: {}", who(last), self.span(last))
    }

    fn is_now(&self) -> bool {
        self.at >= self.now
    }

    fn verb(&self) -> &'static str {
        if self.is_now() { "has" } else { "had" }
    }

    /// Nothing where it is about now.
    fn then(&self) -> String {
        if self.is_now() { String::new() } else { format!(" {}", self.time()) }
    }

    fn time(&self) -> String {
        if self.is_now() { "now".to_owned() } else { format!("at {}", rfc3339(self.at)) }
    }

    fn span(&self, it: &Use) -> String {
        let from = rfc3339(it.begun);
        let from = if it.was_found {
            format!("since {from} at the latest, when it was found")
        } else {
            format!("from {from}")
        };
        match it.end {
            Some((end, how)) if end < it.begun => {
                format!("{from} to {}, {} (a clock was set in between)", rfc3339(end), how_it_ended(how))
            }
            Some((end, how)) => format!("{from} to {} ({}), {}", rfc3339(end), long(end - it.begun), how_it_ended(how)),
            None => {
                let on = if it.was_found { "" } else { " on" };
                let lasts = self.now.checked_sub(it.begun).map(|lasts| format!(", for {} by now", long(lasts)));
                format!("{from}{on}{}", lasts.unwrap_or_default())
            }
        }
    }

    fn beginning(&self) -> String {
        match self.since {
            Some(since) => format!("history begins at {}", rfc3339(since)),
            None => "there is no history".to_owned(),
        }
    }
}

fn who(it: &Use) -> String {
    let name = it.shown_name().unwrap_or("a container whose name is not known");
    let before = it.renamed.as_ref().and(it.name.as_deref()).map(|name| format!(", before {name}")).unwrap_or_default();
    match &it.container {
        Some(id) => format!("{name} ({}{before})", short_id(id)),
        None if before.is_empty() => name.to_owned(),
        None => format!("{name} ({})", before.trim_start_matches([',', ' '])),
    }
}

/// As Docker shows it.
fn short_id(id: &str) -> String {
    id.chars().take(12).collect()
}

fn place(it: &Use) -> String {
    let network = it.network.as_deref().map(|network| format!("network {network}, ")).unwrap_or_default();
    let instance = it.instance.as_deref().map(|instance| format!(" of {instance}")).unwrap_or_default();
    let named = if it.is_named { ", named by --ip" } else { "" };
    format!("{network}{}{instance}{named}", it.eni)
}

fn how_it_ended(how: Ended) -> &'static str {
    match how {
        Ended::Released => "released",
        Ended::TakenBack => "taken back: the answer did not reach Docker",
        Ended::Found => "found gone: no container had it by then",
        Ended::Left => "its interface had left the host by then",
        Ended::Gone => "lost: nobody knew of it by then",
    }
}

/// Two units of it.
fn long(millis: u64) -> String {
    let seconds = millis / 1000;
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    let shown = units.iter().skip(first).take(2).enumerate().filter(|(place, (count, _))| *place == 0 || *count > 0);
    shown.map(|(_, (count, unit))| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

/// In UTC, to the millisecond: whoever types it is answered about that moment. What no clock can have shown is the last that can be
/// written.
pub(crate) fn rfc3339(millis: u64) -> String {
    const LAST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis.min(LAST))).to_string()
}

#[cfg(test)]
mod tests;
