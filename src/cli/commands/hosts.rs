//! `hosts` and `drain`: the fleet as a table, and what is left of a host that is drained.

use std::io::Write;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::driver::{Driver, note};
use crate::domain::roll::Standing;
use crate::driver::drain::{Drained, Order};
use crate::driver::hosts::ListedHost;
use crate::plain::shortened;
use crate::socket::control::ToDrain;

/// How often it is seen how far a host is.
const POLL: Duration = Duration::from_secs(1);
/// Characters of a version, which may be followed by a commit.
const VERSION: usize = 14;
/// So many interfaces of a host are named; all of them are in the JSON.
const NAMED: usize = 2;

/// Does it, and waits until nothing idle is left, for at most so long, if that is wanted.
///
/// # Errors
/// The driver's refusal, or nobody answers any more.
pub(super) async fn drain(driver: &Driver, undo: bool, wait: Option<Option<u64>>) -> anyhow::Result<Drained> {
    let order = if undo { Order::End } else { Order::Begin };
    let mut found: Drained = driver.ask("drain", &ToDrain { order }).await?;
    let Some(most) = wait else { return Ok(found) };
    if !found.is_done() {
        let most = most.map(|most| format!(", for {most} s at most")).unwrap_or_default();
        note(&format!("waiting until nothing idle is left on this host's interfaces{most}"));
    }
    let began = Instant::now();
    // One that was undone meanwhile is never done.
    while found.drained && !found.is_done() && most.is_none_or(|most| began.elapsed() < Duration::from_secs(most)) {
        sleep(POLL).await;
        found = driver.ask("drain", &ToDrain { order: Order::Look }).await?;
    }
    Ok(found)
}

/// What is left.
pub(super) fn drained(out: &mut impl Write, found: &Drained) -> anyhow::Result<()> {
    if !found.drained {
        writeln!(out, "this host is not drained: containers get addresses")?;
        return Ok(());
    }
    writeln!(out, "this host is drained: no container starts on it until `ec2-ipam drain --undo`")?;
    match found.leases {
        0 => writeln!(out, "no container has an address")?,
        1 => writeln!(out, "1 container still has an address")?,
        leases => writeln!(out, "{leases} containers still have addresses")?,
    }
    if found.idle + found.pending > 0 {
        writeln!(out, "{} idle addresses are to be given back, {} not settled with EC2", found.idle, found.pending)?;
    } else if found.is_done() {
        writeln!(out, "nothing idle is left on its interfaces")?;
    }
    if let Some(why) = &found.trouble {
        writeln!(out, "in the way: {why}")?;
    }
    Ok(())
}

/// One line a host, and one below for what is wrong with it. Columns are as wide as what is in them.
pub(super) fn hosts(out: &mut impl Write, hosts: &[ListedHost]) -> anyhow::Result<()> {
    if hosts.is_empty() {
        note("the table knows no host yet: each enters itself within a minute after its driver started");
    }
    let head = ["INSTANCE", "ADDRESS", "VERSION", "STATE", "LEASES", "WARM", "COOLING", "SEEN", "INTERFACES"]
        .map(String::from);
    let lines: Vec<_> = std::iter::once(head).chain(hosts.iter().map(columns)).collect();
    let widths: [usize; 9] = std::array::from_fn(|n| {
        lines.iter().filter_map(|line| line.get(n)).map(|text| text.chars().count()).max().unwrap_or(0)
    });
    let problems = std::iter::once(None).chain(hosts.iter().map(problem));
    for (line, problem) in lines.iter().zip(problems) {
        let cells = line.iter().zip(widths).enumerate().map(|(n, (text, width))| match n {
            // Numbers, and ages.
            4..=7 => format!("{text:>width$}"),
            _ => format!("{text:<width$}"),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        if let Some(problem) = problem {
            writeln!(out, "  {problem}")?;
        }
    }
    Ok(())
}

fn columns(host: &ListedHost) -> [String; 9] {
    let known = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    // Without the commit.
    let version = host.version.split(' ').next().unwrap_or_default();
    let state = match host.state {
        Standing::Serving => "serving",
        Standing::Server => "server",
        Standing::Draining => "draining",
        Standing::Drained => "drained",
        Standing::Silent => "SILENT",
    };
    [
        host.instance.clone(),
        host.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        shortened(version, VERSION).into_owned(),
        state.to_owned(),
        known(host.leases),
        known(host.warm),
        known(host.cooling),
        age(host.seen_seconds),
        interfaces(host),
    ]
}

fn interfaces(host: &ListedHost) -> String {
    let named: Vec<&str> = host.enis.iter().take(NAMED).map(|eni| eni.as_str()).collect();
    match host.enis.len().saturating_sub(NAMED) {
        0 if named.is_empty() => "-".to_owned(),
        0 => named.join(","),
        more => format!("{} and {more} more", named.join(",")),
    }
}

fn problem(host: &ListedHost) -> Option<String> {
    let first = host.problem.as_ref()?;
    Some(match host.problems {
        Some(0) | None => return None,
        Some(1) => format!("PROBLEM: {first}"),
        Some(count) => format!("{count} PROBLEMS, the first: {first}"),
    })
}

/// In the largest unit that it has one of: a fleet is looked over, not measured.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::EniId;

    fn host(instance: &str, enis: usize, leases: Option<u64>, problems: u64) -> ListedHost {
        ListedHost {
            instance: instance.into(),
            address: leases.and("10.0.0.12".parse().ok()),
            version: "1.2.3 (0123456789ab)".into(),
            state: if leases.is_some() { Standing::Serving } else { Standing::Silent },
            enis: (0..enis).map(|n| EniId::stored(format!("eni-{n}"))).collect(),
            leases,
            warm: leases,
            cooling: leases,
            drained: None,
            drained_seconds: None,
            problems: leases.map(|_| problems),
            problem: (problems > 0).then(|| "Docker is silent".into()),
            seen_seconds: if leases.is_some() { 21 } else { 200_000 },
        }
    }

    fn shown(all: &[ListedHost]) -> String {
        let mut out = Vec::new();
        hosts(&mut out, all).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_what_is_not_known_is_no_zero() {
        let text = shown(&[host("i-1", 1, Some(12), 1), host("i-22222222", 4, None, 0), host("i-3", 0, Some(0), 2)]);
        let expected = "\
INSTANCE    ADDRESS    VERSION  STATE    LEASES  WARM  COOLING  SEEN  INTERFACES
i-1         10.0.0.12  1.2.3    serving      12    12       12   21s  eni-0
  PROBLEM: Docker is silent
i-22222222  -          1.2.3    SILENT        -     -        -    2d  eni-0,eni-1 and 2 more
i-3         10.0.0.12  1.2.3    serving       0     0        0   21s  -
  2 PROBLEMS, the first: Docker is silent
";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_age_is_told_in_a_unit_that_fits() {
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }

    #[test]
    fn what_is_left_of_a_drained_host_is_told() {
        let told = |found: Drained| {
            let mut out = Vec::new();
            drained(&mut out, &found).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(told(Drained::default()).contains("not drained"));
        let done = Drained { drained: true, leases: 1, ..Drained::default() };
        assert!(done.is_done());
        assert!(told(done).ends_with("1 container still has an address\nnothing idle is left on its interfaces\n"));
        let trouble = Some("EC2 is away".to_owned());
        let text = told(Drained { drained: true, leases: 2, idle: 3, pending: 1, trouble, ..Drained::default() });
        assert!(
            text.contains("2 containers still have addresses\n3 idle addresses are to be given back, 1 not settled")
        );
        assert!(text.ends_with("in the way: EC2 is away\n"), "{text}");
    }
}
