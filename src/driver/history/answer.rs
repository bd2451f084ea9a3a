//! What is known of uses, in sentences: an incident's first question is to be answered at a glance.

use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

use crate::domain::address::{Row, State};
use crate::domain::history::{Ended, Then, Use, at};
use crate::domain::id::EniId;
use crate::plain::shortened;

/// So much of a name that somebody typed is told him.
const SHOWN: usize = 100;

/// What is known, and when somebody wants to know who.
pub(super) struct Known<'a> {
    /// The last first.
    pub(super) uses: &'a [Use],
    /// When history begins; none: there is none.
    pub(super) since: Option<u64>,
    pub(super) at: u64,
    pub(super) now: u64,
    /// The table had history by then; else only this host is known.
    pub(super) is_of_the_fleet: bool,
    pub(super) elsewhere: Option<Elsewhere>,
}

/// The address is on another host's ENI, by the table.
pub(super) struct Elsewhere {
    pub(super) row: Row,
    pub(super) eni: EniId,
    pub(super) instance: Option<String>,
    /// This process serves it, as its host has no driver.
    pub(super) is_served_here: bool,
}

impl Known<'_> {
    pub(super) fn of_address(&self, ip: Ipv4Addr) -> (Vec<String>, Vec<&Use>) {
        let time = self.time();
        let is_open = |row: &Row| self.uses.iter().any(|it| it.end.is_none() && row.claim.as_ref() == Some(&it.token));
        // Somebody there has it, or may have had it, of whom nothing is known here.
        let untold = self.elsewhere.as_ref().filter(|other| {
            !is_open(&other.row) && (self.uses.is_empty() || self.is_now() && other.row.state() == State::Lease)
        });
        match at(self.uses, self.at, self.since.unwrap_or(u64::MAX)) {
            Then::Had(had) => {
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
            _ if untold.is_some() => {
                let told = vec![format!("who {} {ip}{} is not known here", self.verb(), self.then())];
                (told.into_iter().chain(untold.map(|other| other.hint(ip))).collect(), Vec::new())
            }
            Then::Nobody(last) => (vec![self.nobody(ip, last)], Vec::new()),
            Then::Perhaps(next) => {
                let (who, from) = (who(next), rfc3339(next.begun));
                let told = format!(
                    "who had {ip} {time} is not known: {who} was found with it at {from}, and may have had it by then"
                );
                (vec![told], Vec::new())
            }
            Then::Before => (vec![format!("nothing is known of {ip} {time}: {}", self.beginning())], Vec::new()),
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
        let before = |it: &&Use| it.begun <= self.at && !matches!(it.end, Some((_, Ended::TakenBack)));
        told.push(match self.uses.iter().find(before) {
            Some(last) => {
                format!("{name} {} no address{}; it had {} last: {}", self.verb(), self.then(), last.ip, self.span(last))
            }
            None => format!(
                "nothing is known of a container {name}{}: {}; a name counts to the letter, and of an id its first 4 digits or more",
                self.then(),
                self.beginning()
            ),
        });
        (told, had)
    }

    fn nobody(&self, ip: Ipv4Addr, last: Option<&Use>) -> String {
        let is = if self.is_now() { "is" } else { "was" };
        let nobody = if self.is_of_the_fleet { "nobody" } else { "no container of this host" };
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
            None if it.begun <= self.now => format!("{from} on, for {} by now", long(self.now - it.begun)),
            None => format!("{from} on"),
        }
    }

    fn beginning(&self) -> String {
        match self.since {
            Some(since) => format!("history begins at {}", rfc3339(since)),
            None => "there is no history".to_owned(),
        }
    }
}

impl Elsewhere {
    fn hint(&self, ip: Ipv4Addr) -> String {
        let Self { row, eni, instance, is_served_here } = self;
        let host = instance.as_deref().map_or_else(|| "its host".to_owned(), |instance| format!("its host {instance}"));
        let holder = row.endpoint().map(|name| format!(" ({name})")).unwrap_or_default();
        let is = match row.state() {
            State::Lease => format!("in use by a container{holder} of"),
            State::Ready | State::On | State::Off => "idle on".to_owned(),
            State::Foreign | State::Free | State::Reserved => "on".to_owned(),
        };
        let helps = if *is_served_here {
            format!("{host} has no driver, so have the servers tell the table (EC2_IPAM_HISTORY=30d)")
        } else {
            format!("ask {host} (`ec2-ipam history {ip}`), or have all hosts tell the table (EC2_IPAM_HISTORY=30d)")
        };
        format!("  by the table {ip} is {is} {eni}: {helps}")
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
    let span = Duration::from_secs(millis / 1000);
    humantime::format_duration(span).to_string().split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// In UTC, to the millisecond: whoever types it is answered about that moment. What no clock can have shown is the last that can be
/// written.
pub(crate) fn rfc3339(millis: u64) -> String {
    const LAST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis.min(LAST))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::address::Status;
    use crate::domain::history::Shown;
    use crate::domain::id::{Boot, Kind, SubnetId};

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 23);
    /// 2026-11-26T12:00:00Z.
    const NOON: u64 = 1_795_694_400_000;
    const HOUR: u64 = 3_600_000;

    fn used(name: &str, begun: u64, end: Option<(u64, Ended)>) -> Use {
        let token = Boot::random().unwrap().claim(1, Kind::Lease);
        let eni = EniId::stored("eni-0123456789abcdef0".into());
        Use { instance: Some("i-1".into()), end, ..Use::begins(token, IP, eni, Some(name), begun) }
    }

