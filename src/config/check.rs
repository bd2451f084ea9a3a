//! What values of settings must be. Whatever could never work is refused: each sentence names the setting, its value, and what
//! it must be.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use crate::domain::plan::blocks::Policy;

/// A request keeps its last second and a half for its answer, so in less than twice that nothing that asks EC2 is granted.
const SHORTEST_REQUEST: Duration = Duration::from_secs(3);
/// Then Docker gives up.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// Of a socket's path, in bytes (`sun_path` of unix(7) has 108, with a zero at the end).
const SOCKET_PATH: usize = 107;
/// Of an interface's name, in bytes (`IFNAMSIZ` - 1).
const INTERFACE_NAME: usize = 15;

/// AWS's own settings, which its SDK reads. It tells of a wrong one at the first call only, and without its name.
pub(super) fn check_aws() -> anyhow::Result<()> {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(region) = given("AWS_REGION")
        && !region.trim().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        bail!("AWS_REGION is {region:?}, but must be a region such as eu-west-1");
    }
    for (name, example) in [
        ("AWS_ENDPOINT_URL_EC2", "https://ec2.eu-west-1.amazonaws.com"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254"),
        // The SDK goes without a proxy that it cannot read, and says so to nobody.
        ("HTTPS_PROXY", "http://proxy.example:3128"),
        ("https_proxy", "http://proxy.example:3128"),
    ] {
        if let Some(url) = given(name).filter(|url| !is_url(url)) {
            // It may hold a login.
            let shown = if url.contains('@') { "(not shown)".to_owned() } else { format!("{url:?}") };
            bail!("{name} is {shown}, but must be a URL such as {example}");
        }
    }
    if given("AWS_ACCESS_KEY_ID").is_some() != given("AWS_SECRET_ACCESS_KEY").is_some() {
        bail!(
            "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set, but must be both, or none for the instance's role"
        );
    }
    Ok(())
}

/// With a host, and a port that is one if there is any.
fn is_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<hyper::Uri>() else { return false };
    let Some(at) = uri.authority() else { return false };
    let after = at.as_str().rsplit('@').next().and_then(|place| place.strip_prefix(at.host()));
    let is_port =
        |port: &str| port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    matches!(uri.scheme_str(), Some("http" | "https")) && !at.host().is_empty() && after.is_some_and(is_port)
}

pub(super) fn number(name: &str, text: &str, default: usize) -> anyhow::Result<usize> {
    if text.is_empty() {
        return Ok(default);
    }
    match text.parse() {
        // An ENI has 50 addresses at most (AWS, "IP addresses per network interface").
        Ok(n @ 0..=49) => Ok(n),
        _ => bail!("{name} is {text:?}, but must be a number from 0 to 49"),
    }
}

pub(super) fn flag(name: &str, text: &str) -> anyhow::Result<bool> {
    match text {
        "" | "false" => Ok(false),
        "true" => Ok(true),
        _ => bail!("{name} is {text:?}, but must be true or false"),
    }
}

pub(super) fn blocks(name: &str, text: &str) -> anyhow::Result<Policy> {
    match text {
        "" | "never" => Ok(Policy::Never),
        "auto" => Ok(Policy::Auto),
        "always" => Ok(Policy::Always),
        _ => bail!("{name} is {text:?}, but must be never, auto or always"),
    }
}

pub(super) fn folder(name: &str, text: &str, default: &str) -> anyhow::Result<PathBuf> {
    match text {
        "" => Ok(PathBuf::from(default)),
        text if text.starts_with('/') && !text.contains('\0') => Ok(PathBuf::from(text)),
        _ => bail!("{name} is {text:?}, but must be a folder's whole path such as {default}"),
    }
}

pub(super) fn file(name: &str, text: &str, example: &str) -> anyhow::Result<PathBuf> {
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        bail!("{name} is {text:?}, but must be a file's whole path such as {example}");
    }
    Ok(PathBuf::from(text))
}

