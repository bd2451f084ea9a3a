//! A search for secrets in what a driver has logged and answered, in every form that a program is likely to give them.

/// A test's last word on all that was logged, printed and answered.
#[track_caller]
pub(crate) fn assert_untold(text: &str, secrets: &[String]) {
    let told = search(text, secrets);
    assert!(told.is_empty(), "a secret was told: {}\n{text}", told.join("; "));
}

/// Which secrets stand in a text, and in which form.
pub(crate) fn search(text: &str, secrets: &[String]) -> Vec<String> {
    let mut told = Vec::new();
    for secret in secrets {
        // A shorter one would be found where it is not.
        assert!(secret.len() >= 12, "{secret:?} is too short to be told from other text");
        let forms = forms(secret).into_iter().filter(|(_, form)| text.contains(form.as_str()));
        told.extend(forms.map(|(name, _)| format!("{secret:?}, {name}")));
    }
    told
}

/// As a URL has it.
pub(crate) fn percent(text: &str) -> String {
    encoded(text, |byte| format!("%{byte:02X}"))
}

fn encoded(text: &str, escape: impl Fn(u8) -> String) -> String {
    let each = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { escape(byte) };
    text.bytes().map(each).collect()
}

fn forms(secret: &str) -> Vec<(String, String)> {
    let inside = |quoted: String| quoted[1..quoted.len() - 1].to_owned();
    let json = |text: &str| inside(serde_json::to_string(text).unwrap());
    let debug = |text: &str| inside(format!("{text:?}"));
    let bytes = secret.as_bytes();
    let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let mut forms = vec![
        ("as it is", secret.to_owned()),
        ("percent-encoded", percent(secret)),
        ("percent-encoded", encoded(secret, |byte| format!("%{byte:02x}"))),
        ("in a form", form_urlencoded::byte_serialize(bytes).collect()),
        ("in JSON", json(secret)),
        ("in JSON with \\/", json(secret).replace('/', "\\/")),
        // dockerd quotes each line of a plugin once more.
        ("in JSON in a quoted line", debug(&json(secret))),
        ("in a quoted line", debug(secret)),
        ("in hexadecimal digits", hex.to_uppercase()),
        ("in hexadecimal digits", hex),
    ];
    for before in 0..3 {
        let (plain, for_urls) = base64(bytes, before);
        forms.extend([("in base64", plain), ("in base64 for URLs", for_urls)]);
    }
    // Letters and digits are left as they are by whatever else escapes a text, and by whoever tells only a part of it.
    let words = secret.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 12);
    forms.extend(words.map(|word| ("in part", word.to_owned())));
    forms.into_iter().map(|(name, form)| (name.to_owned(), form)).collect()
}

/// What stands in the base64 of a longer text, whatever the text is, where so many bytes (modulo 3) come before these; in
/// both alphabets.
fn base64(bytes: &[u8], before: usize) -> (String, String) {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = std::iter::repeat_n(&0, before)
        .chain(bytes)
        .flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1))
        .collect();
    // A digit that bits of the neighbours are part of is not known.
    let known = bits.chunks_exact(6).skip((before * 8).div_ceil(6));
    let digit = |six: &[u8]| char::from(alphabet[six.iter().fold(0, |value, bit| value * 2 + usize::from(*bit))]);
    let plain: String = known.map(digit).collect();
    let for_urls = plain.replace('+', "-").replace('/', "_");
    (plain, for_urls)
}
