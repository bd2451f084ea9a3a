//! What a client certificate says of its owner.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The names in a certificate; none if it cannot be read, which one that was checked can be.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let alternative = certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned);
    alternative.chain(common_names(certificate.subject())).collect()
}

/// `SET OF`, `SEQUENCE` and the texts of DER that are UTF-8 (X.690, 8.1.2 and 8.23).
const SET: u8 = 0x31;
pub(super) const SEQUENCE: u8 = 0x30;
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
/// `id-at-commonName`, 2.5.4.3 (RFC 5280, appendix A.1), as an `OBJECT IDENTIFIER`.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// The common names of a subject, which is a sequence of sets of a type and its value (RFC 5280, 4.1.2.4). The library that
/// checks certificates goes by the alternative names only, and leaves it as it is.
fn common_names(subject: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = subject;
    while let Some((SET, set, after)) = element(rest) {
        let mut pairs = set;
        while let Some((SEQUENCE, pair, others)) = element(pairs) {
            names.extend(pair.strip_prefix(&COMMON_NAME).and_then(text));
            pairs = others;
        }
        rest = after;
    }
    names
}

fn text(der: &[u8]) -> Option<String> {
    let (tag, text, []) = element(der)? else { return None };
    TEXTS.contains(&tag).then(|| String::from_utf8(text.to_vec()).ok())?
}

/// An element's tag, what is in it, and what follows it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = match *rest {
        [0x82, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
        [0x81, length, ref rest @ ..] => (usize::from(length), rest),
        [length @ ..=0x7f, ref rest @ ..] => (usize::from(length), rest),
        // No subject is as long, or of a length that is not told.
        _ => return None,
    };
    let (inside, after) = rest.split_at_checked(length)?;
    Some((*tag, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SET { SEQUENCE { OBJECT IDENTIFIER 2.5.4.last, text } }`
    fn part(last: u8, tag: u8, text: &str) -> Vec<u8> {
        let length = |n: usize| match u16::try_from(n).unwrap().to_be_bytes() {
            [0, n @ ..0x80] => vec![n],
            [high, low] => vec![0x82, high, low],
        };
        let wrapped = |tag: u8, inside: Vec<u8>| [vec![tag], length(inside.len()), inside].concat();
        let value = wrapped(tag, text.as_bytes().to_vec());
        wrapped(SET, wrapped(SEQUENCE, [vec![6, 3, 0x55, 4, last], value].concat()))
    }

    #[test]
    fn common_names_are_found_among_the_rest() {
        let long = "n".repeat(300);
        let subject = [
            part(10, 0x0c, "An Organisation"),
            part(3, 0x0c, "i-0a1b2c3d4e5f60718"),
            part(3, 0x13, &long),
            part(3, 0x1e, "BMPString"),
            part(3, 0x16, "größe"),
        ]
        .concat();
        assert_eq!(common_names(&subject), ["i-0a1b2c3d4e5f60718", long.as_str(), "größe"]);
        // Cut short, or changed, it has fewer names, and is no end.
        for end in 0..subject.len() {
            assert!(common_names(&subject[..end]).len() < 3);
        }
        for at in 0..subject.len() {
            for byte in [0, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xff] {
                let mut odd = subject.clone();
                odd[at] = byte;
                assert!(common_names(&odd).len() <= 3);
            }
        }
        assert_eq!(common_names(&[]), Vec::<String>::new());
    }
}
