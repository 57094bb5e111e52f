//! The encodings in which a known secret may appear in logs, configs, documents and responses. Escapes in any mixture
//! are removed before the search (`escapes`); those here are needed where the secret itself looks like an escape.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::fmt::Write as _;

/// Shortest encoded part of a longer text that counts, in characters: shorter ones appear by chance.
const PART_MIN: usize = 8;

/// Returns a secret in all its encodings.
pub(super) fn encodings(secret: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    if let Ok(text) = std::str::from_utf8(secret) {
        all.push(text.to_owned());
        // Forms write a blank so, also where nothing else is encoded.
        all.push(text.replace(' ', "+"));
        for is_ascii in [false, true] {
            let json = json(text, is_ascii);
            // Some programs escape it, so that no `</script>` is in a page.
            all.push(json.replace('/', "\\/"));
            all.push(json);
        }
        // As in `{:?}` of this program's own messages.
        all.push(text.escape_debug().to_string());
        all.push(
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;"),
        );
    }
    let percent: [fn(u8) -> bool; 4] = [
        |_| false,
        is_unreserved,
        // What a path or a query may keep.
        |byte| is_unreserved(byte) || b"/?".contains(&byte),
        |byte| is_unreserved(byte) || b"!$&'()*+,;=:@/?".contains(&byte),
    ];
    for is_kept in percent {
        let encoded = percent_encoded(secret, is_kept);
        all.push(lower_hex(&encoded));
        all.push(encoded.replace("%20", "+"));
        all.push(lower_hex(&encoded).replace("%20", "+"));
        all.push(encoded);
    }
    let pairs: Vec<String> = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for separator in ["", ":", "-", " "] {
        let hex = pairs.join(separator);
        all.push(hex.to_ascii_uppercase());
        all.push(hex);
    }
    for alignment in 0..3 {
        all.extend(base64_part(&STANDARD_NO_PAD, secret, alignment));
        all.extend(base64_part(&URL_SAFE_NO_PAD, secret, alignment));
    }
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        let encoded = engine.encode(secret);
        // The padding goes, too.
        let padding = "=".repeat((4 - encoded.len() % 4) % 4);
        all.push(format!("{encoded}{padding}"));
        all.push(encoded);
    }
    all
}

/// Returns a text as in a JSON string.
fn json(text: &str, is_ascii: bool) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted
        .get(1..quoted.len().saturating_sub(1))
        .unwrap_or_default();
    if !is_ascii {
        return inner.to_owned();
    }
    let mut out = String::new();
    for c in inner.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn percent_encoded(bytes: &[u8], is_kept: fn(u8) -> bool) -> String {
    let mut out = String::new();
    for byte in bytes {
        match is_kept(*byte) {
            true => out.push(char::from(*byte)),
            false => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Returns the same with lower-case digits after each `%`.
fn lower_hex(encoded: &str) -> String {
    let mut out = String::new();
    let mut digits = 0;
    for c in encoded.chars() {
        if digits > 0 {
            out.push(c.to_ascii_lowercase());
            digits -= 1;
            continue;
        }
        if c == '%' {
            digits = 2;
        }
        out.push(c);
    }
    out
}

/// Returns the characters that encode nothing but the secret, where `alignment` bytes stand before it in its group of
/// three: base64 of `user:secret` does not contain base64 of `secret`.
fn base64_part(engine: &impl base64::Engine, secret: &[u8], alignment: usize) -> Option<String> {
    let mut bytes = vec![0; alignment];
    bytes.extend_from_slice(secret);
    // The last group may continue with anything.
    bytes.truncate(bytes.len() / 3 * 3);
    let encoded = engine.encode(&bytes);
    // The first group is shared with the bytes before.
    let part = encoded.get(if alignment == 0 { 0 } else { 4 }..)?;
    (part.len() >= PART_MIN).then(|| part.to_owned())
}