pub(super) fn duration(name: &str, text: &str, default: u64) -> anyhow::Result<Duration> {
    if text.is_empty() {
        return Ok(Duration::from_secs(default));
    }
    match humantime::parse_duration(text) {
        Ok(span) if span <= Duration::from_secs(86_400) => Ok(span),
        _ => bail!("{name} is {text:?}, but must be a time of at most a day, such as {default}s"),
    }
}

/// How long the table keeps history; none: not at all.
pub(super) fn keeping(name: &str, text: &str) -> anyhow::Result<Option<Duration>> {
    const DAY: Duration = Duration::from_secs(86_400);
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(span) if (DAY..=366 * DAY).contains(&span) => Ok(Some(span)),
        _ => bail!(
            "{name} is {text:?}, but must be a time from 1d to 366d, such as 30d, or 0 for no history in the table"
        ),
    }
}

pub(super) fn interval(name: &str, text: &str, default: u64) -> anyhow::Result<Duration> {
    match duration(name, text, default)? {
        span if span < Duration::from_secs(1) => bail!("{name} is {text:?}, but must be at least 1s"),
        span => Ok(span),
    }
}

pub(super) fn request_timeout(name: &str, text: &str, default: u64) -> anyhow::Result<Duration> {
    match duration(name, text, default)? {
        span if (SHORTEST_REQUEST..LONGEST_REQUEST).contains(&span) => Ok(span),
        _ => bail!(
            "{name} is {text:?}, but must be at least 3s, for EC2 to be asked in, and below the 30s after which Docker gives up"
        ),
    }
}

/// Where a socket can be.
pub(super) fn socket(name: &str, path: &str) -> anyhow::Result<PathBuf> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        bail!("{name} is {path:?}, but must be the absolute path of a socket");
    }
    if path.len() > SOCKET_PATH {
        bail!("{name} is {path:?}, but must be shorter: the path of a socket has {SOCKET_PATH} bytes at most");
    }
    Ok(PathBuf::from(path))
}

/// A name that the kernel may give an interface; none if it is empty.
pub(super) fn interface(name: &str, text: &str) -> anyhow::Result<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    if text.len() > INTERFACE_NAME || text.contains(odd) || matches!(text, "." | "..") {
        bail!("{name} is {text:?}, but must be the name of one interface, such as eth1");
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_never_work_is_refused_by_its_name() {
        let long = |n: usize| format!("/{}", "s".repeat(n - 1));
        for (path, fits) in [
            ("/run/docker.sock".to_owned(), true),
            (long(107), true),
            (long(108), false),
            ("/run/".to_owned(), false),
            ("run/docker.sock".to_owned(), false),
            ("tcp://127.0.0.1:2375".to_owned(), false),
            (String::new(), false),
        ] {
            let outcome = socket("EC2_IPAM_X", &path).map_err(|why| why.to_string());
            assert_eq!(outcome.is_ok(), fits, "{path}");
            assert!(outcome.err().is_none_or(|why| why.starts_with("EC2_IPAM_X is ")), "{path}");
        }
        for (text, fits) in [
            ("eth1", true),
            ("enp0s31f6np0.42", true),
            ("enp0s31f6np0.422", false),
            ("eth1,eth2", true),
            ("eth1 eth2", false),
            ("eth1/0", false),
            ("eth1:0", false),
            ("..", false),
        ] {
            assert_eq!(interface("EC2_IPAM_X", text).is_ok(), fits, "{text}");
        }
        assert_eq!(interface("EC2_IPAM_X", "").unwrap(), None);
        for (text, fits) in [
            ("", true),
            ("3s", true),
            ("2999ms", false),
            ("1s", false),
            ("29999ms", true),
            ("30s", false),
            ("20", false),
        ] {
            assert_eq!(request_timeout("EC2_IPAM_X", text, 20).is_ok(), fits, "{text}");
        }
    }
}
