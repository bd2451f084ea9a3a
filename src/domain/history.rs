//! Uses of addresses: who had one, from when to when. History is what is kept of them.
//!
//! Times are those of the wall clock of the host that gave the address, as it was at that moment, in Unix milliseconds. A clock
//! that was set back may have a use end before it begins: it is shown as it was written.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::address::{FIXED, KEPT};
use super::id::{Claim, EniId};

/// For so long a host keeps uses that are over in its journal,
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);
/// and so many at most: about 20 MB.
pub const MOST: u64 = 50_000;
/// Longest name and id that are kept, in characters: as many as the table's columns take.
const LONGEST: usize = 255;

/// An address in a container's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// That of the lease: no two uses have the same.
    pub token: Claim,
    /// The address.
    pub ip: Ipv4Addr,
    /// The ENI that it was on.
    pub eni: EniId,
    /// The instance that had the ENI, where that is known.
    pub instance: Option<String>,
    /// The container, as its Engine named it at the grant, or Docker listed it first.
    pub name: Option<String>,
    /// As Docker listed it last, where that is another name: it was renamed.
    pub renamed: Option<String>,
    /// The container's id.
    pub container: Option<String>,
    /// The Docker network's name.
    pub network: Option<String>,
    /// The container named its address (`--ip`).
    pub is_named: bool,
    /// When it was given.
    pub begun: u64,
    /// It was found in use then: when it was given, nobody has written down.
    pub was_found: bool,
    /// When it was over, and how; none: it is not.
    pub end: Option<(u64, Ended)>,
}

/// How a use was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Docker let go of it.
    Released,
    /// The answer did not reach Docker: no container ever had it.
    TakenBack,
    /// Docker showed no container with it: found then.
    Found,
    /// Its ENI left the host: found then.
    Left,
    /// Neither its host nor the table knows the lease any more: found then.
    Gone,
}

impl Ended {
    const ALL: [Self; 5] = [Self::Released, Self::TakenBack, Self::Found, Self::Left, Self::Gone];

    /// As the journal, the table and the JSON have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::TakenBack => "taken back",
            Self::Found => "found gone",
            Self::Left => "interface left",
            Self::Gone => "lost",
        }
    }

    /// What a newer driver wrote is not known here: it is over, somehow.
    pub fn stored(text: &str) -> Self {
        Self::ALL.into_iter().find(|ended| ended.as_str() == text).unwrap_or(Self::Gone)
    }
}

/// What Docker shows of the container that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Shown {
    pub ip: Ipv4Addr,
    pub name: String,
    pub container: Option<String>,
    pub network: String,
}

impl Use {
    /// One that begins. `holder`: as the request named it, with its mark.
    pub fn begins(token: Claim, ip: Ipv4Addr, eni: EniId, holder: Option<&str>, begun: u64) -> Self {
        let bare =
            holder.map(|holder| holder.strip_prefix(KEPT).or_else(|| holder.strip_prefix(FIXED)).unwrap_or(holder));
        Self {
            token,
            ip,
            eni,
            instance: None,
            name: bare.filter(|name| !name.is_empty()).map(short),
            renamed: None,
            container: None,
            network: None,
            is_named: holder.is_some_and(|holder| holder.starts_with(FIXED) && !holder.starts_with(KEPT)),
            begun,
            was_found: false,
            end: None,
        }
    }

    /// Takes down what Docker shows of it; says whether that was news.
    pub fn is_shown(&mut self, shown: &Shown) -> bool {
        let before = self.clone();
        let name = short(&shown.name);
        if self.name.is_none() {
            self.name = Some(name);
        } else {
            self.renamed = (self.name.as_ref() != Some(&name)).then_some(name);
        }
        self.container = shown.container.as_deref().map(short);
        self.network = Some(short(&shown.network));
        *self != before
    }

    /// Whether it was some container's at that time: one that was taken back never was.
    pub fn covers(&self, at: u64) -> bool {
        self.begun <= at
            && match self.end {
                None => true,
                Some((_, Ended::TakenBack)) => false,
                Some((end, _)) => at < end,
            }
    }

