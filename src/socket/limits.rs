//! How many connections there may be at once: each costs memory, and a file descriptor that the driver's own calls need.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// On the driver's own socket. An Engine keeps six; with their buffers so many take 32 MiB at worst.
const MOST: usize = 256;
/// Over TCP: a thousand Engines with six each, and some that come while others go. Most of them are quiet, and take some
/// 10 KiB each.
const MOST_REMOTE: usize = 8192;
/// Of one peer over TCP: an Engine, and one that begins while another ends. It may ask more at once; then those wait.
pub(super) const MOST_OF_PEER: usize = 16;
/// For metrics over TCP: a few Prometheus servers, and whoever else reaches the address.
const MOST_FOR_METRICS: usize = 1024;
/// Enough for an Engine and the command line, however few file descriptors there are.
const FEWEST: usize = 16;

/// How many there may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// On the driver's own socket.
    pub(super) local: usize,
    /// Over TCP.
    pub(super) remote: usize,
    /// For metrics over TCP.
    pub(super) metrics: usize,
}

impl Limits {
    /// Of this process. For clients and for metrics over TCP it takes as many file descriptors as it may have and needs.
    pub(super) fn of_process(has_tcp: bool, has_metrics: bool) -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Self::with(usize::MAX) };
        let clients = if has_tcp { 2 * (MOST + MOST_REMOTE) } else { 0 };
        let wanted = clients.max(if has_metrics { 8 * MOST_FOR_METRICS } else { 0 });
        let wanted = u64::try_from(wanted).unwrap_or(hard).min(hard);
        let raised = soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
        let files = usize::try_from(if raised { wanted } else { soft }).unwrap_or(usize::MAX);
        let limits = Self::with(files);
        if has_tcp && limits.remote < MOST_REMOTE {
            tracing::warn!(
                "{files} file descriptors (RLIMIT_NOFILE) are enough for {} connections over TCP at once; an Engine keeps six",
                limits.remote
            );
        }
        limits
    }

    /// Half of the file descriptors are left to the driver's own calls, and to metrics an eighth of all.
    fn with(files: usize) -> Self {
        let local = (files / 2).clamp(FEWEST, MOST);
        let remote = (files / 2).saturating_sub(local).clamp(FEWEST, MOST_REMOTE);
        Self { local, remote, metrics: (files / 8).clamp(FEWEST, MOST_FOR_METRICS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_file_descriptors_are_for_connections() {
        for (files, local, remote, metrics) in [
            (usize::MAX, 256, 8192, 1024),
            (16_896, 256, 8192, 1024),
            (4096, 256, 1792, 512),
            (1024, 256, 256, 128),
            (64, 32, 16, 16),
            (10, 16, 16, 16),
        ] {
            assert_eq!(Limits::with(files), Limits { local, remote, metrics }, "{files}");
        }
    }
}
