//! When a certificate ends.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::names::{SEQUENCE, element};

/// `[0]`, the version; `UTCTime` and `GeneralizedTime` (X.690, 8.14, 8.25 and 8.26).
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Its `notAfter` (RFC 5280, 4.1 and 4.1.2.5). None if that cannot be read, which one that can be used for TLS has.
pub(super) fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    if let Some((VERSION, _, after)) = element(rest) {
        rest = after;
    }
    // The serial number, the algorithm, the issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (SEQUENCE, validity, _) = element(rest)? else { return None };
    let (_, _, after) = element(validity)?;
    let (kind, text, _) = element(after)?;
    time(kind, std::str::from_utf8(text).ok()?)
}

fn time(kind: u8, text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let whole = match (kind, digits.len()) {
        (UTC_TIME, 12) if digits < "50" => format!("20{digits}"),
        (UTC_TIME, 12) => format!("19{digits}"),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |from: usize| whole.get(from..from + 2);
    let (year, month, day) = (whole.get(..4)?, part(4)?, part(6)?);
    let (hour, minute, second) = (part(8)?, part(10)?, part(12)?);
    humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_read_as_certificates_have_them() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_795_694_400);
        for (kind, text, expected) in [
            (UTC_TIME, "261126120000Z", Some(noon)),
            (GENERALIZED_TIME, "20261126120000Z", Some(noon)),
            (UTC_TIME, "700101000000Z", Some(UNIX_EPOCH)),
            (UTC_TIME, "20261126120000Z", None),
            (GENERALIZED_TIME, "261126120000Z", None),
            (UTC_TIME, "261126120000", None),
            (UTC_TIME, "26112612000éZ", None),
            (UTC_TIME, "261326120000Z", None),
            (0x0c, "261126120000Z", None),
        ] {
            assert_eq!(time(kind, text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for text in [&b""[..], &[SEQUENCE], &[SEQUENCE, 0], &[SEQUENCE, 2, SEQUENCE, 0], &[0xff; 40], &[SEQUENCE; 40]] {
            assert_eq!(end(&CertificateDer::from(text)), None);
        }
    }
}
