//! The TLS files: whether they are of use, and for how long.

use super::check::{Check, bad, ok, warning};
use crate::driver::tls_watch::{Standing, TlsSeen};

const NAME: &str = "TLS";
const RENEW: &str = "put a new certificate and its key in place: they are read anew within seconds";

pub(super) fn check_tls(seen: Option<TlsSeen>) -> Vec<Check> {
    let Some(seen) = seen else { return Vec::new() };
    let mut checks = vec![match seen.standing() {
        (Standing::Good, said) => ok(NAME, said),
        (Standing::EndsSoon, said) => warning(NAME, said, RENEW),
        (Standing::Ended, said) => bad(NAME, said, RENEW),
    }];
    if let Some(why) = seen.unusable {
        checks.push(bad(NAME, why, "mend it before the driver is started again: it would not start"));
    }
    if let Some(exposed) = seen.exposed {
        checks.push(warning(NAME, exposed, "and if others had it, have the certificate issued anew with a new key"));
    }
    checks
}
