//! What was expected, what AWS said, and whether the driver knows it. Holds no id but the ENIs', and no secret.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::progress;
use crate::domain::id::EniId;
use crate::outside::ec2::Answer;

/// What the driver never asks of EC2 or IMDS: good to know, and no harm whatever the answer.
const NOT_MET: [&str; 15] = [
    "assign-dry-run",
    "assign-neither-list-nor-count",
    "assign-list-and-count",
    "assign-duplicates",
    "assign-own-primary",
    "unassign-primary",
    "imds-forwarded-for",
    "prefix-on-xen",
    "prefix-available-count",
    "prefix-misaligned",
    "prefix-first",
    "prefix-last",
    "prefix-outside-subnet",
    "prefix-and-address",
    "unassign-prefix-and-address",
];

/// What a fact turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Verdict {
    #[serde(rename = "as assumed")]
    AsAssumed,
    /// Not the likeliest, but the driver is right under it too.
    #[serde(rename = "other known way")]
    OtherKnownWay,
    #[serde(rename = "NEW")]
    New,
    /// New, in what the driver never asks.
    #[serde(rename = "new, not met")]
    NewNotMet,
    #[serde(rename = "not checked")]
    NotChecked,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::AsAssumed => "as assumed",
            Self::OtherKnownWay => "other known way",
            Self::New => "NEW",
            Self::NewNotMet => "new, not met",
            Self::NotChecked => "not checked",
        }
    }
}

/// One way in which AWS may behave, and whether it did.
pub(super) struct Way {
    what: String,
    is_so: bool,
}

/// A way in words.
pub(super) fn way(what: impl Into<String>, is_so: bool) -> Way {
    Way { what: what.into(), is_so }
}

/// A refusal with this code and text, in which `A` stands for an address, `P` for a prefix, `ENI` and `ACCOUNT` for
/// such an id.
pub(super) fn words(answer: &Answer, code: &str, text: &str) -> Way {
    let said = answer.message.as_deref().map(shape).unwrap_or_default();
    way(format!("{code}: {text}"), answer.code.as_deref() == Some(code) && said == text)
}

/// A refusal in other words, which the driver takes for the same.
pub(super) fn other_words(is_so: bool) -> Way {
    way("other words that the driver reads alike", is_so)
}

/// One fact.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    name: &'static str,
    verdict: Verdict,
    /// The known ways; the first is the one that is assumed.
    expected: Vec<String>,
    /// Which of them it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    way: Option<String>,
    /// What AWS did, or why it was not checked.
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
}

/// All that a run found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    /// When the run began, RFC 3339.
    pub(super) date: String,
    pub(super) region: String,
    pub(super) instance_type: String,
    pub(super) eni: EniId,
    /// The subnet's mask length.
    pub(super) subnet_length: u8,
    pub(super) facts: Vec<Fact>,
    /// Why not everything was tried.
    pub(super) ended_early: Option<String>,
    /// Commands that take off what the run could not.
    pub(super) left_behind: Vec<String>,
}

impl Report {
    /// What a call was answered.
    pub(super) fn answer(&mut self, name: &'static str, answer: &Answer, ways: impl IntoIterator<Item = Way>) {
        let message = answer.message.as_deref().map(masked);
        let answer = Answer { message, ..answer.clone() };
        self.push(name, told(&answer), Some(answer), ways);
    }

    /// What was seen otherwise.
    pub(super) fn seen(&mut self, name: &'static str, seen: String, ways: impl IntoIterator<Item = Way>) {
        self.push(name, seen, None, ways);
    }

    /// After how long something showed; none: not while it was waited for.
    pub(super) fn lag(
        &mut self,
        name: &'static str,
        lag: Option<Duration>,
        wait: Duration,
        ways: impl IntoIterator<Item = Way>,
    ) {
        let seen = match lag {
            Some(lag) => format!("after {} ms", lag.as_millis()),
            None => format!("not within {} s", wait.as_secs()),
        };
        self.seen(name, seen, ways);
    }