    fn known(uses: &[Use], at: u64) -> Known<'_> {
        Known { uses, since: Some(NOON - 48 * HOUR), at, now: NOON, is_of_the_fleet: true, elsewhere: None }
    }

    #[test]
    fn an_answer_says_who_or_since_when_nobody() {
        let mut web = used("fixed:web-1", NOON - HOUR, None);
        let id = "3f2a1b0c9d8e7766".to_owned();
        web.is_shown(&Shown { ip: IP, name: "web-1".into(), container: Some(id), network: "pods".into() });
        let db = used("db", NOON - 5 * HOUR, Some((NOON - 2 * HOUR, Ended::Released)));
        let uses = [web, db];
        for (at, expected) in [
            (
                NOON,
                "10.0.1.23 is in use by web-1 (3f2a1b0c9d8e): from 2026-11-26T11:00:00.000Z on, for 1h by now\n  network pods, \
                 eni-0123456789abcdef0 of i-1, named by --ip",
            ),
            (
                NOON - 3 * HOUR,
                "10.0.1.23 was in use by db at 2026-11-26T09:00:00.000Z: from 2026-11-26T07:00:00.000Z to 2026-11-26T10:00:00.000Z (3h), \
                 released\n  eni-0123456789abcdef0 of i-1",
            ),
            (
                NOON - HOUR - 1000,
                "10.0.1.23 was in use by nobody at 2026-11-26T10:59:59.000Z; db had it last: from 2026-11-26T07:00:00.000Z to \
                 2026-11-26T10:00:00.000Z (3h), released",
            ),
            (
                NOON - 20 * HOUR,
                "10.0.1.23 was in use by nobody at 2026-11-25T16:00:00.000Z, and was not before: history begins at \
                 2026-11-24T12:00:00.000Z",
            ),
            (
                NOON - 50 * HOUR,
                "nothing is known of 10.0.1.23 at 2026-11-24T10:00:00.000Z: history begins at 2026-11-24T12:00:00.000Z",
            ),
        ] {
            assert_eq!(known(&uses, at).of_address(IP).0.join("\n"), expected);
        }
        let idle = known(&uses[1..], NOON).of_address(IP).0.join("\n");
        assert!(
            idle.starts_with(
                "10.0.1.23 is in use by nobody and idle since 2026-11-26T10:00:00.000Z (2h); db had it last"
            )
        );
        let own = Known { is_of_the_fleet: false, ..known(&[], NOON) };
        assert!(own.of_address(IP).0[0].starts_with("10.0.1.23 is in use by no container of this host, and was not"));
        let found = [Use { was_found: true, ..used("web", NOON - HOUR, None) }];
        let perhaps = known(&found, NOON - 2 * HOUR).of_address(IP).0.join("\n");
        assert!(
            perhaps.contains("is not known: web was found with it at 2026-11-26T11:00:00.000Z, and may"),
            "{perhaps}"
        );
        let set_back = [used("web", NOON, Some((NOON - HOUR, Ended::Found)))];
        assert!(known(&set_back, NOON).of_address(IP).0.join("\n").contains("(a clock was set in between)"));
    }

    #[test]
    fn a_container_is_answered_likewise() {
        let uses = [used("web", NOON - HOUR, Some((NOON - HOUR / 2, Ended::Left)))];
        let text = |at| known(&uses, at).of_container("web").0.join("\n");
        assert!(text(NOON).starts_with("web has no address; it had 10.0.1.23 last: from "), "{}", text(NOON));
        assert!(text(NOON - 3 * HOUR / 4).starts_with("web had 10.0.1.23 at 2026-11-26T11:15:00.000Z: from "));
        assert!(
            text(NOON - 2 * HOUR)
                .starts_with("nothing is known of a container web at 2026-11-26T10:00:00.000Z: history")
        );
    }

    #[test]
    fn another_hosts_address_is_asked_of_that_host() {
        let row = Row {
            ip: IP,
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status: Status::Occupied,
            iface: Some(EniId::stored("eni-0123456789abcdef1".into())),
            primary: false,
            claim: Some(Boot::random().unwrap().claim(1, Kind::Lease)),
            holder: Some("db".into()),
            idle: Duration::ZERO,
            claimed: None,
        };
        let there = |row: &Row| Elsewhere {
            row: row.clone(),
            eni: row.iface.clone().unwrap(),
            instance: Some("i-2".into()),
            is_served_here: false,
        };
        let (before, open) = (used("web", NOON - HOUR, Some((NOON - 5, Ended::Released))), used("db", NOON - 3, None));
        let open = Use { token: row.claim.clone().unwrap(), ..open };
        let text = |uses: &[Use], at| {
            let known = Known { elsewhere: Some(there(&row)), ..known(uses, at) };
            known.of_address(IP).0.join("\n")
        };
        let hint = "\n  by the table 10.0.1.23 is in use by a container (db) of eni-0123456789abcdef1: ask its host i-2 \
                    (`ec2-ipam history 10.0.1.23`), or have all hosts tell the table (EC2_IPAM_HISTORY=30d)";
        assert_eq!(text(&[], NOON), format!("who has 10.0.1.23 is not known here{hint}"));
        assert!(text(std::slice::from_ref(&before), NOON).ends_with(hint), "who had it before need not be who has it");
        assert!(text(std::slice::from_ref(&before), NOON - 10).contains("was in use by web"));
        assert!(text(&[open, before], NOON).starts_with("10.0.1.23 is in use by db: from"));
    }
}