    /// Whether no container ever had it.
    pub fn was_taken_back(&self) -> bool {
        matches!(self.end, Some((_, Ended::TakenBack)))
    }

    /// Whether it is of this container: its name to the letter, or the beginning of its id.
    pub fn is_of(&self, container: &str) -> bool {
        let named = [&self.name, &self.renamed].into_iter().flatten().any(|name| name == container);
        named || is_part_of_an_id(container) && self.container.as_deref().is_some_and(|id| id.starts_with(container))
    }

    /// Of one that was found in use, `told` may know more.
    fn with_its_beginning(self, told: &Self) -> Self {
        if !self.was_found || told.begun >= self.begun {
            return self;
        }
        let name = self.name.or_else(|| told.name.clone());
        Self { begun: told.begun, was_found: told.was_found, is_named: told.is_named, name, ..self }
    }

    /// The name to show.
    pub fn shown_name(&self) -> Option<&str> {
        self.renamed.as_deref().or(self.name.as_deref())
    }
}

/// Whether a text may be the beginning of a container's id. Docker shows twelve digits; with fewer than four nearly any would do.
pub fn is_part_of_an_id(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// As history writes a time, or a span of it.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// Who had an address at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then<'a> {
    /// These; more than one where two hosts say so, or a clock was set.
    Had(Vec<&'a Use>),
    /// Nobody; the last one before, if any is known.
    Nobody(Option<&'a Use>),
    /// Not known: this one was found with it later, and may have had it by then.
    Perhaps(&'a Use),
    /// It was before history begins.
    Before,
}

/// What a host's journal and the table say, put together. The journal's word on a use outweighs what the table was told of it, but
/// for when it began: a journal that was lost has found it. The last first: those of one host as they came, whatever its clock did.
pub fn merged(journal: Vec<Use>, table: Vec<Use>) -> Vec<Use> {
    let mut told: HashMap<Claim, Use> = table.into_iter().map(|it| (it.token.clone(), it)).collect();
    let mut all: Vec<Use> = journal
        .into_iter()
        .map(|own| match told.remove(&own.token) {
            Some(told) => own.with_its_beginning(&told),
            None => own,
        })
        .collect();
    if !told.is_empty() {
        all.extend(told.into_values());
        all.sort_by_key(|it| Reverse(it.begun));
    }
    all
}

/// Who of these had their address at that time; `since`: when history begins, in Unix milliseconds.
pub fn at(uses: &[Use], at: u64, since: u64) -> Then<'_> {
    let had: Vec<&Use> = uses.iter().filter(|it| it.covers(at)).collect();
    if !had.is_empty() {
        return Then::Had(had);
    }
    let last = uses
        .iter()
        .filter(|it| !it.was_taken_back())
        .filter(|it| it.begun <= at)
        .max_by_key(|it| it.end.map(|(end, _)| end));
    match uses.iter().filter(|it| it.begun > at).min_by_key(|it| it.begun) {
        Some(next) if next.was_found => Then::Perhaps(next),
        _ if at < since && last.is_none() => Then::Before,
        _ => Then::Nobody(last),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::domain::id::{Boot, Kind};

    const SINCE: u64 = 1000;
    static SAME: LazyLock<Claim> = LazyLock::new(|| Boot::random().unwrap().claim(0, Kind::Lease));

    fn used(begun: u64, end: Option<(u64, Ended)>) -> Use {
        let token = Boot::random().unwrap().claim(begun, Kind::Lease);
        let eni = EniId::stored("eni-0123456789abcdef0".into());
        Use { end, ..Use::begins(token, Ipv4Addr::new(10, 0, 0, 9), eni, Some("web"), begun) }
    }

    #[test]
    fn who_had_it_then_is_one_of_them_nobody_or_not_known() {
        let uses = [
            used(2000, Some((3000, Ended::Released))),
            used(4000, Some((4001, Ended::TakenBack))),
            used(6000, Some((5000, Ended::Released))),
            used(8000, None),
        ];
        let found = [Use { was_found: true, ..used(5000, None) }];
        for (uses, time, expected) in [
            (&uses[..], 2000, Then::Had(vec![&uses[0]])),
            (&uses, 2999, Then::Had(vec![&uses[0]])),
            (&uses, 3000, Then::Nobody(Some(&uses[0]))),
            (&uses, 4000, Then::Nobody(Some(&uses[0]))),
            (&uses, 6500, Then::Nobody(Some(&uses[2]))),
            (&uses, 9000, Then::Had(vec![&uses[3]])),
            (&uses, 1500, Then::Nobody(None)),
            (&uses, 999, Then::Before),
            (&found, 4000, Then::Perhaps(&found[0])),
            (&found, 500, Then::Perhaps(&found[0])),
            (&found, 5000, Then::Had(vec![&found[0]])),
            (&[], 5000, Then::Nobody(None)),
            (&[], 5, Then::Before),
        ] {
            assert_eq!(at(uses, time, SINCE), expected, "{time}");
        }
    }

    #[test]
    fn what_a_journal_found_began_when_the_table_was_told_it_did() {
        let (first, second, third) = (used(2000, None), used(3000, None), used(4000, None));
        let found =
            Use { begun: 5000, was_found: true, name: None, end: Some((6000, Ended::Released)), ..first.clone() };
        let whole = Use { end: found.end, ..first.clone() };
        let over = Use { end: Some((3500, Ended::Found)), ..second.clone() };
        for (journal, table, expected) in [
            (vec![found.clone()], vec![first.clone()], vec![whole.clone()]),
            (
                vec![found.clone()],
                vec![Use { was_found: true, ..first.clone() }],
                vec![Use { was_found: true, ..whole.clone() }],
            ),
            (vec![found.clone()], vec![found.clone()], vec![found.clone()]),
            (vec![found.clone()], vec![], vec![found.clone()]),
            (vec![over.clone()], vec![second.clone()], vec![over.clone()]),
            (vec![third.clone(), found], vec![first, second.clone()], vec![third, second, whole]),
            // As they came.
            (vec![used(1, None), over.clone()], vec![], vec![used(1, None), over]),
        ] {
            let brief =
                |uses: &[Use]| -> Vec<_> { uses.iter().map(|it| Use { token: SAME.clone(), ..it.clone() }).collect() };
            assert_eq!(brief(&merged(journal, table)), brief(&expected));
        }
    }

    #[test]
    fn a_container_is_found_by_its_names_and_the_beginning_of_its_id() {
        let shown = |name: &str| Shown {
            ip: Ipv4Addr::new(10, 0, 0, 9),
            name: name.into(),
            container: Some("3f2a1b0c9d8e".repeat(5)),
            network: "pods".into(),
        };
        let mut it = used(2000, None);
        assert!(it.is_shown(&shown("web")) && !it.is_shown(&shown("web")) && it.renamed.is_none());
        assert!(it.is_shown(&shown("web-old")));
        for (container, expected) in [
            ("web", true),
            ("web-old", true),
            ("we", false),
            ("Web", false),
            ("3f2a", true),
            ("3f2a1b0c9d8e", true),
            ("3f2", false),
            ("1b0c9d", false),
            ("", false),
        ] {
            assert_eq!(it.is_of(container), expected, "{container:?}");
        }
        assert_eq!(it.shown_name(), Some("web-old"));
        assert!(it.is_shown(&shown("web")) && it.renamed.is_none(), "it has its name again");
    }

    #[test]
    fn a_request_tells_the_name_and_whether_it_named_its_address() {
        for (holder, name, is_named) in [
            (None, None, false),
            (Some("web"), Some("web"), false),
            (Some("fixed:web"), Some("web"), true),
            (Some("fixed:"), None, true),
            (Some("fixed:reserved:web"), Some("web"), false),
        ] {
            let it = Use::begins(used(1, None).token, Ipv4Addr::LOCALHOST, used(1, None).eni, holder, 5);
            assert_eq!((it.name.as_deref(), it.is_named), (name, is_named), "{holder:?}");
        }
    }

    #[test]
    fn an_end_is_written_and_read() {
        for ended in Ended::ALL {
            assert_eq!(Ended::stored(ended.as_str()), ended);
        }
        assert_eq!(Ended::stored("somehow"), Ended::Gone);
    }
}