    /// What could not be tried.
    pub(super) fn unchecked(&mut self, name: &'static str, why: impl Into<String>) {
        let (verdict, said) = (Verdict::NotChecked, why.into());
        self.note(Fact { name, verdict, expected: Vec::new(), way: None, said, answer: None });
    }

    fn push(&mut self, name: &'static str, said: String, answer: Option<Answer>, ways: impl IntoIterator<Item = Way>) {
        let ways: Vec<Way> = ways.into_iter().collect();
        let found = ways.iter().position(|way| way.is_so);
        let verdict = match found {
            Some(0) => Verdict::AsAssumed,
            Some(_) => Verdict::OtherKnownWay,
            None if NOT_MET.contains(&name) => Verdict::NewNotMet,
            None => Verdict::New,
        };
        let expected: Vec<String> = ways.into_iter().map(|way| way.what).collect();
        let way = found.and_then(|at| expected.get(at).cloned());
        self.note(Fact { name, verdict, expected, way, said, answer });
    }

    fn note(&mut self, fact: Fact) {
        progress(&format!("{}: {}", fact.name, fact.verdict.as_str()));
        self.facts.push(fact);
    }

    /// Whether all was tried, the driver knows all of it, and nothing is left on the ENIs.
    pub(super) fn is_good(&self) -> bool {
        let is_new = |fact: &Fact| fact.verdict == Verdict::New;
        self.ended_early.is_none() && self.left_behind.is_empty() && !self.facts.iter().any(is_new)
    }

    /// For people: a line for each fact.
    pub(super) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "ec2-ipam {} on {} in {}, {}, with {} in a /{}",
            self.version, self.instance_type, self.region, self.date, self.eni, self.subnet_length
        )?;
        for fact in &self.facts {
            let expected = match (fact.verdict, &fact.way, fact.expected.first()) {
                (Verdict::NotChecked, ..) => String::new(),
                (Verdict::OtherKnownWay, Some(way), Some(first)) => format!("{way} (assumed: {first}); AWS: "),
                (_, Some(way), _) => format!("{way}; AWS: "),
                (_, None, _) => format!("none of: {}; AWS: ", fact.expected.join(" | ")),
            };
            writeln!(out, "{:<15}  {}: {expected}{}", fact.verdict.as_str(), fact.name, fact.said)?;
        }
        let count = |verdict| self.facts.iter().filter(|fact| fact.verdict == verdict).count();
        writeln!(
            out,
            "{} as assumed, {} in another known way, {} NEW, {} new in what the driver never meets, {} not checked",
            count(Verdict::AsAssumed),
            count(Verdict::OtherKnownWay),
            count(Verdict::New),
            count(Verdict::NewNotMet),
            count(Verdict::NotChecked)
        )?;
        if let Some(why) = &self.ended_early {
            writeln!(out, "ENDED EARLY: {why}")?;
        }
        match self.left_behind.as_slice() {
            [] => writeln!(out, "cleaned up: nothing of it is left on the interface"),
            left => {
                writeln!(out, "NOT CLEANED UP: these take off what may be left:")?;
                left.iter().try_for_each(|command| writeln!(out, "    {command}"))
            }
        }
    }
}

/// An answer in a line.
fn told(answer: &Answer) -> String {
    let what = match (&answer.read, answer.status) {
        (Ok(()), _) => match listing(answer) {
            listed if listed.is_empty() => "ok".to_owned(),
            listed => format!("ok, lists {listed}"),
        },
        (Err(_), Some(status)) => {
            let code = answer.code.as_deref().unwrap_or("without a code");
            format!("HTTP {status} {code}: {}", answer.message.as_deref().unwrap_or("(no message)"))
        }
        (Err(why), None) => masked(&why.to_string()),
    };
    let request = answer.request_id.as_ref().map(|id| format!(", request {id}")).unwrap_or_default();
    format!("{what} ({} ms{request})", answer.ms)
}

