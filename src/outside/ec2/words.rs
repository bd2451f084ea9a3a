//! AWS's words in our sentences, and what is read out of them.

use std::net::Ipv4Addr;

/// Longest part of a foreign text that enters a sentence, in characters.
const QUOTE: usize = 300;

/// Every IPv4 address of a text, in order.
pub(super) fn addresses_in(message: &str) -> Vec<Ipv4Addr> {
    let words = message.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.filter_map(|word| word.trim_matches('.').parse().ok()).collect()
}

pub(super) fn list(addresses: &[Ipv4Addr], none: &str) -> String {
    if addresses.is_empty() {
        return none.to_owned();
    }
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn quote(text: &str) -> String {
    text.trim_end_matches('.').chars().take(QUOTE).collect()
}

/// The words behind a refusal, where there are any.
pub(super) fn said(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// Who may not, and why: without what every denial begins with, and without the encoded message.
pub(super) fn denial(message: &str) -> String {
    let plain = message.split("Encoded authorization failure message").next().unwrap_or_default().trim();
    quote(plain.strip_prefix("You are not authorized to perform this operation.").unwrap_or(plain).trim())
}

/// `AuthFailure` has two meanings, and only the words tell them apart: bad credentials, and somebody else's resource.
pub(super) fn is_about_owner(message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    text.contains("not the owner") || text.contains("not own") || text.contains("permission to access")
}

/// AWS's name for the set of regions that a region belongs to (AWS, "Amazon Resource Names").
pub(super) fn partition(region: &str) -> &'static str {
    const OTHERS: [(&str, &str); 7] = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("eu-isoe-", "aws-iso-e"),
        ("eusc-", "aws-eusc"),
    ];
    OTHERS.iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("aws", |(_, partition)| partition)
}