/// All of a few addresses, the number of many.
fn listing(answer: &Answer) -> String {
    let prefixes = answer.listed_prefixes.iter().map(Ipv4Net::to_string);
    match answer.listed.len() {
        0..=4 => answer.listed.iter().map(Ipv4Addr::to_string).chain(prefixes).collect::<Vec<_>>().join(", "),
        many => format!("{many} addresses"),
    }
}

/// A foreign text without ids of accounts, instances, roles and the like. ENIs' stay: the reader has them anyway.
pub(super) fn masked(text: &str) -> String {
    // What follows is long, and tells the policy to whoever may decode it.
    let text = text.split("Encoded authorization").next().unwrap_or_default().trim_end();
    map_words(text, |word| {
        if word.starts_with("arn:") {
            return Some("arn:(masked)".to_owned());
        }
        if word.starts_with("AKIA") || word.starts_with("ASIA") {
            return Some("(key)".to_owned());
        }
        if is_account(word) {
            return Some("(account)".to_owned());
        }
        let (kind, digits) = word.rsplit_once('-')?;
        let is_id = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        (is_id && kind != "eni").then(|| format!("{kind}-(masked)"))
    })
}

/// A message without its particulars, to be compared.
fn shape(message: &str) -> String {
    let shape = map_words(message, |word| {
        if word.parse::<Ipv4Addr>().is_ok() {
            Some("A".to_owned())
        } else if word.parse::<Ipv4Net>().is_ok() {
            Some("P".to_owned())
        } else if word.starts_with("eni-") {
            Some("ENI".to_owned())
        } else {
            is_account(word).then(|| "ACCOUNT".to_owned())
        }
    });
    shape.trim().trim_end_matches('.').to_owned()
}

fn is_account(word: &str) -> bool {
    word.len() == 12 && word.bytes().all(|b| b.is_ascii_digit())
}

/// The text with those words exchanged for which there is another.
fn map_words(text: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-./:".contains(c);
    let pieces = text.split_inclusive(|c| !is_part(c));
    pieces.fold(String::new(), |done, piece| {
        let word = piece.trim_end_matches(|c| !is_part(c) || ".:/".contains(c));
        let rest = piece.strip_prefix(word).unwrap_or_default();
        done + other(word).as_deref().unwrap_or(word) + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_lose_what_names_somebody() {
        for (text, left) in [
            (
                "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:assumed-role/x/i-0 is not \
                 authorized to perform: ec2:AssignPrivateIpAddresses. Encoded authorization failure message: 4GIOHlTkIaW",
                "You are not authorized to perform this operation. User: arn:(masked) is not authorized to perform: \
                 ec2:AssignPrivateIpAddresses.",
            ),
            ("Account 123456789012 has been throttled", "Account (account) has been throttled"),
            ("i-0123456789abcdef0, 'subnet-1a2b3c4d'.", "i-(masked), 'subnet-(masked)'."),
            ("the key AKIAIOSFODNN7EXAMPLE.", "the key (key)."),
            (
                "[10.0.0.5] on eni-0123456789abcdef0 in eu-central-1a",
                "[10.0.0.5] on eni-0123456789abcdef0 in eu-central-1a",
            ),
        ] {
            assert_eq!(masked(text), left);
        }
    }

    #[test]
    fn messages_are_compared_by_their_shape() {
        for (text, form) in [
            ("[10.0.0.5, 10.0.0.6] assigned, but move is not allowed.", "[A, A] assigned, but move is not allowed"),
            ("Address 10.0.0.4 is here.", "Address A is here"),
            ("[10.0.0.16/28] is here: 10.0.0.17/28.", "[P] is here: P"),
            ("10.0.0.4: The ID 'eni-0123456789abcdef0'", "A: The ID 'ENI'"),
            ("Account 123456789012", "Account ACCOUNT"),
        ] {
            assert_eq!(shape(text), form);
        }
    }
}
